"""The state diagrams: every row of a table is an arrow, and every text can be read."""

from collections.abc import Callable
from itertools import combinations

import pytest

from paylab.core import coordinator, participant
from paylab.lab.drawing.state_diagrams import StateDiagram, Transitions, of_bank, of_coordinator

Made = tuple[Callable[[], StateDiagram], Transitions]
DIAGRAMS: dict[str, Made] = {
    "bank": (of_bank, participant.TRANSITIONS),
    "coordinator": (of_coordinator, coordinator.TRANSITIONS),
}


@pytest.mark.parametrize("of", DIAGRAMS)
def test_every_row_is_drawn(of: str) -> None:
    """Each event stands at one arrow, and each state in one frame."""
    make, table = DIAGRAMS[of]
    diagram = make()
    assert sum(map(len, diagram.arrows.values())) == len(table)
    drawing = diagram.figure().svg("x")
    for (_, event), after in table.items():
        assert f">{event}</text>" in drawing
        assert f">{after.value}</text>" in drawing
    assert diagram._repr_html_().startswith("<div")


@pytest.mark.parametrize("of", DIAGRAMS)
def test_no_label_hides_another_or_a_state(of: str) -> None:
    """Labels keep clear of each other, of frames, and of the edge."""
    diagram: StateDiagram = DIAGRAMS[of][0]()
    boxes = [*diagram.labels().values(), *diagram._boxes.values()]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(box.left > 0 and box.right < 640 for box in boxes)
