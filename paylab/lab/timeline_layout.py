"""Where everything of a space-time diagram goes: a column for each node, time running down.

Time is stretched where much happens and compressed where little does, so heights are ordered but not to scale.
Events are taken in the order of time; each goes as far down as its labels need to touch no other.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from paylab.lab.svg import WIDTH, Box, box_around, text_width
from paylab.nodes.events import Event, Kind

TEXT = 10.0
LINE = 11.0
LEFT, RIGHT = 46.0, 8.0
HEADER_TEXT = 10.5
HEADER_HEIGHT = 18.0
HEADER_STEP = 21.0
# Least and most room between two events that follow one another, and the room that a gap takes.
STEP_MIN, STEP_MAX, GAP_STEP = 1.5, 26.0, 38.0
# A pause this many times as long as usual is a gap.
GAP_TIMES_USUAL = 40.0
TICK_GAP = 24.0
# How far a message that is lost comes on its way.
LOST_AT = 0.55
LOST_FALL = 12.0
# A call to a node that is not drawn would have nowhere to go.
NUDGE = 2.0


@dataclass(slots=True)
class Call:
    """The events of one call, as far as they happened."""

    sent: Event | None = None
    received: Event | None = None
    # What the server said: ANSWERED or REFUSED; and what the client got: RETURNED or FAILED.
    answered: Event | None = None
    ended: Event | None = None

    @property
    def failed(self) -> bool:
        """Whether the client got no answer, or an error."""
        return self.ended is not None and self.ended.kind is Kind.FAILED


def pair_calls(events: Iterable[Event]) -> dict[str, Call]:
    """Calls by their id."""
    calls: dict[str, Call] = {}
    for event in events:
        if not event.call:
            continue
        call = calls.setdefault(event.call, Call())
        match event.kind:
            case Kind.SENT:
                call.sent = event
            case Kind.RECEIVED:
                call.received = event
            case Kind.ANSWERED | Kind.REFUSED:
                call.answered = event
            case Kind.RETURNED | Kind.FAILED:
                call.ended = event
    return calls


@dataclass(frozen=True, slots=True)
class Label:
    """A text and the box that it fills."""

    text: str
    box: Box
    style: str


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


def duration(seconds: float) -> str:
    """A length of time, short."""
    ms = seconds * 1000
    if ms < 99.95:
        return f"{ms:.1f} ms"
    if ms < 9_999.5:
        return f"{ms:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def columns(names: Sequence[str]) -> dict[str, float]:
    """The height of a node's line from the left, for every node."""
    first = LEFT + text_width(names[0], HEADER_TEXT) / 2 + 4 if names else LEFT
    last = WIDTH - RIGHT - text_width(names[-1], HEADER_TEXT) / 2 - 6 if names else WIDTH
    if len(names) < 2:
        return dict.fromkeys(names, (LEFT + WIDTH) / 2)
    step = (last - first) / (len(names) - 1)
    return {name: first + number * step for number, name in enumerate(names)}


def headers(at: dict[str, float], *, top: float) -> dict[str, Box]:
    """Boxes for the names, in as many lines as keep them apart."""
    boxes: dict[str, Box] = {}
    for name, x in at.items():
        width = min(text_width(name, HEADER_TEXT), 120.0) + 8
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
        self.layout.top = max((box.bottom for box in self.layout.headers.values()), default=top) + 6
        self.y = self.layout.top + 8
        self._start_s = self._last_s = events[0].at_s if events else 0.0
        pauses = [b.at_s - a.at_s for a, b in zip(events, events[1:], strict=False) if b.at_s > a.at_s]
        self._usual_s = median(pauses) if pauses else 1.0
        self._tick_y = -math.inf

    def advance(self, event: Event) -> None:
        """Move down for the time since the event before."""
        pause_s = max(0.0, event.at_s - self._last_s)
        self._last_s = max(self._last_s, event.at_s)
        times = pause_s / self._usual_s
        if times > GAP_TIMES_USUAL:
            self.layout.gaps.append((self._below_everything() + GAP_STEP / 2, duration(pause_s)))
            self.y = self.layout.gaps[-1][0] + GAP_STEP / 2
        else:
            self.y += min(STEP_MAX, STEP_MIN + 3.0 * math.sqrt(times))

    def settle(self, wanted: Callable[[float], list[list[Label]]]) -> float:
        """Take the first height, from here on, at which of each of the wanted labels one place is free."""
        while True:
            chosen = self._choose(wanted(self.y))
            if chosen is not None:
                self.layout.labels += chosen
                return self.y
            self.y += NUDGE

    def tick(self, event: Event) -> None:
        """Write the time at the left, if there is room."""
        if self.y - self._tick_y >= TICK_GAP:
            self._tick_y = self.y
            self.layout.ticks.append((self.y, duration(event.at_s - self._start_s)))

    def finish(self) -> Layout:
        """The layout, with its lower end."""
        self.layout.bottom = self._below_everything() + 10
        return self.layout

    def _below_everything(self) -> float:
        return max([self.y, *(label.box.bottom for label in self.layout.labels[-40:])])

    def _choose(self, wanted: list[list[Label]]) -> list[Label] | None:
        chosen: list[Label] = []
        # What is far above cannot be touched any more.
        placed = self.layout.labels[-80:]
        for places in wanted:
            for place in places:
                inside = place.box.left >= LEFT - 6 and place.box.right <= WIDTH - 1
                if inside and not any(place.box.overlaps(o.box, margin=0.5) for o in [*placed, *chosen]):
                    chosen.append(place)
                    break
            else:
                return None
        return chosen


def label_at(text: str, x: float, y: float, style: str) -> Label:
    """A label with its centre there, moved into the picture where it would stick out."""
    width = text_width(text, TEXT) + 3
    x = min(max(x, LEFT - 5 + width / 2), WIDTH - 2 - width / 2)
    return Label(text, box_around(x, y, width, LINE), style)


def beside(text: str, x: float, y: float, style: str) -> list[Label]:
    """A label to the right of a point, else to its left."""
    width = text_width(text, TEXT) + 3
    return [
        Label(text, box_around(centre, y, width, LINE), style)
        for centre in (x + 8 + width / 2, x - 8 - width / 2)
    ]


def along(text: str, arrow: Arrow, style: str) -> list[Label]:
    """Places for the label of an arrow: over it, from its middle outwards, then under it."""
    return [
        label_at(
            text, arrow.x + (arrow.end_x - arrow.x) * t, arrow.y + (arrow.end_y - arrow.y) * t + dy, style
        )
        for dy in (-6.5, 7.5)
        for t in (0.5, 0.38, 0.62, 0.26, 0.74)
    ]
