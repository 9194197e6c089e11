"""Draws a hash chain: which entries are as they were written, which one is not, and what nobody looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from paylab.core.log_chain import START, Entry, Head, Verdict, chained, verify
from paylab.core.money import Money
from paylab.errors import InvalidRequest
from paylab.lab.drawing import svg
from paylab.pb import transaction_logger_pb2 as pb

COLUMNS, TOP, LEFT = 5, 40.0, 4.0
BOX_WIDTH, BOX_HEIGHT, ROW, COLUMN = 108.0, 62.0, 98.0, 127.0
# A longer log shows its first rows, the one that is broken and its end.
SHOWN_MAX = 40
HEX_SHOWN = 10
STYLE = """
{id} .entry rect{{fill:{paper};stroke:{green};stroke-width:1.6}}
{id} .entry.wrong rect{{fill:{paper};stroke:{vermilion};stroke-width:2.6}}
{id} .entry.unseen rect{{fill:{shade};stroke:{faint}}} {id} .entry.unseen text{{fill:{muted};stroke:none}}
{id} .link{{fill:none;stroke:{green};stroke-width:1.6}} {id} .link.unseen{{stroke:{faint}}}
{id} .link.wrong{{stroke:{vermilion};stroke-width:2.2;stroke-dasharray:3 3}}
{id} text.number{{font-weight:700}} {id} text.hash{{font-family:monospace;fill:{muted};stroke:none}}
{id} text.quiet{{fill:{muted}}} {id} text.kept{{fill:{purple};font-weight:600}} {id} .pin{{fill:{purple}}}
{id} text.good{{fill:{green};font-weight:600}} {id} text.bad{{fill:{vermilion};font-weight:600}}
"""


@dataclass(frozen=True, slots=True)
class Chain:
    """A log as it is stored, the heads that somebody kept, and the verdict; it shows itself."""

    entries: tuple[Entry, ...]
    kept: tuple[Head, ...]
    badge: str

    @property
    def verdict(self) -> Verdict:
        """What a walk from the first entry to the last finds."""
        return verify(self.entries, kept=self.kept)

    def flipped(self, index: int, byte: int) -> "Chain":
        """A copy in which the lowest bit of one byte of an event is another, its hash being as it was."""
        entry = self.entries[index - 1]
        event = bytearray(entry.event)
        event[byte % len(event)] ^= 1
        changed = replace(entry, event=bytes(event))
        return replace(self, entries=(*self.entries[: index - 1], changed, *self.entries[index:]))

    def rehashed(self) -> "Chain":
        """A copy in which every hash was computed anew, as an intruder would who knows how it is done."""
        tip, fresh = START.hash, []
        for entry in self.entries:
            tip = chained(tip, entry.event)
            fresh.append(replace(entry, hash=tip))
        return replace(self, entries=tuple(fresh))

    def beside(self, *kept: Head) -> "Chain":
        """The same chain beside heads that somebody kept."""
        return replace(self, kept=kept)

    def __str__(self) -> str:
        """The verdict in a line: a chain that was computed anew fits together as well as the one before."""
        verdict = self.verdict
        if verdict.ok:
            return f"{verdict.head.index} entries fit together" + (", the kept head too" if self.kept else "")
        return f"entry {verdict.broken_at} {verdict.why}; the {verdict.head.index} before it fit together"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.figure().html()

    def figure(self) -> svg.Figure:
        """A box an entry; a pin stands at the head that was kept."""
        verdict = self.verdict
        shown = self.entries[:SHOWN_MAX]
        count = max(len(shown), min(max((head.index for head in self.kept), default=0), SHOWN_MAX))
        parts = [
            svg.label("Each entry's hash covers the one before it.", LEFT, 11, class_="quiet"),
            svg.label(str(self), LEFT, 29, class_="good" if verdict.ok else "bad"),
            svg.badge(self.badge),
        ]
        parts += [_link(place, verdict) for place in range(1, len(shown) + 1)]
        parts += [_box(place, entry, verdict) for place, entry in enumerate(shown, 1)]
        parts += [_gap(place, verdict) for place in range(len(shown) + 1, count + 1)]
        parts += [_pin(head) for head in self.kept if head.index <= SHOWN_MAX]
        bottom = TOP + ROW * ((max(count, 1) - 1) // COLUMNS + 1) - 14
        if len(self.entries) > SHOWN_MAX:
            parts.append(svg.label(f"and {len(self.entries) - SHOWN_MAX} more", LEFT, bottom + 6))
            bottom += 16
        about = f"A chain of {len(self.entries)} entries: {self}"
        return svg.Figure("".join(parts), style=STYLE, height=bottom, about=about, shown_px=760)


def chain(entries: Sequence[Entry], *, kept: Sequence[Head] = (), badge: str) -> Chain:
    """The picture of a chain."""
    return Chain(tuple(entries), tuple(kept), badge)


def _look(place: int, verdict: Verdict) -> str:
    """How an entry looks: right, wrong, or behind the first wrong one, where nobody looks."""
    if verdict.ok or place < verdict.broken_at:
        return "right"
    return "wrong" if place == verdict.broken_at else "unseen"


def _corner(place: int) -> tuple[float, float]:
    row, column = divmod(place - 1, COLUMNS)
    return LEFT + COLUMN * column, TOP + 10 + ROW * row


def _event(entry: Entry) -> tuple[str, str]:
    """What an entry says, in two short lines."""
    try:
        event = pb.LogEvent.FromString(entry.event)
        return event.state or "?", str(Money(event.money.amount_minor, event.money.currency))
    except (DecodeError, InvalidRequest):
        return "no event", "any more"


def _box(place: int, entry: Entry, verdict: Verdict) -> str:
    left, top = _corner(place)
    state, amount = _event(entry)
    lines = ((state, ""), (amount, ""), (f"{entry.hash.hex()[:HEX_SHOWN]}…", "hash"))
    return svg.element(
        "g",
        svg.rounded(svg.Box(left, top, left + BOX_WIDTH, top + BOX_HEIGHT), rx=6.0),
        svg.label(str(entry.index), left + BOX_WIDTH - 8, top + 13, class_="number", text_anchor="end"),
        *(
            svg.label(svg.fitted(text, 10.0, BOX_WIDTH - 24), left + 8, top + 14 + 17 * n, class_=style)
            for n, (text, style) in enumerate(lines)
        ),
        title=f"entry {entry.index}, hash {entry.hash.hex()}",
        class_=f"entry {_look(place, verdict)}",
    )


def _link(place: int, verdict: Verdict) -> str:
    """From the hash before to this entry, which covers it."""
    left, top = _corner(place)
    y = top + BOX_HEIGHT - 14
    look = _look(place, verdict)
    if place == 1:
        return ""
    if (place - 1) % COLUMNS:
        points = [(left - COLUMN + BOX_WIDTH, y), (left, y)]
    else:
        x, middle = _corner(place - 1)[0] + BOX_WIDTH / 2, top - ROW + BOX_HEIGHT + 10
        points = [(x, top - ROW + BOX_HEIGHT), (x, middle), (left + 20, middle), (left + 20, top)]
    return svg.element("path", d=svg.path(points), class_=f"link {look}")


def _gap(place: int, verdict: Verdict) -> str:
    """An entry that a kept head says was there."""
    left, top = _corner(place)
    middle = svg.label("missing", left + BOX_WIDTH / 2, top + BOX_HEIGHT / 2, text_anchor="middle")
    box = svg.element(
        "rect",
        x=left,
        y=top,
        width=BOX_WIDTH,
        height=BOX_HEIGHT,
        rx=6.0,
        stroke_dasharray="4 3",
    )
    return svg.element("g", box, middle, class_=f"entry {_look(place, verdict)}")


def _pin(head: Head) -> str:
    if head.index == START.index:
        return ""
    left, top = _corner(head.index)
    text = f"kept: {head.hash.hex()[:HEX_SHOWN]}…"
    # In the first column the link from the row above comes down beside it.
    x, y = left + (34 if head.index % COLUMNS == 1 else 8), top - 8
    pin = svg.path([(x - 4, y - 4), (x + 4, y - 4), (x, y + 6)]) + "z"
    return svg.element("path", d=pin, class_="pin") + svg.label(text, x + 9, y, class_="kept")
