"""Breadth-first search over the states of a board: which can be reached, and can each come to rest?"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from paylab.lab.exploring.board import BUDGET_MASK, Board
from paylab.lab.exploring.invariants import LIVE, Invariants
from paylab.lab.exploring.moves import Moves
from paylab.lab.exploring.symmetry import Symmetry

TOLD_EVERY = 10_000


@dataclass(slots=True)
class Found:
    """What a search has seen. States are known by their place in `order`."""

    order: list[int] = field(default_factory=list)
    # The state from which each was reached first; a beginning was reached from itself.
    parents: "array[int]" = field(default_factory=lambda: array("I"))
    # Where a state's successors without a fault begin in `edges`.
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    edges: "array[int]" = field(default_factory=lambda: array("I"))
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    # The first state that breaks an invariant, and which one.
    broken_at: int = -1
    broken: str = ""

    def path(self, place: int) -> list[int]:
        """The states from a beginning to this one."""
        states = [self.order[place]]
        while self.parents[place] != place:
            place = self.parents[place]
            states.append(self.order[place])
        return states[::-1]


class Search:
    """Visits every state, those with fewer steps first, until one is wrong or `states_max` are known."""

    def __init__(self, board: Board, *, states_max: int, told: Callable[[Found], None]) -> None:
        """`told` hears of the progress."""
        self._board = board
        self._moves = Moves(board)
        self._states_max = states_max
        self._told = told
        self._invariants = Invariants(board)
        self._symmetry = Symmetry(board)
        self._index: dict[int, int] = {}
        self._found = Found()

    def run(self) -> Found:
        """Search, and look back from the ends whether every state leads to one."""
        found, order = self._found, self._found.order
        for opening in self._board.openings():
            if self._symmetry.canonical(opening) not in self._index:
                self._enter(opening, len(order))
        place = level_end = 0
        while place < len(order) and not found.broken:
            if place == level_end:
                level_end = len(order)
                found.depth += place > 0
            found.starts.append(len(found.edges))
            self._expand(place)
            place += 1
            if place % TOLD_EVERY == 0:
                self._told(found)
            if len(order) > self._states_max:
                return found
        found.starts.append(len(found.edges))
        found.complete = place == len(order)
        if found.complete and not found.broken:
            self._look_back()
        return found

    def _expand(self, place: int) -> None:
        """Enter every successor of a state."""
        found, invariants = self._found, self._invariants
        get, add_edge = self._index.get, found.edges.append
        kept, kept_by = invariants.kept, self._board.kept_by
        packed = found.order[place]
        fair, faulty = self._successors(packed)
        found.transitions += len(fair) + len(faulty)
        for reached in fair:
            mask = kept.get(reached & kept_by)
            after = reached & (invariants.keep(reached) if mask is None else mask)
            known = get(after)
            add_edge(self._enter(after, place) if known is None else known)
        last = packed & BUDGET_MASK == 1
        for reached in faulty:
            after = self._board.made_safe(reached) if last and not reached & BUDGET_MASK else reached
            mask = kept.get(after & kept_by)
            after &= invariants.keep(after) if mask is None else mask
            if after not in self._index:
                self._enter(after, place)

    def _successors(self, packed: int) -> tuple[list[int], list[int]]:
        """Where the moves of a state lead: those without a fault, and those with one."""
        fair: list[int] = []
        faulty: list[int] = []
        for source in self._moves.sources:
            key = packed & source.mask
            free, faults, timers, mishaps = source.table.get(key) or self._moves.fill(source, key)
            if free:
                fair += [packed & keep | put for keep, put in free]
            if faults:
                faulty += [packed & keep | put for keep, put in faults]
            for unless, keep, put in timers:
                for mask in unless:
                    if not packed & mask:
                        fair.append(packed & keep | put)
                        break
            for early, unless, keep, put in mishaps:
                if early == all(packed & mask for mask in unless):
                    faulty.append(packed & keep | put)
        return fair, faulty

    def _enter(self, packed: int, parent: int) -> int:
        """The place of a state that is new, unless it is another one in other names."""
        if not self._symmetry.trivial:
            packed = self._symmetry.canonical(packed)
            known = self._index.get(packed)
            if known is not None:
                return known
        found = self._found
        self._index[packed] = place = len(found.order)
        found.order.append(packed)
        found.parents.append(parent)
        if not found.broken and (broken := self._invariants.broken(packed)):
            found.broken, found.broken_at = broken, place
        return place

    def _look_back(self) -> None:
        """From every state one must be reachable, without any further fault, in which nothing is in doubt.

        What has a successor that comes to rest comes to rest too. Edges lead mostly to later states, so a few
        sweeps from the last state to the first find all of them.
        """
        found = self._found
        rests = bytearray(map(self._invariants.settled, found.order))
        left = [place for place in range(len(rests) - 1, -1, -1) if not rests[place]]
        while left:
            still = []
            for place in left:
                if any(rests[after] for after in found.edges[found.starts[place] : found.starts[place + 1]]):
                    rests[place] = 1
                else:
                    still.append(place)
            if len(still) == len(left):
                found.broken_at, found.broken = still[-1], f"{LIVE}: from here nothing leads to an end"
                return
            left = still
