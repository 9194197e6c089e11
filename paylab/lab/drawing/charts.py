"""Small charts of a load over time as one still picture, for readers whose kernel is gone."""

from collections.abc import Sequence
from itertools import count

from paylab.lab.drawing import svg
from paylab.lab.drawing.svg import WIDTH, Box

Row = Sequence[float | None]

# Title, unit, and the columns that are drawn with their colours.
CHARTS = (
    ("throughput", "payments/s", ((1, "muted", "due"), (2, "green", "ended"), (3, "vermilion", "failed"))),
    ("latency", "ms", ((4, "green", "p50"), (5, "blue", "p95"), (6, "vermilion", "p99"))),
    (
        "queue depth",
        "payments",
        ((7, "blue", "under way"), (8, "vermilion", "waiting"), (9, "purple", "queued")),
    ),
    ("errors", "%", ((10, "vermilion", "errors"),)),
)
TOP, HEIGHT, GAP = 34.0, 104.0, 40.0
LEFT, RIGHT = 40.0, 10.0
STYLE = """
{id} .axis{{fill:none;stroke:{faint}}} {id} .mark{{fill:none;stroke:{muted};stroke-dasharray:2 3}}
{id} .line{{fill:none;stroke-width:1.6;stroke-linejoin:round}}
{id} .muted{{stroke:{muted}}} {id} .green{{stroke:{green}}} {id} .blue{{stroke:{blue}}}
{id} .vermilion{{stroke:{vermilion}}} {id} .purple{{stroke:{purple}}}
{id} text.quiet{{fill:{muted}}} {id} text.head{{font-size:12px;font-weight:600}}
"""


def load_charts(
    rows: Sequence[Row], marks: Sequence[tuple[float, str]], *, title: str, badge: str
) -> svg.Figure:
    """Four charts from rows as the workload panel has them, seconds first, and moments that are marked."""
    end_s = max([1.0, *(row[0] or 0.0 for row in rows)])
    parts = [svg.label(svg.fitted(title, 12.0, WIDTH - 120), 12, 13, class_="head"), svg.badge(badge)]
    for place, chart in enumerate(CHARTS):
        column, line = place % 2, place // 2
        left = column * WIDTH / 2 + LEFT
        top = TOP + 18 + line * (HEIGHT + GAP)
        box = Box(left, top, (column + 1) * WIDTH / 2 - RIGHT, top + HEIGHT - 18)
        parts += _chart(box, chart, rows, marks, end_s)
    height = TOP + 2 * (HEIGHT + GAP)
    return svg.Figure("".join(parts), style=STYLE, height=height, about=title, shown_px=860)


def nice_above(value: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below a value, and at least 1."""
    return next(top for n in count() for top in (10.0**n, 2 * 10.0**n, 5 * 10.0**n) if top >= value)


def _chart(
    box: Box,
    chart: tuple[str, str, tuple[tuple[int, str, str], ...]],
    rows: Sequence[Row],
    marks: Sequence[tuple[float, str]],
    end_s: float,
) -> list[str]:
    name, unit, lines = chart
    most = nice_above(max([0.0, *(row[column] or 0.0 for row in rows for column, _, _ in lines)]))
    wide, high = box.right - box.left, box.bottom - box.top

    def at(seconds: float, value: float) -> tuple[float, float]:
        return box.left + wide * seconds / end_s, box.bottom - high * value / most

    parts = [
        svg.label(f"{name} ({unit})" if unit else name, box.left, box.top - 9),
        svg.element("path", d=svg.path([(box.left, box.top), (box.right, box.top)]), class_="axis"),
        svg.element("path", d=svg.path([(box.left, box.bottom), (box.right, box.bottom)]), class_="axis"),
        svg.label(f"{most:g}", box.left - 4, box.top, text_anchor="end", class_="quiet"),
        svg.label("0", box.left - 4, box.bottom, text_anchor="end", class_="quiet"),
        svg.label(f"{end_s:.0f} s", box.right, box.bottom + 10, text_anchor="end", class_="quiet"),
    ]
    for at_s, what in marks:
        x = at(min(at_s, end_s), 0.0)[0]
        parts.append(
            svg.element("path", d=svg.path([(x, box.top), (x, box.bottom)]), class_="mark", title=what)
        )
    legend = box.right
    for column, colour, label in reversed(lines):
        points = [at(row[0] or 0.0, value) for row in rows if (value := row[column]) is not None]
        if len(points) > 1:
            parts.append(svg.element("path", d=svg.path(points), class_=f"line {colour}", title=label))
        legend -= svg.text_width(label, 10.0)
        parts.append(svg.label(label, legend, box.top - 9, class_="quiet"))
        parts.append(
            svg.element(
                "path",
                d=svg.path([(legend - 12, box.top - 9), (legend - 3, box.top - 9)]),
                class_=f"line {colour}",
            )
        )
        legend -= 20
    return parts
