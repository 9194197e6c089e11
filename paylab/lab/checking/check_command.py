"""`python -m paylab check FILE`: judge a saved history of either world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paylab.lab.checking.checks import Report
from paylab.lab.checking.history_checks import feed
from paylab.lab.checking.history_file import HistoryReader

# An event's number is its line less this.
HEADER_LINES = 1


@dataclass(frozen=True, slots=True)
class FileReport:
    """A report, and what it is about."""

    file: str
    world: str
    seed: int | None
    events: int
    report: Report

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return self.report.ok

    def __str__(self) -> str:
        """A line on the file, then the report."""
        where = self.world if self.seed is None else f"{self.world}, seed {self.seed}"
        return f"{self.file}: {self.events:,} events ({where})\n{self.report}"

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        about = {"file": self.file, "world": self.world, "seed": self.seed, "events": self.events}
        return about | self.report.to_json()


def judge_file(path: str | Path) -> FileReport:
    """Read a history and fold every check over it. Raises LabError BAD_HISTORY that names the line."""
    reader = HistoryReader(path)
    header = reader.header
    history = feed(reader, continued=bool(header.get("continued") or header.get("missing")))
    report = Report(
        history.checked(),
        history.violations(lambda number: f"line {number + HEADER_LINES}"),
        len(history.picture.prepared),
        ["the ledgers themselves: they are not in the file", *history.unchecked()],
    )
    return FileReport(str(path), str(header.get("world")), header.get("seed"), history.picture.events, report)
