"""A bank's books: accounts, holds and postings in append-only double entry.

Every posting sums to zero inside its bank. What leaves for another bank, or arrives from one, stands
against the interbank clearing account; opening balances stand against the funding account. A hold
lowers what can be spent, never what is posted.

The hold of a prepared debit stays until the coordinator's decision. An authorisation, once it is committed,
has a hold of its own, which ends in three ways:

    authorised ──▶ OPEN ──voided───▶ VOIDED
                    │ ▲ └──expired──▶ EXPIRED
                    └─┘ captures take out of it while they are prepared, so that it cannot expire under them
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from paylab.core.messages import Leg, Verb
from paylab.core.money import Money

# Internal accounts start with "@", which no customer's account may.
CLEARING = "@clearing"
FUNDING = "@funding"


class HoldState(StrEnum):
    """Where the hold of an authorisation stands."""

    OPEN = "OPEN"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"


# From state and event to the state after it; None is a hold that does not exist.
HOLD_TRANSITIONS: dict[tuple[HoldState | None, str], HoldState] = {
    (None, "authorised"): HoldState.OPEN,
    (HoldState.OPEN, "voided"): HoldState.VOIDED,
    (HoldState.OPEN, "expired"): HoldState.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class Hold:
    """What an authorisation sets aside on an account, less what captures and a void have taken over."""

    authorisation: str
    left_minor: int
    expires_at_s: float
    state: HoldState = HoldState.OPEN

    def after(self, event: str, *, left_minor: int = 0) -> "Hold":
        """The hold after an event of the table."""
        return replace(self, state=HOLD_TRANSITIONS[self.state, event], left_minor=left_minor)


@dataclass(frozen=True, slots=True)
class Account:
    """One account in one currency, in minor units."""

    account: str
    currency: str
    posted_minor: int = 0
    held_minor: int = 0
    owner: str = ""
    closed: bool = False
    # Of the authorisations' holds, which are part of `held_minor`, those that have been read.
    holds: tuple[Hold, ...] = ()

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
    verb = leg.hold.verb if leg.hold else None
    if account is None:
        return "ACCOUNT_NOT_FOUND"
    # What is set aside on a closed account may still be given back.
    if account.closed and verb is not Verb.FREE:
        return "ACCOUNT_CLOSED"
    if account.currency != leg.money.currency:
        return "CURRENCY_MISMATCH"
    if verb in (Verb.TAKE, Verb.FREE) and leg.debit_minor:
        return _hold_refusal(_hold_of(account, leg), leg)
    if leg.debit_minor and account.available_minor < leg.debit_minor:
        return "INSUFFICIENT_FUNDS"
    return ""


def _hold_refusal(taken: Hold | None, leg: Leg) -> str:
    if taken is not None and taken.state is HoldState.EXPIRED:
        return "AUTHORISATION_EXPIRED"
    enough = taken is not None and taken.state is HoldState.OPEN and taken.left_minor >= leg.debit_minor
    return "" if enough else "AUTHORISATION_CLOSED"


def hold(account: Account, leg: Leg) -> Account:
    """Set the leg's debit aside, perhaps out of an authorisation's hold; a credit needs nothing set aside."""
    taken = _hold_of(account, leg)
    if taken is None:
        return replace(account, held_minor=account.held_minor + leg.debit_minor)
    return _with_hold(account, replace(taken, left_minor=taken.left_minor - leg.debit_minor))


def release(account: Account, leg: Leg) -> Account:
    """Undo `hold`. An authorisation that has ended meanwhile takes nothing back."""
    taken = _hold_of(account, leg)
    if taken is None or taken.state is not HoldState.OPEN:
        return _let_go(account, leg.debit_minor)
    return _with_hold(account, replace(taken, left_minor=taken.left_minor + leg.debit_minor))


def settle(account: Account, leg: Leg) -> Account:
    """Carry out a leg whose debit is set aside. The caller writes the lines in the same transaction."""
    if leg.moves:
        return post(_let_go(account, leg.debit_minor), leg)
    if leg.hold is None or not leg.debit_minor:
        return account
    if leg.hold.verb is Verb.PLACE:
        state = HOLD_TRANSITIONS[None, "authorised"]
        return _with_hold(
            account, Hold(leg.hold.authorisation, leg.debit_minor, leg.hold.expires_at_s, state)
        )
    freed = _hold_of(account, leg)
    account = _let_go(account, leg.debit_minor)
    if freed is None or freed.state is not HoldState.OPEN:
        return account
    return _with_hold(_let_go(account, freed.left_minor), freed.after("voided"))


def post(account: Account, leg: Leg) -> Account:
    """Move the money."""
    return replace(account, posted_minor=account.posted_minor + leg.money.amount_minor)


def expirations(account: Account, *, now: float) -> list[tuple[Hold, Account]]:
    """The authorisations that have expired, each as it was, and the account once it is let go of.

    What captures and voids have taken over stays held, for their transactions are prepared.
    """
    found = []
    for each in account.holds:
        if each.state is HoldState.OPEN and each.left_minor and each.expires_at_s <= now:
            account = _with_hold(_let_go(account, each.left_minor), each.after("expired"))
            found.append((each, account))
    return found


def _hold_of(account: Account, leg: Leg) -> Hold | None:
    """The authorisation's hold that a leg takes its debit from; None for a debit of its own."""
    if leg.hold is None or leg.hold.verb is Verb.PLACE or not leg.debit_minor:
        return None
    return next((each for each in account.holds if each.authorisation == leg.hold.authorisation), None)


def _with_hold(account: Account, changed: Hold) -> Account:
    others = tuple(each for each in account.holds if each.authorisation != changed.authorisation)
    return replace(account, holds=(*others, changed))


def _let_go(account: Account, amount_minor: int) -> Account:
    held_minor = account.held_minor - amount_minor
    assert held_minor >= 0, f"{account.account} releases more than it holds"
    return replace(account, held_minor=held_minor)


def posting(legs: Iterable[Leg], *, against: str) -> tuple[PostingLine, ...]:
    """The lines of one posting: the legs, and what balances them on the internal account `against`."""
    lines = [PostingLine(leg.account, leg.money) for leg in legs]
    totals: dict[str, int] = {}
    for line in lines:
        totals[line.money.currency] = totals.get(line.money.currency, 0) + line.money.amount_minor
    lines += [PostingLine(against, Money(-total, currency)) for currency, total in totals.items() if total]
    return tuple(lines)
