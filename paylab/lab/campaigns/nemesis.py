"""A nemesis: draws a schedule of faults from a seed, as plain data, for a campaign or for any lab."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paylab.errors import LabError
from paylab.lab import faults
from paylab.lab.faults import Fault, Timed, at
from paylab.lab.faulty_world import CommitPoint
from paylab.lab.simulation.choices import seeded

# Virtual seconds in which the faults begin unless a caller says otherwise.
SPAN_S = 8.0
# A node that a fault stopped comes back after so long; the longest is past the vote deadline of 4 s.
DOWN_S = (0.2, 6.0)
# A whole bank is away for longer than a client's call lasts, so that its payments are queued.
OUTAGE_S = (3.0, 12.0)
NTH_COMMIT_MAX = 6
SERVING = ("coordinator", "gateway", "queue", "logger", "bank-lb", "auth-lb")
# Nodes that write: they can die at a commit.
WRITING = ("coordinator", "gateway", "queue", "logger")
LINKS = (
    ("gateway", "coordinator"),
    ("coordinator", "bank-lb"),
    ("gateway", "queue"),
    ("gateway", "logger"),
)


@dataclass(frozen=True, slots=True)
class Intensity:
    """How many faults begin in a span of eight seconds, and which kinds with what weight."""

    faults: int
    weights: dict[str, float]


LIGHT = {"crash": 3.0, "crash_at_commit": 2.0, "pause": 1.0, "partition": 1.0, "lose": 1.0, "duplicate": 1.0}
HEAVY = {
    "crash": 4.0,
    "crash_at_commit": 6.0,
    "pause": 2.0,
    "partition": 3.0,
    "lose": 2.0,
    "duplicate": 2.0,
    "reorder": 2.0,
    "delay": 1.0,
    "slow": 1.0,
    "skew": 1.0,
    "outage": 1.5,
}
INTENSITIES = {"none": Intensity(0, {}), "light": Intensity(3, LIGHT), "heavy": Intensity(10, HEAVY)}


def schedule(
    seed: int,
    *,
    intensity: str = "heavy",
    banks: Sequence[str] = ("alpine", "boreal"),
    bank_servers: int = 2,
    clients: Sequence[str] = (),
    span_s: float = SPAN_S,
) -> list[Timed]:
    """Faults that begin within `span_s` seconds, each followed by its end, in the order of time.

    Raises LabError for an intensity that does not exist.
    """
    if intensity not in INTENSITIES:
        names = ", ".join(INTENSITIES)
        raise LabError("BAD_ARGUMENT", f"faults is one of {names}, not {intensity!r}")
    chosen = INTENSITIES[intensity]
    draw = _Draw(seeded(seed, "nemesis", intensity), banks, bank_servers, clients)
    found: list[Timed] = []
    for _ in range(round(chosen.faults * span_s / SPAN_S)):
        kind = draw.rng.choices(list(chosen.weights), list(chosen.weights.values()))[0]
        found += draw.incident(kind, round(draw.rng.uniform(0.0, span_s), 3))
    return sorted(found, key=lambda timed: timed.at_s)


class _Draw:
    """Draws one incident: a fault and what ends it."""

    def __init__(
        self, rng: random.Random, banks: Sequence[str], bank_servers: int, clients: Sequence[str]
    ) -> None:
        self.rng = rng
        self._banks = [[f"{bank}-{n}" for n in range(1, bank_servers + 1)] for bank in banks]
        servers = [server for bank in self._banks for server in bank]
        # Coordinator, gateway and banks are where the protocol is, so they are hit more often.
        self._nodes = [*SERVING, "auth-1", "coordinator", "coordinator", "gateway", *servers, *servers]
        self._writing = [*WRITING, "coordinator", "coordinator", "gateway", *servers]
        self._links = [
            *LINKS,
            *(("bank-lb", server) for server in servers),
            *((server, "coordinator") for server in servers),
            *((client, "gateway") for client in clients),
        ]

    def incident(self, kind: str, at_s: float) -> list[Timed]:
        """A fault of this kind at that moment, and its end."""
        if kind == "outage":
            servers, end_s = self.rng.choice(self._banks), round(at_s + self.rng.uniform(*OUTAGE_S), 3)
            down = [at(at_s, faults.crash(server)) for server in servers]
            return down + [at(end_s, faults.restart(server)) for server in servers]
        make: Callable[[], tuple[Fault, Fault]] = getattr(self, f"_{kind}")
        begin, end = make()
        return [at(at_s, begin), at(round(at_s + self.rng.uniform(*DOWN_S), 3), end)]

    def _crash(self) -> tuple[Fault, Fault]:
        node = self.rng.choice(self._nodes)
        return faults.crash(node), faults.restart(node)

    def _crash_at_commit(self) -> tuple[Fault, Fault]:
        node, point = self.rng.choice(self._writing), self.rng.choice(list(CommitPoint))
        return faults.crash_at_commit(node, point, self.rng.randint(1, NTH_COMMIT_MAX)), faults.restart(node)

    def _pause(self) -> tuple[Fault, Fault]:
        node = self.rng.choice(self._nodes)
        return faults.pause(node), faults.resume(node)

    def _partition(self) -> tuple[Fault, Fault]:
        a, b = self.rng.choice(self._links)
        if self.rng.random() < 0.5:  # noqa: PLR2004 - either way round
            a, b = b, a
        return faults.partition(a, b, one_way=self.rng.random() < 0.5), faults.heal()  # noqa: PLR2004 - one in two

    def _lose(self) -> tuple[Fault, Fault]:
        requests, replies = self.rng.choice([(True, True), (True, False), (False, True)])
        rate = round(self.rng.uniform(0.02, 0.3), 2)
        return faults.lose(rate, requests=requests, replies=replies), faults.lose(0.0)

    def _duplicate(self) -> tuple[Fault, Fault]:
        return faults.duplicate(round(self.rng.uniform(0.05, 0.5), 2)), faults.duplicate(0.0)

    def _reorder(self) -> tuple[Fault, Fault]:
        # Held back for longer than the vote deadline, a Prepare comes after the abort.
        seconds = self.rng.choice([0.05, 0.5, 3.0, 7.0])
        return faults.reorder(round(self.rng.uniform(0.05, 0.4), 2), seconds), faults.reorder(0.0, 0.0)

    def _delay(self) -> tuple[Fault, Fault]:
        a, b = self.rng.choice(self._links)
        return faults.delay(a, b, round(self.rng.uniform(0.05, 3.0), 2)), faults.delay(a, b, 0.0)

    def _slow(self) -> tuple[Fault, Fault]:
        node = self.rng.choice(self._nodes)
        return faults.slow(node, round(self.rng.uniform(3.0, 60.0), 1)), faults.slow(node, 1.0)

    def _skew(self) -> tuple[Fault, Fault]:
        node = self.rng.choice(self._nodes)
        return faults.skew(node, round(self.rng.uniform(-2.0, 2.0), 2)), faults.skew(node, 0.0)
