"""A gateway's desk in small: orders that come again and again, other orders under used keys, and a queue.

What it does with a request is what a claim rule says; a seed decides what comes and when.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from paylab.lab.simulation.choices import seeded

# What a claim rule may say, and what the desk does then.
STATES = {
    "BEGIN": "a payment is begun under this key",
    "JOIN": "the payment of this key is not at its end: its present state is the answer",
    "REPLAY": "the payment of this key is at its end: that is the answer",
    "REFUSE": "the key belongs to another request",
}
ENDS = ("COMMITTED", "DECLINED", "CANCELLED", "DEAD_LETTER")
ORDERS, STEPS, ASKED_MAX = 5, 120, 40


@dataclass(frozen=True, slots=True)
class Saved:
    """What a gateway keeps of a key: the fingerprint of its request, and where the payment stands."""

    fingerprint: str
    state: str

    def __repr__(self) -> str:
        """Short, for reports."""
        return f"Saved({self.fingerprint!r}, {self.state!r})"


Claim = Callable[[Saved | None, str], str]


@dataclass(slots=True)
class _Payment:
    fingerprint: str
    state: str = "PREPARING"


@dataclass(slots=True)
class _Desk:
    """The gateway: payments by key, the payments that are worked on, and what was charged."""

    claim: Claim
    rng: random.Random
    rows: dict[str, _Payment] = field(default_factory=dict)
    # A payment whose row was taken by another one is worked on all the same.
    open: list[_Payment] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)
    told: dict[tuple[str, str], str] = field(default_factory=dict)

    def ask(self, key: str, fingerprint: str) -> str:
        """One request; returns what is wrong with what became of it."""
        row = self.rows.get(key)
        saved = None if row is None else Saved(row.fingerprint, row.state)
        said = self.claim(saved, fingerprint)
        if said not in STATES:
            return f"{said!r} is none of {', '.join(STATES)}"
        if said == "BEGIN":
            begun = self.rows[key] = _Payment(fingerprint)
            self.open.append(begun)
            return ""
        if row is None:
            return f"{said} about key {key!r}, under which nothing is saved"
        same = row.fingerprint == fingerprint
        if said == "REFUSE":
            return f"{fingerprint} came again under its key {key!r} and was refused" if same else ""
        if not same:
            return f"{fingerprint} under key {key!r} was answered with what became of {row.fingerprint}"
        return self._replay(key, row) if said == "REPLAY" else ""

    def _replay(self, key: str, row: _Payment) -> str:
        if row.state not in ENDS:
            return f"REPLAY of key {key!r}, whose payment is {row.state}: there is no end to tell"
        before = self.told.setdefault((key, row.fingerprint), row.state)
        if before != row.state:
            return f"key {key!r} was told {before} first and {row.state} when it asked again"
        return ""

    def work(self) -> str:
        """A payment goes a step on; returns what is wrong then."""
        if not self.open:
            return ""
        row = self.rng.choice(self.open)
        if row.state == "PREPARING":
            row.state = self.rng.choice(["COMMITTED", "COMMITTED", "DECLINED", "QUEUED"])
        elif row.state == "QUEUED":
            row.state = self.rng.choice(["PREPARING", "PREPARING", "CANCELLED", "DEAD_LETTER"])
        if row.state not in ENDS:
            return ""
        self.open.remove(row)
        if row.state == "COMMITTED":
            self.charged[row.fingerprint] = self.charged.get(row.fingerprint, 0) + 1
        return f"{row.fingerprint} was charged twice" if self.charged.get(row.fingerprint, 0) > 1 else ""


def key_drill(claim: Claim, seed: int) -> str:
    """Let orders come until each has its end, then ask once more; returns what went wrong, or nothing."""
    rng = seeded(seed, "desk")
    desk = _Desk(claim, rng)
    orders = {f"key-{n}": f"order-{n}" for n in range(ORDERS)}
    for _ in range(STEPS):
        key = rng.choice(list(orders))
        # One in eight reuses a key by mistake, which the desk can only know from the fingerprint.
        used = key in desk.rows and rng.random() < 1 / 8
        wrong = desk.ask(key, f"other than {orders[key]}" if used else orders[key])
        if not wrong and rng.random() < 1 / 4:
            wrong = desk.work()
        if wrong:
            return wrong
    return _at_the_end(desk, orders)


def _at_the_end(desk: _Desk, orders: dict[str, str]) -> str:
    while desk.open:
        if wrong := desk.work():
            return wrong
    for key, order in orders.items():
        for _ in range(2):
            if wrong := desk.ask(key, order):
                return wrong
        if desk.open:
            return f"key {key!r} had come to its end, and {order} was begun again"
        if key in desk.rows and (key, order) not in desk.told:
            return f"key {key!r} was never told that its payment is {desk.rows[key].state}"
    return ""
