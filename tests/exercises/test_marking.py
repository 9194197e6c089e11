"""Marking notebooks that came back: only exercise cells count, and the marks are those of a notebook."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import paylab
from paylab.errors import LabError
from paylab.lab.judging.marking import mark

CHAPTERS = Path(paylab.__file__).parent.parent / "notebooks"
RIGHT = 'def in_doubt(outcome):\n    return {"COMMITTED": True, "ABORTED": False}.get(outcome)'
HALF = 'def in_doubt(outcome):\n    return None if outcome == "UNDECIDED" else outcome == "COMMITTED"'
STARTER = "def in_doubt(outcome):\n    raise NotImplementedError"


def chapter(answer: str, *, judge: str = 'paylab.judge("08/in-doubt", in_doubt)') -> Any:
    """A chapter of one exercise."""
    v4: Any = nbformat.v4
    cells = [
        v4.new_code_cell("import paylab"),
        v4.new_code_cell(answer, metadata={"tags": ["exercise"], "paylab": {"exercise": "08/in-doubt"}}),
        v4.new_code_cell(judge),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "paylab": {"chapter": "08_small"}})


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    folder = tmp_path / "chapters"
    folder.mkdir()
    nbformat.write(chapter(STARTER), folder / "08_small.ipynb")  # type: ignore[no-untyped-call] # has no types
    return folder


def handed_in(folder: Path, name: str, notebook: Any) -> Path:
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call] # has no types
    return path


def test_marks_are_those_of_the_notebook_and_of_pytest(tmp_path: Path, pristine: Path) -> None:
    """The same solution, the same seeds, the same score."""

    def half(outcome: Any) -> Any:
        return None if outcome == "UNDECIDED" else outcome == "COMMITTED"

    (found,) = mark(handed_in(tmp_path, "ann", chapter(HALF)), chapters=pristine)
    here = paylab.judge("08/in-doubt", half)
    assert here.failure is not None
    assert (found.score, found.failed) == (here.score, here.failure.name)
    assert paylab.replay(found.postcard).finding.passed is False


def test_only_exercise_cells_are_taken(tmp_path: Path, pristine: Path) -> None:
    """An edited judge cell, or a cell that patches the judge before, changes nothing."""
    cheat = chapter(HALF, judge='import paylab; print("10 of 10")')
    cheat.cells[0].source = "import paylab\npaylab.judge = lambda *a, **k: None"
    (found,) = mark(handed_in(tmp_path, "bea", cheat), chapters=pristine)
    assert found.score == 0.4


def test_what_does_not_run_scores_nothing(tmp_path: Path, pristine: Path) -> None:
    """An untouched starter, a cell that is no Python, and one that never ends."""
    untouched = handed_in(tmp_path, "cai", chapter(STARTER))
    (found,) = mark(untouched, chapters=pristine)
    assert (found.score, found.failed) == (0.0, "not attempted yet")
    (found,) = mark(handed_in(tmp_path, "dot", chapter("def in_doubt(")), chapters=pristine)
    assert found.score == 0.0
    assert found.failed.startswith("SyntaxError")
    endless = handed_in(tmp_path, "eli", chapter("while True:\n    pass"))
    (found,) = mark(endless, chapters=pristine, time_limit_s=6.0)
    assert (found.score, found.failed) == (0.0, "stopped after 6 s")


def test_the_command_writes_a_table(tmp_path: Path, pristine: Path) -> None:
    """Other seeds, a CSV file, JSON, and an exit status that says whether all is right."""
    good, bad = handed_in(tmp_path, "fay", chapter(RIGHT)), handed_in(tmp_path, "gus", chapter(HALF))
    table = tmp_path / "marks.csv"
    command = [sys.executable, "-m", "paylab", "judge", "--seeds", "5000:5002", "--chapters", str(pristine)]
    ran = subprocess.run(
        [*command, "--csv", str(table), "--json", str(good), str(bad)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 1, ran.stderr
    assert [each["score"] for each in json.loads(ran.stdout)] == [1.0, 0.4]
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["file"]).stem, row["score"], row["seeds"]) for row in rows] == [
        ("fay", "1.0", "5000 5001"),
        ("gus", "0.4", "5000 5001"),
    ]


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    """A file that is missing, no notebook, or of no chapter."""
    (tmp_path / "text.ipynb").write_text("hello", encoding="utf-8")
    with pytest.raises(LabError, match="does not exist"):
        mark(tmp_path / "gone.ipynb")
    with pytest.raises(LabError, match="is no notebook"):
        mark(tmp_path / "text.ipynb")
    nowhere = chapter(RIGHT)
    with pytest.raises(LabError, match="there is no chapter"):
        mark(handed_in(tmp_path, "ida", nowhere))


def test_the_solutions_of_chapter_08_get_all_marks(tmp_path: Path) -> None:
    """Worked solutions put into the chapter pass there, too."""
    copy = tmp_path / "08_break_everything.ipynb"
    shutil.copy(CHAPTERS / "solutions" / "08_break_everything.ipynb", copy)
    assert [each.score for each in mark(copy)] == [1.0] * 4
