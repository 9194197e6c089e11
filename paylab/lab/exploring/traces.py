"""The way to one state: a table to walk forward and backward, and the events of its timeline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from paylab.lab.drawing import timeline as drawing
from paylab.lab.exploring.board import BUDGET_MASK, Board
from paylab.lab.exploring.describe import holdings, story
from paylab.lab.exploring.invariants import Invariants
from paylab.lab.exploring.model import COORDINATOR, GATEWAY, Message, Open
from paylab.lab.exploring.moves import Move, Moves
from paylab.lab.exploring.narrator import Narrator
from paylab.lab.exploring.symmetry import Symmetry
from paylab.nodes.events import Event

if TYPE_CHECKING:
    from paylab.lab.panels.instants import Change
    from paylab.lab.panels.timeline_panel import TimelinePanel

BADGE = "explored: a step a millisecond"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trace: what happened, what every node holds after it, and what is on its way."""

    number: int
    what: str
    fault: str
    holds: dict[str, str]
    on_the_way: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "step": self.number,
            "what": self.what,
            "fault": self.fault,
            "holds": self.holds,
            "on_the_way": list(self.on_the_way),
        }


class Trace:
    """The shortest way from a beginning to one state; `steps[0]` is the beginning."""

    def __init__(self, board: Board, states: Sequence[int], broken: str) -> None:
        """`states` may be any of those that differ in names only; the trace keeps to one naming."""
        self.broken = broken
        self._names = (GATEWAY, COORDINATOR, *board.space.bank_names)
        self._moves: list[Move] = []
        self.steps = [Step(0, "the beginning", "", *_seen(board, states[0]))]
        packed = states[0]
        for move, after in _way(board, states):
            self._moves.append(move)
            packed = after
            self.steps.append(Step(len(self._moves), story(move), move.fault, *_seen(board, packed)))

    def __len__(self) -> int:
        """How many steps it takes."""
        return len(self._moves)

    def __repr__(self) -> str:
        """A line a step."""
        lines = [f"{step.number:>3}  {step.what}" for step in self.steps]
        return "\n".join([*lines, f"     {self.broken}"] if self.broken else lines)

    def events(self, steps: int | None = None) -> list[Event]:
        """What the nodes would have recorded in the first `steps`, one step a millisecond."""
        narrator = Narrator()
        for number, move in enumerate(self._moves[: len(self._moves) if steps is None else steps], start=1):
            narrator.tell(number, move)
        return narrator.events

    def timeline(self, steps: int | None = None) -> drawing.Timeline:
        """The space-time diagram of the first `steps`, or of all."""
        return drawing.timeline(self.events(steps), nodes=self._names, badge=BADGE)

    def panel(self) -> "TimelinePanel":
        """The trace to step through, forward and backward, with what every node holds after each step."""
        from paylab.lab.panels import timeline_panel  # noqa: PLC0415 - widgets come with the notebook extra

        return timeline_panel.TimelinePanel(
            self.events(), nodes=self._names, badge=BADGE, states=self._states
        )

    def _states(self, events: Sequence[Event]) -> list[list["Change"]]:
        """What every node holds from the last event of each step on; the beginning is with the first."""
        changes: list[list[Change]] = [[] for _ in events]
        last_row = {round(1000 * event.at_s - 0.1): row for row, event in enumerate(events)}
        row = 0
        for step in self.steps:
            row = last_row.get(step.number, row)
            if changes:
                changes[row] += [(name, "", text) for name, text in step.holds.items()]
                changes[row].append(("on the way", "", ", ".join(step.on_the_way) or None))
        return changes

    def show(self, step: int) -> "Shown":
        """One step: the line that leads to it, who holds what then, and the timeline so far."""
        return Shown(self, max(0, min(step, len(self))))

    def _repr_html_(self) -> str:
        return table(self.steps, self._names, mark=len(self)) + _verdict(self.broken)

    def html(self, step: int) -> str:
        """The step as a table with one row, above the timeline so far."""
        last = step == len(self)
        return (
            f"<p style='margin:.3em 0'><b>Step {step} of {len(self)}.</b></p>"
            + table(self.steps[step : step + 1], self._names, mark=step)
            + (_verdict(self.broken) if last else "")
            + str(self.timeline(step)._repr_html_())
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """One step of a trace, which shows itself in a notebook."""

    trace: Trace
    step: int

    def __repr__(self) -> str:
        """What happened and who holds what."""
        step = self.trace.steps[self.step]
        holds = [f"     {name}: {text}" for name, text in step.holds.items()]
        return "\n".join([f"{step.number:>3}  {step.what}", *holds])

    def _repr_html_(self) -> str:
        return self.trace.html(self.step)


def table(steps: Sequence[Step], names: Sequence[str], *, mark: int) -> str:
    """Steps as an HTML table; the one called `mark` stands out."""
    cell = "style='text-align:left;vertical-align:top;padding:2px 6px'"
    head = "".join(f"<th {cell}>{escape(name)}</th>" for name in ("", "what happens", *names, "on its way"))
    rows = []
    for step in steps:
        cells = [str(step.number), step.what, *(step.holds[name] for name in names)]
        cells.append(", ".join(step.on_the_way) or "-")
        weight = ";font-weight:600" if step.number == mark else ""
        row = "".join(f"<td {cell}>{escape(text)}</td>" for text in cells)
        rows.append(f"<tr style='font-size:85%{weight}'>{row}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _verdict(broken: str) -> str:
    return f"<p style='color:#d55e00;font-weight:600'>{escape(broken)}</p>" if broken else ""


def _way(board: Board, states: Sequence[int]) -> Iterator[tuple[Move, int]]:
    """The moves from one state to the next, in the naming of the first."""
    symmetry, invariants, moves = Symmetry(board), Invariants(board), Moves(board)
    packed = states[0]
    for wanted in states[1:]:
        for move in moves.of(packed):
            after = packed & move.keep | move.put
            if packed & BUDGET_MASK and not after & BUDGET_MASK:
                after = board.made_safe(after)
            after &= invariants.keep(after)
            if symmetry.canonical(after) == wanted:
                yield move, after
                packed = after
                break
        else:
            raise AssertionError("no move leads to the next state")


def _seen(board: Board, packed: int) -> tuple[dict[str, str], tuple[str, ...]]:
    holds = {name: holdings(own.state(packed)) for name, own in board.fields.items()}
    flight = tuple(
        _flight(message) for message, _ in board.on_the_way(packed) if not isinstance(message.body, Open)
    )
    return holds, flight


def _flight(message: Message) -> str:
    return f"{message} → {message.receiver}"
