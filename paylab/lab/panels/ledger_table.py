"""LedgerTable: what is on every account, what is held, what was posted last, and whether it all adds up."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from paylab.core.money import Money
from paylab.lab.drawing import svg
from paylab.lab.panels.ledgers import AccountLine, Ledgers, Posting, read_ledgers, read_postings
from paylab.lab.panels.panel import Panel, script, sheet
from paylab.nodes.events import Event

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

# The ledgers are read at most so often.
READ_EVERY_S = 0.25
# A longer table nobody reads; a search finds the rest.
ROWS_MAX = 200
STILL_ROWS = 12
CHANGES = frozenset({"bank", "opened"})
ORDERS: Mapping[str, Callable[[AccountLine], Any]] = {
    "account": lambda line: line.account,
    "owner": lambda line: (line.owner, line.account),
    "posted": lambda line: line.posted.amount_minor,
    "held": lambda line: line.held.amount_minor,
    "available": lambda line: line.available.amount_minor,
}


class LedgerTable(Panel):
    """The accounts of a lab's banks, live: `lab.ledger_table()`.

    What the page sets and Python may: `search`, part of an account's or owner's name; `order`, a column, with
    "-" in front for the largest first; `account`, the one whose postings are shown, "" for the latest of all.
    What is read from the ledgers: `rows`, how many accounts are `matching`, `postings`, `sums`, `verdict`.
    """

    _esm = script("panel.js", "ledger_table.js")
    _css = sheet("panel.css", "ledger_table.css")

    search = traitlets.Unicode().tag(sync=True)
    order = traitlets.Unicode("account").tag(sync=True)
    account = traitlets.Unicode().tag(sync=True)

    rows: Any = traitlets.List().tag(sync=True)
    matching = traitlets.Int().tag(sync=True)
    total = traitlets.Int().tag(sync=True)
    postings: Any = traitlets.List().tag(sync=True)
    sums: Any = traitlets.List().tag(sync=True)
    verdict = traitlets.Dict().tag(sync=True)

    def __init__(self, lab: "Lab") -> None:
        """Show what is on the accounts now."""
        self.ledgers = Ledgers()
        self._postings: list[Posting] = []
        self._unread = False
        self._reading = False
        self._read_at = 0.0
        super().__init__(lab)

    @traitlets.validate("order")
    def _known(self, proposal: Any) -> str:
        order = str(proposal["value"])
        if order.removeprefix("-") not in ORDERS:
            raise traitlets.TraitError(
                f"order is one of {', '.join(ORDERS)}, or with - in front, not {order!r}"
            )
        return order

    @traitlets.observe("search", "order", "account")
    def _asked_for(self, change: Any) -> None:
        if hasattr(self, "lab"):
            self._unread = self._unread or change["name"] == "account"
            self.wake(0.0)

    # On the lab's loop --------------------------------------------------------------------------

    def begin(self) -> None:
        """Read the ledgers as they are."""
        self._read()

    def take(self, events: Sequence[Event]) -> None:
        """Note that a ledger has changed."""
        if any(event.facts is not None and event.facts.get("at") in CHANGES for event in events):
            self._unread = True

    def tell(self) -> None:
        """Write what was read last, and have it read again if it has changed since."""
        self._show()
        left_s = READ_EVERY_S - (time.monotonic() - self._read_at)
        if self._unread and not self._reading:
            if left_s > 0:
                self.wake(left_s)
                return
            self._unread, self._reading = False, True
            self.start_thread(self._read_and_show)

    def _read_and_show(self) -> None:
        """In a thread of its own: reading takes a while when there is much."""
        try:
            self._read()
        finally:
            self._reading = False
        self.wake(0.0)

    def _read(self) -> None:
        self._read_at = time.monotonic()
        world, banks = self.lab.world, self.lab.banks
        account = self.account if self.account.partition("/")[0] in banks else ""
        self.ledgers = read_ledgers(world, banks)
        self._postings = read_postings(world, banks, account=account)

    def finish(self) -> None:
        """Show how it ended."""
        if not self.ended:
            self._read()
        super().finish()

    def _show(self) -> None:
        ledgers, wanted = self.ledgers, self.search.strip().lower()
        found = [line for line in ledgers.accounts if wanted in f"{line.account} {line.owner}".lower()]
        found.sort(key=ORDERS[self.order.removeprefix("-")], reverse=self.order.startswith("-"))
        self.total, self.matching = len(ledgers.accounts), len(found)
        self.rows = [_row(line) for line in found[:ROWS_MAX]]
        self.postings = [
            [_clock(one.at_s), one.account, one.txn, _signed(one.money), one.money.amount_minor < 0]
            for one in self._postings
        ]
        self.sums = [
            [one.bank, *map(str, (one.customers, one.held, one.clearing, one.funding, one.total))]
            for one in ledgers.sums
        ]
        self.verdict = {
            "balanced": not any(one.total.amount_minor for one in ledgers.sums),
            "clearing": [str(money) for money in ledgers.clearing],
            "settled": not any(money.amount_minor for money in ledgers.clearing),
            "prepared": ledgers.prepared,
        }

    # The picture --------------------------------------------------------------------------------

    def summary(self) -> str:
        """How much is on how many accounts, and whether it adds up."""
        posted = ", ".join(f"{one.customers} at {one.bank}" for one in self.ledgers.sums) or "nothing"
        clearing = ", ".join(self.verdict.get("clearing", ())) or "nothing"
        return (
            f"{self.total:,} accounts with {posted}; {self.verdict.get('prepared', 0)} transactions hold "
            f"money; over all banks clearing sums to {clearing}."
        )

    def still(self) -> svg.Figure:
        """The first rows and the sums as a picture."""
        shown = self.rows[:STILL_ROWS]
        head = ["account", "posted", "held", "available"]
        lines = [head, *([row[0], *row[2:5]] for row in shown)]
        if len(self.rows) > STILL_ROWS:
            lines.append([f"… {self.matching:,} accounts", "", "", ""])
        lines += [["", "", "", ""], ["bank", "customers", "clearing", "sum"]]
        lines += [[row[0], row[1], row[3], row[5]] for row in self.sums]
        parts = [svg.badge(self.badge)]
        for number, line in enumerate(lines):
            y, head_line = 34 + 18 * number, line[0] in ("account", "bank")
            for text, x, anchor in zip(
                line, (14, 330, 450, 610), ("start", "end", "end", "end"), strict=True
            ):
                class_ = "head" if head_line else "cell"
                parts.append(svg.label(svg.fitted(text, 11, 190), x, y, class_=class_, text_anchor=anchor))
        style = (
            "{id} text.cell{{font-size:11px}} {id} text.head{{font-size:11px;font-weight:600;fill:{muted}}}"
        )
        height = 34.0 + 18 * len(lines)
        return svg.Figure("".join(parts), style=style, height=height, about=self.summary(), shown_px=860)

    actions: ClassVar[Mapping[str, Callable[..., Any]]] = {}


def _row(line: AccountLine) -> list[Any]:
    money = (line.posted, line.held, line.available)
    return [line.account, line.owner, *map(str, money), line.closed]


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")


def _signed(money: Money) -> str:
    return f"+{money}" if money.amount_minor > 0 else str(money).replace("-", "\N{MINUS SIGN}")
