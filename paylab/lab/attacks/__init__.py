"""Attacks on a running network, each beside the network in which it succeeds."""
