"""How long calls take the busier their servers are, by policy: equal servers, and one that is slow."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from paylab.core.balancing import POLICIES, Endpoint
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Parameters,
    Size,
)
from paylab.lab.experiments.queueing import EventHeap, Farm, exponential, poisson, report_loads
from paylab.lab.experiments.statistics import Controlled
from paylab.lab.simulation.choices import seeded

SERVERS = 10
SLOW = 0.5
# As many workers at one queue: no policy can do better.
ONE_QUEUE = "one queue"
# Servers report their load so often, in service times; a lease of 3 s and calls of 100 ms make it ten.
REPORT_EVERY = 10.0
ACCOUNTS = 1_000
CLAIM = 0.35
# Policies that look at load have settled within this time.
SETTLED_S = 200.0
UTILISATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def m_m_1(utilisation: float) -> float:
    """Mean time in system in service times: 1 / (1 - utilisation)."""
    return 1 / (1 - utilisation)


def m_m_c(utilisation: float, workers: int) -> float:
    """Mean time in system of one queue with many workers, in service times (Erlang's C)."""
    load, blocked = utilisation * workers, 1.0
    for n in range(1, workers + 1):
        blocked = load * blocked / (n + load * blocked)
    waits = blocked / (1 - utilisation * (1 - blocked))
    return 1 + waits / (workers * (1 - utilisation))


def e_m_1(utilisation: float, stages: int) -> float:
    """Mean time in system at one of `stages` servers that take Poisson arrivals in turn, in service times.

    Every `stages`-th arrival comes after an Erlang distributed gap, so it is the queue E/M/1: a job finds n
    jobs with probability (1 - s) s^n, where s is the root of s = (r / (r + 1 - s))^stages, r the total rate.
    """
    rate, root = utilisation * stages, utilisation
    for _ in range(10_000):
        root = (rate / (rate + 1 - root)) ** stages
    return 1 / (1 - root)


FORMULAS: dict[str, Callable[[float], float]] = {
    "random": m_m_1,
    "round_robin": lambda utilisation: e_m_1(utilisation, SERVERS),
    ONE_QUEUE: lambda utilisation: m_m_c(utilisation, SERVERS),
}


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Fill the queues, then measure; a service takes 1 s on average at a server of speed 1."""
    equal, policy = parameters["servers"] == "equal", parameters["policy"]
    utilisation, one_queue = parameters["utilisation"], policy == ONE_QUEUE
    speeds = [1.0] * SERVERS if equal else [*[1.0] * (SERVERS - 1), SLOW]
    heap = EventHeap()
    service = exponential(1.0, rng=seeded(seed, "service"))
    keys = seeded(seed, "keys")
    farm = Farm(
        heap,
        POLICIES["random" if one_queue else policy](),
        servers=1 if one_queue else SERVERS,
        workers=SERVERS if one_queue else 1,
        service=service,
        speeds=() if one_queue else speeds,
        rng=seeded(seed, "choices"),
        key=lambda: str(int(keys.random() * ACCOUNTS)),
        learn=policy == "peak_ewma",
        watch=policy not in FORMULAS,
    )
    _weigh(farm.endpoints, speeds)
    if policy == "least_load":
        report_loads(heap, farm.endpoints, every_s=REPORT_EVERY)
    poisson(heap, utilisation * sum(speeds), farm.arrive, rng=seeded(seed, "arrivals"))
    warm_up_s, measured_s = _times(parameters, utilisation)
    heap.run(warm_up_s)
    farm.forget()
    heap.run(warm_up_s + measured_s)
    busy = farm.work_s / (sum(speeds) * measured_s)
    return {"time_in_system": Controlled(fmean(farm.times_s), surplus=busy - utilisation)}


def _times(parameters: Parameters, utilisation: float) -> tuple[float, float]:
    """How long to fill the queues and to measure; where there is no formula, less will do."""
    measured_s: float = parameters["measured"] / (1 - utilisation) ** 2
    if not expect(parameters):
        return SETTLED_S, max(SETTLED_S, measured_s * parameters["without_formula"])
    # M/M/1 forgets how it began within this time.
    relaxation_s = 1 / (1 - utilisation**0.5) ** 2
    return parameters["warm_up"] * relaxation_s, measured_s


def _weigh(endpoints: Sequence[Endpoint], speeds: Sequence[float]) -> None:
    for endpoint, speed in zip(endpoints, speeds, strict=False):
        endpoint.weight = round(speed / SLOW)


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """M/M/1, E/M/1 and M/M/c; of the other policies and of unequal servers there is no formula."""
    formula = FORMULAS.get(parameters["policy"])
    if formula is None or parameters["servers"] != "equal":
        return {}
    return {"time_in_system": Formula(formula(parameters["utilisation"]), parameters["precision"])}


def conclude(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the original system's claim holds: 35 % less than round robin, its own other policy."""
    lines = []
    for servers in dict.fromkeys(row["servers"] for row in rows):
        found = {
            (row["policy"], row["utilisation"]): row["measured"] for row in rows if row["servers"] == servers
        }
        for policy in dict.fromkeys(policy for policy, _ in found):
            points = [u for p, u in found if p == policy and ("round_robin", u) in found]
            less = [u for u in points if found[policy, u] <= (1 - CLAIM) * found["round_robin", u]]
            if less and policy != "round_robin":
                lines.append(f"{policy}, {servers} servers: from a utilisation of {min(less):g}")
    where = "; ".join(lines) or "nowhere here"
    return f'"Latency reduced by 35 %" against round robin holds for {where}.'


UTILISATION = Experiment(
    name="utilisation",
    question="How long do calls take, the busier ten servers are, by policy?",
    expectation="at utilisation r, random 1/(1-r) service times (M/M/1), round robin E/M/1, one queue M/M/c",
    source="L. Kleinrock, Queueing Systems I, 1975: M/M/1 3.2, M/M/c 3.5, G/M/1 6.4",
    grid={
        "utilisation": list(UTILISATIONS),
        "policy": [ONE_QUEUE, *POLICIES],
        "servers": ["equal", "one slow"],
    },
    trial=trial,
    expect=expect,
    conclude=conclude,
    # Means over times that grow as 1/(1-r)² are equally precise at every utilisation r.
    full=Size(
        40,
        {"warm_up": 4.0, "measured": 420.0, "without_formula": 0.02, "precision": 0.02},
    ),
    quick=Size(
        10,
        {"warm_up": 2.0, "measured": 20.0, "without_formula": 0.1, "precision": 0.5},
    ),
    units={"time_in_system": "service times"},
)
