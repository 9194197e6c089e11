"""What every panel shares: events in batches, actions from the page, a picture for when it is dead.

A subclass names its JS and CSS, takes events in, writes traits, and draws itself once as a still picture:

    class Mine(Panel):
        _esm = script("panel.js", "mine.js")
        _css = sheet("panel.css", "mine.css")
        total = traitlets.Int().tag(sync=True)

        def take(self, events): ...     # on the lab's loop, everything that happened since the last batch
        def tell(self): ...             # on the lab's loop: write traits; one message carries them all
        def still(self): ...            # a Figure, and `summary` says in words what it shows
        actions = {"stop": do_stop}     # what the page may ask for; each runs in a thread of its own
"""

import base64
import contextlib
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakSet

import anywidget
import traitlets
from IPython.core.display import HTML
from IPython.core.display_functions import DisplayHandle, display
from IPython.core.getipython import get_ipython

from paylab.errors import LabError, PaylabError
from paylab.lab.drawing.svg import Figure
from paylab.nodes.events import Event

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

HERE = Path(__file__).parent
# After a pause the page is told this soon; while more keeps coming it gets a message in the longer time, and
# in the longest while more than BUSY_PER_S events a second do. Figures that change faster cannot be read, and
# each message has the page drawn anew, which takes processor time from the payments.
SOON_S, BATCH_S, BUSY_S = 0.05, 0.2, 0.5
BUSY_PER_S = 1500
STILL_WIDTH_PX = 860
# A cell's end waits at most so long for the last batch, so that a loop that stands still does not stop it.
CATCH_UP_S = 1.0
# A timer may fire so much early.
EARLY_S = 0.002

_IMPORT = re.compile(r'^import .* from "\./\w+\.js";\n', re.MULTILINE)
_shown: "WeakSet[StillPanel]" = WeakSet()


def script(*names: str) -> str:
    """ES modules of this folder as one, since a widget's module cannot import a file beside it."""
    return _IMPORT.sub("", "\n".join((HERE / name).read_text("utf-8") for name in names))


def sheet(*names: str) -> str:
    """Style sheets of this folder as one."""
    return "\n".join((HERE / name).read_text("utf-8") for name in names)


class StillPanel(anywidget.AnyWidget):
    """A widget with a picture for when it is dead, and with actions that its page asks for."""

    actions: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    panel_id = traitlets.Unicode().tag(sync=True)
    badge = traitlets.Unicode().tag(sync=True)
    # What came of the last thing that the page asked for.
    notice = traitlets.Unicode().tag(sync=True)

    def __init__(self, *, badge: str, **state: Any) -> None:
        """Not shown yet."""
        super().__init__(panel_id=secrets.token_hex(5), badge=badge, **state)
        self._stale = False
        self._handles: list[DisplayHandle] = []
        # Traits are written by the lab's loop and by actions, each in a thread of its own.
        self._writing = threading.RLock()
        self.on_msg(self._asked)
        if hasattr(self.comm, "_reply_subshell_for"):
            # Otherwise a click waits for the cell that runs, in the shell which published last.
            self.comm._reply_subshell_for = None  # noqa: SLF001 - there is no public way

    def still(self) -> Figure:
        """The panel as a picture."""
        raise NotImplementedError

    def summary(self) -> str:
        """What the picture shows, in words, with its figures."""
        raise NotImplementedError

    # Actions ------------------------------------------------------------------------------------

    def _asked(self, _: Any, content: Any, __: Any) -> None:
        """Do what the page asks for. The thread may be any, so it does not wait here."""
        action = self.actions.get(str(content.get("do")))
        if action is not None:
            arguments = {name: value for name, value in content.items() if name != "do"}
            self.start_thread(lambda: self._do(action, arguments))

    def start_thread(self, work: Callable[[], object]) -> None:
        """Have blocking work done in a thread of its own."""

        def run() -> None:
            with contextlib.suppress(LabError):  # the lab was closed meanwhile
                work()

        threading.Thread(target=run, name="paylab panel", daemon=True).start()

    def _do(self, action: Callable[..., Any], arguments: dict[str, Any]) -> None:
        try:
            said = action(self, **arguments)
        except (PaylabError, TypeError) as error:  # TypeError: the page is older than this code
            said = str(error)
        if isinstance(said, str):
            self.say(said)

    def say(self, notice: str) -> None:
        """Tell the reader something in a line; from any thread."""
        with self._writing:
            self.notice = notice

    # The picture --------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        # Two outputs: a picture inside the widget's own would be hidden by every reader.
        handle: Any = display(HTML(self._still_html()), display_id=f"paylab-{secrets.token_hex(5)}")  # type: ignore[no-untyped-call] # IPython has no types
        if handle is not None:
            self._handles.append(handle)
        data, metadata = cast("tuple[dict[str, Any], dict[str, Any]]", self._repr_mimebundle_())
        display(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call] # IPython has no types
        _shown.add(self)
        _refresh_after_every_cell()

    def _still_html(self) -> str:
        image = base64.b64encode(self.still().svg(f"paylab-{self.panel_id}").encode()).decode()
        return (
            f'<div data-paylab="{self.panel_id}"><img alt="{escape(self.summary())}" '
            f'style="width:100%;max-width:{STILL_WIDTH_PX}px" src="data:image/svg+xml;base64,{image}"></div>'
        )

    def refresh(self) -> None:
        """Draw the picture anew, for readers without a kernel; after a run, at the end of a cell."""
        self._stale = False
        if self._handles:
            still: Any = HTML(self._still_html())  # type: ignore[no-untyped-call] # IPython has no types
            for handle in self._handles:
                handle.update(still)  # type: ignore[no-untyped-call] # IPython has no types

    def refresh_if_stale(self) -> None:
        """Draw the picture anew if something happened since."""
        if self._stale:
            self.refresh()


class Panel(StillPanel):
    """A live widget of one lab."""

    # The lab is closed: what is shown stays, and nothing can be asked for.
    ended = traitlets.Bool(default_value=False).tag(sync=True)

    def __init__(self, lab: "Lab", **state: Any) -> None:
        """Begin with what has happened so far, and hear of everything to come."""
        super().__init__(badge=lab.badge, **state)
        self.lab = lab
        self._pending: list[Event] = []
        self._due_at = math.inf
        self._told_at = -math.inf
        self.every_s = BATCH_S
        lab.at_close(self.finish)
        lab.world.call(self._begin())

    async def _begin(self) -> None:
        self.begin()
        self.tell()
        self.lab.history.listen(self._heard)

    # For subclasses -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Take in what happened before; on the lab's loop."""

    def take(self, events: Sequence[Event]) -> None:
        """Take in what happened since the last batch; on the lab's loop."""

    def tell(self) -> None:
        """Write traits; on the lab's loop, after every batch. Writing what is there already sends nothing."""

    # Batches ------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        self._pending.append(event)
        if len(self._pending) == 1:
            self.wake(max(SOON_S, self._told_at + self.every_s - time.monotonic()))

    def wake(self, delay_s: float = SOON_S) -> None:
        """Have `tell` called within `delay_s`, though nothing was heard; from any thread."""
        due_at = time.monotonic() + delay_s
        if due_at < self._due_at and not self.ended:
            self._due_at = due_at
            with contextlib.suppress(LabError):  # the lab was closed meanwhile
                self.lab.world.later(delay_s, self._beat)

    def _beat(self) -> None:
        if time.monotonic() < self._due_at - EARLY_S or self.ended:
            return  # this one was overtaken by another
        self._catch_up()

    def _catch_up(self) -> None:
        events, self._pending = self._pending, []
        now = time.monotonic()
        busy = len(events) > BUSY_PER_S * (now - self._told_at)
        self.every_s = BUSY_S if busy else BATCH_S
        self._due_at, self._told_at = math.inf, now
        self.take(events)
        with self._writing, self.hold_sync():
            self.tell()
        self._stale = True

    def refresh_if_stale(self) -> None:
        """The same, with what happened up to now."""
        caught_up = threading.Event()

        def catch_up() -> None:
            self._catch_up()
            caught_up.set()

        if self._pending and not self.ended:
            with contextlib.suppress(LabError):  # the lab was closed meanwhile
                self.lab.world.later(0.0, catch_up)
                caught_up.wait(CATCH_UP_S)
        super().refresh_if_stale()

    def _asked(self, widget: Any, content: Any, buffers: Any) -> None:
        if not self.ended:
            super()._asked(widget, content, buffers)

    def _do(self, action: Callable[..., Any], arguments: dict[str, Any]) -> None:
        super()._do(action, arguments)
        self.wake(0.0)

    # The end ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Show how it ended; the lab calls this when it closes."""
        if self.ended:
            return
        self.lab.history.unlisten(self._heard)
        self.take(self._pending)
        self._pending = []
        with self._writing, self.hold_sync():
            self.tell()
            self.ended = True
        self.refresh()

    def close(self) -> None:
        """Take the widget away."""
        self.lab.history.unlisten(self._heard)
        self.ended = True
        super().close()


def _refresh_after_every_cell() -> None:
    shell: Any = get_ipython()
    if shell is not None and _refresh_all not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _refresh_all)


def _refresh_all(*_: Any) -> None:
    for panel in list(_shown):
        panel.refresh_if_stale()
