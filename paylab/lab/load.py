"""Open-loop load on a running lab: payments leave when they are due, and a notebook watches meanwhile.

    load = lab.load(rate=100, duration="20 s")     # returns at once
    lab.crash("alpine-1")
    load.now()                                     # sent, ended, latencies, what waits, what failed
    result = load.result()                         # waits for the end: `to_frame()`, `figure()`

A payment's latency counts from the moment at which it was due. At most `concurrency` payments are under way;
what is due beyond that waits here and is counted as waiting.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paylab.core.money import Money
from paylab.errors import LabError, PaylabError
from paylab.lab.load_mix import Mix
from paylab.lab.load_result import LoadFigures, LoadResult, Paid, figures
from paylab.lab.network import Network
from paylab.lab.open_loop import arrivals
from paylab.lab.simulation.choices import seeded
from paylab.lab.workload import CONCURRENCY_MAX
from paylab.nodes.client import PaymentClient, Receipt
from paylab.nodes.load_balancer import LoadBalancer

if TYPE_CHECKING:  # the lab makes its loads, so at run time the import goes the other way
    from paylab.lab.lab import Lab

# More is more than one Python process can send.
RATE_MAX = 2_000.0
ARRIVALS = ("poisson", "steady")
# How often a load looks which servers are in and out, and how many looks it takes until it notes its figures,
# which tell of the last `WINDOW_S`.
LOOK_S = 0.05
LOOKS_PER_TICK = 5
WINDOW_S = 2.0
# How long a load waits in the end for what is queued or not known, and how often it asks.
SETTLE_S = 30.0
ASK_AGAIN_S = 0.25
ASK_DEADLINE_S = 10.0
UNSETTLED = frozenset({"QUEUED", "PREPARING", "CREATED", "UNKNOWN"})


class Load:
    """Payments under way on the lab's loop; `lab.load()` starts it. Any thread may call its methods."""

    def __init__(
        self,
        lab: "Lab",
        *,
        rate: float,
        duration_s: float,
        mix: Mix,
        concurrency: int,
        deadline_s: float,
        arrivals: str,
        seed: int,
    ) -> None:
        """Start. Raises LabError for an argument that makes no sense."""
        self._rate = _rate(rate)
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise LabError("BAD_ARGUMENT", f"concurrency is 1 to {CONCURRENCY_MAX}, not {concurrency!r}")
        if arrivals not in ARRIVALS:
            raise LabError("BAD_ARGUMENT", f"arrivals are {' or '.join(ARRIVALS)}, not {arrivals!r}")
        self.mix = mix
        self.duration_s = duration_s
        # What was measured so far: figures every quarter of a second, and moments with what happened then.
        self.ticks: list[LoadFigures] = []
        self.marks: list[tuple[float, str]] = []
        self._lab = lab
        self._deadline_s = deadline_s
        self._poisson = arrivals == "poisson"
        self._rng = seeded(seed, "load")
        self._room = asyncio.Semaphore(concurrency)
        self._stopping = asyncio.Event()
        self._paid: list[Paid] = []
        self._answers: Counter[str] = Counter()
        self._due = self._sent = 0
        self._began_s: float | None = None
        self._ended_s: float | None = None
        self._task: asyncio.Task[Any] | None = None
        self.future = lab.submit(self._run())

    # For whoever watches --------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Payments a second; a new rate counts from the next payment on."""
        return self._rate

    @rate.setter
    def rate(self, per_s: float) -> None:
        self._rate = _rate(per_s)

    @property
    def sending(self) -> bool:
        """Whether payments still become due; when not, those under way or queued are waited for."""
        return self._ended_s is None and not self.done

    @property
    def done(self) -> bool:
        """Whether everything has ended, the payments that were queued included."""
        return self.future.done()

    def now(self, *, last_s: float = WINDOW_S) -> LoadFigures:
        """The figures of this moment; rates, latencies and errors of the last so many seconds."""
        queued = self._lab.world.rows("queue", "SELECT count(*) FROM entries WHERE place != 'DEAD'")
        return figures(
            self._paid.copy(),
            at_s=self._at_s(),
            window_s=last_s,
            due=self._due,
            sent=self._sent,
            queued=int(queued[0][0]) if queued else 0,
            answers=self._answers,
        )

    def note(self, what: str) -> None:
        """Remember that something happened now; tables and figures show it."""
        self.marks.append((self._at_s(), what))

    def stop(self) -> None:
        """Let nothing more become due; what is under way still ends."""
        if not self.done:
            self._lab.submit(self._stop())

    def abandon(self) -> None:
        """Stop, and wait for nothing; the payments that are under way are left to the network."""
        if not self.done:
            self._lab.submit(self._abandon())

    def result(self, timeout_s: float | None = None) -> LoadResult:
        """Wait for the end, so many seconds at most. Raises TimeoutError, and what went wrong."""
        return self.future.result(timeout_s)

    def __repr__(self) -> str:
        """Where it stands."""
        state = "sending" if self.sending else "done" if self.done else "waiting for its last payments"
        return f"<Load of {self._rate:g} payments/s for {self.duration_s:g} s, {state}: {self.now()}>"

    # On the lab's loop ----------------------------------------------------------------------------

    def _at_s(self) -> float:
        return 0.0 if self._began_s is None else self._lab.world.now() - self._began_s

    async def _run(self) -> LoadResult:
        self._task = asyncio.current_task()
        client = await self._get_ready()
        self._began_s = self._lab.world.now()
        async with asyncio.TaskGroup() as watching:
            watch = watching.create_task(self._watch())
            await self._send_all(client)
            await self._settle(client)
            watch.cancel()
        self.ticks.append(self.now())
        return LoadResult(
            paid=tuple(sorted(self._paid, key=lambda one: one.due_s)),
            ticks=tuple(self.ticks),
            marks=tuple(self.marks),
            duration_s=self._ended_s or 0.0,
            badge=self._lab.badge,
        )

    async def _get_ready(self) -> PaymentClient:
        """Open the accounts, and log the user in who may pay from each of them."""
        accounts = [(name, funds, "") for name, funds in self.mix.accounts()]
        for bank in self._lab.banks:
            await self._lab.network.open_accounts(bank, accounts)
        client = await self._lab.runner()
        await client.login()
        return client

    async def _send_all(self, client: PaymentClient) -> None:
        """Send until the time is up or somebody stops it; returns when the last payment is answered."""
        due = arrivals(
            lambda: self._rate,
            duration_s=self.duration_s,
            rng=self._rng if self._poisson else None,
            stop=self._stopping,
        )
        async with asyncio.TaskGroup() as payments:
            async for due_s in due:
                self._due += 1
                order = self.mix.draw(self._lab.banks, self._rng)
                payments.create_task(self._pay(client, due_s, *order))
            self._ended_s = self._at_s()

    async def _pay(self, client: PaymentClient, due_s: float, payer: str, payee: str, money: Money) -> None:
        key = self._lab.network.operator.new_id()
        async with self._room:
            self._sent += 1
            one = Paid(key, payer, payee, money, due_s, self._at_s(), 0.0, "", "")
            try:
                receipt = await self._ask_to_pay(client, one, self._deadline_s)
                one = _answered(replace(one, answer=receipt.state), receipt)
            except PaylabError as error:
                one = replace(one, answer=error.reason, state="REFUSED" if error.definite else "UNKNOWN")
            self._paid.append(replace(one, ended_s=self._at_s()))
            self._answers[one.answer] += 1

    async def _ask_to_pay(self, client: PaymentClient, one: Paid, deadline_s: float) -> Receipt:
        return await client.pay(
            payer=one.payer, payee=one.payee, money=one.money, key=one.key, deadline_s=deadline_s
        )

    async def _settle(self, client: PaymentClient) -> None:
        """Learn what became of payments that were queued or not answered; each is asked about by its key."""
        until_s = self._lab.world.now() + SETTLE_S
        unsettled = [n for n, one in enumerate(self._paid) if one.state in UNSETTLED]
        while unsettled and self._lab.world.now() < until_s:
            for n in unsettled:
                with suppress(PaylabError):
                    receipt = await self._ask_to_pay(client, self._paid[n], ASK_DEADLINE_S)
                    self._paid[n] = _answered(self._paid[n], receipt)
            unsettled = [n for n in unsettled if self._paid[n].state in UNSETTLED]
            await asyncio.sleep(ASK_AGAIN_S if unsettled else 0.0)

    async def _watch(self) -> None:
        """Note figures, and which servers balancers take out and in, or which nodes are down."""
        network, now = self._lab.network, self._lab.world.now
        out, looks = servers_out(network, now()), 0
        while True:
            await asyncio.sleep(LOOK_S)
            before, out = out, servers_out(network, now())
            for server in sorted(before ^ out):
                self.note(f"{server} {'out' if server in out else 'in'}")
            looks += 1
            if looks % LOOKS_PER_TICK == 0:
                self.ticks.append(self.now())

    async def _stop(self) -> None:
        self._stopping.set()

    async def _abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()


def servers_out(network: Network, now_s: float) -> set[str]:
    """Servers that their balancer does not pick, and other nodes that are down; on the lab's loop."""
    up = [running.node for running in network.nodes.values() if running.up]
    pools = [node.pool for node in up if isinstance(node, LoadBalancer)]
    listed = {server: pool.eligible(e, now_s) for pool in pools for server, e in pool.endpoints.items()}
    return {name for name, running in network.nodes.items() if not listed.get(name, running.up)}


def _rate(per_s: float) -> float:
    if not 0 < per_s <= RATE_MAX:
        raise LabError("BAD_ARGUMENT", f"rate is above 0 and at most {RATE_MAX:g} a second, not {per_s!r}")
    return float(per_s)


def _answered(one: Paid, receipt: Receipt) -> Paid:
    """The payment as a receipt has it."""
    return replace(
        one,
        state=receipt.state,
        reason=receipt.reason,
        payment=receipt.payment,
        attempts=receipt.attempts,
    )
