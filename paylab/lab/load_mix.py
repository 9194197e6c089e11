"""What an open-loop load pays: amounts, shares of the payments that are out of the ordinary, and who pays."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from paylab.core.backoff import Rng
from paylab.core.money import AMOUNT_MINOR_MAX, Money, parse_money
from paylab.errors import LabError

# An account is opened with so many times the largest payment, and does not run dry.
FUNDS_TIMES = 100_000


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares are of all payments, 0 to 1; `amounts` are the least and the most, all between as likely."""

    # Payer and payee at the same bank, which takes one phase instead of two.
    inside_bank: float = 0.25
    # The payer has nothing, so the payment is declined.
    without_funds: float = 0.0
    amounts: tuple[str, str] = ("0.01 EUR", "20.00 EUR")
    # Accounts with money at each bank.
    people: int = 8
    _least: Money = field(init=False, repr=False)
    _most: Money = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no share, and amounts that span nothing. Raises LabError, InvalidRequest."""
        for name in ("inside_bank", "without_funds"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LabError("BAD_ARGUMENT", f"{name} is a share from 0 to 1, not {getattr(self, name)!r}")
        least, most = map(parse_money, self.amounts)
        if least.currency != most.currency or not 0 < least.amount_minor <= most.amount_minor:
            raise LabError("BAD_ARGUMENT", f"amounts are the least and the most to pay, not {self.amounts!r}")
        if self.people < 2:  # noqa: PLR2004 - nobody pays himself
            raise LabError("BAD_ARGUMENT", f"a bank has 2 people or more, not {self.people}")
        object.__setattr__(self, "_least", least)
        object.__setattr__(self, "_most", most)

    def accounts(self) -> list[tuple[str, Money]]:
        """The accounts that each bank opens, and what is on them."""
        funds = Money(min(FUNDS_TIMES * self._most.amount_minor, AMOUNT_MINOR_MAX), self._most.currency)
        rich = [(f"load-{n + 1}", funds) for n in range(self.people)]
        return [*rich, ("load-empty", Money(0, funds.currency))]

    def draw(self, banks: Sequence[str], rng: Rng) -> tuple[str, str, Money]:
        """The next payment: payer and payee as "bank/account", and the amount."""
        home, payer = _one_of(len(banks), rng), _one_of(self.people, rng)
        away, payee = home, _one_of(self.people - 1, rng)
        if rng.random() < self.inside_bank or len(banks) == 1:
            payee += payee >= payer
        else:
            away = _one_of(len(banks) - 1, rng)
            away += away >= home
        from_account = "load-empty" if rng.random() < self.without_funds else f"load-{payer + 1}"
        span = self._most.amount_minor - self._least.amount_minor + 1
        money = Money(self._least.amount_minor + _one_of(span, rng), self._least.currency)
        return f"{banks[home]}/{from_account}", f"{banks[away]}/load-{payee + 1}", money


def _one_of(count: int, rng: Rng) -> int:
    return int(rng.random() * count)
