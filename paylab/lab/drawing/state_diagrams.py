"""State diagrams, drawn from the tables of transitions that the protocol cores keep."""

import itertools
from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from paylab.core import coordinator, participant
from paylab.lab.drawing import svg

TEXT, LINE_PX = 10.0, 13.0
STATE_TEXT, STATE_HEIGHT = 11.0, 28.0
ROW_PX, MARGIN_PX = 112.0, 24.0
UNKNOWN = "unknown"
# How far along its arrow a label may stand, the best place first, and how far beside it.
ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.8)
BESIDE_PX = (6.0, 12.0)
# Labels keep so far from the figure's edge and from each other.
CLEAR_PX = 2.0
STYLE = """
{id} .state rect{{fill:{shade};stroke:{faint}}}
{id} .state text{{font-size:11px;stroke:none}}
{id} .end rect{{stroke:{ink};stroke-width:2}}
{id} .arrow{{fill:none;stroke:{muted};stroke-width:1.3}}
{id} .head{{fill:{muted}}}
"""
# From (state or None, event) to state.
Transitions = Mapping[Any, StrEnum]
# Where a state stands: across from 0 to 1, and in which row.
Places = Mapping[str, tuple[float, int]]
Arrow = tuple[str, str]

BANK_PLACES: Places = {
    UNKNOWN: (0.5, 0),
    "PREPARED": (0.5, 1),
    "COMMITTED": (0.16, 2),
    "ABORTED": (0.84, 2),
}
COORDINATOR_PLACES: Places = {
    UNKNOWN: (0.5, 0),
    "VOTING": (0.3, 1),
    "ASKING": (0.36, 2),
    "ABORTED": (0.86, 2),
    "COMMITTED": (0.14, 3),
}


class StateDiagram:
    """A table of transitions as a drawing: states, and arrows that name the events between them."""

    def __init__(self, transitions: Transitions, places: Places, *, about: str) -> None:
        """Every state of the table has a place; one that nothing leaves gets a thick frame."""
        self.arrows: dict[Arrow, list[str]] = defaultdict(list)
        for (before, event), after in transitions.items():
            self.arrows[UNKNOWN if before is None else before.value, after.value].append(event)
        self._about = about
        self._boxes = {
            name: svg.box_around(
                across * svg.WIDTH,
                MARGIN_PX + row * ROW_PX,
                svg.text_width(name, STATE_TEXT) + 22,
                STATE_HEIGHT,
            )
            for name, (across, row) in places.items()
        }
        self._height = 2 * MARGIN_PX + max(row for _, row in places.values()) * ROW_PX

    def _repr_html_(self) -> str:
        return self.figure().html()

    def figure(self) -> svg.Figure:
        """The drawing."""
        head = svg.element("path", d="M0 0L8 3.5L0 7z", class_="head")
        size: dict[str, Any] = {"markerWidth": 8.0, "markerHeight": 7.0, "refX": 7.5, "refY": 3.5}
        marker = svg.element(
            "marker", head, id="{id}-head", orient="auto", markerUnits="userSpaceOnUse", **size
        )
        parts = [svg.element("defs", marker)]
        parts += [
            svg.element(
                "path", d=svg.path(list(self._line(arrow))), class_="arrow", marker_end="url(#{id}-head)"
            )
            for arrow in self.arrows
        ]
        parts += [self._state(name, box) for name, box in self._boxes.items()]
        for arrow, box in self.labels().items():
            for line, event in enumerate(self.arrows[arrow]):
                parts.append(svg.label(event, box.left, box.top + LINE_PX * (line + 0.5)))
        return svg.Figure("".join(parts), style=STYLE, height=self._height, about=self._about, shown_px=640)

    def labels(self) -> dict[Arrow, svg.Box]:
        """Where the events of each arrow are written: near its middle, and clear of everything else."""
        placed: dict[Arrow, svg.Box] = {}
        for arrow, events in self.arrows.items():
            width = max(svg.text_width(event, TEXT) for event in events)
            candidates = self._candidates(arrow, width, LINE_PX * len(events))
            taken = [*self._boxes.values(), *placed.values()]
            clear = (box for box in candidates if self._is_clear(box, arrow, taken))
            placed[arrow] = next(clear, candidates[0])
        return placed

    def _candidates(self, arrow: Arrow, width: float, height: float) -> list[svg.Box]:
        (x, y), (end_x, end_y) = self._line(arrow)
        boxes = []
        for aside, along in itertools.product(BESIDE_PX, ALONG):
            at_x, at_y = x + along * (end_x - x), y + along * (end_y - y)
            reach = aside + width / 2
            sides = (reach, -reach) if end_x >= x else (-reach, reach)
            boxes += [svg.box_around(at_x + side, at_y, width, height) for side in sides]
            boxes.append(svg.box_around(at_x, at_y - height / 2 - aside, width, height))
        return boxes

    def _is_clear(self, box: svg.Box, arrow: Arrow, taken: list[svg.Box]) -> bool:
        inside = box.left > CLEAR_PX and box.right < svg.WIDTH - CLEAR_PX
        crossed = any(box.meets(*self._line(other)) for other in self.arrows if other != arrow)
        return inside and not crossed and not any(box.overlaps(other, margin=CLEAR_PX) for other in taken)

    def _line(self, arrow: Arrow) -> tuple[tuple[float, float], tuple[float, float]]:
        """From frame to frame."""
        before, after = (self._boxes[name] for name in arrow)
        return _edge(before, after.centre), _edge(after, before.centre)

    def _state(self, name: str, box: svg.Box) -> str:
        left = any(before == name for before, _ in self.arrows)
        return svg.element(
            "g",
            svg.rounded(box, rx=9.0),
            svg.label(name, *box.centre, text_anchor="middle"),
            class_="state" if left else "state end",
        )


def _edge(box: svg.Box, towards: tuple[float, float]) -> tuple[float, float]:
    """Where the line from a box's centre to a point leaves the box."""
    (x, y), (to_x, to_y) = box.centre, towards
    across, down = to_x - x, to_y - y
    reach = min(
        (box.right - box.left) / 2 / abs(across) if across else 1.0,
        (box.bottom - box.top) / 2 / abs(down) if down else 1.0,
    )
    return x + reach * across, y + reach * down


def of_bank() -> StateDiagram:
    """A transaction at a bank (`core.participant`)."""
    about = "States of a transaction at a bank, and the events between them"
    return StateDiagram(participant.TRANSITIONS, BANK_PLACES, about=about)


def of_coordinator() -> StateDiagram:
    """An attempt at the coordinator (`core.coordinator`)."""
    about = "Phases of an attempt at the coordinator, and the events between them"
    return StateDiagram(coordinator.TRANSITIONS, COORDINATOR_PLACES, about=about)
