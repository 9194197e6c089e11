"""The simulated world: virtual time, seeded chance, a network and disks that misbehave on request."""
