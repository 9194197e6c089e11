"""Nodes that run as operating-system processes of their own, and die as such."""
