"""The stock of chapter 04: right solutions of every exercise pass, wrong ones fail for the named check."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import paylab
from paylab.core.effects import CommitRecord
from paylab.core.ledger import Account
from paylab.core.messages import Leg, Txn
from paylab.lab.judging import exercises_04
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

RIGHT_WITHIN_S = 5.0
FIRST_FAILURE_WITHIN_S = 2.0
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


def names(values: Sequence[tuple[Any, ...]]) -> list[str]:
    return [value[1].__name__ for value in values]


@pytest.mark.parametrize(("exercise", "mine"), RIGHT, ids=names(RIGHT))
def test_right_solutions_pass(exercise: str, mine: Any) -> None:
    """Two of different style each, on the chapter's seeds and on others, within a reader's patience."""
    report = paylab.judge(exercise, mine)
    assert report.passed, report
    assert report.score == 1.0
    # Processor time, as other tests run beside this one.
    assert report.busy_s < RIGHT_WITHIN_S
    assert paylab.judge(exercise, mine, seeds=[5000, 5001]).passed


@pytest.mark.parametrize(("exercise", "mine", "check"), WRONG, ids=names(WRONG))
def test_wrong_solutions_fail_for_the_named_check(exercise: str, mine: Any, check: str) -> None:
    """The report names the check that a mistake breaks, and never gives all the points."""
    report = paylab.judge(exercise, mine)
    assert not report.passed
    assert report.failure is not None
    assert report.failure.name == check, report
    assert report.score < 1.0


def test_every_exercise_has_its_stock() -> None:
    """Two right solutions and four wrong ones each."""
    for exercise in exercises_04.EXERCISES:
        assert sum(name == exercise.id for name, _ in RIGHT) >= 2
        assert sum(name == exercise.id for name, _, _ in WRONG) >= 4


# By hand, without the facts: what a drill and the explorer say of the same mistakes.
EXPLORED = [
    (VOTE, what_is_posted_can_be_spent, "nothing is overdrawn"),
    (RECOVERY, nobody, "decisions never contradict"),
    (RECOVERY, what_is_saved_is_done, "whatever happens, nothing stays in doubt for ever"),
    (ABORT, unknown_is_undecided, "whatever happens, nothing stays in doubt for ever"),
    (ABORT, unknown_is_committed, "decisions never contradict"),
    (ABORT, not_committed_is_aborted, "decisions never contradict"),
]


@pytest.mark.parametrize(("exercise", "mine", "broken"), EXPLORED, ids=names(EXPLORED))
def test_the_explorer_finds_the_mistake_by_itself(exercise: str, mine: Any, broken: str) -> None:
    """It shows the shortest way to a state in which the mistake does harm."""
    report = paylab.judge(exercise, mine)
    found = {check.name: check for check in report.checks}["every state"].finding
    assert found is not None
    assert not found.passed
    assert broken in found.so
    assert found.drill is not None
    assert found.drill.story
    assert "<svg" in found.drill.timeline._repr_html_()


@pytest.mark.parametrize("exercise", exercises_04.EXERCISES, ids=lambda exercise: str(exercise.id))
def test_an_untouched_starter_is_not_attempted(exercise: Any) -> None:
    """It scores 0, says so, and the notebook runs on."""
    namespace: dict[str, Any] = {}
    exec(exercise.starter, namespace)  # noqa: S102 - the starter is a cell
    (mine,) = [value for name, value in namespace.items() if not name.startswith("__")]
    report = paylab.judge(exercise.id, mine)
    assert not report.attempted
    assert (report.score, report.points(10)) == (0.0, 0.0)
    assert "not attempted yet" in str(report)


def test_a_postcard_shows_the_explored_failure_again() -> None:
    """The answers travel, and with them the same way to the same wrong state."""
    report = paylab.judge(RECOVERY, facts_only)
    assert report.failure is not None
    assert report.failure.finding is not None
    assert str(paylab.replay(report.postcard())).count(report.failure.finding.so) == 1


def test_hints_come_in_three_steps() -> None:
    """Each exercise has them, and one sentence that states its rule."""
    for exercise in exercises_04.EXERCISES:
        assert len(exercise.hints) == 3
        assert exercise.rule.count(".") == 1
