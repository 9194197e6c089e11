"""What the parties of a payment say to each other, free of any wire format."""

from dataclasses import dataclass
from enum import StrEnum

from paylab.core.money import Money

# Why a bank says no. These end on a receipt as the reason of a decline.
DECLINE_REASONS = (
    *("INSUFFICIENT_FUNDS", "ACCOUNT_NOT_FOUND", "ACCOUNT_CLOSED", "CURRENCY_MISMATCH"),
    *("AUTHORISATION_EXPIRED", "AUTHORISATION_CLOSED"),
)


class Outcome(StrEnum):
    """What is known about an attempt."""

    UNDECIDED = "UNDECIDED"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class Txn:
    """One try to move the money of a payment: the transaction id of two-phase commit, used once for ever."""

    payment: str
    attempt: int

    def __str__(self) -> str:
        """Write it as `payment/attempt`."""
        return f"{self.payment}/{self.attempt}"


class Verb(StrEnum):
    """What a leg does with the hold of an authorisation."""

    PLACE = "PLACE"  # sets its debit aside until a capture, a void or the expiry; moves nothing
    TAKE = "TAKE"  # takes its debit out of what is set aside
    FREE = "FREE"  # gives back what is still set aside; moves nothing


@dataclass(frozen=True, slots=True)
class HoldOrder:
    """A leg's instruction about the hold of an authorisation, which is a payment's id."""

    verb: Verb
    authorisation: str
    # For PLACE: when the bank may let go by itself, seconds since the Unix epoch.
    expires_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Leg:
    """What one account at one bank gains (negative for the payer), or with a hold might gain one day."""

    bank: str
    account: str
    money: Money
    hold: HoldOrder | None = None

    @property
    def moves(self) -> bool:
        """Whether a commit posts it."""
        return self.hold is None or self.hold.verb is Verb.TAKE

    @property
    def debit_minor(self) -> int:
        """What must be set aside for it."""
        return max(0, -self.money.amount_minor)


@dataclass(frozen=True, slots=True)
class Commit:
    """Gateway to coordinator: carry this attempt out, unless `expires_at_s` has passed."""

    txn: Txn
    legs: tuple[Leg, ...]
    expires_at_s: float
    epoch: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Coordinator to gateway: what became of the attempt that was asked about."""

    txn: Txn
    outcome: Outcome
    reason: str = ""
    committed_attempt: int = 0


@dataclass(frozen=True, slots=True)
class Prepare:
    """Coordinator to bank: can you, and will you?"""

    txn: Txn
    legs: tuple[Leg, ...]
    one_phase: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """Bank to coordinator: yes is a promise that survives every crash."""

    txn: Txn
    yes: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decide:
    """Coordinator to bank: the decision."""

    txn: Txn
    commit: bool


@dataclass(frozen=True, slots=True)
class Ack:
    """Bank to coordinator: carried out, or refused because it contradicts what the bank knows."""

    txn: Txn
    ok: bool
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Inquire:
    """Coordinator to bank: what became of this one-phase transaction? If unknown, abort it for good."""

    txn: Txn
