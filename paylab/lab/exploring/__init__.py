"""Every interleaving, loss, duplicate and crash of the protocol cores, one after the other."""
