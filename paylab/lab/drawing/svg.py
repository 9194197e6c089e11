"""The pieces of SVG that figures are made of: elements, measured text, colours of the theme, the frame."""

import html
import re
import secrets
from pathlib import Path
from typing import NamedTuple

# Figures are laid out in so many units; a unit is a pixel in an output area that is just as wide.
WIDTH = 640.0
# What a figure paints with: where JupyterLab, then VS Code, keep the colour, and the colour itself otherwise.
THEME = {
    "paper": ("--jp-layout-color0", "--vscode-editor-background", "#ffffff"),
    "ink": ("--jp-ui-font-color1", "--vscode-editor-foreground", "#212121"),
    "muted": ("--jp-ui-font-color2", "--vscode-descriptionForeground", "#616161"),
    "faint": ("--jp-border-color1", "--vscode-panel-border", "#bdbdbd"),
    "shade": ("--jp-layout-color2", "--vscode-editorWidget-background", "#eeeeee"),
}
FONT = "--jp-ui-font-family"
FONT_FALLBACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Okabe and Ito's colours that stand out from white and from black, also to the colour-blind.
BLUE, GREEN, VERMILION, PURPLE = "#0072b2", "#009e73", "#d55e00", "#b66d9b"

# XML has no way to write these.
_UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NARROW, _WIDE = frozenset("fijlrtI.,:;|!'()[]/ -"), frozenset("mwMW@%—…")


class Box(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> tuple[float, float]:
        """The point in the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def overlaps(self, other: "Box", *, margin: float = 0.0) -> bool:
        """Whether the two come closer than `margin`."""
        return (
            self.left < other.right + margin
            and other.left < self.right + margin
            and self.top < other.bottom + margin
            and other.top < self.bottom + margin
        )

    def holds(self, x: float, y: float, *, margin: float = 0.0) -> bool:
        """Whether a point lies in it, or closer than `margin`."""
        return self.left - margin < x < self.right + margin and self.top - margin < y < self.bottom + margin

    def meets(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether a straight line passes through it, after Liang and Barsky."""
        (x, y), (end_x, end_y) = start, end
        enters, leaves = 0.0, 1.0
        for delta, room in (
            (x - end_x, x - self.left),
            (end_x - x, self.right - x),
            (y - end_y, y - self.top),
            (end_y - y, self.bottom - y),
        ):
            if delta == 0:
                if room < 0:
                    return False
            elif delta < 0:
                enters = max(enters, room / delta)
            else:
                leaves = min(leaves, room / delta)
        return enters <= leaves


def box_around(x: float, y: float, width: float, height: float) -> Box:
    """The box of that size with its centre there."""
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def text_width(text: str, size: float) -> float:
    """How wide a text is at most, in the fonts that we ask for."""
    return size * sum(
        0.36 if char in _NARROW else 0.9 if char in _WIDE else 0.7 if char.isupper() else 0.6 for char in text
    )


def fitted(text: str, size: float, width: float) -> str:
    """The text, cut so that it fits."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def element(tag: str, *children: str, title: str = "", **attributes: str | float) -> str:
    """An element; `class_` stands for class, `stroke_width` for stroke-width. Children are SVG already."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_number(value))}"'
        for name, value in attributes.items()
    )
    hover = f"<title>{_escaped(title)}</title>" if title else ""
    return f"<{tag}{written}>{hover}{''.join(children)}</{tag}>"


def label(text: str, x: float, y: float, *, title: str = "", **attributes: str | float) -> str:
    """A line of text whose middle is at height `y`."""
    # Centring by baseline attributes is drawn differently everywhere; a third of the size is right for all.
    return element("text", _escaped(text), title=title, x=x, y=y + 3.5, **attributes)


def path(points: list[tuple[float, float]]) -> str:
    """The path along straight lines."""
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def cross(x: float, y: float, *, reach: float = 4.0, title: str = "", class_: str = "cross") -> str:
    """A cross."""
    there, back = _number(2 * reach), _number(-2 * reach)
    lines = f"M{_number(x - reach)} {_number(y - reach)}l{there} {there}m0 {back}l{back} {there}"
    return element("path", title=title, d=lines, class_=class_)


def badge(text: str, *, y: float = 11.0) -> str:
    """Where a figure comes from, at its right side with its middle at height `y`."""
    box = badge_box(text, y=y)
    return rounded(box, rx=8.0, class_="badge-frame") + label(
        text, *box.centre, class_="badge", text_anchor="middle"
    )


def badge_box(text: str, *, y: float = 11.0) -> Box:
    """Where the badge is."""
    return Box(WIDTH - text_width(text, 10.0) - 17, y - 8, WIDTH - 3, y + 8)


def rounded(box: Box, *, rx: float = 0.0, class_: str = "") -> str:
    """A rectangle with round corners."""
    left, top, right, bottom = box
    return element("rect", x=left, y=top, width=right - left, height=bottom - top, rx=rx, class_=class_)


_STYLE = """
{id} text{{font-family:{font};font-size:10px;fill:{ink};stroke:{paper};stroke-width:3px;stroke-linejoin:round;
paint-order:stroke}}
{id} .paper{{fill:{paper}}}
{id} text.badge{{fill:{muted};stroke:none}}
{id} .badge-frame{{fill:{paper};stroke:{faint}}}
{id} .cross{{fill:none;stroke:{vermilion};stroke-width:2.2;stroke-linecap:round}}
"""


class Figure:
    """An SVG drawing that shows itself in a notebook and can be saved."""

    def __init__(self, body: str, *, style: str, height: float, about: str, shown_px: float) -> None:
        """`body` and `style` write `{id}` for the figure's id, `style` colours by name in braces."""
        self._body = body
        self._style = _STYLE + style
        self._height = height
        self._about = about
        self._shown_px = shown_px

    def html(self) -> str:
        """The drawing for a notebook's output, as wide as that, in the theme's colours."""
        colours = {
            name: f"var({jupyter},var({code},{colour}))" for name, (jupyter, code, colour) in THEME.items()
        }
        # Several figures share a page, also figures of kernels that are gone.
        svg = self._svg(f"paylab-{secrets.token_hex(5)}", colours, font=f"var({FONT},{FONT_FALLBACK})")
        return f'<div style="width:100%;max-width:{_number(self._shown_px)}px">{svg}</div>'

    def svg(self, name: str) -> str:
        """The drawing as a file of its own, in colours that need no theme."""
        colours = {name: colour for name, (_, _, colour) in THEME.items()}
        return self._svg(name, colours, font=FONT_FALLBACK)

    def save(self, path: str | Path) -> None:
        """Write the drawing to an .svg file."""
        target = Path(path)
        target.write_text(self.svg(re.sub(r"\W", "-", f"paylab-{target.stem}")) + "\n", encoding="utf-8")

    def _svg(self, name: str, colours: dict[str, str], *, font: str) -> str:
        style = self._style.format(
            id=f"#{name}",
            font=font,
            blue=BLUE,
            green=GREEN,
            vermilion=VERMILION,
            purple=PURPLE,
            **colours,
        )
        paper = element("rect", width=WIDTH, height=self._height, class_="paper")
        return element(
            "svg",
            f"<style>{style}</style>{paper}{self._body.replace('{id}', name)}",
            xmlns="http://www.w3.org/2000/svg",
            id=name,
            viewBox=f"0 0 {_number(WIDTH)} {_number(self._height)}",
            width="100%",
            role="img",
            aria_label=self._about,
            style="display:block;height:auto",
        )


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _escaped(text: str) -> str:
    # Braces would look like a place for the figure's id.
    return html.escape(_UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)).replace("{", "&#123;")
