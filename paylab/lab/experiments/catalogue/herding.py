"""Old news misleads: least reported load, the older reports are, against plain chance."""

from collections.abc import Mapping
from statistics import fmean

from paylab.core.balancing import LeastLoad, LeastOutstanding, Policy, Random
from paylab.lab.experiments.experiments import (
    AtLeast,
    AtMost,
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
SERVICE_S = 0.1
LOAD = 0.8
RANDOM = "random"
LEAST = "least load"
# With reports at least so old, looking at them is worse than not looking.
WORSE_FROM_S = 1.0


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Let ten servers report in turn, each so often, while calls of 100 ms arrive."""
    age_s, warm_up_s, measured_s = parameters["report_s"], parameters["warm_up_s"], parameters["measured_s"]
    heap = EventHeap()
    policy: Policy = (
        Random() if parameters["policy"] == RANDOM else LeastLoad() if age_s else LeastOutstanding()
    )
    service = exponential(SERVICE_S, rng=seeded(seed, "service"))
    farm = Farm(
        heap,
        policy,
        servers=SERVERS,
        service=service,
        rng=seeded(seed, "choices"),
        watch=parameters["policy"] != RANDOM,
    )
    if age_s and parameters["policy"] == LEAST:
        report_loads(heap, farm.endpoints, every_s=age_s)
    if parameters["policy"] == LEAST:
        measured_s *= parameters["without_formula"]
    poisson(heap, LOAD * SERVERS / SERVICE_S, farm.arrive, rng=seeded(seed, "arrivals"))
    heap.run(warm_up_s)
    farm.forget()
    heap.run(warm_up_s + measured_s)
    busy = farm.work_s / (SERVERS * measured_s)
    return {"latency": Controlled(fmean(farm.times_s), surplus=busy - LOAD)}


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Chance is M/M/1 and knows no reports; fresh reports beat it, old ones lose to it."""
    by_chance_s = SERVICE_S / (1 - LOAD)
    if parameters["policy"] == RANDOM:
        return {"latency": Formula(by_chance_s, parameters["precision"])}
    if parameters["report_s"] == 0:
        return {"latency": AtMost(by_chance_s / 2)}
    if parameters["report_s"] >= WORSE_FROM_S:
        return {"latency": AtLeast(by_chance_s)}
    return {}


HERDING = Experiment(
    name="herding",
    question="How long do calls of 100 ms take, if they go to the server that reported the least load?",
    expectation="by chance 0.5 s, whatever the reports; with fresh ones at most half of that, with ones that "
    "are renewed every second or more seldom, more than by chance",
    source="M. Mitzenmacher, How Useful Is Old Information?, IEEE TPDS 11(1), 2000; M/M/1",
    grid={"report_s": [0, 0.1, 0.5, 1, 2, 5, 10], "policy": [LEAST, RANDOM]},
    trial=trial,
    expect=expect,
    full=Size(40, {"warm_up_s": 60.0, "measured_s": 1_500.0, "without_formula": 0.1, "precision": 0.02}),
    quick=Size(10, {"warm_up_s": 30.0, "measured_s": 150.0, "without_formula": 0.5, "precision": 0.3}),
    units={"latency": "s"},
)
