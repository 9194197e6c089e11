"""Judges one solution, in whichever process this runs: calls it, notes each call, says what came of it."""

import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from paylab.lab.checking.tampering import changed, fingerprint
from paylab.lab.judging.exercises import Case, Check, Exercise, Finding

# A call of a solution that takes longer is stopped.
CALL_MAX_S = 2.0
SHOWN_CHARS = 160
SHOWN_CALLS = 4
LONG_ID = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{10,}\b")
UNIT_FACTS, SEEDS_UNIT = "fact", "seed"

# Conditions weigh nothing, but nothing counts that was reached by breaking one.
STANDS_ALONE = "stands alone"
IN_TIME = f"answers within {CALL_MAX_S:g} s"
REPEATS = "answers the same twice"
HANDS_OFF = "leaves paylab alone"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one check: `finding` is the first failing case, else the last one that was judged."""

    name: str
    weight: int
    # What was judged: "3 facts", "seeds 1, 2, 3".
    covered: str
    finding: Finding | None = None
    # What a postcard carries: the case and the answers that were given in it.
    case: Case = 0
    answers: tuple[Any, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there is nothing to complain of."""
        return self.finding is None or self.finding.passed


class Untouched(Exception):
    """The starter is as it was handed out."""


class Recorded:
    """A solution, with every call and answer noted; `begin` and `end` are told of each call."""

    def __init__(
        self,
        exercise: Exercise,
        mine: Any,
        *,
        begin: Callable[[str], None] = lambda _: None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """`mine` is a function; anything else is an answer by itself."""
        self._exercise = exercise
        self._mine = mine
        self._begin, self._end = begin, end
        self._name = getattr(mine, "__name__", "yours")
        self.answers: list[Any] = []
        self.error: BaseException | None = None
        # What was asked last before anything went wrong.
        self.last = ""
        self._told: dict[str, str] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        call = f"{self._name}({', '.join(short(argument) for argument in arguments)})"
        self._begin(call)
        self.last = self.last if self.error else call
        try:
            answer = self._mine(*arguments) if callable(self._mine) else self._mine
            self.answers.append(json.loads(json.dumps(self._exercise.encode(arguments, answer))))
            self._told[call] = f"{call} returned {short(answer)}"
            return answer
        except BaseException as error:
            if isinstance(error, NotImplementedError) and not self.answers:
                self.answers.append(None)
                self.error = Untouched()
            else:
                self.error = self.error or error
                self.answers.append({"raised": type(error).__name__, "text": str(error)})
                self._told[call] = f"{call} raised {type(error).__name__}: {error}"
            if isinstance(error, Exception):
                raise
            # SystemExit and its like would end more than the call.
            raise RuntimeError(f"{type(error).__name__} from {call}") from None
        finally:
            self._end()

    def told(self) -> str:
        """What was asked and answered, each different call once."""
        told = list(self._told.values())
        more = [f"and {len(told) - SHOWN_CALLS} more"] if len(told) > SHOWN_CALLS else []
        return "; ".join([*told[:SHOWN_CALLS], *more]) or f"{self._name} was never asked"


class Answers:
    """Stands in for a solution whose answers are known: gives them again, in order."""

    def __init__(self, exercise: Exercise, answers: Sequence[Any]) -> None:
        """`answers` as a postcard carries them."""
        self._exercise = exercise
        self._answers = list(answers)

    def __call__(self, *arguments: Any) -> Any:
        """Give the next answer, and the last one for ever."""
        saved = self._answers.pop(0) if len(self._answers) > 1 else next(iter(self._answers), None)
        if isinstance(saved, dict) and saved.keys() == {"raised", "text"}:
            raise RuntimeError(f"{saved['raised']}: {saved['text']}")
        return self._exercise.decode(arguments, saved)


def short(value: Any) -> str:
    """The value's text, cut to what a line holds; of a long id its beginning."""
    text = f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)
    text = LONG_ID.sub(r"\1…", text)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def run_case(check: Check, case: Case, recorded: Recorded) -> Finding:
    """Judge one case. Raises Untouched."""
    finding, failed = None, ""
    try:
        finding = check.run(recorded, case)
    except Exception as error:  # noqa: BLE001 - whatever a solution breaks is told to whoever wrote it
        failed = f"{type(error).__name__}: {error}"
    if isinstance(recorded.error, Untouched):
        raise recorded.error
    where = finding.case if finding else recorded.last or f"{check.unit} {case}"
    found = finding.drill if finding else None
    if recorded.error is not None:
        return Finding(where, recorded.told(), _raised(recorded.error), found)
    if finding is None:
        return Finding(where, recorded.told(), f"that stopped the network: {failed}")
    return finding


def _raised(error: BaseException) -> str:
    """What was raised and in which line of the solution, without a frame of ours."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "paylab/lab/" not in frame.filename.replace("\\", "/")
    ]
    line = f", in line {frames[-1].lineno} of {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}: {error}{line}"


class Judge:
    """Judges one solution; yields a Result for each check, the conditions last."""

    def __init__(
        self,
        exercise: Exercise,
        mine: Any,
        seeds: Sequence[int],
        *,
        begin: Callable[[str], None] = lambda _: None,
        end: Callable[[], None] = lambda: None,
        at: Callable[[str, Case], None] = lambda _, __: None,
    ) -> None:
        """`at` is told of each case before it is judged."""
        self._exercise, self._mine, self._seeds = exercise, mine, seeds
        self._begin, self._end, self._at = begin, end, at
        self._traces: dict[tuple[str, Case], str] = {}
        self._unsteady: Finding | None = None

    def results(self) -> Iterator[Result]:
        """Judge. Raises Untouched."""
        before = fingerprint()
        passed = []
        for check in self._exercise.checks:
            result = self._result(check)
            yield result
            if self._unsteady:
                break
            if result.passed:
                passed.append(check)
        everything = len(passed) == len(self._exercise.checks)
        # Of a solution that is wrong anyway only what costs nothing is run a second time.
        for check in passed:
            for case in check.cases(self._seeds):
                if self._unsteady is None and (everything or check.unit == UNIT_FACTS):
                    self._once_more(check, case)
        yield Result(REPEATS, 0, "each case twice", self._unsteady)
        touched = changed(before, fingerprint())
        finding = Finding("paylab before and after", "", f"changed {touched}") if touched else None
        yield Result(HANDS_OFF, 0, "every module", finding)

    def _result(self, check: Check) -> Result:
        cases = check.cases(self._seeds)
        case, answers, finding, count = 0, tuple[Any, ...](), None, 0
        for case in cases:
            finding, answers = self._run(check, case)
            count += 1
            if not finding.passed:
                self._once_more(check, case)
                break
        return Result(check.name, check.weight, _covered(check, cases[:count]), finding, case, answers)

    def _run(self, check: Check, case: Case) -> tuple[Finding, tuple[Any, ...]]:
        self._at(check.name, case)
        recorded = Recorded(self._exercise, self._mine, begin=self._begin, end=self._end)
        finding = run_case(check, case, recorded)
        outcome = [] if check.asked_once else [finding.passed, finding.so]
        self._compare((check.name, case), finding.case, recorded.answers, outcome)
        return finding, tuple(recorded.answers)

    def _compare(self, place: tuple[str, Case], case: str, answers: list[Any], outcome: list[Any]) -> None:
        trace = json.dumps([answers, outcome])
        first = self._traces.setdefault(place, trace)
        if trace != first and self._unsteady is None:
            self._unsteady = Finding(
                case,
                f"{_answers(first)} first, {_answers(trace)} when asked again",
                "the same question got two answers: it uses time, random or global state: take `rng`",
            )

    def _once_more(self, check: Check, case: Case) -> None:
        if not check.asked_once:
            self._run(check, case)
            return
        recorded = Recorded(self._exercise, self._mine, begin=self._begin, end=self._end)
        with suppress(Exception):  # it is among the answers
            recorded()
        self._compare((check.name, case), f"{check.unit} {case}", recorded.answers, [])


def _answers(trace: str) -> str:
    answers: list[Any] = json.loads(trace)[0]
    return short(answers[0] if len(answers) == 1 else answers)


def _covered(check: Check, cases: Sequence[Case]) -> str:
    if check.unit != SEEDS_UNIT:
        return f"{len(cases)} {check.unit}{'' if len(cases) == 1 else 's'}"
    return f"seed{'' if len(cases) == 1 else 's'} {spans(cases)}"


def spans(numbers: Sequence[int]) -> str:
    """Numbers as text, long runs shortened: "1, 2, 3", "5000 to 5099"."""
    if len(numbers) > 3 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):  # noqa: PLR2004
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


class Watchdog:
    """Calls `stuck` with the text of a call that takes too long."""

    def __init__(self, stuck: Callable[[str], None]) -> None:
        """Watch from now on, in a thread of its own."""
        self._stuck = stuck
        self._running: tuple[float, str] | None = None
        threading.Thread(target=self._watch, name="paylab-watchdog", daemon=True).start()

    def begin(self, call: str) -> None:
        """A call begins."""
        self._running = (time.monotonic(), call)

    def end(self) -> None:
        """It has ended."""
        self._running = None

    def _watch(self) -> None:
        while True:
            time.sleep(CALL_MAX_S / 20)
            running = self._running
            if running is not None and time.monotonic() - running[0] > CALL_MAX_S:
                self._stuck(running[1])
