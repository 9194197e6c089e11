"""Every chapter has what a chapter needs; NN_*.ipynb in notebooks/, worked solutions beside them."""

import ast
import re
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import paylab
from paylab.lab.judging.exercises import exercises
from paylab.lab.reading import LINES_MAX

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
CELLS_MAX = 40
CODE_LINES_MEDIAN_MAX = 5
CODE_LINES_MAX = 16
MINUTES_MAX = 75
TERMS_MAX = 5
# What must be switched off for an assertion of the chapter to fail: a cell that runs before all others.
SWITCHES = {
    # Nothing gets lost.
    "01": "from paylab.lab.simulation.sim_network import Network\nNetwork.cut = lambda *_: None",
    # Nobody looks at signatures.
    "02": (
        "import paylab.lab.network as network\n"
        "from paylab.lab.attacks.weakenings import weakened\n"
        "real = network.filled\n"
        "network.filled = lambda mine: real({**weakened('token.signature'), **mine})"
    ),
    "03": "from paylab.nodes.server_pool import ServerPool\nServerPool.able = lambda *_: True",
    "04": "import paylab.lab.planted_bugs as bugs\nbugs.planted = lambda name: {}",
    # The gateway keeps an id of its own for every request, whatever key comes with it.
    "05": (
        "from dataclasses import replace\n"
        "import paylab.lab.network as network\n"
        "from paylab.core.payment import open_attempt\n"
        "def keyless(wanted, **more):\n"
        "    return open_attempt(wanted if wanted.attempt else replace(wanted, key=wanted.payment), **more)\n"
        "real = network.filled\n"
        "network.filled = lambda mine: real({'gateway.open_attempt': keyless, **mine})"
    ),
    # Every retry is allowed.
    "06": "from paylab.core.retries import RetryBudget\nRetryBudget.allows = lambda *_, **__: True",
    # A hash covers its own event and nothing before it.
    "07": (
        "from hashlib import sha256\n"
        "import paylab.lab.logbook, paylab.nodes.log_sink\n"
        "for module in (paylab.core.log_chain, paylab.lab.logbook, paylab.nodes.log_sink):\n"
        "    module.chained = lambda previous, event: sha256(event).digest()"
    ),
    "08": "import paylab.lab.planted_bugs as bugs\nbugs.planted = lambda name: {}",
}

every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: str(path.stem))
with_exercises = pytest.mark.parametrize(
    "path", [p for p in CHAPTERS if p.stem[:2] != "00"], ids=lambda p: p.stem
)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call] # nbformat has no types


def code(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def exercise_cells(path: Path) -> dict[str, str]:
    return {
        cell.metadata["paylab"]["exercise"]: cell.source
        for cell in read(path).cells
        if "exercise" in cell.metadata.get("tags", ())
    }


@every_chapter
def test_opening(path: Path) -> None:
    """Title, minutes, at most five terms, the nodes involved, and what the reader can do afterwards."""
    opening = read(path).cells[0].source
    assert re.match(rf"# {path.stem[:2]} · \S", opening)
    minutes = re.search(r"\*\*(\d+) minutes\.\*\*", opening)
    assert minutes
    assert int(minutes[1]) <= MINUTES_MAX
    terms = re.findall(r"^\| (?!term \||---)", opening, re.MULTILINE)
    assert 1 <= len(terms) <= TERMS_MAX
    assert "**Nodes involved:**" in opening
    assert "**After this chapter you can**" in opening


@every_chapter
def test_what_is_shown(path: Path) -> None:
    """A graph, a timeline, a plot, a widget experiment and a prediction, each with its outcome."""
    text = "\n".join(code(path))
    for needed in (".graph()", ".timeline", "subplots(", "ipywidgets", "paylab.predict(", "paylab.source("):
        assert needed in text, needed
    assert text.count("paylab.predict(") == text.count(".was(")


@every_chapter
def test_closing(path: Path) -> None:
    """A summary in five lines, folded answers, further reading; the last cell closes and compares guesses."""
    cells = read(path).cells
    assert cells[-1].cell_type == "code"
    assert ".close()" in cells[-1].source
    assert "paylab.guesses()" in cells[-1].source
    summary = next(cell.source for cell in reversed(cells) if "## Summary" in cell.source)
    assert len(re.findall(r"^- ", summary, re.MULTILINE)) == 5
    assert summary.count("<details>") >= 3
    assert "**Further reading.**" in summary


@every_chapter
def test_size(path: Path) -> None:
    """At most 40 cells outside *Further*, code cells short, no outputs stored, something is asserted."""
    cells = read(path).cells
    further, core = False, 0
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            further = cell.source.startswith("## Further")
        core += not further
    assert core <= CELLS_MAX
    lines = [len(source.splitlines()) for source in code(path)]
    assert statistics.median(lines) <= CODE_LINES_MEDIAN_MAX
    assert max(lines) <= CODE_LINES_MAX
    assert any("assert " in source for source in code(path))
    assert all(not cell.get("outputs") for cell in cells)


@every_chapter
def test_sources_exist_and_fit(path: Path) -> None:
    """What `paylab.source` shows is there, and takes one look."""
    imports = "\n".join(
        ast.unparse(node)
        for source in code(path)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    shown = re.findall(r"paylab\.source\((.+)\)", "\n".join(code(path)))
    for name in shown:
        namespace: dict[str, Any] = {}
        exec(imports, namespace)  # noqa: S102 - the imports of a chapter
        assert paylab.source(eval(name, namespace)).lines <= LINES_MAX  # noqa: S307 - a name from a chapter
    assert len(shown) >= (1 if path.stem.startswith("00") else 2)


@with_exercises
def test_exercises(path: Path) -> None:
    """Three or more: those of the chapter, each an untouched starter that the next cell judges."""
    cells = read(path).cells
    starters = exercise_cells(path)
    assert len(starters) >= 3
    assert list(starters) == [e.id for e in exercises() if e.id.startswith(path.stem[:2])]
    for exercise in exercises():
        if exercise.id in starters:
            assert starters[exercise.id] == exercise.starter
    for cell, following in pairwise(cells):
        if "exercise" in cell.metadata.get("tags", ()):
            assert following.source.startswith(f'paylab.judge("{cell.metadata["paylab"]["exercise"]}", ')


@with_exercises
def test_solutions(path: Path) -> None:
    """Their exercise ids equal the chapter's."""
    assert list(exercise_cells(NOTEBOOKS / "solutions" / path.name)) == list(exercise_cells(path))


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.stem[:2] in SWITCHES], ids=lambda p: p.stem)
def test_an_assertion_fails_without_the_mechanism(path: Path) -> None:
    """A chapter whose assertions hold anyway would show nothing."""
    notebook = read(path)
    v4: Any = nbformat.v4
    notebook.cells.insert(0, v4.new_code_cell(SWITCHES[path.stem[:2]]))
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}})
    with pytest.raises(CellExecutionError, match="AssertionError"):
        client.execute()
