"""What a protocol core asks its driver to do, in order. An Append is done before any later Send."""

from dataclasses import dataclass
from enum import StrEnum

from paylab.core.messages import Answer, Decide, Inquire, Prepare, Txn


class TimerKind(StrEnum):
    """What a timer is for."""

    VOTES = "VOTES"  # the vote deadline has come
    # What was sent is still not answered. Each message has its own, so that none outlives its phase.
    RESEND_PREPARE = "RESEND_PREPARE"
    RESEND_INQUIRE = "RESEND_INQUIRE"
    RESEND_DECIDE = "RESEND_DECIDE"


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """The coordinator's decision to commit; `banks` must all acknowledge it, and the gateway must save it."""

    txn: Txn
    banks: tuple[str, ...]
    saved: bool = False


@dataclass(frozen=True, slots=True)
class SavedRecord:
    """The gateway has saved the outcome: its commit record waits for banks only."""

    txn: Txn


@dataclass(frozen=True, slots=True)
class EndRecord:
    """Everybody knows the decision: the commit record may be dropped."""

    txn: Txn


@dataclass(frozen=True, slots=True)
class ResolvedRecord:
    """An operator has decided an attempt: a line of the audit, kept for ever."""

    txn: Txn
    commit: bool
    operator: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Append:
    """Write a record to the log; `forced` means durable before anything later is done."""

    record: CommitRecord | SavedRecord | EndRecord | ResolvedRecord
    forced: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a bank. It may be lost, doubled or late."""

    bank: str
    message: Prepare | Decide | Inquire


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer everybody at the gateway who waits for this attempt."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Wake this transaction after `delay_s`. A timer that comes too late is ignored, so none is cancelled."""

    kind: TimerKind
    txn: Txn
    delay_s: float
    tries: int = 0


Effect = Append | Send | Reply | SetTimer
