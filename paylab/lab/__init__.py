"""WATCHES AND BREAKS: boots a network, records it, breaks it, checks it and draws it."""
