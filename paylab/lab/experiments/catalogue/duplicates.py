"""What a key prevents and what two-phase commit prevents ("0 % duplicates"): neither does the other's work.

Runs on `reduced_network`: the decisions are those of the nodes, messages and crashes are a model's.
`duplicates-network` asks the same of the whole simulated network, for fewer payments.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paylab.core.money import Money
from paylab.core.payment import Payment
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Never,
    Parameters,
    Size,
)
from paylab.lab.experiments.queueing import EventHeap, exponential
from paylab.lab.experiments.reduced_network import BANKS, TRANSIT_S, ReducedNetwork
from paylab.lab.experiments.statistics import Tally
from paylab.lab.simulation.choices import seeded

TWO_PHASE, INDEPENDENT = "2PC", "independent calls"
LOST, TWICE, CRASHES, EVERYTHING = "lost replies", "double clicks", "gateway crashes", "everything"
# The share of answers that are lost, of first tries that are two clicks, and how often a node crashes.
LOST_SHARE, TWICE_SHARE, CRASHES_PER_S = 0.3, 0.2, 5.0
ORDERS_PER_S = 20.0
# A buyer who has no answer by then tries again.
PATIENCE_S = 1.0
AMOUNT = Money(1_000, "EUR")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong."""

    lost: float = 0.0
    twice: float = 0.0
    crashing: tuple[str, ...] = ()


TROUBLES = {
    LOST: Trouble(lost=LOST_SHARE),
    TWICE: Trouble(twice=TWICE_SHARE),
    CRASHES: Trouble(crashing=("gateway",)),
    EVERYTHING: Trouble(LOST_SHARE, TWICE_SHARE, ("gateway", "coordinator", *BANKS)),
}


class Shop:
    """Buyers who want to pay once each, and try until they have an answer."""

    def __init__(self, network: ReducedNetwork, trouble: Trouble, *, key: bool, seed: int) -> None:
        """Nobody has ordered."""
        self.unanswered: set[int] = set()
        self._network, self._trouble, self._key, self._seed = network, trouble, key, seed

    def order(self, n: int) -> None:
        """Somebody wants to pay."""
        self.unanswered.add(n)
        self._try(n, 1)

    def _try(self, n: int, tries: int) -> None:
        if n not in self.unanswered:
            return
        # Decided for the order and the try, so that every treatment meets the same trouble.
        chance = seeded(self._seed, "try", n, tries)
        clicks = 2 if tries == 1 and chance.random() < self._trouble.twice else 1
        for click in range(clicks):
            lost = chance.random() < self._trouble.lost
            key = f"order-{n}" if self._key else f"order-{n}-{tries}-{click}"

            def told(_payment: Payment, *, lost: bool = lost) -> None:
                if not lost:
                    self._network.heap.after(TRANSIT_S, self.unanswered.discard, n)

            gateway = self._network.gateway
            self._network.send(gateway.life, gateway.pay, "buyer", key, AMOUNT, told)
        self._network.heap.after(PATIENCE_S, self._try, n, tries + 1)


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Sell, let things go wrong until everybody has an answer, let all come to rest, read the ledgers."""
    payments, trouble = parameters["payments"], TROUBLES[parameters["trouble"]]
    heap = EventHeap()
    network = ReducedNetwork(heap, independent=parameters["commit"] == INDEPENDENT)
    shop = Shop(network, trouble, key=parameters["key"], seed=seed)
    closes_s = payments / ORDERS_PER_S
    for n in range(payments):
        heap.at(n / ORDERS_PER_S, shop.order, n)
    for node in trouble.crashing:
        gap_s = exponential(1 / CRASHES_PER_S, rng=seeded(seed, "crashes", node))
        _crash_now_and_then(network, node, gap_s, lambda: bool(shop.unanswered) or heap.now_s < closes_s)
    heap.run()
    return {
        "extra_charges": Tally(_extra_charges(network), payments),
        "half_payments": Tally(network.half_payments(), payments),
        "orphan_holds": Tally(network.orphan_holds(), payments),
    }


def _crash_now_and_then(
    network: ReducedNetwork, node: str, gap_s: Callable[[], float], goes_on: Callable[[], bool]
) -> None:
    def crash() -> None:
        network.crash(node)
        if goes_on():
            network.heap.after(gap_s(), crash)

    network.heap.after(gap_s(), crash)


def _extra_charges(network: ReducedNetwork) -> int:
    """How often the shop was paid for orders that it had been paid for already."""
    charges: Counter[str] = Counter()
    for payment, times in network.banks["boreal"].posted.items():
        order = network.gateway.payments[payment].key.split("-")[1]
        charges[order] += times
    return sum(times - 1 for times in charges.values() if times)


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Keys prevent extra charges, two-phase commit prevents halves; each alone leaves the other's trouble.

    A gateway that crashes `x` times a transit time has an answer ready after four transits (2PC) or six
    (three calls), if it lives so long; the credit leaves after two of them, the capture after four.
    """
    trouble, key, precision = parameters["trouble"], parameters["key"], parameters["precision"]
    x = CRASHES_PER_S * TRANSIT_S
    found: dict[str, Expectation] = {}
    if key:
        found["extra_charges"] = Never()
    elif trouble != EVERYTHING:
        extra = {LOST: LOST_SHARE / (1 - LOST_SHARE), TWICE: TWICE_SHARE, CRASHES: math.expm1(4 * x)}
        found["extra_charges"] = Formula(extra[trouble], precision)
    if parameters["commit"] == TWO_PHASE or trouble in (LOST, TWICE):
        return found | {"half_payments": Never(), "orphan_holds": Never()}
    if trouble == CRASHES:
        # Without a key a payment is begun anew until one try outlives its six transits.
        begun = 1.0 if key else math.exp(6 * x)
        half, orphan = math.exp(-2 * x) - math.exp(-4 * x), -math.expm1(-4 * x)
        found["half_payments"] = Formula(begun * half, precision)
        found["orphan_holds"] = Formula(begun * orphan, precision)
    return found


DUPLICATES = Experiment(
    name="duplicates",
    question="How often is a payment charged again, or half, with and without a key, with and without 2PC?",
    expectation="extra charges: never with a key; without, p/(1-p) for lost replies and d for double clicks; "
    "half payments and orphan holds: never with 2PC, at every badly timed crash without",
    source="the number of tries is geometric; zero: J. A. Hanley, A. Lippman-Hand, JAMA 249, 1983",
    grid={"trouble": list(TROUBLES), "commit": [TWO_PHASE, INDEPENDENT], "key": [True, False]},
    trial=trial,
    expect=expect,
    # Four troubles of so many make 120,000 payments with a key and 2PC.
    full=Size(20, {"payments": 1_500, "precision": 0.2}),
    quick=Size(10, {"payments": 150, "precision": 1.0}),
    units={
        "extra_charges": "per payment",
        "half_payments": "per payment",
        "orphan_holds": "per payment",
    },
)
