"""One simulated run of a campaign, from boot to verdict.

    run_seed(42, payments=50, faults="heavy")

A network is booted and payments are sent while a schedule of faults is carried out; then everything is healed
and restarted, virtual time passes until nothing moves any more, and every invariant is checked. All of it
follows from the seed, or from the orders, schedule and choices that are given instead.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paylab.core.money import Money
from paylab.errors import LabError, PaylabError
from paylab.lab import faults as fault_rules
from paylab.lab.campaigns import campaign_checks, nemesis, orders
from paylab.lab.campaigns.campaign_checks import Told
from paylab.lab.campaigns.orders import Order, user_of
from paylab.lab.checking import checks
from paylab.lab.checking.history_file import HistoryWriter
from paylab.lab.faults import Timed
from paylab.lab.judging import missteps
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import Choices
from paylab.nodes.client import PaymentClient
from paylab.nodes.events import Event
from paylab.nodes.node import LEASE_S

BANKS = ("alpine", "boreal")
BANK_SERVERS = 2
# Long enough for the queue's backoff, of 30 s at most, and two tries.
QUIET_MAX_S = 75.0
QUIET_LOOK_S = 0.5
CARE_MAX_S = 60.0
RUN_WALL_MAX_S = 3600.0
# Nobody looks back in a run: a long memory would only be the garbage collector's business.
TAIL_EVENTS = 1_000
_RUNS = itertools.count(1)

Recorded = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What a run did, and all that is needed to do it again."""

    seed: int
    payments: int
    committed: int
    declined: int
    queued: int
    in_doubt: int
    violations: tuple[str, ...]
    events: int
    virtual_s: float
    wall_s: float
    # SHA-256 of the history as JSON lines; empty when nobody asked for it.
    trace_sha256: str = ""
    schedule: tuple[Timed, ...] = field(default=(), repr=False)
    orders: tuple[Order, ...] = field(default=(), repr=False)
    choices: Recorded = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the checks that failed, each once."""
        return tuple(dict.fromkeys(line.partition(":")[0] for line in self.violations))

    def without_recipe(self) -> "SeedResult":
        """The figures alone, without what repeats the run."""
        return replace(self, schedule=(), orders=(), choices={})

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        left_out = ("schedule", "orders", "choices")
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}


def run_seed(
    seed: int,
    *,
    payments: int = 50,
    faults: str = "heavy",
    replace: Mapping[str, Any] | None = None,
    schedule: Sequence[Timed] | None = None,
    choices: Choices | Recorded | None = None,
    orders: Sequence[Order] | None = None,
    history: str | Path | None = None,
    trace: bool = False,
    watch: Callable[[Event], None] | None = None,
    lease_s: float = LEASE_S,
) -> SeedResult:
    """Run one seed; `schedule` and `orders` stand in for those that would be drawn from it.

    `choices` replays what chance decided; `history` is a file for every event, `watch` is called with each.
    Servers renew their leases of `lease_s`: long ones make long runs cheap.
    Raises LabError for a bad argument.
    """
    asked = tuple(orders) if orders is not None else tuple(draw_orders(seed, payments))
    planned = tuple(schedule) if schedule is not None else tuple(draw_schedule(seed, payments, faults))
    if not isinstance(choices, Choices):
        choices = Choices(seed, choices)
    began_s = time.perf_counter()
    run = _Run(seed, asked, planned, choices, replacements=replace, watch=watch, lease_s=lease_s)
    if trace or history is not None:
        run.write_to(history)
    result = run.result()
    return _with(result, wall_s=round(time.perf_counter() - began_s, 3))


def draw_orders(seed: int, payments: int) -> list[Order]:
    """The orders of a seed. Raises LabError unless there is at least one payment."""
    if payments < 1:
        raise LabError("BAD_ARGUMENT", f"a run needs a payment at least, not {payments}")
    return orders.draw(seed, payments=payments)


def draw_schedule(seed: int, payments: int, faults: str) -> list[Timed]:
    """The faults of a seed."""
    users = sorted({user_of(account) for account in orders.OPENING_MINOR})
    return nemesis.schedule(
        seed,
        intensity=faults,
        banks=BANKS,
        bank_servers=BANK_SERVERS,
        clients=users,
        span_s=orders.span_s(payments),
    )


def _with(result: SeedResult, **changes: Any) -> SeedResult:
    return replace(result, **changes)


class _Run:
    """One run, from boot to verdict."""

    def __init__(
        self,
        seed: int,
        asked: Sequence[Order],
        planned: Sequence[Timed],
        choices: Choices,
        *,
        replacements: Mapping[str, Any] | None,
        watch: Callable[[Event], None] | None,
        lease_s: float,
    ) -> None:
        self._seed = seed
        self._asked = asked
        self._planned = planned
        self._choices = choices
        self._lab = Lab(
            world="simulated",
            seed=seed,
            choices=choices,
            banks=BANKS,
            bank_servers=BANK_SERVERS,
            auth_servers=1,
            lease_s=lease_s,
            replace=replacements,
            name=f"campaign-{next(_RUNS)}",
        )
        self._steps = missteps.Watch()
        self._lab.history.listen(self._steps.see)
        if watch is not None:
            for event in self._lab.history:
                watch(event)
            self._lab.history.listen(watch)
        self._writer: HistoryWriter | None = None
        self._clients: dict[str, PaymentClient] = {}

    def write_to(self, path: str | Path | None) -> None:
        """Write the history to a file, or only take its digest."""
        self._writer = self._lab.history.stream_to(path)

    def result(self) -> SeedResult:
        """Run, check, close."""
        lab, world = self._lab, self._lab.world
        lab.history.keep(TAIL_EVENTS)
        began_s = world.now()
        violations: list[str] = []
        told: list[Told] = []
        try:
            told = world.call(self._work(), timeout_s=RUN_WALL_MAX_S)
            violations += lab.check().violations
            balances = {account: money.amount_minor for account, money in lab.balances().items()}
            violations += [
                f"every step is allowed: {step.text}" for step in self._steps.found if step.harmless
            ]
            violations += campaign_checks.quiet_violations(world, BANKS)
            violations += campaign_checks.told_violations(told, balances)
            left = campaign_checks.waiting(world, BANKS)
        finally:
            virtual_s, events = world.now() - began_s, len(lab.history)
            known = set(violations)
            violations += [line for line in _closing(lab) if line not in known]
        last = {one.order.key: one.state for one in told if one.replayed and one.receipt is not None}
        states = Counter(last.values())
        return SeedResult(
            seed=self._seed,
            payments=len(orders.keys_of(self._asked)),
            committed=states["COMMITTED"],
            declined=states["DECLINED"],
            queued=left["payments queued"],
            in_doubt=sum(count for name, count in left.items() if name.startswith("in doubt")),
            violations=tuple(violations),
            events=events,
            virtual_s=round(virtual_s, 6),
            wall_s=0.0,
            trace_sha256=self._writer.close() if self._writer is not None else "",
            schedule=tuple(self._planned),
            orders=tuple(self._asked),
            choices=self._choices.as_dict(),
        )

    async def _work(self) -> list[Told]:
        """Everything that takes virtual time."""
        await self._open()
        asking = [asyncio.ensure_future(self._ask(order)) for order in self._asked]
        await fault_rules.inject(self._lab.network, self._planned)
        await self._repair()
        caretaker = asyncio.ensure_future(self._take_care())
        told = list(await asyncio.gather(*asking))
        rested = await self._come_to_rest()
        once = {(order.key, order.request): order for order in self._asked}
        again = [replace(order, at_s=0.0, patience_s=orders.PATIENCE_S) for order in once.values()]
        told += await asyncio.gather(*(self._ask(order, replayed=True) for order in again))
        if rested and await self._come_to_rest():
            self._lab.network.say_quiet()
        caretaker.cancel()
        return told

    async def _open(self) -> None:
        network = self._lab.network
        for bank in BANKS:
            mine = [account for account in orders.OPENING_MINOR if account.startswith(f"{bank}/")]
            opening = [
                (user_of(a), Money(orders.OPENING_MINOR[a], orders.CURRENCY), user_of(a)) for a in mine
            ]
            await network.open_accounts(bank, opening)
        for account in orders.OPENING_MINOR:
            user = user_of(account)
            await network.register(user, f"password of {user}", accounts=[account])
            self._clients[account] = PaymentClient(
                network.client_host(user), username=user, password=f"password of {user}"
            )

    async def _ask(self, order: Order, *, replayed: bool = False) -> Told:
        await asyncio.sleep(order.at_s)
        try:
            receipt = await self._clients[order.payer].pay(
                payer=order.payer,
                payee=order.payee,
                money=order.money,
                key=order.key,
                deadline_s=order.patience_s,
            )
        except PaylabError as error:
            return Told(order, error=error, replayed=replayed)
        return Told(order, receipt, replayed=replayed)

    async def _repair(self) -> None:
        """End every fault of the network and of running nodes."""
        network = self._lab.network
        network.break_world("heal")
        for name in network.nodes:
            network.break_world("resume", name)
            network.break_world("slow", name, 1.0)
            network.break_world("skew", name, 0.0)

    async def _take_care(self) -> None:
        """Start what is down, also what dies of a fault that was armed before the repair."""
        network, pause_s = self._lab.network, QUIET_LOOK_S
        while True:
            for name in network.nodes:
                await fault_rules.apply(network, fault_rules.restart(name))
            await asyncio.sleep(pause_s)
            pause_s = min(CARE_MAX_S, pause_s * 1.2)  # the longer nothing has died, the less will

    async def _come_to_rest(self) -> bool:
        """Wait until nothing is in doubt, open, unsent or queued; whether that came true in time."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + QUIET_MAX_S
        while loop.time() < until_s:
            await asyncio.sleep(QUIET_LOOK_S)
            if not any(campaign_checks.waiting(self._lab.world, BANKS).values()):
                return True
        return False


def _closing(lab: Lab) -> list[str]:
    """Close a lab; what failed in its background is a violation, too."""
    try:
        lab.close()
    except LabError as error:
        if error.reason != "BROKEN":
            raise
        invariants = tuple(f"{name}:" for name in checks.CHECKS)
        lines = [line for line in error.message.split("; ") if not line.startswith(invariants)]
        return [f"nothing fails in the background: {line}" for line in lines]
    return []
