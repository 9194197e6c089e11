"""A bank's books: accounts, holds and postings in append-only double entry.

Every posting sums to zero inside its bank. What leaves for another bank, or arrives from one, stands
against the interbank clearing account; opening balances stand against the funding account. A hold
lowers what can be spent, never what is posted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from paylab.core.messages import Leg
from paylab.core.money import Money

# Internal accounts start with "@", which no customer's account may.
CLEARING = "@clearing"
FUNDING = "@funding"


@dataclass(frozen=True, slots=True)
class Account:
    """One account in one currency, in minor units."""

    account: str
    currency: str
    posted_minor: int = 0
    held_minor: int = 0
    owner: str = ""
    closed: bool = False

    @property
    def available_minor(self) -> int:
        """What can be spent."""
        return self.posted_minor - self.held_minor


@dataclass(frozen=True, slots=True)
class PostingLine:
    """One line of a posting: what one account gains."""

    account: str
    money: Money


def refusal(account: Account | None, leg: Leg) -> str:
    """Why this account cannot take this leg; empty when it can."""
    if account is None:
        return "ACCOUNT_NOT_FOUND"
    if account.closed:
        return "ACCOUNT_CLOSED"
    if account.currency != leg.money.currency:
        return "CURRENCY_MISMATCH"
    if leg.money.amount_minor < 0 and account.available_minor < -leg.money.amount_minor:
        return "INSUFFICIENT_FUNDS"
    return ""


def hold(account: Account, leg: Leg) -> Account:
    """Set the leg's debit aside; a credit needs nothing set aside."""
    return replace(account, held_minor=account.held_minor + max(0, -leg.money.amount_minor))


def release(account: Account, leg: Leg) -> Account:
    """Undo `hold`."""
    held_minor = account.held_minor - max(0, -leg.money.amount_minor)
    assert held_minor >= 0, f"{account.account} releases more than it holds"
    return replace(account, held_minor=held_minor)


def post(account: Account, leg: Leg) -> Account:
    """Move the money. The caller writes the posting lines in the same transaction."""
    return replace(account, posted_minor=account.posted_minor + leg.money.amount_minor)


def posting(legs: Iterable[Leg], *, against: str) -> tuple[PostingLine, ...]:
    """The lines of one posting: the legs, and what balances them on the internal account `against`."""
    lines = [PostingLine(leg.account, leg.money) for leg in legs]
    totals: dict[str, int] = {}
    for line in lines:
        totals[line.money.currency] = totals.get(line.money.currency, 0) + line.money.amount_minor
    lines += [PostingLine(against, Money(-total, currency)) for currency, total in totals.items() if total]
    return tuple(lines)
