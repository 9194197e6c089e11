"""What may be tried again: every reason has its row, unknown outcomes keep their key, and limits hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.retries import (
    ADVICE,
    Again,
    By,
    Circuit,
    CircuitBreaker,
    Key,
    NoLimit,
    RetryBudget,
    RetryThrottle,
    advice,
    wait_s,
)
from paylab.errors import ERROR_OF_REASON, LabError, OutcomeUnknown, Overloaded, PaylabError

# The table of errors in the architecture, row by row.
TABLE = {
    ("INVALID_AMOUNT", "BAD_CURRENCY", "BAD_ACCOUNT", "BAD_NAME", "KEY_MISSING"): (
        Again.NEVER,
        By.CALLER,
        Key.SAME,
    ),
    ("KEY_REUSED",): (Again.NEVER, By.CALLER, Key.OTHER),
    ("TOKEN_EXPIRED",): (Again.REFRESHED, By.LIBRARY, Key.SAME),
    ("TOKEN_INVALID", "NOT_OWNER", "SCOPE", "ROLE", "NOT_FOUND", "WRONG_STATE"): (
        Again.NEVER,
        By.NOBODY,
        Key.NONE,
    ),
    ("OVERLOADED", "LOCKED_OUT"): (Again.PUSHED_BACK, By.LIBRARY, Key.SAME),
    ("OUTCOME_UNKNOWN",): (Again.BACKED_OFF, By.LIBRARY, Key.SAME),
}
ROWS = [(reason, row) for reasons, row in TABLE.items() for reason in reasons]


def error_of(reason: str) -> PaylabError:
    return ERROR_OF_REASON[reason](reason)


# Which errors -------------------------------------------------------------------------------------


def test_every_reason_of_the_contract_has_a_row() -> None:
    """A reason that is added without saying who may repeat it fails here, and so does a row too many."""
    assert ADVICE.keys() == ERROR_OF_REASON.keys() == {reason for reason, _ in ROWS}


@pytest.mark.parametrize(("reason", "row"), ROWS, ids=[reason for reason, _ in ROWS])
def test_what_follows_a_reason(reason: str, row: tuple[Again, By, Key]) -> None:
    """The row of the table, and the wait that it means: only what the library repeats by itself waits."""
    found = advice(error_of(reason))
    assert (found.again, found.by, found.key) == row
    waits = wait_s(error_of(reason), backoff_s=0.5, left_s=10.0) is not None
    assert waits is (row[0] in (Again.PUSHED_BACK, Again.BACKED_OFF))


def test_what_may_have_happened_keeps_its_key() -> None:
    """An indefinite error is repeated under the same key, never under another."""
    indefinite = [reason for reason in ADVICE if not error_of(reason).definite]
    assert indefinite == ["OUTCOME_UNKNOWN"]
    assert {ADVICE[reason].key for reason in indefinite} == {Key.SAME}
    assert [reason for reason, row in ADVICE.items() if row.key is Key.OTHER] == ["KEY_REUSED"]


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED"])
def test_a_transport_that_failed_is_of_unknown_outcome(status: str) -> None:
    """Without a reason of ours nothing is known: again with the same key."""
    assert advice(OutcomeUnknown(status)) == ADVICE["OUTCOME_UNKNOWN"]
    assert wait_s(OutcomeUnknown(status), backoff_s=0.5, left_s=10.0) == 0.5


def test_a_definite_error_of_no_known_reason_is_not_repeated() -> None:
    """Such as one of the laboratory's own."""
    assert advice(LabError("BROKEN")).again is Again.NEVER


def test_pushback_comes_before_the_backoff() -> None:
    """The server's delay is kept in full, and jitter goes on top, so that not all come at its end."""
    assert wait_s(Overloaded(pushback_s=2.0), backoff_s=0.25, left_s=10.0) == 2.25


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_nothing_is_sent_after_the_deadline(pushback_s: float, backoff_s: float, left_s: float) -> None:
    """A wait ends within the caller's time, or there is none."""
    found = wait_s(Overloaded(pushback_s=pushback_s), backoff_s=backoff_s, left_s=left_s)
    assert (found is None) is (pushback_s + backoff_s >= left_s)


# How many -----------------------------------------------------------------------------------------


def test_a_budget_adds_a_fifth() -> None:
    """When everything fails all the time, retries are 20 % of the calls, beside what it began with."""
    budget, retries = RetryBudget(per_s=0.0), 0
    for n in range(1_000):
        budget.sent()
        budget.failed()
        retries += budget.allows(now=float(n))
    assert retries == pytest.approx(200 + 10, abs=1)


def test_a_client_of_few_calls_may_repeat_them() -> None:
    """A token a second comes in by itself: one call can be repeated until it gets through."""
    budget = RetryBudget()
    budget.sent()
    sent = [now for now in range(100) if budget.allows(now=float(now))]
    assert len(sent) == 100
    assert sum(budget.allows(now=100.0) for _ in range(50)) == 10


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200),
    st.floats(0.05, 1.0),
    st.floats(0.1, 3.0),
)
def test_no_budget_is_overdrawn(steps: list[tuple[bool, float]], ratio: float, per_s: float) -> None:
    """Whatever the order of calls and retries, retries stay below what came in; a clock may go back."""
    budget, now, calls, retries = RetryBudget(ratio=ratio, per_s=per_s), 0.0, 0, 0
    budget.allows(now=now)
    for first, gap_s in steps:
        now += gap_s
        if first:
            calls += 1
            budget.sent()
        else:
            retries += budget.allows(now=now)
    assert retries <= 10 + ratio * calls + per_s * now + 1e-6
    before = budget.tokens
    budget.allows(now=now - 100.0)
    assert budget.tokens <= before


def test_grpc_stops_retrying_at_half_of_the_tokens() -> None:
    """A6's numbers: ten tokens, five failures, and then ten answered calls bring one back."""
    throttle = RetryThrottle(max_tokens=10.0, token_ratio=0.1)
    for _ in range(4):
        throttle.failed()
    assert throttle.allows(now=0.0)
    throttle.failed()
    assert not throttle.allows(now=1e9)
    for _ in range(9):
        throttle.succeeded()
    throttle.succeeded()
    assert throttle.tokens == pytest.approx(6.0)
    assert throttle.allows(now=0.0)
    for _ in range(100):
        throttle.failed()
    assert throttle.tokens == 0.0
    for _ in range(1_000):
        throttle.succeeded()
    assert throttle.tokens == 10.0


def test_no_limit_is_none() -> None:
    """What naive clients do."""
    limit = NoLimit()
    for _ in range(1_000):
        limit.failed()
    assert limit.allows(now=0.0)


# Whether at all -----------------------------------------------------------------------------------


def opened(now: float = 0.0, **about: float) -> CircuitBreaker:
    breaker = CircuitBreaker(open_s=1.0, open_max_s=3.0, **about)  # type: ignore[arg-type] # numbers, all of them
    for _ in range(5):
        assert breaker.allows(now=now)
        breaker.failed(now=now)
    return breaker


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    """An answer in between starts the count anew; then nothing is sent for as long as it is open."""
    breaker = CircuitBreaker()
    for _ in range(20):
        for _ in range(4):
            breaker.failed(now=0.0)
        breaker.succeeded()
    assert breaker.state is Circuit.CLOSED
    breaker = opened()
    assert breaker.state is Circuit.OPEN
    assert not breaker.allows(now=0.999)
    assert breaker.opens_in_s(now=0.25) == 0.75


def test_a_half_open_breaker_lets_a_probe_through() -> None:
    """One at a time; answered, it closes."""
    breaker = opened()
    states = [breaker.allows(now=1.0) and breaker.state]
    assert not breaker.allows(now=1.0)
    breaker.succeeded()
    assert [*states, breaker.state] == [Circuit.HALF_OPEN, Circuit.CLOSED]
    assert all(breaker.allows(now=1.0) for _ in range(100))


def test_several_probes_may_be_asked_for() -> None:
    """All of them must be answered."""
    breaker = opened(probes=3)
    assert [breaker.allows(now=1.0) for _ in range(5)] == [True, True, True, False, False]
    breaker.succeeded()
    breaker.succeeded()
    assert not breaker.allows(now=1.0)
    breaker.succeeded()
    assert breaker.state is Circuit.CLOSED


def test_a_failed_probe_opens_it_for_longer() -> None:
    """Twice as long each time, up to the most; once closed it begins from the first again."""
    breaker, now, waits = opened(), 0.0, list[float]()
    for _ in range(4):
        waits.append(breaker.opens_in_s(now=now))
        now += waits[-1]
        assert breaker.allows(now=now)
        breaker.failed(now=now)
    assert waits == [1.0, 2.0, 3.0, 3.0]
    now += breaker.opens_in_s(now=now)
    assert breaker.allows(now=now)
    breaker.succeeded()
    for _ in range(5):
        breaker.failed(now=now)
    assert breaker.opens_in_s(now=now) == 1.0


def test_an_open_breaker_does_not_count_what_was_sent_before() -> None:
    """Calls that were under way when it opened fail one after the other, and it opens no longer for that."""
    breaker = opened()
    for _ in range(50):
        breaker.failed(now=0.9)
    assert breaker.opens_in_s(now=0.9) == pytest.approx(0.1)
