"""Space-time diagrams: what was said between nodes, written and decided, from top to bottom."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from paylab.lab import svg
from paylab.lab import timeline_layout as lay
from paylab.lab.history import detail_text
from paylab.lab.timeline_layout import Arrow, Call, Mark
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING
from paylab.pb import bank_pb2, coordinator_pb2, payment_gateway_pb2

# More events than this are cut off unless a caller asks for them.
LIMIT = 250
TITLE_MAX = 400
DOWN_KINDS = frozenset({Kind.CRASHED, Kind.RESTARTED})
# From left to right: as a payment travels. Clients come first, banks last.
_COLUMN_ORDER = ("auth", "gateway", "queue", "logger", "coordinator", "bank-lb")
_STATE_STYLES = {"COMMITTED": "good", "PREPARED": "", "PREPARING": ""}
STYLE = """
{id} .life{{stroke:{faint};stroke-width:1}} {id} .header rect{{fill:{paper};stroke:{faint}}}
{id} .header text{{font-size:10.5px;font-weight:600;stroke:none}}
{id} .band rect{{fill:{shade};stroke:{faint};stroke-dasharray:3 2}}
{id} .arrow path{{fill:none;stroke:{blue};stroke-width:1.4}} {id} .arrow.reply path{{stroke:{muted};stroke-dasharray:4 2.5}}
{id} .arrow.error path{{stroke:{vermilion};stroke-dasharray:2 2}} {id} .arrow path.hit{{stroke:transparent;stroke-width:8;stroke-dasharray:none}}
{id} .arrow:hover path{{stroke-width:2.4}} {id} .arrow path.cross{{stroke:{vermilion};stroke-width:2.2;stroke-dasharray:none}}
{id} .head-request{{fill:{blue}}} {id} .head-reply{{fill:{muted}}} {id} .head-error{{fill:{vermilion}}}
{id} .forced{{fill:{ink};stroke:{paper};stroke-width:1.5}} {id} .decision{{fill:{vermilion};stroke:{paper};stroke-width:1.5}}
{id} .state{{fill:{paper};stroke:{ink};stroke-width:1.5}} {id} .restarted{{fill:{green};stroke:{paper};stroke-width:1.5}}
{id} .verdict{{stroke:{vermilion};stroke-width:1;stroke-dasharray:1 3;stroke-linecap:round}}
{id} text.quiet{{fill:{muted}}} {id} text.good{{fill:{green};font-weight:600}} {id} text.bad{{fill:{vermilion};font-weight:600}}
{id} text.strong{{font-weight:600}} {id} .gap{{fill:{paper};stroke:{faint}}}
"""


class Timeline:
    """A space-time diagram that shows itself in a notebook."""

    def __init__(self, layout: lay.Layout, *, badge: str, shown: int, total: int) -> None:
        """Draw `shown` of `total` events."""
        self.layout = layout
        self.badge = badge
        self.shown = shown
        self.total = total

    def __repr__(self) -> str:
        """Say how large it is."""
        return f"<Timeline of {self.shown} events at {len(self.layout.columns)} nodes, {self.badge}>"

    def save(self, path: str | Path) -> None:
        """Write the drawing to an .svg file."""
        self._figure().save(path)

    def _repr_html_(self) -> str:
        return self._figure().html()

    def _figure(self) -> svg.Figure:
        return draw(self.layout, badge=self.badge, shown=self.shown, total=self.total)


def timeline(events: Iterable[Event], *, nodes: Sequence[str], badge: str, limit: int = LIMIT) -> Timeline:
    """The diagram of `events` at `nodes` and their clients; those that keep the network alive are left out.

    Crashes and restarts among the events make the grey bands. Only the first `limit` events are drawn.
    """
    ordered = sorted(events, key=lambda event: (event.at_s, event.lamport))
    told = [event for event in ordered if event.kind not in DOWN_KINDS and event.method not in HOUSEKEEPING]
    shown = told[:limit]
    ...
