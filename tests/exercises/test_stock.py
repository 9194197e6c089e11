"""Every exercise has a stock: right solutions pass, wrong ones fail for the named check.

The solutions stand in `stock_NN.py`, a file a chapter: `RIGHT` lists (exercise, solution), `WRONG` (exercise,
solution, name of the check that must fail first).
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import pytest

import paylab
from paylab.lab.judging.exercises import CHAPTERS, Exercise

STOCKS = [import_module(f"tests.exercises.stock_{chapter}") for chapter in CHAPTERS]
RIGHT = [pair for stock in STOCKS for pair in stock.RIGHT]
WRONG = [triple for stock in STOCKS for triple in stock.WRONG]
# Processor time, as other tests run beside these.
RIGHT_WITHIN_S = 5.0
FIRST_FAILURE_WITHIN_S = 2.0
# The judge walks every state of the protocol for these.
EXPLORED = "04/"


def names(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    return [f"{row[0]}-{row[1].__name__}" for row in rows]


@pytest.mark.parametrize(("exercise", "mine"), RIGHT, ids=names(RIGHT))
def test_right_solutions_pass(exercise: str, mine: Any) -> None:
    """Two of different style each, on the chapter's seeds and on others, within a reader's patience."""
    report = paylab.judge(exercise, mine)
    assert report.passed, report
    assert report.score == 1.0
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
    assert report.busy_s < FIRST_FAILURE_WITHIN_S or exercise.startswith(EXPLORED)


EXERCISES = list(paylab.exercises())


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: str(exercise.id))
def test_an_exercise_is_whole(exercise: Exercise) -> None:
    """Two right solutions and four wrong ones, three hints, and one sentence that states its rule."""
    assert sum(row[0] == exercise.id for row in RIGHT) >= 2
    assert sum(row[0] == exercise.id for row in WRONG) >= 4
    assert len(exercise.hints) == 3
    assert exercise.rule.count(".") == 1


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: str(exercise.id))
def test_an_untouched_starter_is_not_attempted(exercise: Exercise) -> None:
    """It scores 0, says so, and the notebook runs on."""
    namespace: dict[str, Any] = {}
    exec(exercise.starter, namespace)  # noqa: S102 - the starter is a cell
    (mine,) = [value for name, value in namespace.items() if not name.startswith("__")]
    report = paylab.judge(exercise.id, mine)
    assert not report.attempted
    assert (report.score, report.points(10)) == (0.0, 0.0)
    assert "not attempted yet" in str(report)


FIRST_WRONG = [next(row for row in WRONG if row[0] == exercise.id) for exercise in EXERCISES]


@pytest.mark.parametrize(("exercise", "mine", "check"), FIRST_WRONG, ids=names(FIRST_WRONG))
def test_a_failure_is_shown_again_from_its_postcard(exercise: str, mine: Any, check: str) -> None:
    """The answers travel, and with them the same case and the same words."""
    report = paylab.judge(exercise, mine)
    assert report.failure is not None
    assert report.failure.name == check
    assert report.failure.finding is not None
    assert report.failure.finding.so in str(paylab.replay(report.postcard()))
