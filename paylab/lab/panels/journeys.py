"""Samples whole payments from the stream of events: which messages travelled for each, and what it wrote.

A page cannot show hundreds of payments a second, and a payment lasts a few milliseconds. So a few are chosen,
each is followed to its end, and the page plays it in slow motion from the times of its events.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from paylab.lab.checking.folds import AT_REST
from paylab.lab.drawing.facts import FACT_KINDS, Call, Fact, pair_calls
from paylab.lab.network import OPERATOR
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

# So many are taken up at once, and after that one in this time: a page plays each for seconds.
BURST = 4
SPACING_S = 0.5
# A payment is told when its answer is this old, by when its banks have usually heard the decision.
AFTERMATH_S = 0.25
# One that has no answer after this long is told as far as it has come, and again as often while it goes on.
TROUBLE_S = 0.6
# A payment of which nothing was heard for so long has come to rest wherever it is.
REST_S = 5.0
# Calls are remembered for at least so many events, since a call tells only later for which payment it was.
REMEMBERED = 4_000


@dataclass(slots=True)
class Followed:
    """A payment that was chosen."""

    payment: str
    began_s: float
    state: str = ""
    calls: set[str] = field(default_factory=set)
    facts: list[Event] = field(default_factory=list)
    answered_s: float | None = None
    last_s: float = 0.0
    told_s: float = 0.0
    fresh: bool = True


class Journeys:
    """Follows a sample of payments."""

    def __init__(self) -> None:
        """Follow none yet."""
        self._followed: dict[str, Followed] = {}
        # Payments seen lately, so that each is offered once.
        self._seen: dict[str, None] = {}
        # The moment up to which the allowance is used up.
        self._used_s = -math.inf
        # Two generations of the latest events by call.
        self._young: dict[str, list[Event]] = {}
        self._old: dict[str, list[Event]] = {}
        self._since = 0
        # A batch is one call for many payments.
        self._owners: dict[str, tuple[Followed, ...]] = {}

    def take(self, events: Iterable[Event]) -> None:
        """Take in a batch."""
        for event in events:
            if event.call and event.method not in HOUSEKEEPING:
                self._remember(event)
            for payment in event.payments:
                self._about(payment, event)
            if event.call and self._followed:
                for call in (event.call, event.parent):
                    for followed in self._owners.get(call, ()):
                        self._belongs(followed, event)

    def _remember(self, event: Event) -> None:
        known = self._young.get(event.call)
        if known is None:
            known = self._young[event.call] = self._old.pop(event.call, [])
        known.append(event)
        self._since += 1
        if self._since >= REMEMBERED:
            self._since, self._old, self._young = 0, self._young, {}

    def _about(self, payment: str, event: Event) -> None:
        followed = self._followed.get(payment)
        if followed is None:
            if payment in self._seen:
                return
            self._seen[payment] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
            if not self._allowed(event.at_s):
                return
            followed = self._followed[payment] = Followed(payment, event.at_s)
        if event.call:
            self._belongs(followed, event)
        elif event.kind in FACT_KINDS:
            followed.facts.append(event)
            followed.last_s, followed.fresh = event.at_s, True
        if event.facts is not None and event.facts["at"] == "gateway":
            followed.state = str(event.facts["state"])
            if followed.state in AT_REST or followed.state == "QUEUED":
                followed.answered_s = event.at_s

    def _allowed(self, at_s: float) -> bool:
        """Whether one more may be taken up now; counts it if so."""
        used_s = max(self._used_s, at_s - BURST * SPACING_S) + SPACING_S
        if used_s > at_s:
            return False
        self._used_s = used_s
        return True

    def _belongs(self, followed: Followed, event: Event) -> None:
        if event.method in HOUSEKEEPING:
            return
        if event.call not in followed.calls:
            followed.calls.add(event.call)
            self._owners[event.call] = (*self._owners.get(event.call, ()), followed)
        followed.last_s, followed.fresh = max(followed.last_s, event.at_s), True

    @property
    def busy(self) -> bool:
        """Whether any is followed."""
        return bool(self._followed)

    def tell(self, now_s: float) -> list[dict[str, Any]]:
        """The journeys that are worth showing now; each as far as it is known."""
        told = []
        for followed in list(self._followed.values()):
            over = followed.answered_s is not None and now_s - followed.answered_s >= AFTERMATH_S
            over = over or now_s - followed.last_s > REST_S
            trouble = now_s - max(followed.began_s, followed.told_s) >= TROUBLE_S and followed.fresh
            if over or trouble:
                followed.told_s, followed.fresh = now_s, False
                told.append(self._journey(followed, over=over))
            if over:
                del self._followed[followed.payment]
                self._leave(followed)
        return told

    def _leave(self, followed: Followed) -> None:
        for call in followed.calls:
            others = tuple(other for other in self._owners.pop(call, ()) if other is not followed)
            if others:
                self._owners[call] = others

    def _journey(self, followed: Followed, *, over: bool) -> dict[str, Any]:
        events = [
            event for call in followed.calls for event in self._young.get(call) or self._old.get(call) or ()
        ]
        calls = pair_calls(sorted(events, key=lambda event: (event.at_s, event.lamport)))
        start_s = min((event.at_s for event in [*events, *followed.facts]), default=followed.began_s)
        hops = [hop for call in calls.values() for hop in _hops(call, start_s)]
        marks = [_mark(event, start_s) for event in followed.facts]
        return {
            "payment": followed.payment,
            "state": followed.state,
            "over": over,
            "hops": sorted(hops, key=lambda hop: float(hop[3])),
            "marks": [mark for mark in marks if mark is not None],
        }


def _hops(call: Call, start_s: float) -> list[list[Any]]:
    """The way there and the way back: from, to, what, milliseconds from the start to the end; None: lost."""
    if call.sent is None or OPERATOR.node in (call.sent.node, call.sent.peer):
        return []
    here, there, sent_s = call.sent.node, call.sent.peer, call.sent.at_s
    found: list[list[Any]] = []
    arrived = call.received
    if arrived is not None or call.failed:
        found.append(
            [here, there, "request", _ms(sent_s, start_s), _ms(arrived.at_s if arrived else None, start_s)]
        )
    if call.answered is not None and (call.ended is not None):
        kind = "error" if call.answered.kind is Kind.REFUSED else "reply"
        lost = call.failed and kind == "reply"
        end_s = None if lost else call.ended.at_s
        found.append([there, here, kind, _ms(call.answered.at_s, start_s), _ms(end_s, start_s)])
    return found


def _mark(event: Event, start_s: float) -> list[Any] | None:
    """What a node wrote or decided: node, style, milliseconds from the start, word."""
    fact = Fact.of(event)
    if event.node == "coordinator" and fact.word in ("COMMIT", "ABORTED"):
        word = "COMMIT" if fact.word == "COMMIT" else "ABORT"
        return [event.node, "decision", _ms(event.at_s, start_s), word]
    if event.kind is Kind.FORCED_WRITE:
        return [event.node, "forced", _ms(event.at_s, start_s), fact.word]
    return None


def _ms(at_s: float | None, start_s: float) -> float | None:
    return None if at_s is None else round(1000 * (at_s - start_s), 3)
