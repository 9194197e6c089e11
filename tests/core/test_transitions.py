"""The tables of transitions say what the cores do: every event in every state, no more and no less."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from paylab.core import coordinator as rules
from paylab.core import participant
from paylab.core.coordinator import Coordinator, Phase
from paylab.core.effects import TimerKind
from paylab.core.ledger import Account
from paylab.core.messages import Commit, Decide, Inquire, Leg, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import (
    ABORT,
    COMMIT,
    INQUIRY,
    NO,
    YES,
    YES_ALONE,
    Change,
    State,
    Transaction,
)
from paylab.errors import NotFound, WrongState

TXN = Txn("p1", 1)
DEBIT = (Leg("alpine", "alice", Money(-50, "EUR")),)
BANKS = {"": ("alpine", "boreal"), ", one bank": ("alpine",)}

# The bank ---------------------------------------------------------------------------------------

RICH, POOR = 100, 0


def at_bank(row: Transaction | None, event: str) -> State | None:
    """The state of a transaction after an event."""
    balance_minor = POOR if event == NO else RICH
    account = Account("alice", "EUR", balance_minor, held_minor=50 if row else 0)
    accounts = {"alice": account}
    prepared = Prepare(TXN, DEBIT, one_phase=event == YES_ALONE)
    events: dict[str, Callable[[], tuple[object, Change]]] = {
        YES: lambda: participant.prepare(row, accounts, prepared),
        YES_ALONE: lambda: participant.prepare(row, accounts, prepared),
        NO: lambda: participant.prepare(row, accounts, prepared),
        COMMIT: lambda: participant.decide(row, accounts, Decide(TXN, commit=True)),
        ABORT: lambda: participant.decide(row, accounts, Decide(TXN, commit=False)),
        INQUIRY: lambda: participant.inquire(row, Inquire(TXN)),
    }
    _, change = events[event]()
    if change.transaction is None:
        return row.state if row else None
    return change.transaction.state


@pytest.mark.parametrize("event", [YES, YES_ALONE, NO, COMMIT, ABORT, INQUIRY])
@pytest.mark.parametrize("state", [None, *State])
def test_a_bank_does_what_its_table_says(state: State | None, event: str) -> None:
    """What is in the table happens; whatever is not changes nothing."""
    row = None if state is None else Transaction(TXN, state, DEBIT)
    assert at_bank(row, event) == participant.TRANSITIONS.get((state, event), state)


# The coordinator --------------------------------------------------------------------------------


def commit(banks: tuple[str, ...]) -> Commit:
    return Commit(TXN, tuple(Leg(bank, "someone", Money(1, "EUR")) for bank in banks), 15.0, 1)


def votes(core: Coordinator, banks: tuple[str, ...], *, yes: bool) -> None:
    for bank in banks:
        core.vote(bank, Vote(TXN, yes=yes))


def resolved(core: Coordinator, *, commit: bool) -> None:
    with suppress(NotFound, WrongState):
        core.resolve(TXN.payment, commit=commit, operator="olga", now=1.0)


EVENTS: dict[str, Callable[[Coordinator, tuple[str, ...]], object]] = {
    "Commit": lambda core, banks: core.commit(commit(banks), now=1.0),
    "Commit, too late": lambda core, banks: core.commit(commit(banks), now=99.0),
    "a bank asks": lambda core, _: core.decision(TXN, now=1.0),
    "every yes": lambda core, banks: votes(core, banks, yes=True),
    "a no": lambda core, banks: votes(core, banks[:1], yes=False),
    "deadline": lambda core, _: core.timer(TimerKind.VOTES, TXN),
    "operator commits": lambda core, _: resolved(core, commit=True),
    "operator aborts": lambda core, _: resolved(core, commit=False),
}
WAYS: dict[Phase | None, tuple[str, ...]] = {
    None: (),
    Phase.VOTING: ("Commit",),
    Phase.ASKING: ("Commit", "deadline"),
    Phase.COMMITTED: ("Commit", "every yes"),
    Phase.ABORTED: ("Commit", "a no"),
}


def phase_of(core: Coordinator) -> Phase | None:
    attempt = core.attempts.get(TXN.payment)
    return attempt.phase if attempt else None


# Two banks are never asked what became of it.
CASES = [(phase, size) for phase in WAYS for size in BANKS if phase is not Phase.ASKING or size]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("phase", "size"), CASES)
def test_a_coordinator_does_what_its_table_says(phase: Phase | None, size: str, event: str) -> None:
    """An event of one bank has a row of its own where it makes a difference."""
    core, banks = Coordinator(epoch=1), BANKS[size]
    for step in WAYS[phase]:
        EVENTS[step](core, banks)
    assert phase_of(core) == phase
    EVENTS[event](core, banks)
    expected = rules.TRANSITIONS.get((phase, event + size), rules.TRANSITIONS.get((phase, event), phase))
    assert phase_of(core) == expected


def test_every_row_of_the_tables_was_walked() -> None:
    """No row names an event that nobody can cause."""
    known = {event + size for event in EVENTS for size in BANKS}
    assert {event for _, event in rules.TRANSITIONS} <= known
