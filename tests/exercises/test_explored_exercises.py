"""What the explorer of chapter 04's judge says of wrong solutions, without the facts."""

from typing import Any

import pytest

import paylab
from tests.exercises.stock_04 import (
    ABORT,
    RECOVERY,
    VOTE,
    facts_only,
    nobody,
    not_committed_is_aborted,
    unknown_is_committed,
    unknown_is_undecided,
    what_is_posted_can_be_spent,
    what_is_saved_is_done,
)

FOUND = [
    (VOTE, what_is_posted_can_be_spent, "nothing is overdrawn"),
    (RECOVERY, nobody, "decisions never contradict"),
    (RECOVERY, what_is_saved_is_done, "whatever happens, nothing stays in doubt for ever"),
    (ABORT, unknown_is_undecided, "whatever happens, nothing stays in doubt for ever"),
    (ABORT, unknown_is_committed, "decisions never contradict"),
    (ABORT, not_committed_is_aborted, "decisions never contradict"),
]


@pytest.mark.parametrize(("exercise", "mine", "broken"), FOUND, ids=[row[1].__name__ for row in FOUND])
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


def test_a_postcard_shows_the_explored_failure_again() -> None:
    """The answers travel, and with them the same way to the same wrong state."""
    report = paylab.judge(RECOVERY, facts_only)
    assert report.failure is not None
    assert report.failure.finding is not None
    assert str(paylab.replay(report.postcard())).count(report.failure.finding.so) == 1
