"""Which space is explored: how many banks and payments, and how much may go wrong in one run."""

from collections.abc import Iterator
from dataclasses import dataclass

from paylab.core.ledger import Account
from paylab.core.messages import Leg
from paylab.core.money import Money
from paylab.core.payment import Payment
from paylab.errors import LabError

BANKS = ("alpine", "boreal", "cascade", "dune")
PAYMENTS_MAX = 3
FAULTS_MAX = 7
ATTEMPTS_MAX = 4
AMOUNT_MINOR = 10
CURRENCY = "EUR"
PAYER, PAYEE = "payer", "payee"
# An attempt's life. The clock of the model stands still, so none expires before a long wait; see `actors`.
LIFETIME_S = 15.0


@dataclass(frozen=True, slots=True)
class Space:
    """A payment takes money from an account at the first bank and gives it to one at each of the others.

    `crashes`, `losses` and `duplicates` bound what goes wrong in one run, wherever it happens. `attempts`
    bounds how often the gateway tries one payment: what a further attempt would do is not followed.
    """

    banks: int = 2
    payments: int = 1
    crashes: int = 2
    losses: int = 1
    duplicates: int = 1
    attempts: int = 2

    def __post_init__(self) -> None:
        """Raise LabError BAD_ARGUMENT for what is no space."""
        for name, value, least, most in (
            ("banks", self.banks, 1, len(BANKS)),
            ("payments", self.payments, 1, PAYMENTS_MAX),
            ("crashes", self.crashes, 0, FAULTS_MAX),
            ("losses", self.losses, 0, FAULTS_MAX),
            ("duplicates", self.duplicates, 0, FAULTS_MAX),
            ("attempts", self.attempts, 1, ATTEMPTS_MAX),
        ):
            if not least <= value <= most:
                raise LabError("BAD_ARGUMENT", f"{name} must be {least} to {most}, not {value}")

    @property
    def bank_names(self) -> tuple[str, ...]:
        """The banks, the payer's first."""
        return BANKS[: self.banks]

    @property
    def payment_names(self) -> tuple[str, ...]:
        """The payments, which are alike."""
        return tuple(f"p{n}" for n in range(1, self.payments + 1))

    @property
    def price_minor(self) -> int:
        """What a payment costs its payer."""
        return AMOUNT_MINOR * max(1, self.banks - 1)

    def legs(self) -> tuple[Leg, ...]:
        """What every payment moves: in one bank between two accounts, else from the first to the others."""
        payer, *others = self.bank_names
        debit = Leg(payer, PAYER, Money(-self.price_minor, CURRENCY))
        return debit, *(Leg(bank, PAYEE, Money(AMOUNT_MINOR, CURRENCY)) for bank in others or [payer])

    def new_payments(self) -> tuple[Payment, ...]:
        """The gateway's rows before anything has happened."""
        payer, payee = f"{self.bank_names[0]}/{PAYER}", f"{self.bank_names[-1]}/{PAYEE}"
        money = Money(self.price_minor, CURRENCY)
        return tuple(Payment(name, "client", name, "", payer, payee, money) for name in self.payment_names)

    def openings(self) -> Iterator[tuple[tuple[Account, ...], ...]]:
        """The books of every bank at the start: with enough for all payments, and for all but one."""
        for affordable in (self.payments, self.payments - 1):
            payer = Account(PAYER, CURRENCY, affordable * self.price_minor)
            payee = Account(PAYEE, CURRENCY)
            if self.banks == 1:
                yield ((payee, payer),)
            else:
                yield (payer,), *(((payee,),) * (self.banks - 1))
