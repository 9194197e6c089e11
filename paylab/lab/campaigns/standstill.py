"""One payment, broken at one forced write: who holds what while a node is down, and after it is back.

standstill("coordinator", 1, "unanswered", down_s=8.0)
"""

from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from paylab.core.money import Money
from paylab.errors import PaylabError
from paylab.lab import faults
from paylab.lab.checking.event_facts import facts_of
from paylab.lab.drawing import facts
from paylab.lab.faulty_world import CommitPoint
from paylab.lab.lab import Lab
from paylab.nodes.events import Event

if TYPE_CHECKING:  # only drawing needs it
    from paylab.lab.drawing.timeline import Timeline

NODES = ("gateway", "coordinator", "alpine-1", "boreal-1")
# A node that is not killed by then writes less often than was asked for.
STRUCK_WITHIN_S = 2.0
SETTLE_S = 60.0
LOOK_EVERY_S = 0.5
LEASE_S = 4.5
EVENTS_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Standstill:
    """What was seen of the payment: while the node was down, at the end, and in between."""

    during: dict[str, str]
    after: dict[str, str]
    # How long the bank that waited longest did not know what became of its promise; 0 if none promised.
    in_doubt_s: float
    state: str
    events: tuple[Event, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    badge: str

    @property
    def timeline(self) -> "Timeline":
        """The payment's space-time diagram."""
        from paylab.lab.drawing.timeline import timeline  # noqa: PLC0415 - only for drawing

        return timeline(self.events, nodes=self.nodes, badge=self.badge, limit=EVENTS_SHOWN)

    def __str__(self) -> str:
        """Who holds what, a line each."""
        return "\n".join(f"{who:<12}{text:<66}{self.after[who]}" for who, text in self.during.items())

    def _repr_html_(self) -> str:
        cell = "style='text-align:left;padding:2px 10px 2px 0'"
        head = f"<th {cell}></th><th {cell}>while it is down</th><th {cell}>in the end</th>"
        rows = "".join(
            f"<tr><td {cell}><b>{escape(who)}</b></td><td {cell}>{escape(text)}</td>"
            f"<td {cell}>{escape(self.after[who])}</td></tr>"
            for who, text in self.during.items()
        )
        doubt = f"<p>A bank was in doubt for {self.in_doubt_s:.1f} s.</p>" if self.in_doubt_s else ""
        return f"<table><tr>{head}</tr>{rows}</table>{doubt}{self.timeline._repr_html_()}"


def standstill(
    node: str, nth: int, point: CommitPoint | str = "unanswered", *, down_s: float = 4.0, seed: int = 7
) -> Standstill:
    """Alice pays Bob 12.50 euros, and `node` dies at its nth write and stays away for `down_s`, 2 or more.

    `point` says on which side of the write: "before" it, "unanswered" just after it, or "after" last words.
    Raises LabError for a node or a point that does not exist.
    """
    lab = Lab(
        world="simulated", seed=seed, bank_servers=1, auth_servers=1, lease_s=LEASE_S, name="standstill"
    )
    with lab:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        lab.inject([faults.at(0, faults.crash_at_commit(node, point, nth))])
        paying = alice.submit_pay(bob, "12.50 EUR", key="order", deadline_s=down_s + SETTLE_S)
        lab.advance(STRUCK_WITHIN_S)
        during = _holdings(lab)
        lab.advance(max(0.0, down_s - STRUCK_WITHIN_S))
        lab.heal()
        if not lab.is_up(node):
            lab.restart(node)
        for _ in range(int(SETTLE_S / LOOK_EVERY_S)):
            if paying.done() and lab.settle(timeout_s=0.0):
                break
            lab.advance(LOOK_EVERY_S)
        state = "UNKNOWN"
        with suppress(PaylabError):  # not knowing is what a client of a dead gateway gets
            state = str(paying.result(SETTLE_S).state)
        row = lab.world.rows("gateway", "SELECT payment FROM payments")
        events = facts.around_payment(lab.history, str(row[0][0])) if row else []
        doubt_s = _in_doubt_s(events)
        return Standstill(during, _holdings(lab), doubt_s, state, tuple(events), lab.nodes, lab.badge)


def _holdings(lab: Lab) -> dict[str, str]:
    """What each disk says."""
    rows = lab.world.rows
    payments = rows("gateway", "SELECT state, attempt FROM payments")
    decisions = rows("coordinator", "SELECT attempt FROM commits")
    found = {
        "gateway": "; ".join(f"attempt {attempt} {state}" for state, attempt in payments) or "nothing",
        "coordinator": "; ".join(f"attempt {row[0]}: COMMIT" for row in decisions) or "nothing",
    }
    for bank in lab.banks:
        states = rows(f"bank-{bank}", "SELECT txn, state FROM transactions ORDER BY txn")
        accounts = rows(
            f"bank-{bank}", "SELECT account, posted_minor, held_minor FROM accounts ORDER BY account"
        )
        promised = [f"attempt {str(txn).rpartition('/')[2]} {state}" for txn, state in states]
        books = [_balance(name, posted, held) for name, posted, held in accounts if not name.startswith("@")]
        found[bank] = "; ".join([*promised, *books])
    down = [node.partition("-")[0] for node in lab.nodes if not lab.is_up(node)]
    return {name: f"(down) {text}" if name in down else text for name, text in found.items()}


def _balance(name: str, posted_minor: int, held_minor: int) -> str:
    held = f", {Money(held_minor, 'EUR')} of it held" if held_minor else ""
    return f"{name} has {Money(posted_minor, 'EUR')}{held}"


def _in_doubt_s(events: list[Event]) -> float:
    """The longest time between a bank's promise and what became of it."""
    promised: dict[tuple[str, str], float] = {}
    longest = 0.0
    for event in events:
        told = facts_of(event)
        if told is None or told["at"] != "bank":
            continue
        key = (str(told["bank"]), str(told["txn"]))
        if told["state"] == "PREPARED":
            promised.setdefault(key, event.at_s)
        elif key in promised:
            longest = max(longest, event.at_s - promised[key])
    return longest
