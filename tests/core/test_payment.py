"""A payment and its attempts: the table of transitions, and what each answer does."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.messages import DECLINE_REASONS, Answer, HoldOrder, Leg, Outcome, Txn, Verb
from paylab.core.money import Money
from paylab.core.payment import (
    AGAIN_REASONS,
    ATTEMPTS_AT_ONCE_MAX,
    REDRIVEN,
    SHORT,
    TERMINAL,
    TRANSITIONS,
    Operation,
    Payment,
    State,
    cancel,
    conclude,
    give_up,
    open_attempt,
    requeue,
)
from paylab.errors import WrongState

REASONS = st.sampled_from([*DECLINE_REASONS, *sorted(AGAIN_REASONS), "BANK_UNREACHABLE", "", "NEW"])
STATES = st.sampled_from(list(State))


def payment(state: State = State.CREATED, *, attempt: int = 0, in_a_row: int = 0) -> Payment:
    return Payment(
        payment="p1",
        caller="alice",
        key="k1",
        fingerprint="f",
        payer="alpine/alice",
        payee="boreal/bob",
        money=Money(1250, "EUR"),
        state=state,
        attempt=attempt,
        in_a_row=in_a_row,
    )


def concluded(before: Payment, outcome: Outcome, reason: str = "", *, attempt: int | None = None) -> Payment:
    asked = Txn("p1", before.attempt if attempt is None else attempt)
    return conclude(before, Answer(asked, outcome, reason), expires_at_s=99.0, epoch=7)


MOVES = {
    State.PREPARING: lambda before: open_attempt(before, expires_at_s=9.0, epoch=1),
    State.DEAD_LETTER: lambda before: give_up(before, "tired"),
    State.CANCELLED: cancel,
}


@pytest.mark.parametrize(("before", "after"), list(product(State, MOVES)))
def test_only_the_table_allows_a_move(before: State, after: State) -> None:
    """A move that is in TRANSITIONS is made, every other one raises WrongState."""
    if after in TRANSITIONS[before]:
        assert MOVES[after](payment(before)).state is after
    else:
        with pytest.raises(WrongState) as caught:
            MOVES[after](payment(before))
        assert caught.value.reason == "WRONG_STATE"


def test_terminal_states_are_terminal() -> None:
    """Nothing leads out of COMMITTED, DECLINED and CANCELLED, and nothing else is terminal."""
    assert frozenset({State.COMMITTED, State.DECLINED, State.CANCELLED}) == TERMINAL
    assert set(TRANSITIONS) == set(State)


@given(STATES, st.sampled_from(list(Outcome)), REASONS, st.integers(0, 5), st.integers(1, 5))
def test_an_answer_moves_only_along_the_table(
    state: State, outcome: Outcome, reason: str, of_attempt: int, in_a_row: int
) -> None:
    """Whatever answer comes, whenever, about whatever attempt: no move outside the table is made."""
    before = payment(state, attempt=3, in_a_row=in_a_row)
    after = concluded(before, outcome, reason, attempt=of_attempt)
    assert after == before or after.state in TRANSITIONS[before.state]
    assert before.state not in TERMINAL or after == before


@given(REASONS)
def test_undecided_changes_nothing(reason: str) -> None:
    """The outcome is not known yet, so the payment stays as it is."""
    before = payment(State.PREPARING, attempt=1)
    assert concluded(before, Outcome.UNDECIDED, reason) == before


@given(REASONS, st.integers(0, 6).filter(lambda attempt: attempt != 3))
def test_an_old_abort_arriving_after_a_new_attempt_changes_nothing(reason: str, attempt: int) -> None:
    """An abort of another attempt says nothing about the open one, which may be committing now."""
    before = payment(State.PREPARING, attempt=3, in_a_row=1)
    assert concluded(before, Outcome.ABORTED, reason, attempt=attempt) == before


@pytest.mark.parametrize("reason", DECLINE_REASONS)
def test_a_banks_no_declines(reason: str) -> None:
    """The reason is the bank's and stands on the receipt."""
    after = concluded(payment(State.PREPARING, attempt=1), Outcome.ABORTED, reason)
    assert (after.state, after.reason) == (State.DECLINED, reason)


def test_only_a_lack_of_funds_is_waited_for_and_only_when_asked() -> None:
    """The payer's wish turns that one decline into waiting; every other no stays a no."""
    waits = replace(payment(State.PREPARING, attempt=1), waits_for_funds=True)
    assert concluded(waits, Outcome.ABORTED, SHORT).state is State.QUEUED
    for reason in set(DECLINE_REASONS) - {SHORT}:
        assert concluded(waits, Outcome.ABORTED, reason).state is State.DECLINED


def test_only_a_dead_letter_is_queued_again() -> None:
    """From any other state it is refused, from one that is under way, too; it may be cancelled instead."""
    dead = payment(State.DEAD_LETTER, attempt=3)
    assert (requeue(dead).state, requeue(dead).reason) == (State.QUEUED, REDRIVEN)
    assert cancel(dead).state is State.CANCELLED
    for state in set(State) - {State.DEAD_LETTER}:
        with pytest.raises(WrongState):
            requeue(payment(state))


@pytest.mark.parametrize("reason", ["BANK_UNREACHABLE", "", "SOMETHING_NEW"])
def test_an_abort_without_a_verdict_queues(reason: str) -> None:
    """A bank out of reach, or a reason that we do not know, is for the queue to try again."""
    after = concluded(payment(State.PREPARING, attempt=1, in_a_row=1), Outcome.ABORTED, reason)
    assert (after.state, after.reason, after.attempt) == (State.QUEUED, reason, 1)


@pytest.mark.parametrize("reason", sorted(AGAIN_REASONS))
def test_aborts_that_say_nothing_are_tried_again_at_once_but_not_for_ever(reason: str) -> None:
    """A wrong epoch or clock opens the next attempt; after so many in a row it is the queue's turn."""
    after = open_attempt(payment(), expires_at_s=1.0, epoch=0)
    for _ in range(ATTEMPTS_AT_ONCE_MAX - 1):
        before, after = after, concluded(after, Outcome.ABORTED, reason)
        assert (after.state, after.attempt) == (State.PREPARING, before.attempt + 1)
        assert (after.expires_at_s, after.epoch) == (99.0, 7)
    assert after.attempt == ATTEMPTS_AT_ONCE_MAX
    after = concluded(after, Outcome.ABORTED, reason)
    assert (after.state, after.attempt) == (State.QUEUED, ATTEMPTS_AT_ONCE_MAX)
    again = open_attempt(after, expires_at_s=2.0, epoch=1)
    assert (again.in_a_row, again.attempt) == (1, ATTEMPTS_AT_ONCE_MAX + 1)


def test_a_repeated_commit_keeps_expiry_and_epoch() -> None:
    """They belong to the attempt for ever: sent again under another epoch it could be begun twice."""
    opened = open_attempt(payment(), expires_at_s=5.0, epoch=2)
    assert concluded(opened, Outcome.UNDECIDED) == opened
    assert (opened.expires_at_s, opened.epoch) == (5.0, 2)


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), REASONS, st.booleans()), max_size=30))
def test_attempt_numbers_are_used_once(answers: list[tuple[Outcome, str, bool]]) -> None:
    """Over any run of answers and redrives attempts only count upwards, and a terminal state stays."""
    current = open_attempt(payment(), expires_at_s=1.0, epoch=1)
    for outcome, reason, redrive in answers:
        before = current
        if current.state is State.QUEUED and redrive:
            current = open_attempt(current, expires_at_s=1.0, epoch=1)
        else:
            current = concluded(current, outcome, reason)
        opened = current.state is State.PREPARING and current != before
        assert current.attempt == before.attempt + opened
        assert current.in_a_row <= ATTEMPTS_AT_ONCE_MAX
        if before.state in TERMINAL:
            assert current == before


def test_legs_sum_to_zero() -> None:
    """What the payer loses the payee gains, each at his bank."""
    assert payment().legs == (
        Leg("alpine", "alice", Money(-1250, "EUR")),
        Leg("boreal", "bob", Money(1250, "EUR")),
    )


@pytest.mark.parametrize("operation", Operation)
def test_each_operation_has_its_orders(operation: Operation) -> None:
    """Both banks take part in every one; only what moves money has legs that are posted."""
    made = replace(payment(), operation=operation, about="p0", authorised_until_s=9.0)
    debit, credit = made.legs
    assert (debit.bank, credit.bank) == ("alpine", "boreal")
    assert debit.money == -credit.money
    moves = operation not in (Operation.AUTHORISE, Operation.VOID)
    assert (debit.moves, credit.moves) == (moves, moves)
    assert debit.hold == {
        Operation.AUTHORISE: HoldOrder(Verb.PLACE, "p1", 9.0),
        Operation.CAPTURE: HoldOrder(Verb.TAKE, "p0"),
        Operation.VOID: HoldOrder(Verb.FREE, "p0"),
    }.get(operation)


def test_an_account_name_may_not_change_the_bank() -> None:
    """Only the first slash separates."""
    odd = replace(payment(), payer="alpine/a/b")
    assert odd.legs[0] == Leg("alpine", "a/b", Money(-1250, "EUR"))
