"""Explores every interleaving and crash of the protocol cores: `explore()`, and what it returns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from paylab.errors import LabError
from paylab.lab.exploring.board import Board
from paylab.lab.exploring.invariants import INVARIANTS, LIVE
from paylab.lab.exploring.model import Result, Timer
from paylab.lab.exploring.search import Found, Search
from paylab.lab.exploring.space import Space
from paylab.lab.exploring.traces import Trace
from paylab.lab.slots import filled

# About 2 GB; see `--states`.
STATES_MAX = 6_000_000
# Of the other plurals the last letter goes.
SINGULAR = {"crashes": "crash", "losses": "loss"}
# The slots that the explorer's actors ask; others belong to nodes that it does not have.
SLOTS = (
    "bank.vote",
    "bank.prepare",
    "bank.superseded",
    "bank.decide",
    "bank.inquire",
    "bank.in_doubt",
    "coordinator.core",
    "gateway.open_attempt",
    "gateway.conclude",
)


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was explored, and the shortest way to a state that is wrong, if there is one."""

    space: Space
    states: int
    transitions: int
    depth: int
    complete: bool
    violations: tuple[str, ...]
    trace: Trace | None
    seconds: float
    # Of the processor, which is what one core took however busy the machine was.
    cpu_seconds: float
    covered: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.violations

    @property
    def states_per_s(self) -> int:
        """States in a second of one core."""
        return round(self.states / self.cpu_seconds)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "states": self.states,
            "transitions": self.transitions,
            "depth": self.depth,
            "complete": self.complete,
            "violations": list(self.violations),
            "states_per_s": self.states_per_s,
            "trace": [step.to_json() for step in self.trace.steps] if self.trace else [],
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "space": asdict(self.space),
            "covered": dict(self.covered),
        }

    def __repr__(self) -> str:
        """The figures, then the violation with the way to it."""
        return "\n".join([*(f"{name:<14}{text}" for name, text in self._lines()), *self._found()])

    def _repr_html_(self) -> str:
        left = "style='text-align:left;vertical-align:top'"
        rows = "".join(
            f"<tr><td {left}>{escape(name)}</td><td {left}>{escape(text)}</td></tr>"
            for name, text in self._lines()
        )
        trace = self.trace._repr_html_() if self.trace else ""
        return f"<table>{rows}</table>{trace}"

    def _lines(self) -> list[tuple[str, str]]:
        whole = "all of the space" if self.complete else "a part of the space, those with the fewest steps"
        if self.violations:
            whole = "as far as the first violation"
        return [
            ("space", _written(self.space)),
            ("states", f"{self.states:,}, {whole}"),
            ("transitions", f"{self.transitions:,}"),
            ("depth", f"{self.depth} steps"),
            ("speed", f"{self.states_per_s:,} states a second of one core, {self.seconds:.1f} s in all"),
            ("violations", self.violations[0] if self.violations else "none"),
        ]

    def _found(self) -> list[str]:
        return ["", repr(self.trace)] if self.trace else []


def explore(
    space: Space | None = None,
    *,
    replace: Mapping[str, Any] | None = None,
    states_max: int = STATES_MAX,
    told: Callable[[Found], None] = lambda _: None,
    **bounds: int,
) -> Exploration:
    """Visit every state of a space, or of `Space(**bounds)`, until one is wrong or `states_max` are known.

    `replace` fills slots with other decisions. `told` hears of the progress. Raises LabError.
    """
    space = space or Space(**bounds)
    unknown = [name for name in replace or {} if name not in SLOTS]
    if unknown:
        raise LabError(
            "BAD_ARGUMENT",
            f"the explorer has no node that asks {unknown[0]}; it has those that ask {', '.join(SLOTS)}",
        )
    decisions, _ = filled(replace or {})
    board = Board(space, decisions)
    begun, cpu = time.perf_counter(), time.process_time()
    found = Search(board, states_max=states_max, told=told).run()
    seconds, cpu_seconds = time.perf_counter() - begun, max(time.process_time() - cpu, 1e-6)
    trace = Trace(board, found.path(found.broken_at), found.broken) if found.broken else None
    return Exploration(
        space,
        len(found.order),
        found.transitions,
        found.depth,
        found.complete,
        (found.broken,) if found.broken else (),
        trace,
        seconds,
        cpu_seconds,
        _covered(board, found),
    )


def _covered(board: Board, found: Found) -> dict[str, Any]:
    """What the search has seen of each actor, which crashes, and which invariants were checked."""
    deaths = {
        f"{name}: {result.died}"
        for name, own in board.fields.items()
        for results in own.answers.values()
        for result in (each.result if isinstance(each, Timer) else each for each in results)
        if isinstance(result, Result) and result.died
    }
    checked = [name for name in INVARIANTS if name != LIVE or found.complete]
    return {
        "node_states": {
            name: len({own.number(packed) for packed in found.order}) for name, own in board.fields.items()
        },
        "messages": [f"{m} from {m.sender} to {m.receiver}" for m in board.messages],
        "crash_points": sorted(deaths),
        "invariants": checked,
    }


def _written(space: Space) -> str:
    counted = [
        f"{value} {name if value != 1 else SINGULAR.get(name, name.removesuffix('s'))}"
        for name, value in asdict(space).items()
    ]
    return ", ".join(counted).replace("1 los,", "1 loss,").replace("1 crashe", "1 crash")
