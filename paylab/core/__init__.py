"""DECIDES: pure rules. Nothing here waits, reads a clock, draws a random number or touches a file."""
