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
# Where a payment may go on to, the usual more than once.
NEXT = {
    "PREPARING": ["COMMITTED", "COMMITTED", "DECLINED", "QUEUED", "QUEUED"],
    "QUEUED": ["PREPARING", "PREPARING", "CANCELLED", "DEAD_LETTER"],
}
ORDERS, ASKED_MAX = 8, 120


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
class _Desk:
    """The gateway: what is saved under each key."""

    claim: Claim
    rng: random.Random
    rows: dict[str, Saved] = field(default_factory=dict)

    def ask(self, key: str, fingerprint: str) -> str:
        """One request; returns what is wrong with what became of it."""
        row = self.rows.get(key)
        said = self.claim(row, fingerprint)
        if said not in STATES:
            return f"{said!r} is none of {', '.join(STATES)}"
        if row is None:
            self.rows[key] = Saved(fingerprint, "PREPARING")
            return "" if said == "BEGIN" else f"{said} about key {key!r}, under which nothing is saved"
        same = row.fingerprint == fingerprint
        if said == "REFUSE":
            return f"{fingerprint} came again under its key {key!r} and was refused" if same else ""
        if not same:
            return f"{fingerprint} was taken in under key {key!r}, which belongs to {row.fingerprint}"
        if said == "BEGIN":
            return f"a second payment was begun under key {key!r}, whose first one is {row.state}"
        return _answer(row, said)

    def work(self) -> None:
        """A payment that is not at its end goes a step on."""
        going = [key for key, row in self.rows.items() if row.state not in ENDS]
        if not going:
            return
        key = self.rng.choice(going)
        row = self.rows[key]
        steps = NEXT[row.state]
        self.rows[key] = Saved(row.fingerprint, self.rng.choice(steps))


def _answer(row: Saved, said: str) -> str:
    ended = row.state in ENDS
    if ended and said == "JOIN":
        return f"{row.fingerprint} joined a payment that is {row.state}: nobody works on it any more"
    if not ended and said == "REPLAY":
        return f"{row.fingerprint} was told an end, and its payment is {row.state}"
    return ""


def key_drill(claim: Claim, seed: int) -> str:
    """Let orders come again and again, while their payments go on; returns what went wrong, or nothing."""
    rng = seeded(seed, "desk")
    desk = _Desk(claim, rng)
    orders = {f"key-{n}": f"order-{n}" for n in range(ORDERS)}
    for _ in range(ASKED_MAX):
        key = rng.choice(list(orders))
        # One in eight takes a used key by mistake, which only the fingerprint shows.
        used = key in desk.rows and rng.random() < 1 / 8
        if wrong := desk.ask(key, f"other than {orders[key]}" if used else orders[key]):
            return wrong
        if rng.random() < 1 / 2:
            desk.work()
    return ""
