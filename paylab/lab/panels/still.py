"""What a control has to show, kept for pages without a kernel: `still(compare, 0.8)` below the control.

A page that nbconvert has made shows no widget, so a chapter's controls would leave a gap there.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.utils.capture import capture_output

from paylab.lab.panels.panel import StillPanel, script


class Still(StillPanel):
    """HTML that is hidden wherever widgets live."""

    _esm = script("panel.js", "still.js")

    def __init__(self, html: str) -> None:
        """`html` is trusted."""
        super().__init__(badge="")
        self._html = html

    def _still_html(self) -> str:
        return f'<div data-paylab="{self.panel_id}">{self._html}</div>'


def still(show: Callable[..., Any], *args: Any, **kwargs: Any) -> Still:
    """Call what a control calls, and keep what it prints, displays and returns."""
    with capture_output() as captured:
        result = show(*args, **kwargs)
    shown = [output.data for output in captured.outputs]
    shell: Any = get_ipython()
    if result is not None:
        shown.append(shell.display_formatter.format(result)[0] if shell else {"text/plain": repr(result)})
    printed = f"<pre>{escape(captured.stdout)}</pre>" if captured.stdout else ""
    return Still(printed + "".join(_html(data) for data in shown))


def _html(data: Mapping[str, Any]) -> str:
    """The richest form of an output that a page shows by itself."""
    for rich in ("text/html", "image/svg+xml"):
        if rich in data:
            return str(data[rich])
    if "image/png" in data:
        png = data["image/png"]
        image = b64encode(png).decode() if isinstance(png, bytes) else png
        return f'<img alt="What the control shows" src="data:image/png;base64,{image}">'
    return f"<pre>{escape(str(data.get('text/plain', '')))}</pre>"
