"""A payment and its attempts, as the gateway sees them.

    CREATED ──open──▶ PREPARING ──committed──▶ COMMITTED
                       │  ▲  ├──a bank said no──▶ DECLINED
                       └──┘  └──a bank was out of reach──▶ QUEUED ──open──▶ PREPARING
                  tried again          ▲                      ├──cancel──▶ CANCELLED ◀──cancel──┐
                                       │                      └──give up──▶ DEAD_LETTER ─────────┤
                                       └────────────────requeue──────────────────────────────────┘

Every kind of payment is on this table: `paylab.core.follow_ups` says which may follow which.

Only `open_attempt` opens an attempt, only from CREATED, from QUEUED or after a definite ABORTED, and the
gateway writes the result by compare-and-set. So however many drivers a payment has, one attempt is open.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from paylab.core.messages import DECLINE_REASONS, Answer, HoldOrder, Leg, Outcome, Txn, Verb
from paylab.core.money import Money
from paylab.errors import WrongState


class State(StrEnum):
    """Where a payment stands; the names are those of the receipt."""

    CREATED = "CREATED"
    PREPARING = "PREPARING"
    COMMITTED = "COMMITTED"
    DECLINED = "DECLINED"
    QUEUED = "QUEUED"
    CANCELLED = "CANCELLED"
    DEAD_LETTER = "DEAD_LETTER"


class Operation(StrEnum):
    """What a payment does."""

    PAY = "PAY"  # moves money at once
    AUTHORISE = "AUTHORISE"  # sets the payer's money aside for the payee, until it expires
    CAPTURE = "CAPTURE"  # moves money that an authorisation has set aside, or part of it
    VOID = "VOID"  # gives back what an authorisation still sets aside
    REFUND = "REFUND"  # moves money back to who has paid, or part of it


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.PREPARING}),
    State.PREPARING: frozenset({State.PREPARING, State.COMMITTED, State.DECLINED, State.QUEUED}),
    State.QUEUED: frozenset({State.PREPARING, State.CANCELLED, State.DEAD_LETTER}),
    State.COMMITTED: frozenset(),
    State.DECLINED: frozenset(),
    State.CANCELLED: frozenset(),
    # It rests: only its payer or an operator moves it. So its receipt is not the last word.
    State.DEAD_LETTER: frozenset({State.QUEUED, State.CANCELLED}),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
# Nothing moves from here by itself.
AT_REST = TERMINAL | {State.DEAD_LETTER}
# Of all verdicts the one that another day may change.
SHORT = "INSUFFICIENT_FUNDS"
# Why a dead letter is queued again.
REDRIVEN = "REDRIVEN"
# Aborts that say nothing about the banks: the next attempt may start at once.
AGAIN_REASONS = frozenset({"WRONG_EPOCH", "EXPIRED", "OLDER_ATTEMPT", "ALREADY_ABORTED", "UNKNOWN"})
# After so many attempts in a row it is the queue's turn, so that a wrong clock cannot make a hot loop.
ATTEMPTS_AT_ONCE_MAX = 4


@dataclass(frozen=True, slots=True)
class Payment:
    """What a client asked for once; `attempt` is the latest one opened, 0 for none."""

    payment: str
    caller: str
    key: str
    fingerprint: str
    payer: str
    payee: str
    money: Money
    state: State = State.CREATED
    attempt: int = 0
    # Attempts opened since the payment was created or taken from the queue.
    in_a_row: int = 0
    reason: str = ""
    # When the open attempt expires, and in which of the coordinator's epochs it may begin.
    expires_at_s: float = 0.0
    epoch: int = 0
    accepted_at_s: float = 0.0
    operation: Operation = Operation.PAY
    # The payment that this one captures, voids or refunds.
    about: str = ""
    # AUTHORISE: until then the money stays set aside.
    authorised_until_s: float = 0.0
    # Until then at least its key is remembered; 0 while it is not terminal.
    key_until_s: float = 0.0
    # Whether it is queued instead of declined when the payer has not enough.
    waits_for_funds: bool = False

    @property
    def txn(self) -> Txn:
        """The transaction id of the latest attempt."""
        return Txn(self.payment, self.attempt)

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The debit and the credit. Both banks take part, also when nothing is moved yet."""
        payer_bank, _, payer = self.payer.partition("/")
        payee_bank, _, payee = self.payee.partition("/")
        debit, credit = self._hold_orders()
        return Leg(payer_bank, payer, -self.money, debit), Leg(payee_bank, payee, self.money, credit)

    def _hold_orders(self) -> tuple[HoldOrder | None, HoldOrder | None]:
        """What payer's and payee's bank do with the authorisation's hold."""
        if self.operation is Operation.AUTHORISE:
            place = HoldOrder(Verb.PLACE, self.payment, self.authorised_until_s)
            return place, place
        if self.operation is Operation.CAPTURE:
            return HoldOrder(Verb.TAKE, self.about), None
        if self.operation is Operation.VOID:
            free = HoldOrder(Verb.FREE, self.about)
            return free, free
        return None, None


def open_attempt(payment: Payment, *, expires_at_s: float, epoch: int) -> Payment:
    """Open the next attempt. Raises WrongState when the payment does not allow one.

    Expiry and epoch are the attempt's for ever: a Commit sent again under another epoch could be begun twice.
    """
    moved = _move(payment, State.PREPARING)
    in_a_row = payment.in_a_row + 1 if payment.state is State.PREPARING else 1
    return replace(
        moved,
        attempt=payment.attempt + 1,
        in_a_row=in_a_row,
        expires_at_s=expires_at_s,
        epoch=epoch,
    )


def conclude(payment: Payment, answer: Answer, *, expires_at_s: float, epoch: int) -> Payment:
    """Apply the coordinator's answer about the open attempt.

    An UNDECIDED answer, and an answer about another attempt, changes nothing. `expires_at_s` and `epoch`
    are for the attempt that an abort without a verdict opens at once.
    """
    if payment.state is not State.PREPARING or answer.outcome is Outcome.UNDECIDED:
        return payment
    if answer.outcome is Outcome.COMMITTED:
        return _move(payment, State.COMMITTED)
    if answer.txn != payment.txn:
        return payment
    waits = payment.waits_for_funds and answer.reason == SHORT
    if answer.reason in DECLINE_REASONS and not waits:
        return _move(payment, State.DECLINED, answer.reason)
    if answer.reason in AGAIN_REASONS and payment.in_a_row < ATTEMPTS_AT_ONCE_MAX:
        return open_attempt(payment, expires_at_s=expires_at_s, epoch=epoch)
    return _move(payment, State.QUEUED, answer.reason)


def give_up(payment: Payment, reason: str) -> Payment:
    """Make a queued payment a dead letter. Raises WrongState for any other."""
    return _move(payment, State.DEAD_LETTER, reason)


def cancel(payment: Payment) -> Payment:
    """Take a queued payment or a dead letter back. Raises WrongState for any other."""
    return _move(payment, State.CANCELLED)


def requeue(payment: Payment) -> Payment:
    """Queue a dead letter again. Raises WrongState for any other."""
    if payment.state is not State.DEAD_LETTER:
        raise WrongState("WRONG_STATE", f"payment {payment.payment} is {payment.state}, no DEAD_LETTER")
    return _move(payment, State.QUEUED, REDRIVEN)


def _move(payment: Payment, state: State, reason: str = "") -> Payment:
    if state not in TRANSITIONS[payment.state]:
        raise WrongState(
            "WRONG_STATE", f"payment {payment.payment} is {payment.state}, so it cannot become {state}"
        )
    return replace(payment, state=state, reason=reason)
