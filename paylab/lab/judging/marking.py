"""Marks notebooks that came back: `python -m paylab judge FILE… --seeds 5000:5100 --csv marks.csv`.

Only the cells tagged `exercise` are taken from a notebook. They are put into the chapter as it was handed
out, which then runs in a fresh process with a time limit. This guards against mistakes and edited checks; it
is no sandbox: what is judged runs with your rights, so judge the work of strangers on a machine of its own.
"""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import paylab
from paylab.errors import LabError
from paylab.lab.judging.exercises import find
from paylab.lab.judging.judge import REPORTS_VARIABLE, SEEDS_VARIABLE, parse_seeds

TAG = "exercise"
TIME_LIMIT_S = 300.0
CHAPTER = re.compile(r"\d\d_[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Mark:
    """What one notebook got for one exercise."""

    file: str
    exercise: str
    score: float
    # The check that failed, or why nothing was judged; empty when everything is right.
    failed: str
    seeds: str = ""
    postcard: str = ""


def mark_command(options: Namespace, say: Callable[[str], object]) -> int:
    """Carry out the command and `say` what came of it; returns 0 when every solution is right, else 1."""
    seeds = parse_seeds(options.seeds) if options.seeds else None
    marks: list[Mark] = []
    for file in tqdm(options.files, disable=not sys.stderr.isatty(), unit=" notebooks"):
        marks += mark(
            Path(file), seeds=seeds, chapters=options.chapters, time_limit_s=float(options.time_limit)
        )
    if options.csv:
        with Path(options.csv).open("w", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, fieldnames=list(Mark.__slots__))
            writer.writeheader()
            writer.writerows(asdict(each) for each in marks)
    say(json.dumps([asdict(each) for each in marks], indent=2) if options.json else _table(marks))
    return 1 if any(each.failed for each in marks) else 0


def mark(
    file: Path,
    *,
    seeds: Sequence[int] | None = None,
    chapters: str | Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> list[Mark]:
    """The marks of one notebook, one for each exercise of its chapter.

    Raises LabError for a file that is no notebook of a chapter.
    """
    handed_in = _read(file)
    pristine = _chapter(file, handed_in, chapters)
    notebook = merged(_read(pristine), handed_in)
    with tempfile.TemporaryDirectory(prefix="paylab-judge-") as folder:
        reports_file = Path(folder) / "reports.jsonl"
        ended = _run(notebook, pristine.parent, reports_file, seeds, time_limit_s)
        reports = _reports(reports_file)
    return [_mark(file, exercise, reports.get(exercise), ended or why) for exercise, why in _whys(notebook)]


def merged(pristine: Any, handed_in: Any) -> Any:
    """The pristine chapter with the exercise cells that were handed in."""
    answers = {name: cell.source for name, cell in _exercise_cells(handed_in)}
    for name, cell in _exercise_cells(pristine):
        cell.source = answers.get(name, cell.source)
    return pristine


def _exercise_cells(notebook: Any) -> Iterator[tuple[str, Any]]:
    for cell in notebook.cells:
        name = cell.metadata.get("paylab", {}).get("exercise", "")
        if cell.cell_type == "code" and TAG in cell.metadata.get("tags", ()) and name:
            yield str(name), cell


def _read(file: Path) -> Any:
    import nbformat  # noqa: PLC0415 - comes with the notebook extra

    try:
        return nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call] # has no types
    except FileNotFoundError:
        raise LabError("BAD_INPUT", f"{file} does not exist") from None
    except Exception as error:  # noqa: BLE001 - nbformat raises many kinds for what is no notebook
        raise LabError("BAD_INPUT", f"{file} is no notebook: {error}") from None


def _chapter(file: Path, notebook: Any, chapters: str | Path | None) -> Path:
    """Where the pristine chapter is: the notebook's metadata says which, else its name."""
    match = CHAPTER.match(file.stem)
    name = notebook.metadata.get("paylab", {}).get("chapter") or (match[0] if match else "")
    if not CHAPTER.fullmatch(str(name)):
        raise LabError("BAD_INPUT", f"{file} does not say which chapter it is")
    here = (
        [Path(chapters)]
        if chapters
        else [Path(paylab.__file__).parent.parent / "notebooks", Path("notebooks")]
    )
    for folder in here:
        if (folder / f"{name}.ipynb").exists():
            return (folder / f"{name}.ipynb").resolve()
    raise LabError(
        "BAD_INPUT", f"there is no chapter {name}.ipynb; say where they are with --chapters FOLDER"
    )


def _run(notebook: Any, folder: Path, reports: Path, seeds: Sequence[int] | None, time_limit_s: float) -> str:
    """Run it in a fresh kernel; empty when it came to its end."""
    from nbclient import NotebookClient  # noqa: PLC0415 - comes with the notebook extra
    from nbclient.exceptions import CellTimeoutError, DeadKernelError  # noqa: PLC0415

    until_s = time.monotonic() + time_limit_s
    environment = {**os.environ, REPORTS_VARIABLE: str(reports)}
    if seeds is not None:
        environment[SEEDS_VARIABLE] = ",".join(map(str, seeds))
    client = NotebookClient(
        notebook,
        timeout_func=lambda _: max(1.0, until_s - time.monotonic()),
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
    )
    try:
        client.execute(env=environment, stderr=subprocess.DEVNULL)
    except CellTimeoutError:
        return f"stopped after {time_limit_s:g} s"
    except DeadKernelError:
        return "its process died"
    return ""


def _reports(file: Path) -> dict[str, dict[str, Any]]:
    """The last report of each exercise, which is that of the pristine cell."""
    if not file.exists():
        return {}
    reports = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {report["exercise"]: report for report in reports}


def _whys(notebook: Any) -> Iterator[tuple[str, str]]:
    """Each exercise, and the error of its cell, if there was one."""
    for name, cell in _exercise_cells(notebook):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        yield name, f"{errors[0].ename}: {errors[0].evalue}" if errors else ""


def _mark(file: Path, exercise: str, report: dict[str, Any] | None, why: str) -> Mark:
    find(exercise)
    if report is None:
        return Mark(str(file), exercise, 0.0, why or "paylab.judge did not run")
    failed = report["failure"]["check"] if report["failure"] else ""
    return Mark(
        str(file),
        exercise,
        report["score"],
        failed or ("" if report["attempted"] else "not attempted yet"),
        " ".join(map(str, report["seeds"])),
        report["postcard"],
    )


def _table(marks: Sequence[Mark]) -> str:
    lines = []
    for file in dict.fromkeys(each.file for each in marks):
        mine = [each for each in marks if each.file == file]
        lines.append(f"{file}: {sum(each.score for each in mine):.2f} of {len(mine)}")
        lines += [f"  {each.score:.2f}  {each.exercise}  {each.failed}".rstrip() for each in mine]
    return "\n".join(lines)
