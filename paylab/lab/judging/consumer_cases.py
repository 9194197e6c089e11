"""The cases of 07/outbox-consumer: batches that come again, and a consumer that crashes around its saving."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paylab.lab.judging.exercises import Finding, Solution
from paylab.lab.simulation.choices import seeded


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as it comes out of an outbox."""

    event_id: str
    state: str
    amount_minor: int

    def __repr__(self) -> str:
        """Short, for reports."""
        return f"Sent({self.event_id!r}, {self.state!r}, {self.amount_minor})"


EMPTY = {"total_minor": 0}
BATCH_MAX, ROWS = 4, 12
A, B, C = (Sent(f"{name}/1/COMMITTED", "COMMITTED", 500) for name in ("p1", "p2", "p3"))
NO, LATER = Sent("p4/1/DECLINED", "DECLINED", 900), Sent("p5/1/QUEUED", "QUEUED", 700)
DONE = Sent("p5/2/COMMITTED", "COMMITTED", 700)
# Batches as they come in, and the total that must be known after the last of them.
BATCHES: tuple[tuple[list[list[Sent]], int], ...] = (
    ([[A]], 500),
    ([[A, B]], 1000),
    ([[NO, LATER]], 0),
    ([[LATER], [DONE]], 700),
    ([[A], [A]], 500),
    ([[A, A]], 500),
    ([[A, B], [A, B, C]], 1500),
    ([[]], 0),
)


def _state_flaw(state: Any) -> str:
    """Why something cannot be saved as a state; empty when it can."""
    if not isinstance(state, dict) or not isinstance(state.get("total_minor"), int):
        return 'a state is a dictionary with a whole number "total_minor"'
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        return f"the state is saved as JSON, and that fails: {error}"
    return ""


def _told_batches(batches: Sequence[Sequence[Sent]]) -> str:
    return ", then ".join("[" + ", ".join(map(repr, batch)) + "]" for batch in batches)


def counted(mine: Solution, case: int) -> Finding:
    """A few batches, the state saved after each."""
    batches, expected = BATCHES[case]
    state: Any = dict(EMPTY)
    for batch in batches:
        state = mine(json.loads(json.dumps(state)), list(batch))
        if wrong := _state_flaw(state):
            return Finding(_told_batches(batches), repr(state), wrong)
    right = state["total_minor"] == expected
    so = (
        "each commit counts once" if right else f"the total is {state['total_minor']}, where it is {expected}"
    )
    return Finding(_told_batches(batches), repr(state), so, passed=right)


def _rows(rng: random.Random, gateway: str) -> list[Sent]:
    rows = []
    for n in range(ROWS):
        name, amount = f"{gateway}{n}", rng.choice([500, 500, 700])
        state = rng.choice(["COMMITTED", "COMMITTED", "DECLINED", "QUEUED"])
        rows.append(Sent(f"{name}/1/{state}", state, amount))
        if state == "QUEUED":
            rows.append(Sent(f"{name}/2/COMMITTED", "COMMITTED", amount))
    return rows


def crashes(mine: Solution, seed: int) -> Finding:
    """Two outboxes send until they are acknowledged; the consumer dies before it has saved, or just after."""
    rng = seeded(seed, "consumer")
    outboxes = [_rows(rng, "a"), _rows(rng, "b")]
    expected = sum(row.amount_minor for rows in outboxes for row in rows if row.state == "COMMITTED")
    saved = json.dumps(EMPTY)
    story = []
    while any(outboxes):
        rows = rng.choice([outbox for outbox in outboxes if outbox])
        batch = rows[: rng.randint(1, BATCH_MAX)]
        state = mine(json.loads(saved), list(batch))
        if wrong := _state_flaw(state):
            return Finding(_told_batches([batch]), repr(state), wrong)
        fate = rng.choice(["dies before it has saved", "dies before it has acknowledged", "", ""])
        if fate != "dies before it has saved":
            saved = json.dumps(state)
        if not fate:
            del rows[: len(batch)]
        story.append(f"{len(batch)} events" + (f", then it {fate}" if fate else ""))
    total = json.loads(saved)["total_minor"]
    right = total == expected
    so = "each commit counts once" if right else f"the total is {total}, where it is {expected}"
    case = f"two outboxes and a consumer that crashes, seed {seed}: {'; '.join(story[:4])}; and so on"
    return Finding(case, f"a total of {total}", so, passed=right)
