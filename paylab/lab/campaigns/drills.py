"""A drill: a few payments through a small simulated network while faults happen; then repair and checks.

Exercises are judged by drills, as a drill takes a tenth of a second and the same seed gives the same drill.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paylab.errors import LabError, PaylabError
from paylab.lab import faults
from paylab.lab.campaigns import campaign_checks, nemesis
from paylab.lab.clients import LabClient
from paylab.lab.drawing import facts
from paylab.lab.lab import Lab
from paylab.nodes.client import Receipt
from paylab.nodes.events import Event

if TYPE_CHECKING:  # only drawing needs it
    from paylab.lab.drawing.timeline import Timeline

PAYMENTS = 3
PAYMENTS_EVERY_S = 1.0
# Long enough for a bank to wonder what became of a promise, and to ask.
LINGER_S = 7.0
# A schedule may not make a drill endless.
DRILL_MAX_S = 60.0
SETTLE_S = 20.0
# Looking is not free, and leases are renewed all the time.
LOOK_EVERY_S = 1.0
LEASE_S = 4.5
# What a page shows of one payment.
EVENTS_SHOWN = 90


@dataclass(frozen=True, slots=True)
class Drill:
    """What a drill found: broken checks, and the payment to look at as a picture and as a story."""

    seed: int
    violations: tuple[str, ...]
    payment: str
    events: tuple[Event, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    badge: str

    @property
    def ok(self) -> bool:
        """Whether every check held and everything settled."""
        return not self.violations

    @property
    def timeline(self) -> "Timeline":
        """The payment's space-time diagram."""
        from paylab.lab.drawing.timeline import timeline  # noqa: PLC0415 - only for drawing

        return timeline(self.events, nodes=self.nodes, badge=self.badge, limit=EVENTS_SHOWN)

    @property
    def story(self) -> str:
        """The payment's journey in plain English."""
        from paylab.lab.drawing.stories import tell  # noqa: PLC0415 - only for telling

        return str(tell(self.payment, self.events))


def drill(
    seed: int,
    *,
    schedule: faults.Schedule = (),
    replace: Mapping[str, Any] | None = None,
    payments: int = PAYMENTS,
    name: str = "drill",
) -> Drill:
    """Alice pays Bob 10 euros once a second while the schedule runs; then everything is repaired.

    Raises LabError for a schedule that names no node or no fault.
    """
    lab = Lab(
        world="simulated",
        seed=seed,
        bank_servers=1,
        auth_servers=1,
        lease_s=LEASE_S,
        replace=replace,
        name=name,
    )
    try:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal", balance="100.00 EUR")
        _break(lab, alice, bob, schedule, payments)
        calm = settled(lab)
        violations = lab.check().violations
        if calm:
            quiet = campaign_checks.quiet_violations(lab.world, lab.banks)
            violations += [line for line in quiet if line.startswith("every end is logged once")]
        else:
            violations.append(f"it ends: {_open(lab)} still, {SETTLE_S:g} s after everything was repaired")
        payment = _telling(lab, violations)
        events = tuple(facts.around_payment(lab.history, payment))
        return Drill(seed, tuple(violations), payment, events, lab.nodes, lab.badge)
    finally:
        with suppress(LabError):  # what is broken has been told
            lab.close()


def _break(lab: Lab, alice: LabClient, bob: LabClient, schedule: faults.Schedule, payments: int) -> None:
    running = lab.inject(schedule)
    last_s = max([timed.at_s for timed in schedule], default=0.0)
    futures: list[Future[Receipt]] = []
    for number in range(payments):
        futures.append(alice.submit_pay(bob, "10.00 EUR", key=f"order-{number + 1}", deadline_s=DRILL_MAX_S))
        lab.advance(PAYMENTS_EVERY_S)
    lab.advance(min(DRILL_MAX_S, max(last_s - payments * PAYMENTS_EVERY_S, 0.0) + LINGER_S))
    if running.done():
        running.result()
    running.cancel()
    repair(lab)
    for future in futures:
        with suppress(PaylabError):  # not knowing is an answer that clients of a broken network get
            future.result(DRILL_MAX_S)


def random_faults(seed: int) -> list[faults.Timed]:
    """A schedule for a drill, drawn from a seed: four things that go wrong, and the end of each."""
    span_s = PAYMENTS * PAYMENTS_EVERY_S
    return nemesis.schedule(seed, bank_servers=1, clients=("alice", "bob"), span_s=span_s)


def repair(lab: Lab) -> None:
    """End every fault: the network heals, paused nodes go on, and those that are down start again."""
    for node in lab.nodes:
        lab.resume(node)
    mend = [faults.heal(), *(faults.restart(node) for node in lab.nodes)]
    lab.inject([faults.at(0.0, fault) for fault in mend]).result(SETTLE_S)


def settled(lab: Lab) -> bool:
    """Wait until everything has come to rest, and repair what still breaks meanwhile; whether it did."""
    for _ in range(int(SETTLE_S / LOOK_EVERY_S)):
        if lab.settle(timeout_s=0.0):
            return True
        lab.advance(LOOK_EVERY_S)
        if not all(map(lab.is_up, lab.nodes)):
            repair(lab)  # a crash that was to come with a commit has come only now
    return lab.settle(timeout_s=0.0)


def _open(lab: Lab) -> str:
    left = campaign_checks.waiting(lab.world, lab.banks)
    return ", ".join(f"{count} {name}" for name, count in left.items() if count)


def _telling(lab: Lab, violations: list[str]) -> str:
    """The payment that a violation names, else the first one."""
    rows = lab.world.rows("gateway", "SELECT payment FROM payments ORDER BY accepted_at_s, payment")
    known = [str(row[0]) for row in rows]
    named = [payment for line in violations for payment in known if payment in line]
    return next(iter([*named, *known]), "")
