"""Where everything of a space-time diagram goes: a column for each node, time running down.

Time is stretched where much happens and compressed where little does: heights are in order, not to scale.
Events are taken in the order of time; each goes as far down as its labels need to touch nothing else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from paylab.lab.drawing.facts import duration
from paylab.lab.drawing.svg import WIDTH, Box, box_around, text_width
from paylab.nodes.events import Event

TEXT = 10.0
LINE = 11.0
LEFT, RIGHT = 50.0, 8.0
HEADER_TEXT = 10.5
HEADER_HEIGHT = 18.0
HEADER_STEP = 21.0
# Least and most room between two events that follow one another, how it grows, and what a gap takes.
STEP_MIN, STEP_MAX, STEP_GROWTH, GAP_STEP = 2.0, 26.0, 3.5, 38.0
# A pause this many times as long as usual, and this part of the whole, is a gap.
GAP_TIMES_USUAL, GAP_PART = 40.0, 0.02
TICK_GAP = 24.0
# From here on the times at the left are in seconds.
TICKS_IN_MS_S = 10.0
# How far a message that is lost comes on its way.
LOST_AT, LOST_FALL = 0.55, 12.0
# How an event moves down until its labels fit, and how far it may before they may cross arrows.
NUDGE, NUDGES_MAX = 2.0, 20
# Only what was placed this lately can be in the way.
LATELY = 120
BOLD = frozenset({"strong", "good", "bad"})


@dataclass(frozen=True, slots=True)
class Label:
    """A text and the box that it fills; `point` is what it stands beside."""

    text: str
    box: Box
    style: str
    point: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Arrow:
    """A message; `style` is request, reply or error."""

    x: float
    y: float
    end_x: float
    end_y: float
    style: str
    title: str
    lost: bool = False

    @property
    def cross(self) -> tuple[float, float] | None:
        """Where the cross of a message that is lost, or that tells of a failure, is."""
        if not self.lost:
            return None
        if self.style == "error":
            return (self.x + self.end_x) / 2, (self.y + self.end_y) / 2
        return self.end_x, self.end_y


@dataclass(frozen=True, slots=True)
class Mark:
    """Something at a node; `style` is forced, decision, state, crashed, restarted or failed."""

    x: float
    y: float
    style: str
    title: str


@dataclass(frozen=True, slots=True)
class Band:
    """When a node was down."""

    x: float
    top: float
    bottom: float
    title: str


@dataclass(slots=True)
class Layout:
    """What to draw, and where."""

    columns: dict[str, float] = field(default_factory=dict)
    headers: dict[str, Box] = field(default_factory=dict)
    top: float = 0.0
    bottom: float = 0.0
    arrows: list[Arrow] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    # Heights at which time was cut out, and how long it was.
    gaps: list[tuple[float, str]] = field(default_factory=list)


def clock(seconds: float) -> str:
    """A time since the start, precise enough that neighbours differ."""
    if seconds < TICKS_IN_MS_S:
        return f"{seconds * 1000:,.{1 if seconds < 1 else 0}f} ms"
    return f"{seconds:,.2f} s"


def columns(names: Sequence[str]) -> dict[str, float]:
    """How far from the left each node's line is."""
    if not names:
        return {}
    first = LEFT + text_width(names[0], HEADER_TEXT) / 2 + 4
    last = WIDTH - RIGHT - text_width(names[-1], HEADER_TEXT) / 2 - 6
    step = (last - first) / max(1, len(names) - 1)
    return {name: first + number * step for number, name in enumerate(names)}


def headers(at: dict[str, float], *, top: float) -> dict[str, Box]:
    """Boxes for the names, in as many lines as keep them apart."""
    boxes: dict[str, Box] = {}
    for name, x in at.items():
        width = min(text_width(name, HEADER_TEXT) * 1.08, 120.0) + 8
        line = 0
        while True:
            centre = min(max(x, 2 + width / 2), WIDTH - 2 - width / 2)
            box = box_around(centre, top + HEADER_HEIGHT / 2 + line * HEADER_STEP, width, HEADER_HEIGHT)
            if not any(box.overlaps(other, margin=2) for other in boxes.values()):
                break
            line += 1
        boxes[name] = box
    return boxes


class Placer:
    """Takes events in the order of time and finds the height of each."""

    def __init__(self, names: Sequence[str], events: Sequence[Event], *, top: float) -> None:
        """Nothing is placed yet."""
        self.layout = Layout(columns=columns(names))
        self.layout.headers = headers(self.layout.columns, top=top)
        self.layout.top = max((box.bottom for box in self.layout.headers.values()), default=top) + 4
        self.y = self.layout.top + 10
        self._start_s = self._last_s = events[0].at_s if events else 0.0
        pauses = [later.at_s - event.at_s for event, later in pairwise(events) if later.at_s > event.at_s]
        self._usual_s = median(pauses) if pauses else 1.0
        self._gap_s = max(GAP_TIMES_USUAL * self._usual_s, GAP_PART * sum(pauses))
        self._tick_y = -math.inf
        # What no label may cover.
        self._taken: list[Box] = []

    def advance(self, event: Event) -> None:
        """Move down for the time since the event before."""
        pause_s = max(0.0, event.at_s - self._last_s)
        self._last_s = max(self._last_s, event.at_s)
        if pause_s > self._gap_s:
            self.layout.gaps.append((self._lowest() + GAP_STEP / 2, duration(pause_s)))
            self.y = self.layout.gaps[-1][0] + GAP_STEP / 2
        else:
            self.y += min(STEP_MAX, STEP_MIN + STEP_GROWTH * math.sqrt(pause_s / self._usual_s))

    def settle(self, places: "Callable[[float], Sequence[Label]]", arrow: "ArrowTo | None" = None) -> None:
        """Take the first height from here on at which one of the label's places is free.

        `arrow` gives the arrow that ends there. Crossing arrows and labels are avoided as far as possible.
        """
        start = self.y
        for strict in (True, False):
            self.y = start
            for _ in range(NUDGES_MAX if strict else 1_000):
                line = arrow(self.y) if arrow else None
                found = next((p for p in places(self.y) if self._is_free(p, line, strict=strict)), None)
                if found is not None:
                    self._take(found, line)
                    return
                self.y += NUDGE
        raise AssertionError("there is always room further down")

    def tick(self, event: Event) -> None:
        """Write the time at the left, if there is room."""
        if self.y - self._tick_y >= TICK_GAP:
            self._tick_y = self.y
            self.layout.ticks.append((self.y, clock(event.at_s - self._start_s)))

    def finish(self) -> Layout:
        """The layout, with its lower end."""
        self.layout.bottom = self._lowest() + 10
        return self.layout

    def _lowest(self) -> float:
        ends = [arrow.end_y for arrow in self.layout.arrows[-LATELY:]]
        return max([self.y, *ends, *(box.bottom for box in self._taken[-LATELY:])])

    def _is_free(self, label: Label, line: Arrow | None, *, strict: bool) -> bool:
        box, taken = label.box, self._taken[-LATELY:]
        covers = label.text and any(box.overlaps(other, margin=0.5) for other in taken)
        crossed = line is not None and line.cross is not None and box.overlaps(_cross_box(*line.cross))
        if box.left < LEFT - 2 or box.right > WIDTH - 1 or covers or crossed:
            return False
        return not strict or not (
            any(_meets(box, other) for other in self.layout.arrows[-LATELY:])
            or any(box.overlaps(other) for other in taken)
            or (line and any(_meets(other.box, line) for other in self.layout.labels[-LATELY:]))
        )

    def _take(self, label: Label, line: Arrow | None) -> None:
        if label.text:
            self.layout.labels.append(label)
            self._taken.append(label.box)
        if label.point is not None:
            self._taken.append(box_around(*label.point, 11, 11))
        if line is not None:
            self.layout.arrows.append(line)
            if line.cross is not None:
                self._taken.append(_cross_box(*line.cross))


ArrowTo = Callable[[float], Arrow]


def beside(text: str, x: float, y: float, style: str) -> list[Label]:
    """A label to the right of a mark, else to its left."""
    width = _width(text, style)
    return [
        Label(text, box_around(centre, y, width, LINE), style, (x, y))
        for centre in (x + 8 + width / 2, x - 8 - width / 2)
    ]


def along(text: str, arrow: Arrow, style: str) -> list[Label]:
    """Places for the label of an arrow: over it, from its middle outwards, under it, before its start."""
    across, down = arrow.end_x - arrow.x, arrow.end_y - arrow.y
    width = _width(text, style)
    clear = LINE / 2 + 1 + abs(down / across if across else 0.0) * min(width, abs(across)) / 2
    found = []
    for side in (-1, 1):
        for t in (0.5, 0.38, 0.62, 0.26, 0.74):
            x = min(max(arrow.x + across * t, LEFT + width / 2), WIDTH - 2 - width / 2)
            y = arrow.y + down * t + side * clear
            found.append(Label(text, box_around(x, y, width, LINE), style))
    before = arrow.x - math.copysign(width / 2 + 6, across)
    return [*found, Label(text, box_around(before, arrow.y, width, LINE), style)]


def nothing(x: float, y: float, *, towards: float) -> list[Label]:
    """No label; only the place where an arrow begins."""
    end = x + math.copysign(24.0, towards - x)
    return [Label("", Box(min(x, end), y - 0.5, max(x, end), y + 1.5), "")]


def _meets(box: Box, arrow: Arrow) -> bool:
    return box.meets((arrow.x, arrow.y), (arrow.end_x, arrow.end_y))


def _cross_box(x: float, y: float) -> Box:
    return box_around(x, y, 10, 10)


def _width(text: str, style: str) -> float:
    return text_width(text, TEXT) * (1.08 if style in BOLD else 1.0) + 3
