"""The judge: what a report says and in which order, and what graders read of it."""

import ast
import json
import subprocess
import sys
from typing import Any

import pytest

import paylab
from paylab.errors import LabError
from paylab.lab.judging.judge_report import JudgeReport
from paylab.lab.judging.judging import IN_TIME, REPEATS, STANDS_ALONE

DOUBT, LEAVE = "08/in-doubt", "08/leave-in-doubt"


def right(outcome: Any) -> Any:
    return {"COMMITTED": True, "ABORTED": False}.get(outcome)


def impatient(outcome: Any) -> Any:
    return None if outcome == "UNDECIDED" else outcome == "COMMITTED"


def endless(_outcome: Any) -> Any:
    while True:
        pass


def broken(outcome: Any) -> Any:
    return 1 / len(outcome)[0]  # type: ignore[index] # the mistake


@pytest.fixture(scope="module")
def failed() -> JudgeReport:
    return paylab.judge(DOUBT, impatient)


@pytest.fixture(scope="module")
def passed() -> JudgeReport:
    return paylab.judge(DOUBT, right)


def test_a_report_answers_in_the_order_of_a_readers_questions(failed: JudgeReport) -> None:
    """The rule, the smallest failing case, what yours returned, what happened then, how to see it again."""
    text = str(failed)
    marks = [failed.exercise.rule, "case:", "yours:", "so:", "replay:", "Checked by"]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert "impatient(None) returned False" in text
    assert "seed 1" in text


def test_a_report_says_exactly_what_was_checked(passed: JudgeReport) -> None:
    """Every check, how many facts, which seeds, and that nothing else was."""
    text = str(passed)
    assert "3 facts" in text
    assert "seeds 1, 2, 3" in text
    assert "nothing else was checked" in text
    assert [check.weight for check in passed.checks] == [4, 6, 0, 0]


def test_only_the_first_failure_is_open() -> None:
    """In a notebook the second one is folded, and no frame of paylab is shown."""
    html = paylab.judge(DOUBT, lambda _: "perhaps")._repr_html_()
    first, _, rest = html.partition("<details>")
    assert "the coordinator&#x27;s word" in first
    assert "failed" in first
    assert "silence is no answer" in rest
    assert "Traceback" not in html
    assert "<svg" in paylab.judge(DOUBT, impatient)._repr_html_()


def test_an_exception_is_told_with_the_readers_line_only() -> None:
    """Type, text and the line of the solution; none of ours."""
    report = paylab.judge(DOUBT, broken)
    assert report.failure is not None
    assert report.failure.finding is not None
    so = report.failure.finding.so
    assert so.startswith("TypeError")
    assert f"in line {broken.__code__.co_firstlineno + 1} of broken" in so
    assert "judging.py" not in str(report)


def test_an_endless_call_is_stopped_and_named() -> None:
    """It has two seconds; afterwards the judge works as before."""
    report = paylab.judge(DOUBT, endless)
    assert report.failure is not None
    assert report.failure.name == IN_TIME
    assert "endless(Outcome.COMMITTED)" in str(report)
    assert report.score == 0.0
    assert paylab.judge(DOUBT, right).passed


def test_chance_is_found_out() -> None:
    """A solution runs twice."""
    import random  # noqa: PLC0415 - what a solution would do

    report = paylab.judge(DOUBT, lambda _: random.random())  # noqa: S311 - the mistake
    assert report.failure is not None
    assert report.failure.name == REPEATS
    assert "uses time, random or global state: take `rng`" in str(report)
    assert report.score == 0.0


def test_a_solution_that_holds_a_lab_cannot_travel() -> None:
    """It is told so instead of a pickling error."""
    with paylab.Lab(world="simulated", seed=1, name="held") as lab:
        report = paylab.judge(DOUBT, lambda _: lab.balances())
    assert report.failure is not None
    assert report.failure.name == STANDS_ALONE
    assert report.score == 0.0


def test_a_process_that_dies_is_a_failure_and_is_replaced() -> None:
    """Even the end of the interpreter is only a wrong answer."""

    def dies(_outcome: Any) -> None:
        import os  # noqa: PLC0415 - what a solution would do

        os._exit(0)

    assert not paylab.judge(DOUBT, dies).passed
    assert paylab.judge(DOUBT, right).passed


def test_hints_are_given_when_asked_for() -> None:
    """One more with each number."""
    assert "hint 1" not in str(paylab.judge(DOUBT, impatient))
    assert str(paylab.judge(DOUBT, impatient, hint=2)).count("\nhint ") == 2
    with pytest.raises(LabError, match="hint is 0 to 3"):
        paylab.judge(DOUBT, impatient, hint=4)


def test_bad_questions_are_refused() -> None:
    """An exercise that does not exist, no seeds, a text that is no postcard."""
    with pytest.raises(LabError, match="no exercise"):
        paylab.judge("08/nothing", right)
    with pytest.raises(LabError, match="seeds"):
        paylab.judge(DOUBT, right, seeds=[])
    for text in ("", "hello", "A" * 40):
        with pytest.raises(LabError, match="BAD_POSTCARD"):
            paylab.replay(text)


def test_a_postcard_shows_the_same_failure(failed: JudgeReport) -> None:
    """Anywhere, without the solution: the answers that were given are on it."""
    card = failed.postcard()
    assert len(card) < 200
    assert ast.literal_eval(failed.replay_line.removeprefix("paylab.replay(").removesuffix(")")) == card
    seen = paylab.replay(card).finding
    assert failed.failure is not None
    first = failed.failure.finding
    assert first is not None
    assert (seen.case, seen.so) == (first.case, first.so)
    assert seen.drill is not None
    assert first.drill is not None
    assert seen.drill.story == first.drill.story
    assert repr(seen.drill.timeline) == repr(first.drill.timeline)


def test_a_postcard_of_a_right_schedule_shows_the_bug() -> None:
    """So a classmate sees what a schedule does."""
    from paylab.lab.faults import at, crash_at_commit  # noqa: PLC0415 - reads like a cell

    schedule = [at(0, crash_at_commit("coordinator", "unanswered"))]
    seen = paylab.replay(paylab.judge(LEAVE, schedule).postcard())
    assert seen.finding.passed
    assert "crash_at_commit" in str(seen)


def test_json_has_version_exercise_and_seeds(failed: JudgeReport) -> None:
    """It survives the way through JSON."""
    saved = json.loads(json.dumps(failed.to_json()))
    assert (saved["paylab"], saved["exercise"], saved["seeds"]) == (paylab.__version__, DOUBT, [1, 2, 3])
    assert (saved["passed"], saved["score"]) == (False, 0.4)
    assert saved["failure"]["check"] == "silence is no answer"


# Graders ------------------------------------------------------------------------------------------


def nbgrader_points(cell: str, maximum: float) -> float:
    """What nbgrader gives for a test cell: 0 for an error or a word on stderr, the number shown, else all."""
    last = ast.unparse(ast.Expression(ast.parse(cell).body[-1].value))  # type: ignore[attr-defined] # an expression
    body = "\n".join(cell.strip().splitlines()[:-1])
    script = f"{body}\nshown = {last}\nprint(repr(shown))"
    ran = subprocess.run(
        [sys.executable, "-W", "default", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if ran.returncode or ran.stderr:
        return 0.0
    try:
        points = float(ran.stdout)
    except ValueError:
        return maximum
    if points > maximum:
        raise ValueError("more than there are")
    return points


CELL = """
import paylab
def mine(outcome):
    {body}
report = paylab.judge("08/in-doubt", mine)
{last}
"""
RIGHT_BODY = 'return {"COMMITTED": True, "ABORTED": False}.get(outcome)'
HALF_BODY = 'return None if outcome == "UNDECIDED" else outcome == "COMMITTED"'


@pytest.mark.parametrize(
    ("body", "points"), [(RIGHT_BODY, 5.0), (HALF_BODY, 2.0), ("raise NotImplementedError", 0.0)]
)
def test_points_as_the_last_expression_are_what_nbgrader_gives(body: str, points: float) -> None:
    """A plain number, and nothing on stderr, also while the judge's process starts and ends."""
    assert nbgrader_points(CELL.format(body=body, last="report.points(5)"), 5.0) == points


def test_a_report_as_the_last_expression_would_give_all_points() -> None:
    """That is nbgrader's rule, and why there are points."""
    assert nbgrader_points(CELL.format(body=HALF_BODY, last="report"), 5.0) == 5.0


def test_points_are_plain_floats(passed: JudgeReport, failed: JudgeReport) -> None:
    """Never more than the maximum."""
    assert type(passed.points(3)) is float
    assert passed.points(3) == 3.0
    assert failed.points(0.1) <= 0.1


def test_require_raises_for_otter_and_pytest(passed: JudgeReport, failed: JudgeReport) -> None:
    """Otter's rule: a test cell that raises has failed, any other has passed."""
    passed.require()
    with pytest.raises(AssertionError, match="silence is no answer"):
        failed.require()
