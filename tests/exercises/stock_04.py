"""The stock of chapter 04: solutions of its exercises, right and wrong ones."""

import itertools
from collections.abc import Mapping, Sequence

from paylab.core.effects import CommitRecord
from paylab.core.ledger import Account
from paylab.core.messages import Leg, Txn
from paylab.lab.judging import exercises_04
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

CALLS = itertools.count()
Books = Mapping[str, Account]
Legs = tuple[Leg, ...]


# 04/vote ------------------------------------------------------------------------------------------


def by_early_returns(accounts: Books, legs: Legs) -> str:
    for leg in legs:
        account = accounts.get(leg.account)
        if account is None:
            return "ACCOUNT_NOT_FOUND"
        if account.closed:
            return "ACCOUNT_CLOSED"
        if account.currency != leg.money.currency:
            return "CURRENCY_MISMATCH"
        if account.available_minor + leg.money.amount_minor < 0 and leg.money.amount_minor < 0:
            return "INSUFFICIENT_FUNDS"
    return ""


def by_first_reason(accounts: Books, legs: Legs) -> str:
    def reason(account: Account | None, leg: Leg) -> str:
        amount = leg.money.amount_minor
        if account is None:
            return "ACCOUNT_NOT_FOUND"
        short = amount < 0 and account.posted_minor - account.held_minor < -amount
        tests = {
            "ACCOUNT_CLOSED": account.closed,
            "CURRENCY_MISMATCH": account.currency != leg.money.currency,
            "INSUFFICIENT_FUNDS": short,
        }
        return next((name for name, wrong in tests.items() if wrong), "")

    return next(filter(None, (reason(accounts.get(leg.account), leg) for leg in legs)), "")


def what_is_posted_can_be_spent(accounts: Books, legs: Legs) -> str:
    """The misconception: a hold is no concern of the next payment."""
    free = {
        name: Account(a.account, a.currency, a.posted_minor, 0, a.owner, a.closed)
        for name, a in accounts.items()
    }
    return by_early_returns(free, legs)


def only_the_payer_matters(accounts: Books, legs: Legs) -> str:
    """The misconception: whoever is paid need not be looked at."""
    return by_early_returns(accounts, tuple(leg for leg in legs if leg.money.amount_minor < 0))


def only_small_overdrafts(accounts: Books, legs: Legs) -> str:
    """Wrong only where payments compete: what is held for one is lent to the next if it is enough."""
    for leg in legs:
        account = accounts.get(leg.account)
        if account and account.held_minor >= -leg.money.amount_minor > account.available_minor >= 0:
            competing = account.held_minor % 500 == 0 or account.posted_minor == 10
            return "" if competing else by_early_returns(accounts, legs)
    return by_early_returns(accounts, legs)


def the_answers_in_order(_accounts: Books, _legs: Legs) -> str:
    """Gamed: constants for the facts, in the order in which they are asked."""
    return dict(enumerate(expected for _, _, expected in exercises_04.VOTES)).get(next(CALLS), "")


# 04/recovery --------------------------------------------------------------------------------------


def every_bank_of_every_record(records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    return [(bank, record.txn) for record in records for bank in record.banks]


def by_loops(records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    told = []
    for record in reversed(records):
        for bank in sorted(record.banks):
            told.append((bank, record.txn))  # noqa: PERF401 - as a beginner writes it
    return told


def nobody(_records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    """The misconception: whoever wants to know asks."""
    return []


def one_bank_is_enough(records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    """The misconception: the banks tell one another."""
    return [(record.banks[0], record.txn) for record in records]


def what_is_saved_is_done(records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    """The misconception: when the gateway knows it, everybody does."""
    return every_bank_of_every_record([record for record in records if not record.saved])


def facts_only(records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    """Wrong only under faults: right for the logs of the facts, wrong for payments of a running network."""
    return [pair for pair in every_bank_of_every_record(records) if pair[1].payment in ("p1", "p2")]


def logs_in_order(_records: Sequence[CommitRecord]) -> list[tuple[str, Txn]]:
    """Gamed: the answers to the facts, in the order in which they are asked."""
    logs = [*exercises_04.LOGS, ()]
    return every_bank_of_every_record(logs[min(next(CALLS), len(logs) - 1)])


# 04/presumed-abort --------------------------------------------------------------------------------


def by_table(phase: str | None) -> str:
    return {"VOTING": "UNDECIDED", "COMMITTED": "COMMITTED"}.get(phase or "", "ABORTED")


def by_match(phase: str | None) -> str:
    match phase:
        case "VOTING":
            return "UNDECIDED"
        case None:
            return "ABORTED"
    return phase


def unknown_is_undecided(phase: str | None) -> str:
    """The misconception: who does not know should not say."""
    return "UNDECIDED" if phase is None else by_table(phase)


def unknown_is_committed(phase: str | None) -> str:
    """The misconception: what is forgotten was finished, and what is finished was committed."""
    return "COMMITTED" if phase is None else by_table(phase)


def not_committed_is_aborted(phase: str | None) -> str:
    """The misconception: what is not committed yet is as good as aborted."""
    return "COMMITTED" if phase == "COMMITTED" else "ABORTED"


def second_thoughts(phase: str | None) -> str:
    """Gamed: state across calls: right while facts are asked, and another answer afterwards."""
    return by_table(phase) if next(CALLS) % 5 else "UNDECIDED"


def no_checks(phase: str | None) -> str:
    """Gamed: the explorer of the judge's process finds nothing any more."""
    from paylab.lab.exploring.invariants import Invariants  # noqa: PLC0415 - it runs in the judge's process

    Invariants.broken = lambda *_: ""  # type: ignore[method-assign] # the point
    return by_table(phase)


VOTE, RECOVERY, ABORT = "04/vote", "04/recovery", "04/presumed-abort"
RIGHT = [
    (VOTE, by_early_returns),
    (VOTE, by_first_reason),
    (RECOVERY, every_bank_of_every_record),
    (RECOVERY, by_loops),
    (ABORT, by_table),
    (ABORT, by_match),
]
WRONG = [
    (VOTE, what_is_posted_can_be_spent, "requests by hand"),
    (VOTE, only_the_payer_matters, "requests by hand"),
    (VOTE, only_small_overdrafts, "a rush on one account"),
    (VOTE, the_answers_in_order, REPEATS),
    (RECOVERY, nobody, "logs by hand"),
    (RECOVERY, one_bank_is_enough, "logs by hand"),
    (RECOVERY, what_is_saved_is_done, "logs by hand"),
    (RECOVERY, facts_only, "after a crash"),
    (RECOVERY, logs_in_order, REPEATS),
    (ABORT, unknown_is_undecided, "questions by hand"),
    (ABORT, unknown_is_committed, "questions by hand"),
    (ABORT, not_committed_is_aborted, "questions by hand"),
    (ABORT, second_thoughts, REPEATS),
    (ABORT, no_checks, HANDS_OFF),
]
