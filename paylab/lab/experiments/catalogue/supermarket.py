"""The supermarket model: many checkouts, and every customer looks at one, two or three of them."""

import math
from collections.abc import Mapping
from statistics import fmean

from paylab.core.balancing import PowerOfChoices
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Parameters,
    Size,
)
from paylab.lab.experiments.queueing import EventHeap, Farm, exponential, poisson
from paylab.lab.experiments.statistics import Controlled
from paylab.lab.simulation.choices import seeded


def mean_time(load: float, choices: int) -> float:
    """Mean time in system of infinitely many servers, in service times.

    The sum over i of load^((choices^i - choices) / (choices - 1)); for one choice M/M/1's 1 / (1 - load).
    """
    if choices == 1:
        return 1 / (1 - load)
    # Exponents grow so fast that six terms are far more than a float holds.
    return math.fsum(load ** ((choices**i - choices) / (choices - 1)) for i in range(1, 7))


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Fill the queues, then measure; a service takes 1 s on average."""
    load, plan = parameters["load"], parameters["alone" if parameters["choices"] == 1 else "together"]
    servers, warm_up_s, measured_s = plan["servers"], plan["warm_up_s"], plan["measured_s"]
    heap = EventHeap()
    policy = PowerOfChoices(choices=parameters["choices"])
    service = exponential(1.0, rng=seeded(seed, "service"))
    farm = Farm(heap, policy, servers=servers, service=service, rng=seeded(seed, "choices"))
    poisson(heap, load * servers, farm.arrive, rng=seeded(seed, "arrivals"))
    heap.run(warm_up_s)
    farm.forget()
    heap.run(warm_up_s + measured_s)
    busy = farm.work_s / (servers * measured_s)
    return {"time_in_system": Controlled(fmean(farm.times_s), surplus=busy - load)}


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Mitzenmacher's formula."""
    formula = mean_time(parameters["load"], parameters["choices"])
    return {"time_in_system": Formula(formula, precision=parameters["precision"])}


SUPERMARKET = Experiment(
    name="supermarket",
    question="How long does a job take at busy servers, if it joins the shortest of 1, 2 or 3 random queues?",
    expectation="1/(1-λ), or the sum over i of λ^((dⁱ-d)/(d-1)) service times: 10, 2.61, 2.03 at λ = 0.9",
    source="M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001",
    grid={"choices": [1, 2, 3]},
    trial=trial,
    expect=expect,
    # With one choice each queue is M/M/1, however many there are, and forgets within 1 / (1 - √load)² service
    # times, 380 at 0.9. With more they forget soon, but the formula is that of very many servers.
    full=Size(
        40,
        {
            "load": 0.9,
            "alone": {"servers": 200, "warm_up_s": 800.0, "measured_s": 2_200.0},
            "together": {"servers": 1_000, "warm_up_s": 40.0, "measured_s": 30.0},
            "precision": 0.02,
        },
    ),
    quick=Size(
        8,
        {
            "load": 0.9,
            "alone": {"servers": 50, "warm_up_s": 600.0, "measured_s": 700.0},
            "together": {"servers": 400, "warm_up_s": 40.0, "measured_s": 30.0},
            "precision": 0.2,
        },
    ),
    units={"time_in_system": "service times"},
)
