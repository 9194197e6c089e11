"""Where the nodes, edges and counts of a network graph go: rows from top to bottom, nothing on another.

An edge that passes rows goes through a gap between their nodes. A count stands beside its edge, where
it touches neither a node nor another count, and as few other edges as possible.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from paylab.lab.drawing.svg import WIDTH, Box, box_around, text_width

Point = tuple[float, float]

NODE_HEIGHT = 32.0
NODE_TEXT = 12.0
# What a node shows besides its name: its icon, and room on both sides.
NODE_PADDING = 38.0
NAME_WIDTH_MAX = 110.0
ROW_GAP = 72.0
MARGIN = 12.0
# The least room between two nodes, so that an edge can pass.
NODE_GAP = 26.0
PORT_GAP = 13.0
# The least room between an edge that passes and a node, and between two such edges.
NODE_CLEARANCE = 8.0
LANE_GAP = 5.0
COUNT_TEXT = 10.0
SAMPLES = 32
# Points are looked up by squares of this size.
CELL = 16


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge: its cubic path, points along it, and where its count stands if there is room."""

    source: str
    target: str
    calls: int
    path: str
    points: tuple[Point, ...]
    count: Box | None = None


@dataclass(slots=True)
class Layout:
    """Boxes of nodes, edges, and how high it all is."""

    nodes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    height: float = 0.0
    node_height: float = NODE_HEIGHT
    row_gap: float = ROW_GAP


def arrange(
    layers: Sequence[Sequence[str]],
    calls: Mapping[tuple[str, str], int],
    *,
    below: Mapping[str, Sequence[str]],
    reserved: Iterable[Box] = (),
    node_height: float = NODE_HEIGHT,
    row_gap: float = ROW_GAP,
) -> Layout:
    """Lay out nodes in `layers` and edges with `calls`; a key of `below` stands above those it names."""
    rows = [row for layer in layers for row in _rows(layer)]
    height = MARGIN * 2 + len(rows) * (node_height + row_gap) - row_gap
    layout = Layout(height=height, node_height=node_height, row_gap=row_gap)
    for number in reversed(range(len(rows))):
        _place_row(layout, rows[number], top=MARGIN + number * (node_height + row_gap), below=below)
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    lanes = _Lanes(layout, rows)
    routes = {edge: lanes.route(edge, row_of) for edge in calls}
    layout.edges = [
        Edge(*edge, calls[edge], *_curve(points)) for edge, points in _with_ports(layout, routes, row_of)
    ]
    _place_counts(layout, reserved)
    return layout


def node_width(name: str) -> float:
    """How wide a node is."""
    return min(text_width(name, NODE_TEXT), NAME_WIDTH_MAX) + NODE_PADDING


def _rows(layer: Sequence[str]) -> list[list[str]]:
    """As few rows as the width allows, of about the same length."""
    rows = _filled(layer, WIDTH - 2 * MARGIN)
    for width in range(int(_row_width(layer) / len(rows)), int(WIDTH - 2 * MARGIN)):
        even = _filled(layer, width)
        if len(even) == len(rows):
            return even
    return rows


def _filled(layer: Sequence[str], width: float) -> list[list[str]]:
    rows: list[list[str]] = [[]]
    for name in layer:
        if rows[-1] and _row_width([*rows[-1], name]) > width:
            rows.append([])
        rows[-1].append(name)
    return rows


def _row_width(row: Sequence[str]) -> float:
    return sum(node_width(name) + NODE_GAP for name in row)


def _place_row(layout: Layout, row: Sequence[str], *, top: float, below: Mapping[str, Sequence[str]]) -> None:
    """Spread a row over the width, or put nodes over those that they serve, in order and without overlap."""
    space = (WIDTH - 2 * MARGIN - sum(map(node_width, row))) / len(row)
    left = MARGIN
    spread = []
    for name in row:
        spread.append(left + space / 2 + node_width(name) / 2)
        left += node_width(name) + space
    left, boxes = MARGIN, []
    for name, x in zip(row, spread, strict=True):
        served = [layout.nodes[other].centre[0] for other in below.get(name, ()) if other in layout.nodes]
        centre = max(sum(served) / len(served) if served else x, left + node_width(name) / 2)
        middle = top + layout.node_height / 2
        boxes.append(box_around(centre, middle, node_width(name), layout.node_height))
        left = boxes[-1].right + NODE_GAP
    right = WIDTH - MARGIN
    for name, box in reversed(list(zip(row, boxes, strict=True))):
        shift = min(0.0, right - box.right)
        layout.nodes[name] = Box(box.left + shift, box.top, box.right + shift, box.bottom)
        right = layout.nodes[name].left - NODE_GAP


class _Lanes:
    """The ways that edges take past rows that they do not stop at."""

    def __init__(self, layout: Layout, rows: Sequence[Sequence[str]]) -> None:
        self._layout = layout
        self._rows = rows
        self._taken: dict[int, list[float]] = {number: [] for number in range(len(rows))}

    def route(self, edge: tuple[str, str], row_of: Mapping[str, int]) -> list[Point]:
        """From the middle of one node to that of the other, past the rows between."""
        (x, _), (end_x, end_y) = (self._layout.nodes[name].centre for name in edge)
        first, last = (row_of[name] for name in edge)
        step = 1 if last >= first else -1
        points = [self._layout.nodes[edge[0]].centre]
        passed = list(range(first + step, last, step))
        for done, number in enumerate(passed):
            x += (end_x - x) / (len(passed) - done + 1)
            x = self._lane(number, x)
            box = self._layout.nodes[self._rows[number][0]]
            ends = [(x, box.top - 4), (x, box.bottom + 4)]
            points += ends if step > 0 else reversed(ends)
        return [*points, (end_x, end_y)]

    def _lane(self, number: int, wanted: float) -> float:
        boxes = [self._layout.nodes[name] for name in self._rows[number]]
        free = [
            x
            for x in (MARGIN / 2 + n for n in range(int(WIDTH - MARGIN)))
            if all(not box.left - NODE_CLEARANCE < x < box.right + NODE_CLEARANCE for box in boxes)
        ]
        alone = [x for x in free if all(abs(x - other) >= LANE_GAP for other in self._taken[number])]
        x = min(alone or free, key=lambda x: abs(x - wanted))
        self._taken[number].append(x)
        return x


def _with_ports(
    layout: Layout, routes: Mapping[tuple[str, str], list[Point]], row_of: Mapping[str, int]
) -> list[tuple[tuple[str, str], list[Point]]]:
    """Let every edge leave and enter at a place of its own, in the order in which they fan out."""
    sides: dict[tuple[str, bool], list[tuple[float, tuple[str, str], int]]] = {}
    for edge, points in routes.items():
        for end, name, other in ((0, edge[0], edge[1]), (-1, edge[1], edge[0])):
            at_bottom = row_of[other] > row_of[name]
            towards = points[1] if end == 0 else points[-2]
            sides.setdefault((name, at_bottom), []).append((towards[0], edge, end))
    placed = {edge: list(points) for edge, points in routes.items()}
    for (name, at_bottom), ends in sides.items():
        box = layout.nodes[name]
        gap = min(PORT_GAP, (box.right - box.left - 16) / len(ends))
        # Of two edges between the same nodes the same one is on the left at both ends.
        for place, (_, edge, end) in enumerate(sorted(ends)):
            x = box.centre[0] + (place - (len(ends) - 1) / 2) * gap
            placed[edge][end] = (x, box.bottom if at_bottom else box.top)
    return list(placed.items())


def _curve(points: Sequence[Point]) -> tuple[str, tuple[Point, ...]]:
    """A smooth path that leaves, passes rows and arrives upright; and points along it."""
    (x, y), samples = points[0], [points[0]]
    written = f"M{x:.1f} {y:.1f}"
    for end_x, end_y in points[1:]:
        # Within one row it is an arc over the nodes.
        pull = (end_y - y) / 2 if abs(end_y - y) > 1 else -ROW_GAP / 2
        end_pull = pull if abs(end_y - y) > 1 else -pull
        corners = ((x, y), (x, y + pull), (end_x, end_y - end_pull), (end_x, end_y))
        written += "C" + " ".join(f"{cx:.1f} {cy:.1f}" for cx, cy in corners[1:])
        samples += [_on_cubic(corners, n / SAMPLES) for n in range(1, SAMPLES + 1)]
        x, y = end_x, end_y
    return written, tuple(samples)


def _on_cubic(corners: Sequence[Point], t: float) -> Point:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    pairs = list(zip(weights, corners, strict=True))
    return sum(w * x for w, (x, _) in pairs), sum(w * y for w, (_, y) in pairs)


def _place_counts(layout: Layout, reserved: Iterable[Box]) -> None:
    """Give every edge's count the best place that is left; if there is none, the hover text says it."""
    blocked = [*layout.nodes.values(), *reserved]
    near = _Points(layout.edges)
    for number, edge in enumerate(layout.edges):
        width = text_width(f"{edge.calls:,}", COUNT_TEXT) + 2
        # In the middle of the stretch that leads to the target, or as near to it as can be.
        wanted = len(edge.points) - 1 - SAMPLES // 2
        places = sorted((abs(place - wanted), place) for place in range(3, len(edge.points) - 3))
        best, best_cost = None, float("inf")
        for distance, place in places:
            away = 10 * distance / SAMPLES
            if away >= best_cost:
                break
            x, y = edge.points[place]
            for side, (dx, dy) in enumerate(((1, 0), (-1, 0), (0, -1), (0, 1))):
                box = box_around(x + dx * (width / 2 + 4), y + dy * 9, width, COUNT_TEXT + 1)
                if box.left < 1 or box.right > WIDTH - 1 or any(box.overlaps(b, margin=2) for b in blocked):
                    continue
                own, others = near.inside(box, edge)
                cost = 4 * others + 2 * own + away + side / 4
                if cost < best_cost:
                    best, best_cost = box, cost
        if best is not None:
            blocked.append(best)
            layout.edges[number] = replace(edge, count=best)


class _Points:
    """The points of all edges, found by where they are."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self._cells: dict[tuple[int, int], list[tuple[str, str, Point]]] = {}
        for edge in edges:
            for x, y in edge.points:
                cell = (int(x // CELL), int(y // CELL))
                self._cells.setdefault(cell, []).append((edge.source, edge.target, (x, y)))

    def inside(self, box: Box, edge: Edge) -> tuple[int, int]:
        """How many points of this edge, and of all others, a box covers."""
        counts = [0, 0]
        for column in range(int((box.left - 2) // CELL), int((box.right + 2) // CELL) + 1):
            for row in range(int((box.top - 2) // CELL), int((box.bottom + 2) // CELL) + 1):
                for source, target, point in self._cells.get((column, row), ()):
                    if box.holds(*point, margin=1.5):
                        counts[(source, target) != (edge.source, edge.target)] += 1
        return counts[0], counts[1]
