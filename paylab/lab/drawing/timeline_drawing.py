"""Draws the layout of a space-time diagram as SVG."""

from paylab.lab.drawing import svg
from paylab.lab.drawing.timeline_layout import (
    HEADER_TEXT,
    LEFT,
    Arrow,
    Layout,
    Mark,
    headers,
)

# A taller diagram names its columns at the lower end again.
NAMES_AGAIN = 420.0
BAND_WIDTH = 14.0
LEGEND_HEIGHT = 20.0
STYLE = """
{id} .life{{stroke:{faint};stroke-width:1}} {id} .header rect{{fill:{paper};stroke:{faint}}}
{id} .header text{{font-size:10.5px;font-weight:600;stroke:none}}
{id} .band rect{{fill:{shade};stroke:{muted};stroke-dasharray:3 2}}
{id} .arrow path{{fill:none;stroke:{blue};stroke-width:1.4}}
{id} .arrow.reply path{{stroke:{muted};stroke-dasharray:4 2.5}}
{id} .arrow.error path{{stroke:{vermilion};stroke-dasharray:2 2}}
{id} .arrow:hover path{{stroke-width:2.6}}
{id} .arrow path.hit{{stroke:transparent;stroke-width:8;stroke-dasharray:none}}
{id} .arrow path.cross{{stroke:{vermilion};stroke-width:2.2;stroke-dasharray:none}}
{id} .head-request{{fill:{blue}}} {id} .head-reply{{fill:{muted}}} {id} .head-error{{fill:{vermilion}}}
{id} .forced{{fill:{ink};stroke:{paper};stroke-width:1.5}}
{id} .decision{{fill:{vermilion};stroke:{paper};stroke-width:1.5}}
{id} .state{{fill:{paper};stroke:{ink};stroke-width:1.5}}
{id} .restarted{{fill:{green};stroke:{paper};stroke-width:1.5}}
{id} .failed{{fill:{vermilion}}}
{id} .verdict{{stroke:{vermilion};stroke-width:1.2;stroke-dasharray:1 4;stroke-linecap:round}}
{id} .zigzag{{fill:{paper};stroke:{faint}}}
{id} text.quiet{{fill:{muted}}} {id} text.good{{fill:{green};font-weight:600}}
{id} text.bad{{fill:{vermilion};font-weight:600}} {id} text.strong{{font-weight:600}}
"""
LEGEND = (
    ("request", "request"),
    ("reply", "answer"),
    ("forced", "forced write"),
    ("decision forced", "the decision"),
    ("state", "a state"),
    ("cross", "lost or failed"),
    ("band", "node down"),
)


def draw(layout: Layout, *, badge: str, note: str) -> svg.Figure:
    """The figure of a layout; `note` stands at its lower end."""
    parts = [svg.element("defs", *(_head(style) for style in ("request", "reply", "error")))]
    parts += [
        svg.element("path", d=f"M{x:.1f} {layout.top}V{layout.bottom:.1f}", class_="life")
        for x in layout.columns.values()
    ]
    parts += [
        svg.element(
            "g",
            svg.rounded(svg.Box(band.x - BAND_WIDTH / 2, band.top, band.x + BAND_WIDTH / 2, band.bottom)),
            title=band.title,
            class_="band",
        )
        for band in layout.bands
    ]
    parts += [_zigzag(y) for y, _ in layout.gaps]
    parts += [
        svg.element("path", d=f"M{LEFT:.1f} {mark.y:.1f}H{svg.WIDTH - 4}", class_="verdict")
        for mark in layout.marks
        if mark.style.startswith("decision")
    ]
    parts += [_arrow(arrow) for arrow in layout.arrows]
    parts += [_mark(mark) for mark in layout.marks]
    parts += [
        svg.label(one.text, *one.box.centre, class_=one.style, text_anchor="middle") for one in layout.labels
    ]
    parts += [svg.label(text, 3, y, class_="quiet") for y, text in layout.ticks]
    parts += [
        svg.label(f"{text} later", svg.WIDTH / 2, y, class_="quiet", text_anchor="middle")
        for y, text in layout.gaps
    ]
    parts += _headers(layout.headers)
    bottom = layout.bottom
    if bottom - layout.top > NAMES_AGAIN:
        again = headers(layout.columns, top=bottom)
        parts += _headers(again)
        bottom = max(box.bottom for box in again.values())
    parts += _legend(bottom + LEGEND_HEIGHT / 2 + 2)
    bottom += LEGEND_HEIGHT + 4
    if note:
        parts.append(svg.label(note, LEFT, bottom + 6, class_="strong"))
        bottom += LEGEND_HEIGHT
    parts.append(svg.badge(badge))
    parts.append(svg.label("Time runs down, not to scale.", 3, 11.0, class_="quiet"))
    about = f"Space-time diagram of {len(layout.arrows)} messages between {len(layout.columns)} nodes"
    return svg.Figure("".join(parts), style=STYLE, height=bottom, about=about, shown_px=780)


def _headers(boxes: dict[str, svg.Box]) -> list[str]:
    return [
        svg.element(
            "g",
            svg.rounded(box, rx=5.0),
            svg.label(svg.fitted(name, HEADER_TEXT, box.right - box.left), *box.centre, text_anchor="middle"),
            title=name,
            class_="header",
        )
        for name, box in boxes.items()
    ]


def _head(style: str) -> str:
    return svg.element(
        "marker",
        svg.element("path", d="M0 0L7 3L0 6z", class_=f"head-{style}"),
        id=f"{{id}}-{style}",
        markerWidth=7.0,
        markerHeight=6.0,
        refX=6.5,
        refY=3.0,
        orient="auto",
        markerUnits="userSpaceOnUse",
    )


def _arrow(arrow: Arrow) -> str:
    line = svg.path([(arrow.x, arrow.y), (arrow.end_x, arrow.end_y)])
    arrives = not arrow.lost or arrow.style == "error"
    ends = {"marker_end": f"url(#{{id}}-{arrow.style})"} if arrives else {}
    parts = [svg.element("path", d=line, class_="hit"), svg.element("path", d=line, **ends)]
    if arrow.cross is not None:
        parts.append(svg.cross(*arrow.cross))
    return svg.element("g", *parts, title=arrow.title, class_=f"arrow {arrow.style}")


def _mark(mark: Mark) -> str:
    x, y, title, style = mark.x, mark.y, mark.title, mark.style
    if "forced" in style:
        reach = 7.0 if "decision" in style else 5.0
        points = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
        return svg.element("path", d=svg.path(points) + "z", title=title, class_=style)
    if style in ("crashed", "unanswered"):
        return svg.cross(x, y, title=title)
    reach = 2.5 if style == "failed" else 5.0 if "decision" in style else 3.5
    return svg.element("circle", cx=x, cy=y, r=reach, title=title, class_=style)


def _zigzag(y: float) -> str:
    """Torn paper across the picture."""
    teeth = [
        (x, y + (-9 if n % 2 else -12)) for n, x in enumerate(range(int(LEFT) - 6, int(svg.WIDTH) + 8, 8))
    ]
    back = [(x, top + 21) for x, top in reversed(teeth)]
    return svg.element("path", d=svg.path([*teeth, *back]) + "z", class_="zigzag")


def _legend(y: float) -> list[str]:
    parts, x = [], LEFT + 4
    for style, text in LEGEND:
        if style in ("request", "reply"):
            parts.append(_arrow(Arrow(x - 6, y, x + 8, y, style, "")))
        elif style == "band":
            parts.append(svg.element("g", svg.rounded(svg.box_around(x, y, 10, 10)), class_="band"))
        else:
            parts.append(_mark(Mark(x, y, "crashed" if style == "cross" else style, "")))
        parts.append(svg.label(text, x + 11, y, class_="quiet"))
        x += 26 + svg.text_width(text, 10.0)
    return parts
