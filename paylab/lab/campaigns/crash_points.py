"""Crash points: one small story, in which a node dies at each place before and after a call on its host.

    places = crash_points.places("gateway")          # what there is, in order
    crash_points.run("gateway", 17).violations       # the same story, dead at the 17th, and restarted

The story has a payment that is made, one that is declined, one that waits for its bank, one that waits for
funds and is taken back, and one that the client writes down to pay later. Whoever dies is restarted; a client
that died repeats itself. Then every payment has the end that it should have, and nothing is lost or doubled.
"""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from paylab.core.coordinator import Timing
from paylab.core.money import Money
from paylab.core.retry_schedule import RetrySchedule
from paylab.errors import LabError, PaylabError
from paylab.lab.campaigns import campaign_checks
from paylab.lab.checking.folds import AT_REST
from paylab.lab.lab import Lab
from paylab.lab.simulation.sim_host import Steps
from paylab.lab.simulation.simulator import SimWorld
from paylab.nodes.client import PaymentClient, Receipt
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue

CLIENT = "alice"
NODES = ("gateway", "queue", "logger", CLIENT)
SEED = 5
OPENING_MINOR = 10_000
# key: minor units, and what is to become of it
STORY = {
    "paid": (100, "COMMITTED"),
    "declined": (1_000_000, "DECLINED"),
    "queued": (400, "COMMITTED"),
    "taken-back": (1_000_000, "CANCELLED"),
    "later": (800, "COMMITTED"),
    "alone": (200, "COMMITTED"),
}
# Whoever is dead is missed within this time.
LOOK_EVERY_S = 0.5
ROUNDS, ROUND_S = 40, 5.0


@dataclass(frozen=True, slots=True)
class CrashRun:
    """What one run showed: where the node died, empty if it did not, and what was wrong at the end."""

    node: str
    died: str
    violations: tuple[str, ...]


class HastyCoordinator(CoordinatorNode):
    """Gives a silent bank up soon: a story of a few seconds has fewer places than one of minutes."""

    def __init__(self, host: Host, **about: Any) -> None:
        """Wait half a second for votes."""
        super().__init__(host, timing=Timing(vote_deadline_s=0.5), **about)


class HastyQueue(OfflineQueue):
    """Tries again soon."""

    def __init__(self, host: Host) -> None:
        """Within a second."""
        super().__init__(host, schedule=RetrySchedule(base_s=0.5, cap_s=1.0, funds_every_s=2.0))


def places(node: str) -> list[str]:
    """Every place of the story at which a node can die, in order."""
    with _lab(f"{node}-places") as lab:
        story = Story(lab, node)
        story.tell()
        return list(story.steps.places)


def run(node: str, nth: int) -> CrashRun:
    """Tell the story, let the node die at its `nth` place, restart it, and say what is wrong at the end."""
    lab = _lab(f"{node}-{nth}")
    try:
        story = Story(lab, node, nth=nth)
        story.tell()
        died = story.steps.places[nth - 1] if len(story.steps.places) >= nth else ""
        return CrashRun(node, died, tuple(story.violations()))
    finally:
        with suppress(LabError):  # what is broken has been told
            lab.close()


def _lab(name: str) -> Lab:
    replace = {"node.coordinator": HastyCoordinator, "node.queue": HastyQueue}
    return Lab(
        world="simulated",
        seed=SEED,
        bank_servers=1,
        auth_servers=1,
        lease_s=600.0,  # housekeeping is no part of the story
        replace=replace,
        name=f"crash-{name}",
    )


class Story:
    """The story, told once in one lab."""

    def __init__(self, lab: Lab, node: str, *, nth: int = 0) -> None:
        """`node` dies at its `nth` place, or at none."""
        self._lab, self._node = lab, node
        self._alice = lab.client(CLIENT, bank="alpine", balance=Money(OPENING_MINOR, "EUR"))
        self._bob = lab.client("bob", bank="boreal")
        # The latest that the client was told, by key.
        self._told: dict[str, Receipt] = {}
        # Whether the client was asked to pay later; from then on it is asked what became of that.
        self._written = False
        self._dead = False
        world = lab.world
        assert isinstance(world, SimWorld)
        self.steps: Steps = world.crash_at_step(node, self._die, nth=nth)

    async def _die(self) -> None:
        self._dead = True
        network = self._lab.network
        await (network.crash_client if self._node == CLIENT else network.crash)(self._node)

    def tell(self) -> None:
        """Everything in order; at its end all is repaired and at rest, or it never comes to rest."""
        self._ask("paid", "declined")
        self._pass(1.0)
        self._lab.crash("boreal-1")
        self._ask("queued", "taken-back")
        self._pass(2.0)
        self._ask("later")
        self._take_back()
        self._pass(1.0)
        self._lab.restart("boreal-1")
        self._ask("alone")
        self._pass(3.0)
        for _ in range(ROUNDS):
            # Whoever has no final answer asks again, under the same key.
            self._ask(*(key for key, (_, end) in STORY.items() if self._end(key) != end))
            self._take_back()
            self._pass(ROUND_S)
            if all(self._end(key) == end for key, (_, end) in STORY.items()) and self._at_rest():
                return

    def _ask(self, *keys: str) -> None:
        for key in keys:
            wait = "wait" if key == "taken-back" else "decline"
            about = {"payer": self._alice.account, "payee": self._bob.account, "when_short": wait}
            money, client = Money(STORY[key][0], "EUR"), self._client()
            if key == "later" and not self._written:
                self._written = True
                self._begin(key, partial(client.pay_later, money=money, key=key, **about))
            else:
                self._begin(key, partial(client.pay, money=money, key=key, deadline_s=30.0, **about))

    def _take_back(self) -> None:
        if (receipt := self._told.get("taken-back")) is not None and receipt.state != "CANCELLED":
            self._begin("taken-back", partial(self._client().cancel, receipt.payment))

    def _client(self) -> PaymentClient:
        return self._alice._client  # noqa: SLF001 - its work must run on its own host, to die with it

    def _begin(self, key: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start work of the client's, which ends when the client dies."""
        host = self._lab.network.client_host(CLIENT)

        async def ask() -> None:
            with suppress(PaylabError):
                answer = await work()
                if isinstance(answer, Receipt):
                    self._told[key] = answer

        async def begin() -> None:
            host.spawn(ask(), daemon=True)

        self._lab.submit(begin()).result()

    def _pass(self, seconds: float) -> None:
        """Let time pass, and restart whoever has died in it."""
        for _ in range(round(seconds / LOOK_EVERY_S)):
            self._lab.advance(LOOK_EVERY_S)
            if self._dead:
                self._dead = False
                if self._node == CLIENT:
                    self._alice.restart()
                else:
                    self._lab.restart(self._node)

    def _end(self, key: str) -> str:
        receipt = self._told.get(key)
        if receipt is None or receipt.state not in AT_REST:
            return ""
        return receipt.state

    def _at_rest(self) -> bool:
        left = campaign_checks.waiting(self._lab.world, self._lab.banks)
        return not any(left.values()) and self._lab.settle(timeout_s=0.0)

    def violations(self) -> Iterator[str]:
        """What is not as it should be at the end."""
        for key, (_, end) in STORY.items():
            if self._end(key) != end:
                yield f"every order ends well: {key} is {self._end(key) or 'unanswered'}, not {end}"
        minor = sum(minor for minor, end in STORY.values() if end == "COMMITTED")
        left = (OPENING_MINOR - minor, minor)
        balances = self._lab.balances()
        found = tuple(balances[user.account].amount_minor for user in (self._alice, self._bob))
        if found != left:
            yield f"nothing is lost or doubled: alice and bob have {found}, not {left}"
        yield from campaign_checks.quiet_violations(self._lab.world, self._lab.banks)
        yield from self._lab.check().violations
        if not (verdict := self._lab.log.verify()).ok:
            yield f"the log verifies: {verdict}"
        yield from (
            f"log, gateway and ledgers agree: {line}" for line in self._lab.log.reconcile().differences
        )
