"""A payment broken at one forced write: who holds what meanwhile, and that nobody loses anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from paylab.errors import LabError
from paylab.lab.campaigns.standstill import NODES, standstill

CHAPTER = Path(__file__).parents[2] / "notebooks" / "04_two_phase_commit.ipynb"


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("side", ["before", "unanswered", "after"])
def test_nobody_loses_money_wherever_a_node_dies(node: str, side: str) -> None:
    """The payment commits, at the first attempt or a later one, and nothing is held or promised any more."""
    found = standstill(node, 1, side)
    assert found.after["gateway"].endswith("COMMITTED")
    assert found.after["coordinator"] == "nothing"
    assert "alice has 87.50 EUR" in found.after["alpine"]
    assert "bob has 12.50 EUR" in found.after["boreal"]
    assert not any("held" in text or "PREPARED" in text or "down" in text for text in found.after.values())


def test_who_holds_what_while_the_coordinator_is_away() -> None:
    """Decided and not told: both banks are prepared, the money is held, and the log alone knows."""
    found = standstill("coordinator", 1, "unanswered", down_s=8.0)
    assert found.during["coordinator"] == "(down) attempt 1: COMMIT"
    assert found.during["alpine"] == "attempt 1 PREPARED; alice has 100.00 EUR, 12.50 EUR of it held"
    assert found.during["boreal"] == "attempt 1 PREPARED; bob has 0.00 EUR"
    assert 7.5 < found.in_doubt_s < 9.0
    assert found.during["alpine"] in found._repr_html_()
    assert "<svg" in found._repr_html_()


def test_doubt_lasts_as_long_as_the_coordinator_is_away() -> None:
    """A second more of downtime is a second more of doubt."""
    short, long = (standstill("coordinator", 1, "unanswered", down_s=s).in_doubt_s for s in (4.0, 12.0))
    assert 7.5 < long - short < 8.5


def test_what_does_not_exist_is_refused() -> None:
    """A node of another network."""
    with pytest.raises((LabError, ValueError)):
        standstill("nobody-1", 1)


# The chapter's widgets ------------------------------------------------------------------------------


def widget(name: str, *, after: tuple[str, ...]) -> Any:
    """What a cell of the chapter makes of an `interact`, after the cells that it builds on."""
    notebook: Any = nbformat.read(CHAPTER, as_version=4)  # type: ignore[no-untyped-call] # nbformat has no types
    namespace: dict[str, Any] = {}
    for cell in notebook.cells:
        wanted = (*after, f"def {name}(")
        if cell.cell_type == "code" and any(text in cell.source for text in wanted):
            lines = [line for line in cell.source.splitlines() if ".was(" not in line]
            exec("\n".join(lines), namespace)  # noqa: S102 - a cell of the chapter
    return namespace[name].widget


def setter(box: Any) -> Callable[[str, Any], None]:
    def choose(description: str, value: Any) -> None:
        (control,) = [child for child in box.children if getattr(child, "description", "") == description]
        control.value = value

    return choose


def test_the_widget_breaks_the_payment_where_it_is_told_to() -> None:
    """Choose the node, the write and the side, press the button: the picture is of just that."""
    box = widget("break_it", after=("import standstill",))
    choose = setter(box)
    choose("node", "boreal-1")
    choose("side", "before")
    box.update()
    assert box.result.during["boreal"].startswith("(down) bob has 0.00 EUR")
    choose("node", "coordinator")
    choose("side", "unanswered")
    box.update()
    assert box.result.during["coordinator"] == "(down) attempt 1: COMMIT"


def test_the_slider_walks_the_shortest_trace() -> None:
    """Each position shows its step; the last one names the invariant that is broken."""
    box = widget("walk", after=("import explore\n", "wrong = explore("))
    choose = setter(box)
    for step in (0, 3, 7):
        choose("step", step)
        assert box.result.step == step
    assert "decisions never contradict" in box.result._repr_html_()
