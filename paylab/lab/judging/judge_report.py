"""What the judge says: a report in the order in which one wants to know, as text, HTML, JSON and marks."""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from paylab.lab.judging.exercises import Exercise, Finding
from paylab.lab.judging.judging import Result, spans

POSTCARD_VERSION = 1
GREEN, RED = "#009e73", "#d55e00"


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What was judged and what came of it."""

    exercise: Exercise
    seeds: tuple[int, ...]
    # The exercise's checks in order, then the conditions, which weigh nothing.
    checks: tuple[Result, ...]
    hint: int = 0
    attempted: bool = field(default=True, kw_only=True)
    # Processor time that judging took.
    busy_s: float = field(default=0.0, kw_only=True, compare=False)

    @property
    def passed(self) -> bool:
        """Whether everything is right."""
        return self.attempted and not self.left_out and all(check.passed for check in self.checks)

    @property
    def score(self) -> float:
        """The share of the weight that passed, 0 to 1; 0 when a condition is broken."""
        weight = sum(check.weight for check in self.exercise.checks)
        if not self.attempted or any(not check.passed for check in self.checks if not check.weight):
            return 0.0
        return sum(check.weight for check in self.checks if check.passed) / weight

    def points(self, maximum: float) -> float:
        """The score in points, a plain number: as a cell's last expression it is what nbgrader reads."""
        return min(float(maximum), round(self.score * float(maximum), 4))

    def require(self) -> None:
        """Raise AssertionError, which pytest and Otter report, unless everything is right."""
        if not self.passed:
            raise AssertionError(str(self))

    @property
    def failure(self) -> Result | None:
        """The first check that failed; a broken condition comes before the checks, as it explains them."""
        failed = [check for check in self.checks if not check.passed]
        return next((check for check in failed if not check.weight), next(iter(failed), None))

    @property
    def left_out(self) -> list[tuple[str, int]]:
        """Name and weight of the checks that were not reached."""
        done = {check.name for check in self.checks}
        everything = [(check.name, check.weight) for check in self.exercise.checks]
        return [(name, weight) for name, weight in everything if self.attempted and name not in done]

    @property
    def replay_line(self) -> str:
        """The line that shows what failed once more, here or on another machine; empty without a case."""
        card = self.postcard()
        return f'paylab.replay("{card}")' if card else ""

    def postcard(self) -> str:
        """The first failure, or else a case that passed, as a short text of the answers given in it."""
        failure = self.failure
        drills = [check for check in self.checks if check.weight and check.covered.startswith("seed")]
        shown = failure or next(iter(drills), None)
        if shown is None or not shown.weight or shown.finding is None:
            return ""
        content = [POSTCARD_VERSION, self.exercise.id, shown.name, shown.case, _runs(shown.answers)]
        data = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        from paylab import __version__  # noqa: PLC0415 - the package imports this module

        failure = self.failure
        return {
            "paylab": __version__,
            "exercise": self.exercise.id,
            "seeds": list(self.seeds),
            "attempted": self.attempted,
            "passed": self.passed,
            "score": self.score,
            "checks": [
                {"name": c.name, "weight": c.weight, "passed": c.passed, "covered": c.covered}
                for c in self.checks
            ],
            "failure": None if failure is None else {"check": failure.name, **_said(failure.finding)},
            "postcard": self.postcard(),
        }

    def __str__(self) -> str:
        """The report as text, in the order in which one wants to know."""
        return "\n".join(_lines(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html(self)


def _runs(answers: Sequence[Any]) -> list[list[Any]]:
    runs: list[list[Any]] = []
    for answer in answers:
        if runs and runs[-1][1] == answer:
            runs[-1][0] += 1
        else:
            runs.append([1, answer])
    return runs


# How it reads -----------------------------------------------------------------------------------


def _said(finding: Finding | None) -> dict[str, str]:
    return {"case": finding.case, "returned": finding.returned, "so": finding.so} if finding else {}


def _verdict(report: JudgeReport) -> str:
    if not report.attempted:
        return "not attempted yet"
    return "passed" if report.passed else f"not yet: {report.score:.0%} of the weight"


def finding_lines(finding: Finding) -> list[str]:
    """A finding as lines of text."""
    lines = [f"  case:     {finding.case}"]
    if finding.returned:
        lines.append(f"  yours:    {finding.returned}")
    lines.append(f"  so:       {finding.so}")
    if finding.drill is not None:
        lines += [f"  | {line}" for line in finding.drill.story.splitlines()]
    return lines


def _lines(report: JudgeReport) -> list[str]:
    failure = report.failure
    lines = [
        f"{report.exercise.id}  {report.exercise.title}: {_verdict(report)}",
        f"  {report.exercise.rule}",
    ]
    if failure is not None and failure.finding is not None:
        lines += [f"failed: {failure.name}", *finding_lines(failure.finding)]
        if report.replay_line:
            lines.append(f"  replay:   {report.replay_line}")
    for check in report.checks:
        weight = f", weight {check.weight}" if check.weight else ""
        lines.append(
            f"{'pass' if check.passed else 'FAIL'}  {check.name}{weight}: {check.covered}".rstrip(": ")
        )
    lines += [f"----  {name}, weight {weight}: not judged" for name, weight in report.left_out]
    lines += [f"hint {n}: {text}" for n, text in enumerate(report.exercise.hints[: report.hint], 1)]
    lines.append(_covered(report))
    return lines


def _covered(report: JudgeReport) -> str:
    from paylab import __version__  # noqa: PLC0415 - the package imports this module

    if not report.attempted:
        return "Nothing was checked: the starter raises NotImplementedError. Replace that line."
    return f"Checked by paylab {__version__} on seeds {spans(report.seeds)}; nothing else was checked." + (
        "" if report.hint or report.passed else " hint=1 gives a hint."
    )


def frame(body: str, colour: str) -> str:
    """A block with a coloured edge."""
    ink = "var(--jp-ui-font-color1,inherit)"
    return (
        f"<div style='border-left:4px solid {colour};padding:.1em 0 .1em .9em;max-width:820px;color:{ink}'>"
        f"{body}</div>"
    )


def finding_html(finding: Finding) -> str:
    """A finding for a notebook, with its timeline."""
    rows = [("case", finding.case), ("yours", finding.returned), ("so", finding.so)]
    cells = "".join(
        f"<tr><td style='text-align:left;vertical-align:top;opacity:.7'>{name}</td>"
        f"<td style='text-align:left;white-space:normal'>{escape(text)}</td></tr>"
        for name, text in rows
        if text
    )
    html = f"<table>{cells}</table>"
    if finding.drill is not None:
        items = "".join(f"<li>{escape(line)}</li>" for line in finding.drill.story.splitlines())
        html += finding.drill.timeline._repr_html_()
        html += f"<details><summary>the same in words</summary><ol>{items}</ol></details>"
    return html


def _html(report: JudgeReport) -> str:
    colour = GREEN if report.passed else RED if report.attempted else "var(--jp-border-color1,#bdbdbd)"
    parts = [
        f"<b>{escape(report.exercise.id)} · {escape(report.exercise.title)}</b>",
        f"<span style='color:{colour};margin-left:1em'><b>{_verdict(report)}</b></span>",
        f"<div style='font-style:italic;margin:.3em 0'>{escape(report.exercise.rule)}</div>",
    ]
    failure = report.failure
    if failure is not None and failure.finding is not None:
        parts.append(f"<div><b>{escape(failure.name)}</b> failed</div>{finding_html(failure.finding)}")
        if report.replay_line:
            parts.append(
                "<div>Show it again, to a classmate too:</div>"
                f"<pre style='white-space:pre-wrap;word-break:break-all'>{escape(report.replay_line)}</pre>"
            )
    parts += [_check_html(check) for check in report.checks if check is not failure]
    parts += [
        f"<div style='opacity:.7'>· {escape(name)} (weight {weight}): not judged</div>"
        for name, weight in report.left_out
    ]
    parts += [
        f"<div><b>Hint {number}.</b> {escape(text)}</div>"
        for number, text in enumerate(report.exercise.hints[: report.hint], 1)
    ]
    parts.append(f"<div style='opacity:.7;margin-top:.3em'>{escape(_covered(report))}</div>")
    return frame("".join(parts), colour)


def _check_html(check: Result) -> str:
    colour, mark = (GREEN, "✓") if check.passed else (RED, "✗")
    weight = f" (weight {check.weight})" if check.weight else ""
    covered = f"<span style='opacity:.7'>: {escape(check.covered)}</span>" if check.covered else ""
    line = f"<span style='color:{colour}'>{mark}</span> {escape(check.name)}{weight}{covered}"
    if check.passed or check.finding is None:
        return f"<div>{line}</div>"
    return f"<details><summary>{line}</summary>{finding_html(check.finding)}</details>"
