"""The invariants as folds over a history, fed online while a network runs or from a saved file.

The same folds judge both worlds. They know nothing of the ledgers' files, only what the nodes recorded.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

from paylab.lab.checking.agreement_folds import Atomicity, Decisions, ForcedFirst, LogAgrees, Rest, Whole
from paylab.lab.checking.authorisation_folds import Authorisations
from paylab.lab.checking.event_facts import Facts, facts_of
from paylab.lab.checking.folds import FACT_METHODS, FINDINGS_MAX, Fold, Picture
from paylab.lab.checking.money_folds import Acknowledged, Conservation, NoOverdraft, OneCharge
from paylab.lab.checking.serialisability import SerialisableAccounts
from paylab.nodes.events import Event

FOLDS: tuple[type[Fold], ...] = (
    Conservation,
    Atomicity,
    OneCharge,
    Acknowledged,
    NoOverdraft,
    Authorisations,
    Decisions,
    ForcedFirst,
    SerialisableAccounts,
    LogAgrees,
    Rest,
    Whole,
)
# Events are folded so many at a time, or when somebody looks: one by one, between all that a network does,
# each takes twice as long, since the code is never in the processor's cache.
TOGETHER = 256


class HistoryChecks:
    """All the folds over one history."""

    def __init__(self, *, continued: bool = False) -> None:
        """Give `continued` when the books, or events, are older than the first event to come."""
        self._picture = Picture(continued=continued)
        self._folds = [fold(self._picture) for fold in FOLDS]
        self._whole = next(fold for fold in self._folds if isinstance(fold, Whole))
        self._listeners: dict[str, list[Callable[[Facts], None]]] = {
            at: [
                getattr(fold, at) for fold in self._folds if getattr(type(fold), at) is not getattr(Fold, at)
            ]
            for at in FACT_METHODS
        }
        self._unseen: deque[Event] = deque()
        self._folding = threading.Lock()

    @property
    def picture(self) -> Picture:
        """What the events so far add up to."""
        self._catch_up()
        return self._picture

    @property
    def folds(self) -> list[Fold]:
        """The invariants, each with what it has found."""
        self._catch_up()
        return self._folds

    def see(self, event: Event) -> None:
        """Take one event in."""
        self._unseen.append(event)
        if len(self._unseen) >= TOGETHER:
            self._catch_up()

    def _catch_up(self) -> None:
        with self._folding:  # the lab's loop adds, and any thread looks
            while self._unseen:
                self._fold(self._unseen.popleft())

    def _fold(self, event: Event) -> None:
        self._picture.events += 1
        self._picture.event = event
        facts = facts_of(event)
        self._whole.every(event, facts)
        if facts is None:
            return
        for listener in self._listeners.get(facts["at"], ()):
            listener(facts)
        self._picture.take(facts)

    def checked(self) -> dict[str, int]:
        """How much each invariant was checked."""
        return {fold.name: fold.count for fold in self.folds}

    def violations(self, place: Callable[[int], str] = lambda number: f"event {number}") -> list[str]:
        """What was found, each with the place of the event that showed it."""
        found: list[str] = []
        for fold in self.folds:
            found += [f"{fold.name}: {text} ({place(number)})" for number, text in fold.findings]
            found += [f"{fold.name}: {text}" for text in fold.at_end()]
            if fold.found > FINDINGS_MAX:
                found.append(f"{fold.name}: … {fold.found} findings in all")
        return found

    def unchecked(self) -> list[str]:
        """What these checks could not see."""
        picture, said = self.picture, []
        if picture.continued:
            said.append("what happened before this history began: its books are older")
        if picture.prepared:
            said.append(f"how {len(picture.prepared)} prepared transactions end")
        elif not picture.quiet_moments:
            said.append("that everything came to rest: nobody waited for it with lab.settle()")
        return said


def feed(events: Iterable[Event], *, continued: bool = False) -> HistoryChecks:
    """The checks of a history that has ended."""
    checks = HistoryChecks(continued=continued)
    for event in events:
        checks.see(event)
    return checks
