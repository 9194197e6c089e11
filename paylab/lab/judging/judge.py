"""The judge: `paylab.judge("08/in-doubt", mine)` says whether a solution is right, and if not, what happens.

A solution is judged in a process of its own, by facts and by simulations that follow from seeds; so the same
solution gets the same marks in a notebook, under pytest and from the command line.
"""

import base64
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from paylab.errors import LabError
from paylab.lab.judging import judge_process
from paylab.lab.judging.exercises import HINTS_MAX, SEEDS, Exercise, Finding, find
from paylab.lab.judging.judge_report import (
    GREEN,
    POSTCARD_VERSION,
    RED,
    JudgeReport,
    finding_html,
    finding_lines,
    frame,
)
from paylab.lab.judging.judging import (
    CALL_MAX_S,
    HANDS_OFF,
    IN_TIME,
    STANDS_ALONE,
    Answers,
    Recorded,
    Result,
    Untouched,
    run_case,
)

# Set by `python -m paylab judge`: other seeds than the notebook's, and the file that collects the reports.
SEEDS_VARIABLE = "PAYLAB_JUDGE_SEEDS"
REPORTS_VARIABLE = "PAYLAB_JUDGE_REPORTS"
POSTCARD_CHARS_MAX = 100_000


def judge(exercise: str, mine: Any, *, seeds: Iterable[int] | None = None, hint: int = 0) -> JudgeReport:
    """Judge a solution of an exercise such as "08/in-doubt"; `hint` 1 to 3 asks for help.

    Raises LabError for an exercise, seeds or a hint that do not exist, never for a wrong solution.
    """
    asked = find(exercise)
    if not 0 <= hint <= HINTS_MAX:
        raise LabError("BAD_ARGUMENT", f"hint is 0 to {HINTS_MAX}, not {hint}")
    chosen = _seeds(seeds)
    report = _judged(asked, mine, chosen, hint)
    collected = os.environ.get(REPORTS_VARIABLE)
    if collected:
        with Path(collected).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report.to_json()) + "\n")
    return report


def _judged(asked: Exercise, mine: Any, seeds: tuple[int, ...], hint: int) -> JudgeReport:
    try:
        solution = judge_process.packed(mine)
    except Exception as error:  # noqa: BLE001 - pickling calls the solution's own code
        return JudgeReport(asked, seeds, (_alone(error),), hint)
    results: list[Result] = []
    busy_s = 0.0
    for message in judge_process.ask(judge_process.Request(asked.id, solution, seeds, judge_process.paths())):
        if isinstance(message, Result):
            results.append(message)
        elif isinstance(message, judge_process.Stuck):
            results.append(_late(message))
        elif message.untouched:
            return JudgeReport(asked, seeds, (), hint, attempted=False)
        elif message.unreadable:
            results.append(_alone(message.unreadable))
        else:
            busy_s = message.busy_s
    if any(result.name == HANDS_OFF and not result.passed for result in results):
        judge_process.cool()
    return JudgeReport(asked, seeds, tuple(results), hint, busy_s=busy_s)


def _alone(error: object) -> Result:
    so = f"it cannot be taken to another process: let it use its arguments and imports only ({error})"
    return Result(STANDS_ALONE, 0, "", Finding("before anything was judged", "", so))


def _late(stuck: judge_process.Stuck) -> Result:
    so = f"{stuck.call} ran for more than {CALL_MAX_S:g} s and was stopped"
    if not stuck.call:
        so = "the process in which it ran came to an end, or did nothing for long"
    case = f"{stuck.check}, case {stuck.case}" if stuck.check else "before the first check"
    return Result(IN_TIME, 0, "", Finding(case, "", so))


def _seeds(seeds: Iterable[int] | None) -> tuple[int, ...]:
    if seeds is None:
        text = os.environ.get(SEEDS_VARIABLE)
        return parse_seeds(text) if text else SEEDS
    try:
        return judge_process.as_seeds(tuple(seeds))
    except (TypeError, ValueError):
        raise LabError("BAD_ARGUMENT", "seeds are whole numbers, such as range(5000, 5100)") from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds as a command line has them: "5000:5100", or "1,2,3". Raises LabError."""
    first, colon, end = text.partition(":")
    try:
        seeds = range(int(first), int(end)) if colon else [int(part) for part in text.split(",")]
        return judge_process.as_seeds(seeds)
    except ValueError:
        raise LabError("BAD_ARGUMENT", f"seeds are written 5000:5100 or 1,2,3, not {text!r}") from None


# Postcards --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replay:
    """One case, judged again from a postcard."""

    exercise: Exercise
    check: str
    finding: Finding

    def __str__(self) -> str:
        """What the report said."""
        verdict = "passes" if self.finding.passed else "fails"
        lines = [f"{self.exercise.id}, {self.check}: {verdict}", *finding_lines(self.finding)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        verdict = "passes" if self.finding.passed else "fails"
        title = f"<b>{escape(self.exercise.id)}</b>, {escape(self.check)}: {verdict}"
        return frame(title + finding_html(self.finding), GREEN if self.finding.passed else RED)


def replay(postcard: str) -> Replay:
    """What a postcard shows: the same case with the same answers, so the same failure and timeline.

    Raises LabError for a text that is no postcard of this version of paylab.
    """
    try:
        data = base64.urlsafe_b64decode(postcard.strip() + "=" * (-len(postcard.strip()) % 4))
        unpacked = zlib.decompressobj().decompress(data, POSTCARD_CHARS_MAX) or b"nothing"
        version, name, check_name, case, runs = json.loads(unpacked)
        answers = [answer for count, answer in runs for _ in range(count)]
        exercise = find(name)
        check = exercise.check(check_name)
    except (ValueError, TypeError, zlib.error) as error:
        raise LabError("BAD_POSTCARD", f"this is no postcard: {error}") from None
    if version != POSTCARD_VERSION:
        raise LabError("BAD_POSTCARD", f"this postcard is of version {version}, not {POSTCARD_VERSION}")
    mine = Recorded(exercise, Answers(exercise, answers))
    try:
        return Replay(exercise, check.name, run_case(check, case, mine))
    except Untouched:
        raise LabError("BAD_POSTCARD", "nothing was answered in this case") from None
