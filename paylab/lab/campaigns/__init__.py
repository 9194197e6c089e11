"""Many seeds, seeded faults, and the smallest run that still fails."""
