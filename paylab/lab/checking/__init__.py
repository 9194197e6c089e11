"""What happened and whether it was right: the history, its file, and the invariants over both."""
