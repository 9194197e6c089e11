"""Faults as a language: what goes wrong, when, as data that can be saved, shortened and replayed.

    schedule = [at(2.0, crash("coordinator")), at(2.5, partition("bank-lb", "boreal-1")), every(5, lose(0.1))]
    lab.inject(schedule)

The same schedule runs against a real and a simulated network. Times are seconds from the moment at which
the schedule starts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paylab.errors import LabError
from paylab.lab.faulty_world import CommitPoint

if TYPE_CHECKING:  # the lab injects faults, so at run time the import goes the other way
    from paylab.lab.network import Network

Argument = str | float | bool


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong (or right again): a kind from the table below and its arguments."""

    kind: str
    arguments: tuple[Argument, ...] = ()

    def __str__(self) -> str:
        """Write it as the notebook does: `crash('gateway')`."""
        return f"{self.kind}({', '.join(map(repr, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Timed:
    """A fault and its moment; with `period_s` it comes again and again."""

    at_s: float
    fault: Fault
    period_s: float = 0.0

    def __str__(self) -> str:
        """Write it as the notebook does."""
        if self.period_s:
            return f"every({self.period_s:g}, {self.fault})"
        return f"at({self.at_s:g}, {self.fault})"


Schedule = Sequence[Timed]


def at(at_s: float, fault: Fault) -> Timed:
    """Once, `at_s` seconds after the start."""
    return Timed(at_s, fault)


def every(period_s: float, fault: Fault) -> Timed:
    """After `period_s` seconds and every `period_s` from then on."""
    if period_s <= 0:
        raise LabError("BAD_ARGUMENT", f"every() takes a period above 0, not {period_s}")
    return Timed(period_s, fault, period_s)


def crash(node: str) -> Fault:
    """Kill a node; what it had only in memory is gone. A node that is down stays down."""
    return Fault("crash", (node,))


def crash_at_commit(node: str, point: CommitPoint | str, nth: int = 1) -> Fault:
    """Kill a node at its nth commit from now: "before" it, "unanswered", or "after" it."""
    return Fault("crash_at_commit", (node, CommitPoint(point).value, nth))


def restart(node: str) -> Fault:
    """Start a node that is down; one that is up stays up."""
    return Fault("restart", (node,))


def pause(node: str) -> Fault:
    """Stop a node where it stands, as SIGSTOP does."""
    return Fault("pause", (node,))


def resume(node: str) -> Fault:
    """Let a paused node go on."""
    return Fault("resume", (node,))


def partition(a: str, b: str, *, one_way: bool = False) -> Fault:
    """Lose everything between two nodes, or only what goes from `a` to `b`."""
    return Fault("partition", (a, b, one_way))


def heal() -> Fault:
    """End every fault of the network: partitions, loss, duplicates, delay."""
    return Fault("heal")


def lose(rate: float, *, requests: bool = True, replies: bool = True) -> Fault:
    """Lose this share of the messages."""
    return Fault("lose", (rate, requests, replies))


def lose_between(a: str, b: str, rate: float) -> Fault:
    """Lose this share of the messages between two nodes, either way."""
    return Fault("lose_between", (a, b, rate))


def mend(a: str, b: str) -> Fault:
    """End partition, loss and delay between two nodes."""
    return Fault("mend", (a, b))


def duplicate(rate: float) -> Fault:
    """Deliver this share of the requests twice."""
    return Fault("duplicate", (rate,))


def reorder(rate: float, seconds: float) -> Fault:
    """Hold this share of the messages back for up to `seconds`."""
    return Fault("reorder", (rate, seconds))


def delay(a: str, b: str, seconds: float) -> Fault:
    """Make every message between two nodes take this much longer."""
    return Fault("delay", (a, b, seconds))


def slow(node: str, factor: float) -> Fault:
    """Make a node so many times slower; 1 ends it."""
    return Fault("slow", (node, factor))


def skew(node: str, seconds: float) -> Fault:
    """Set a node's clock forward, or back for less than 0."""
    return Fault("skew", (node, seconds))


async def inject(network: "Network", schedule: Iterable[Timed], *, until_s: float = float("inf")) -> None:
    """Carry a schedule out on a network; ends with the last fault, or at `until_s` if one repeats."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    coming = sorted(schedule, key=lambda timed: timed.at_s)
    while coming and coming[0].at_s <= until_s:
        timed = coming.pop(0)
        await asyncio.sleep(max(0.0, began + timed.at_s - loop.time()))
        await apply(network, timed.fault)
        if timed.period_s:
            coming.append(Timed(timed.at_s + timed.period_s, timed.fault, timed.period_s))
            coming.sort(key=lambda timed: timed.at_s)


async def apply(network: "Network", fault: Fault) -> None:
    """Make one fault happen now. Raises LabError for a kind that does not exist."""
    if fault.kind in ("crash", "restart"):
        node = str(fault.arguments[0])
        wanted: Callable[[str], Awaitable[None]] = getattr(network, fault.kind)
        if network.is_up(node) is (fault.kind == "crash"):
            await wanted(node)
        return
    if fault.kind not in WORLD_FAULTS:
        raise LabError("NO_SUCH_FAULT", f"{fault.kind!r} is no fault; there are {', '.join(KINDS)}")
    network.break_world(fault.kind, *fault.arguments)


WORLD_FAULTS = (
    "pause", "resume", "partition", "heal", "lose", "lose_between", "mend", "duplicate", "reorder", "delay",
    "slow", "skew", "crash_at_commit",
)  # fmt: skip
KINDS = ("crash", "restart", *WORLD_FAULTS)
