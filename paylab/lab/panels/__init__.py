"""What a reader watches and breaks with the mouse: widgets, each a Python file with JS and CSS beside it."""
