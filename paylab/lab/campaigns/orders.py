"""What the clients of a campaign ask for: few accounts, hot ones among them, and impatient people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paylab.core.money import Money
from paylab.lab.simulation.choices import seeded

CURRENCY = "EUR"
# Opening balances in minor units; little enough that money runs out now and then.
OPENING_MINOR: Mapping[str, int] = {
    "alpine/ada": 60_00,
    "alpine/ben": 40_00,
    "boreal/cleo": 60_00,
    "boreal/dan": 40_00,
}
# One account pays and one is paid more than the others.
PAYERS = ("alpine/ada", "alpine/ada", "alpine/ben", "boreal/cleo", "boreal/dan")
PAYEES = ("boreal/cleo", "boreal/cleo", "alpine/ada", "alpine/ben", "boreal/dan")
AMOUNT_MINOR_MAX = 25_00
# Payments a second, when there are so many that they do not fit the span of the faults.
RATE_PER_S = 12.5
SPAN_S = 8.0
IMPATIENT_SHARE = 0.25
# How often a key is used again for another amount, which must be refused.
MISUSE_SHARE = 0.04
PATIENCE_S = 45.0


@dataclass(frozen=True, slots=True)
class Order:
    """One time that somebody asks for a payment; the same key again is the same payment."""

    at_s: float
    payer: str
    payee: str
    amount_minor: int
    key: str
    patience_s: float = PATIENCE_S

    @property
    def money(self) -> Money:
        """What is to be paid."""
        return Money(self.amount_minor, CURRENCY)

    @property
    def request(self) -> tuple[str, str, int]:
        """What a key is bound to."""
        return self.payer, self.payee, self.amount_minor

    def __str__(self) -> str:
        """Write it in one line."""
        return f"at {self.at_s:g} s {self.payer} pays {self.money} to {self.payee}, key {self.key!r}"


def user_of(account: str) -> str:
    """Who owns an account."""
    return account.partition("/")[2]


def span_s(payments: int) -> float:
    """In how many seconds so many payments are sent."""
    return max(SPAN_S, payments / RATE_PER_S)


def keys_of(orders: Sequence[Order]) -> list[str]:
    """The different payments of some orders, in order."""
    return list(dict.fromkeys(order.key for order in orders))


def draw(seed: int, *, payments: int) -> list[Order]:
    """Orders for so many payments, open loop: when each is sent does not depend on the answers."""
    rng, last_s, found = seeded(seed, "orders"), span_s(payments), list[Order]()
    for number in range(1, payments + 1):
        at_s, payer, payee = round(rng.uniform(0.0, last_s), 3), rng.choice(PAYERS), rng.choice(PAYEES)
        while payee == payer:
            payee = rng.choice(PAYEES)
        order = Order(at_s, payer, payee, rng.randint(1_00, AMOUNT_MINOR_MAX), f"order-{number}")
        if rng.random() >= IMPATIENT_SHARE:
            found.append(order)
            continue
        for patience_s in (rng.uniform(0.3, 3.0), rng.uniform(0.3, 3.0), PATIENCE_S):
            amount_minor = order.amount_minor + (100 if rng.random() < MISUSE_SHARE else 0)
            found.append(Order(at_s, payer, payee, amount_minor, order.key, round(patience_s, 3)))
            at_s = round(at_s + rng.uniform(0.05, 4.0), 3)
    return sorted(found, key=lambda order: order.at_s)
