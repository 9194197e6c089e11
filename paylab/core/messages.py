"""What the parties of a payment say to each other, free of any wire format."""

from dataclasses import dataclass
from enum import StrEnum

from paylab.core.money import Money

# Why a bank says no. These four end on a receipt as the reason of a decline.
DECLINE_REASONS = ("INSUFFICIENT_FUNDS", "ACCOUNT_NOT_FOUND", "ACCOUNT_CLOSED", "CURRENCY_MISMATCH")


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


@dataclass(frozen=True, slots=True)
class Leg:
    """What one account at one bank gains (negative for the payer)."""

    bank: str
    account: str
    money: Money


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
