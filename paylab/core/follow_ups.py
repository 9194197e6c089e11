"""Which payment may follow which: captures and voids of authorisations, refunds of what was paid.

    AUTHORISE ─┬─▶ CAPTURE ──▶ REFUND …     captures up to what was authorised
               └─▶ VOID                     once, of what is left, while no capture is under way
    PAY ──▶ REFUND …                        refunds up to what was paid

The gateway asks `follow` in the write transaction that claims the key, so two requests cannot both take what
is left. One that has failed for good gives its part back. The bank has the last word on authorisations: only
it knows whether one has expired, and then it declines.
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from paylab.core.money import Money
from paylab.core.payment import Operation, Payment, State
from paylab.errors import WrongState

# A week, as card networks give; a caller may ask for less or more.
AUTHORISATION_LIFETIME_S = 7 * 24 * 3600.0
AUTHORISATION_LIFETIME_MAX_S = 30 * 24 * 3600.0
# A dead letter has not failed for good: it can be queued again.
FAILED = frozenset({State.DECLINED, State.CANCELLED})


class Standing(StrEnum):
    """How a payment stands with those that follow it."""

    UNPAID = "UNPAID"  # it is not committed
    OPEN = "OPEN"
    BUSY = "BUSY"  # one that follows it is under way, which may still fail
    VOIDED = "VOIDED"  # a void is done or under way
    SPENT = "SPENT"  # nothing is left


# What may follow, by operation and standing; whatever is not here is refused.
ALLOWED: dict[tuple[Operation, Standing], frozenset[Operation]] = {
    (Operation.AUTHORISE, Standing.OPEN): frozenset({Operation.CAPTURE, Operation.VOID}),
    (Operation.AUTHORISE, Standing.BUSY): frozenset({Operation.CAPTURE}),
    (Operation.CAPTURE, Standing.OPEN): frozenset({Operation.REFUND}),
    (Operation.CAPTURE, Standing.BUSY): frozenset({Operation.REFUND}),
    (Operation.PAY, Standing.OPEN): frozenset({Operation.REFUND}),
    (Operation.PAY, Standing.BUSY): frozenset({Operation.REFUND}),
}


def left_minor(about: Payment, followers: Iterable[Payment]) -> int:
    """What those that follow have not taken; what is under way counts as taken."""
    return about.money.amount_minor - sum(
        each.money.amount_minor for each in followers if each.state not in FAILED
    )


def standing(about: Payment, followers: Iterable[Payment]) -> Standing:
    """How a payment stands with all those that follow it."""
    live = [each for each in followers if each.state not in FAILED]
    if about.state is not State.COMMITTED:
        return Standing.UNPAID
    if any(each.operation is Operation.VOID for each in live):
        return Standing.VOIDED
    if not left_minor(about, live):
        return Standing.SPENT
    return Standing.OPEN if all(each.state is State.COMMITTED for each in live) else Standing.BUSY


def follow(wanted: Payment, about: Payment, followers: Iterable[Payment]) -> Payment:
    """The payment that may follow `about`; one of no amount gets all that is left. Raises WrongState."""
    followers = tuple(followers)
    stands, left = standing(about, followers), left_minor(about, followers)
    if wanted.operation not in ALLOWED.get((about.operation, stands), frozenset()):
        raise WrongState(
            "WRONG_STATE", f"no {wanted.operation} of {about.operation} {about.payment}, which is {stands}"
        )
    if wanted.money.amount_minor > left or wanted.money.currency != about.money.currency:
        rest = Money(left, about.money.currency)
        raise WrongState("WRONG_STATE", f"{rest} are left of {about.payment}, not {wanted.money}")
    return wanted if wanted.money.amount_minor else replace(wanted, money=Money(left, about.money.currency))
