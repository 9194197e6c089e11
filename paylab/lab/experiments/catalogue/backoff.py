"""A hundred clients write one row at the same time, and step back in five ways when another was faster."""

from collections.abc import Callable, Mapping

from paylab.core.backoff import Rng, decorrelated_jitter, equal_jitter, exponential, full_jitter
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Measurements,
    Parameters,
    Published,
    Size,
)
from paylab.lab.experiments.queueing import EventHeap
from paylab.lab.simulation.choices import seeded

# Of the article's simulator: one-way delays are normal, and delays grow as 10, 20, 40 ms ... up to 2 s.
LATENCY_S, SPREAD_S = 0.010, 0.002
BASE_S, CAP_S = 0.005, 2.0
# strategy: (calls, seconds) with 100 clients
PUBLISHED = {
    "none": (2414, 2.0),
    "exponential": (1864, 63.6),
    "equal": (813, 6.7),
    "full": (797, 4.9),
    "decorrelated": (1007, 4.6),
}
CLIENTS_PUBLISHED = 100


def delay_s(strategy: str, failures: int, previous_s: float, rng: Rng) -> float:
    """How long a client waits after its n-th failure; the article doubles once before the first wait."""
    if strategy == "none":
        return 0.0
    if strategy == "exponential":
        return exponential(failures + 1, base_s=BASE_S, cap_s=CAP_S)
    if strategy == "decorrelated":
        return decorrelated_jitter(previous_s, base_s=BASE_S, cap_s=CAP_S, rng=rng)
    jitter = {"equal": equal_jitter, "full": full_jitter}[strategy]
    return jitter(failures + 1, base_s=BASE_S, cap_s=CAP_S, rng=rng)


class Row:
    """The row that all want to write; a write that names an old version fails."""

    def __init__(self) -> None:
        """Nobody has written yet."""
        self.version = 0
        self.calls = 0

    def write(self, version: int) -> bool:
        """Write if nobody else has written since `version` was read."""
        self.calls += 1
        if version != self.version:
            return False
        self.version += 1
        return True


class Writer:
    """A client: reads the version, writes, and tries again after a delay until it has written once."""

    def __init__(
        self, heap: EventHeap, row: Row, *, transit_s: Callable[[], float], strategy: str, rng: Rng
    ) -> None:
        """Begin to read now."""
        self._heap, self._row, self._transit_s = heap, row, transit_s
        self._strategy, self._rng = strategy, rng
        self._failures, self._waited_s = 0, BASE_S
        self._ask()

    def _ask(self) -> None:
        self._heap.after(self._transit_s(), self._read)

    def _read(self) -> None:
        # The answer travels back and the write travels there.
        self._heap.after(self._transit_s() + self._transit_s(), self._write, self._row.version)

    def _write(self, version: int) -> None:
        self._heap.after(self._transit_s(), self._answered, self._row.write(version))

    def _answered(self, written: bool) -> None:  # noqa: FBT001 - the row's answer
        if written:
            return
        self._failures += 1
        self._waited_s = delay_s(self._strategy, self._failures, self._waited_s, self._rng)
        self._heap.after(self._waited_s, self._ask)


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Let all clients begin at once, and wait for the last."""
    heap, row, net = EventHeap(), Row(), seeded(seed, "network")

    def transit_s() -> float:
        return abs(net.normalvariate(LATENCY_S, SPREAD_S))

    rng = seeded(seed, "jitter")
    for _ in range(parameters["clients"]):
        Writer(heap, row, transit_s=transit_s, strategy=parameters["strategy"], rng=rng)
    heap.run()
    return {"calls": row.calls, "time": heap.now_s}


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """What the article's simulator printed, for as many clients as it had."""
    if parameters["clients"] != CLIENTS_PUBLISHED:
        return {}
    calls, seconds = PUBLISHED[parameters["strategy"]]
    return {
        "calls": Published(calls, tolerance=parameters["tolerance_calls"]),
        "time": Published(seconds, tolerance=parameters["tolerance_time"]),
    }


BACKOFF = Experiment(
    name="backoff",
    question="100 clients write one row at once: how many calls and how long, by way of backing off?",
    expectation="calls: none 2414, exponential 1864, equal 813, full 797, decorrelated 1007; "
    "seconds: 2.0, 63.6, 6.7, 4.9, 4.6",
    source="M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015, and its simulator",
    grid={"strategy": list(PUBLISHED)},
    trial=trial,
    expect=expect,
    # Published times have two digits, and come from a hundred runs themselves.
    full=Size(100, {"clients": CLIENTS_PUBLISHED, "tolerance_calls": 0.05, "tolerance_time": 0.10}),
    quick=Size(12, {"clients": CLIENTS_PUBLISHED, "tolerance_calls": 0.10, "tolerance_time": 0.35}),
    units={"calls": "writes", "time": "s"},
)
