"""Exercises, and the judge of them."""
