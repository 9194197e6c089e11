"""What a key prevents ("0 % duplicates") when answers get lost, on the whole simulated network."""

from collections import Counter
from collections.abc import Mapping

from paylab.core.money import Money
from paylab.errors import OutcomeUnknown
from paylab.lab.clients import LabClient
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Never,
    Parameters,
    Size,
)
from paylab.lab.experiments.statistics import Tally
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import seeded

# So many buyers pay at the same time.
BUYERS = 20
# A buyer who has no answer by then tries again.
PATIENCE_S = 2.0


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Sell, lose answers, let buyers repeat until they have one; then count charges in the shop's ledger."""
    payments, label = parameters["payments"], f"{parameters['key']} {parameters['lost_replies']} {seed}"
    with Lab(world="simulated", seed=seed, name=f"duplicates-network {label}") as lab:
        shop = lab.client("shop", bank="boreal")
        buyers = [
            lab.client(f"buyer-{n}", bank="alpine", balance="1000.00 EUR")
            for n in range(min(BUYERS, payments))
        ]
        for first in range(0, payments, len(buyers)):
            orders = dict(zip(range(first, payments), buyers, strict=False))
            _sell(lab, shop, orders, key=parameters["key"], lost=parameters["lost_replies"], seed=seed)
        lab.settle()
        # Every order has an amount of its own, so the ledger tells which was charged how often.
        postings = lab.world.rows("bank-boreal", "SELECT amount_minor FROM postings WHERE account = 'shop'")
        charges = Counter(amount_minor for (amount_minor,) in postings)
    assert len(charges) == payments, "an order was not charged at all"
    return {
        "extra_charges": Tally(sum(charges.values()) - payments, payments),
        "charged_twice": Tally(sum(times > 1 for times in charges.values()), payments),
    }


def _sell(
    lab: Lab, shop: LabClient, orders: Mapping[int, LabClient], *, key: bool, lost: float, seed: int
) -> None:
    """Let one buyer each pay for an order; whoever has no answer tries again, until all have one."""
    tries, left = 0, dict(orders)
    while left:
        tries += 1
        for order, buyer in left.items():
            # Decided for the order and the try, so that with and without a key the same answers are lost.
            if seeded(seed, "reply", order, tries).random() < lost:
                lab.partition("gateway", buyer.name, one_way=True)
        # Without a key of the order the client library draws a new one for every call.
        calls = {
            order: buyer.submit_pay(
                shop, Money(order + 1, "EUR"), key=f"order-{order}" if key else "", deadline_s=PATIENCE_S
            )
            for order, buyer in left.items()
        }
        for order, call in calls.items():
            try:
                receipt = call.result()
            except OutcomeUnknown:
                continue
            assert receipt.state == "COMMITTED", receipt
            del left[order]
        lab.heal()


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Nothing with a key or without losses; otherwise the number of tries is geometric."""
    p = parameters["lost_replies"]
    if parameters["key"] or not p:
        return {"extra_charges": Never(), "charged_twice": Never()}
    precision = parameters["precision"]
    return {"extra_charges": Formula(p / (1 - p), precision), "charged_twice": Formula(p, precision)}


DUPLICATES_NETWORK = Experiment(
    name="duplicates-network",
    question="On the whole network: how often is a payment charged again when answers are lost?",
    expectation="never with a key; without one p/(1-p) extra charges a payment, and a share p charged twice",
    source="the number of tries is geometric; zero: J. A. Hanley, A. Lippman-Hand, JAMA 249, 1983",
    grid={"key": [True, False], "lost_replies": [0.0, 0.3]},
    trial=trial,
    expect=expect,
    full=Size(20, {"payments": 60, "precision": 0.35}),
    quick=Size(10, {"payments": 10, "precision": 2.0}),
    units={"extra_charges": "per payment", "charged_twice": "share of payments"},
)
