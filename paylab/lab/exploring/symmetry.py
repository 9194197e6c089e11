"""States that differ only in the names of banks or payments that are alike count as one.

All payees' banks are alike, and so are all payments. Of the states that renaming makes of a state, the
smallest stands for all of them.
"""

from dataclasses import fields, is_dataclass, replace
from enum import Enum
from itertools import permutations, product
from typing import Any

from paylab.core.messages import Leg
from paylab.lab.exploring.board import FIELDS_AT, Board


class Symmetry:
    """Renames states of a board."""

    def __init__(self, board: Board) -> None:
        """Every way to rename payees' banks and payments, but for the one that changes nothing."""
        self._board = board
        payees, payments = board.space.bank_names[1:], board.space.payment_names
        ways = product(permutations(payees), permutations(payments))
        self._renamings = [
            _Renaming(board, dict(zip((*payees, *payments), (*banks, *names), strict=True)))
            for banks, names in ways
            if (banks, names) != (payees, payments)
        ]
        self.trivial = not self._renamings

    def canonical(self, packed: int) -> int:
        """The smallest of the states that differ in names alone."""
        return min([packed, *self.images(packed)])

    def images(self, packed: int) -> list[int]:
        """The state in all other names."""
        return [renaming.image(packed) for renaming in self._renamings]


class _Renaming:
    """One way to rename; what was renamed once is looked up."""

    def __init__(self, board: Board, names: dict[str, str]) -> None:
        self._board = board
        self._names = names
        self._fields = [
            (own, board.fields[names.get(name, name)], dict[int, int]()) for name, own in board.fields.items()
        ]
        self._messages: dict[int, int] = {}

    def image(self, packed: int) -> int:
        """The state in other names."""
        result = packed & ((1 << FIELDS_AT) - 1)
        for own, other, known in self._fields:
            value = packed & own.mask
            put = known.get(value)
            if put is None:
                put = known[value] = other.put(renamed(own.state(packed), self._names))
            result |= put
        flight = packed >> self._board.messages_at
        bits = self._messages.get(flight)
        if bits is None:
            bits = 0
            for message, _ in self._board.on_the_way(packed):
                bits |= self._board.bit(renamed(message, self._names))
            self._messages[flight] = bits
        return result | bits


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A value in which every name is replaced; what has no order of its own is put in order again."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, tuple):
        return tuple(_in_order([renamed(item, names) for item in value]))
    if isinstance(value, frozenset):
        return frozenset(renamed(item, names) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{each.name: renamed(getattr(value, each.name), names) for each in fields(value)}
        )
    return value


def _in_order(items: list[Any]) -> list[Any]:
    """Rows, attempts, banks and legs in the order of their names; other tuples as they are."""
    if items and all(isinstance(item, str) for item in items):
        return sorted(items)
    if items and all(isinstance(item, Leg) for item in items):
        return sorted(items, key=lambda leg: leg.bank)
    if items and all(hasattr(item, "txn") or hasattr(item, "payment") for item in items):
        return sorted(
            items, key=lambda item: str(getattr(item, "txn", "")) + str(getattr(item, "payment", ""))
        )
    if items and all(isinstance(item, tuple) and len(item) == 2 for item in items):  # noqa: PLR2004 - pairs of a mapping
        return sorted(items, key=str)
    return items
