"""Keys and two-phase commit, each switched off: the same orders in four networks, and what each gets wrong.

four_networks(orders=40, lost=0.3)
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from paylab.core import participant
from paylab.core.ledger import Account
from paylab.core.messages import Prepare, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, Transaction
from paylab.errors import LabError, OutcomeUnknown
from paylab.lab.clients import LabClient
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import seeded

PRICE = "1.00 EUR"
PRICE_MINOR = 100
# One order in so many goes to an account that cannot take it.
REFUSED_EVERY = 8
# A buyer who has no answer by then asks again.
PATIENCE_S = 1.0
LEASE_S = 4.5
LEFT = "style='text-align:left'"


def book_at_once(
    row: Transaction | None, accounts: Mapping[str, Account], request: Prepare, *, vote: Any
) -> tuple[Vote, Change]:
    """Independent calls: each bank books what it is asked for at once, whatever the other bank will say."""
    return participant.prepare(row, accounts, replace(request, one_phase=True), vote=vote)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one network made of the orders: charges beyond one each, and payments that only one bank has."""

    keys: bool
    two_phases: bool
    charged_again: int
    half_payments: int


@dataclass(frozen=True, slots=True)
class FourNetworks:
    """The four outcomes side by side."""

    orders: int
    lost: float
    outcomes: tuple[Outcome, ...]
    badge: str

    def __getitem__(self, which: tuple[bool, bool]) -> Outcome:
        """The network with keys or not, with two phases or not."""
        return next(each for each in self.outcomes if (each.keys, each.two_phases) == which)

    def __str__(self) -> str:
        """A line a network."""
        return "\n".join(
            f"{_keys(each.keys):<16}{_phases(each.two_phases):<20}{_told(each)}" for each in self.outcomes
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th {LEFT}>{escape(_phases(phases))}</th>" for phases in (True, False))
        rows = "".join(
            f"<tr><th {LEFT}>{escape(_keys(keys))}</th>"
            + "".join(f"<td {LEFT}>{escape(_told(self[keys, phases]))}</td>" for phases in (True, False))
            + "</tr>"
            for keys in (True, False)
        )
        about = f"{self.orders} orders, {self.lost:.0%} of the answers lost ({self.badge})"
        return f"<table><tr><th></th>{head}</tr>{rows}</table><p>{escape(about)}</p>"


def _keys(keys: bool) -> str:  # noqa: FBT001 - a word for a cell of the table
    return "a key an order" if keys else "a key a try"


def _phases(two_phases: bool) -> str:  # noqa: FBT001 - a word for a cell of the table
    return "two-phase commit" if two_phases else "independent calls"


def _told(each: Outcome) -> str:
    return f"{each.charged_again} charged again, {each.half_payments} half payments"


def four_networks(orders: int = 40, *, lost: float = 0.3, seed: int = 7) -> FourNetworks:
    """Sell the same orders in four networks, in which the same answers get lost.

    Raises LabError for no order or a share of losses outside 0 to below 1.
    """
    if orders < 1 or not 0 <= lost < 1:
        raise LabError("BAD_ARGUMENT", "orders is 1 or more, and lost a share below 1")
    outcomes = tuple(
        _day(orders, lost, seed, keys=keys, two_phases=two_phases)
        for keys in (True, False)
        for two_phases in (True, False)
    )
    return FourNetworks(orders, lost, outcomes, f"simulated, seed {seed}")


def _day(orders: int, lost: float, seed: int, *, keys: bool, two_phases: bool) -> Outcome:
    slots = {} if two_phases else {"bank.prepare": book_at_once}
    lab = Lab(
        world="simulated",
        seed=seed,
        bank_servers=1,
        auth_servers=1,
        lease_s=LEASE_S,
        replace=slots,
        name="day",
    )
    try:
        buyer = lab.client("buyer", bank="alpine", balance=Money(orders * 10_000, "EUR"))
        shop = lab.client("shop", bank="boreal")
        francs = lab.client("francs", bank="boreal", balance="0.00 CHF")
        good, rng = 0, seeded(seed, "answers")
        for order in range(orders):
            refused = order % REFUSED_EVERY == REFUSED_EVERY - 1
            good += not refused
            heard = False
            while not heard:
                heard = rng.random() >= lost
                _ask(lab, buyer, francs if refused else shop, f"order {order}" if keys else "", heard=heard)
        lab.settle()
        balances = {account: money.amount_minor for account, money in lab.balances().items()}
        got = balances["boreal/shop"] // PRICE_MINOR
        paid = orders * 100 - balances["alpine/buyer"] // PRICE_MINOR
        return Outcome(keys, two_phases, got - good, paid - got)
    finally:
        with suppress(LabError):  # that half a payment is broken is the point
            lab.close()


def _ask(lab: Lab, buyer: LabClient, payee: LabClient, key: str, *, heard: bool) -> None:
    if not heard:
        lab.partition("gateway", buyer.name, one_way=True)
    with suppress(OutcomeUnknown):
        buyer.pay(payee, PRICE, key=key, deadline_s=PATIENCE_S)
    lab.heal()
