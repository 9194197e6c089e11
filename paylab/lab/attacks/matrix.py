"""The matrix with every attack in it: importing the modules of attacks enters them."""

from paylab.lab.attacks import access_attacks, password_attacks, token_attacks, transport_attacks
from paylab.lab.attacks.attack import ATTACKS, Attack, Matrix, attacks, attempt, find, target

# Importing them is what they are for.
MODULES = (token_attacks, access_attacks, password_attacks, transport_attacks)

__all__ = ["ATTACKS", "MODULES", "Attack", "Matrix", "attacks", "attempt", "find", "target"]
