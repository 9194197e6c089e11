"""The coordinator of two-phase commit with presumed abort, as a state machine without I/O.

An event goes in, a list of effects comes out, in order; a driver performs them.

    VOTING ──every bank says yes──▶ COMMITTED   the decision is forced before it is sent
       │                                         and resent until every bank acknowledges
       ├──a no, or the vote deadline──▶ ABORTED  told once, otherwise found by asking
       └──one bank only, no vote in time──▶ ASKING ──the bank's word──▶ COMMITTED | ABORTED

Source: C. Mohan, B. Lindsay, R. Obermarck, Transaction Management in the R* Distributed Database
Management System, ACM TODS 11(4), 1986 (presumed abort), with attempts and epochs on top: an
attempt is begun at most once, and only in the epoch and before the expiry that it carries.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from paylab.core.backoff import exponential
from paylab.core.effects import (
    Append,
    CommitRecord,
    Effect,
    EndRecord,
    Reply,
    ResolvedRecord,
    SavedRecord,
    Send,
    SetTimer,
    TimerKind,
)
from paylab.core.messages import Ack, Answer, Commit, Decide, Inquire, Leg, Outcome, Prepare, Txn, Vote
from paylab.errors import NotFound, WrongState


class Phase(StrEnum):
    """Where an attempt stands at the coordinator."""

    VOTING = "VOTING"
    ASKING = "ASKING"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"


RESENDS = {
    Phase.VOTING: TimerKind.RESEND_PREPARE,
    Phase.ASKING: TimerKind.RESEND_INQUIRE,
    Phase.COMMITTED: TimerKind.RESEND_DECIDE,
}
OUTCOME = {
    Phase.VOTING: Outcome.UNDECIDED,
    Phase.ASKING: Outcome.UNDECIDED,
    Phase.COMMITTED: Outcome.COMMITTED,
    Phase.ABORTED: Outcome.ABORTED,
}


# From phase and event to the phase after it; None is an attempt that is not known. Whatever is not here
# changes no phase.
TRANSITIONS: dict[tuple[Phase | None, str], Phase] = {
    (None, "Commit"): Phase.VOTING,
    (None, "Commit, too late"): Phase.ABORTED,
    (None, "Commit, too late, one bank"): Phase.ASKING,
    (None, "a bank asks"): Phase.ABORTED,
    (Phase.VOTING, "every yes"): Phase.COMMITTED,
    (Phase.VOTING, "a no"): Phase.ABORTED,
    (Phase.VOTING, "deadline"): Phase.ABORTED,
    (Phase.VOTING, "deadline, one bank"): Phase.ASKING,
    (Phase.VOTING, "operator aborts"): Phase.ABORTED,
    (Phase.VOTING, "operator commits, one bank"): Phase.COMMITTED,
    (Phase.ASKING, "every yes"): Phase.COMMITTED,
    (Phase.ASKING, "a no"): Phase.ABORTED,
    (Phase.ASKING, "operator commits"): Phase.COMMITTED,
    (Phase.ASKING, "operator aborts"): Phase.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Timing:
    """The coordinator's patience, in seconds."""

    vote_deadline_s: float = 4.0
    resend_first_s: float = 0.5
    resend_cap_s: float = 30.0
    # Commit requests that expire later than this from now are refused, so memory of them is bounded.
    attempt_lifetime_max_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the coordinator remembers of a payment: its latest attempt."""

    txn: Txn
    phase: Phase
    expires_at_s: float
    legs: tuple[Leg, ...] = ()
    banks: tuple[str, ...] = ()
    # VOTING: banks that have not voted; COMMITTED: banks that have not acknowledged.
    waiting_for: tuple[str, ...] = ()
    reason: str = ""
    # The gateway has saved the outcome.
    saved: bool = False

    @property
    def one_phase(self) -> bool:
        """Whether one bank keeps all the accounts."""
        return len(self.banks) == 1


def banks_of(legs: Iterable[Leg]) -> tuple[str, ...]:
    """The banks that take part, each once, in the order of the legs."""
    return tuple(dict.fromkeys(leg.bank for leg in legs))


class Coordinator:
    """Decides. `epoch` is this boot's number, forced to disk before the first event."""

    def __init__(self, *, epoch: int, timing: Timing | None = None) -> None:
        """Start with nothing remembered."""
        self.epoch = epoch
        self.timing = timing or Timing()
        self.attempts: dict[str, Attempt] = {}

    # Events -------------------------------------------------------------------------------------

    def recover(self, records: Iterable[CommitRecord]) -> list[Effect]:
        """After a restart: every commit that was not acknowledged by all is sent again."""
        effects: list[Effect] = []
        for record in records:
            attempt = Attempt(
                record.txn,
                Phase.COMMITTED,
                expires_at_s=0.0,
                banks=record.banks,
                waiting_for=record.banks,
                saved=record.saved,
            )
            self.attempts[record.txn.payment] = attempt
            effects += self._resend(attempt, tries=0)
        return effects

    def commit(self, request: Commit, *, now: float) -> list[Effect]:
        """The gateway asks for an attempt, perhaps again: begin it once, else answer from memory."""
        known = self.attempts.get(request.txn.payment)
        if known is not None:
            if known.phase is Phase.COMMITTED:
                return [self._answer(request.txn, Outcome.COMMITTED, "", known.txn.attempt)]
            if known.txn.attempt > request.txn.attempt:
                # It is refused for as long as it could come again and be begun.
                self._remember(replace(known, expires_at_s=max(known.expires_at_s, request.expires_at_s)))
                return [self._answer(request.txn, Outcome.ABORTED, "OLDER_ATTEMPT")]
            if known.txn.attempt == request.txn.attempt:
                return [self._answer(request.txn, OUTCOME[known.phase], known.reason)]
            if known.phase is not Phase.ABORTED:
                # The attempt before is open, so this one must wait its turn.
                return [self._answer(request.txn, Outcome.UNDECIDED)]
        return self._first_seen(request, now=now)

    def vote(self, bank: str, vote: Vote) -> list[Effect]:
        """A bank has voted, or answered an inquiry."""
        attempt = self._open(vote.txn)
        if attempt is None or bank not in attempt.waiting_for:
            return []
        if not vote.yes:
            reason = attempt.reason if attempt.phase is Phase.ASKING and attempt.reason else vote.reason
            return self._abort(attempt, reason, tell=[other for other in attempt.banks if other != bank])
        left = tuple(other for other in attempt.waiting_for if other != bank)
        if left:
            self._remember(replace(attempt, waiting_for=left))
            return []
        return self._commit(attempt)

    def acknowledge(self, bank: str, ack: Ack) -> list[Effect]:
        """A bank has carried a commit out; a refusal keeps it unacknowledged."""
        attempt = self.attempts.get(ack.txn.payment)
        if attempt is None or attempt.txn != ack.txn or attempt.phase is not Phase.COMMITTED or not ack.ok:
            return []
        left = tuple(other for other in attempt.waiting_for if other != bank)
        if left == attempt.waiting_for:
            return []
        attempt = replace(attempt, waiting_for=left)
        self._remember(attempt)
        if attempt.waiting_for or not attempt.saved:
            return []
        # Nobody waits for the end: if it is lost, the banks are told once more.
        return [Append(EndRecord(attempt.txn), forced=False)]

    def saved(self, txn: Txn) -> list[Effect]:
        """The gateway has saved the outcome of this attempt; once that is written it may be told so.

        The gateway says it until it is answered and then never again, so this is forced.
        """
        attempt = self.attempts.get(txn.payment)
        if attempt is None or attempt.txn != txn or attempt.phase is not Phase.COMMITTED or attempt.saved:
            return []
        self._remember(replace(attempt, saved=True))
        return [Append(SavedRecord(txn) if attempt.waiting_for else EndRecord(txn), forced=True)]

    def timer(self, kind: TimerKind, txn: Txn, tries: int = 0) -> list[Effect]:
        """Time has passed; a timer whose attempt has moved on does nothing."""
        attempt = self.attempts.get(txn.payment)
        if attempt is None or attempt.txn != txn or not attempt.waiting_for:
            return []
        if kind is RESENDS.get(attempt.phase):
            return self._resend(attempt, tries=tries + 1)
        if kind is not TimerKind.VOTES or attempt.phase is not Phase.VOTING:
            return []
        if attempt.one_phase:
            # The bank may have posted already: only the bank knows, so ask it.
            return self._ask(replace(attempt, reason="BANK_UNREACHABLE"))
        return self._abort(attempt, "BANK_UNREACHABLE", tell=attempt.banks)

    def decision(self, txn: Txn, *, now: float) -> Outcome:
        """A bank in doubt asks. Nothing known means aborted, and an unknown attempt is closed for good."""
        known = self.attempts.get(txn.payment)
        if known is None or (known.phase is Phase.ABORTED and known.txn.attempt < txn.attempt):
            self._remember(
                Attempt(txn, Phase.ABORTED, now + self.timing.attempt_lifetime_max_s, reason="UNKNOWN")
            )
            return Outcome.ABORTED
        if known.txn.attempt < txn.attempt and known.phase is not Phase.COMMITTED:
            return Outcome.UNDECIDED  # the attempt before is open, so this one cannot be closed yet
        return OUTCOME[known.phase] if known.txn == txn else Outcome.ABORTED

    def forget(self, *, now: float) -> int:
        """Drop what is settled and cannot be asked for again; return how many were dropped."""
        done = [
            payment
            for payment, attempt in self.attempts.items()
            if attempt.expires_at_s <= now
            and (attempt.phase is Phase.ABORTED or (attempt.saved and not attempt.waiting_for))
        ]
        for payment in done:
            del self.attempts[payment]
        return len(done)

    def in_doubt(self) -> list[Txn]:
        """Attempts that are not decided, or whose decision some bank has not acknowledged."""
        return [attempt.txn for attempt in self.attempts.values() if attempt.waiting_for]

    # Operators ----------------------------------------------------------------------------------

    def resolve(self, payment: str, *, commit: bool, operator: str, now: float) -> list[Effect]:
        """An operator decides an undecided attempt; the audit is written before anybody is told.

        Across banks only an abort is possible, as some bank has not promised anything. Inside one bank the
        operator vouches for what that bank's ledger says. Raises NotFound, WrongState.
        """
        attempt = self.attempts.get(payment)
        if attempt is None:
            raise NotFound("NOT_FOUND", f"nothing is known of payment {payment!r}")
        if OUTCOME[attempt.phase] is not Outcome.UNDECIDED:
            raise WrongState("WRONG_STATE", f"{attempt.txn} is {attempt.phase} already")
        if commit and not attempt.one_phase:
            silent = " and ".join(attempt.waiting_for)
            raise WrongState("WRONG_STATE", f"{attempt.txn} cannot commit: {silent} did not promise it")
        audit = Append(ResolvedRecord(attempt.txn, commit, operator, now), forced=True)
        if not commit:
            aborted = self._abort(attempt, "RESOLVED", tell=attempt.banks)
            # The only bank hears it, too: it refuses a late Prepare, and reports what it has posted.
            told = [Send(bank, Decide(attempt.txn, commit=False)) for bank in attempt.banks]
            return [audit, *aborted, *(told if attempt.one_phase else ())]
        # No bank answers for this commit, so the log does, until the gateway has saved it.
        self._remember(replace(attempt, phase=Phase.COMMITTED, waiting_for=()))
        return [
            audit,
            Append(CommitRecord(attempt.txn, ()), forced=True),
            self._answer(attempt.txn, Outcome.COMMITTED, "", attempt.txn.attempt),
        ]

    def retry_now(self, txn: Txn) -> list[Effect]:
        """Send at once what banks have not answered; the timers go on as they are."""
        attempt = self.attempts.get(txn.payment)
        if attempt is None or attempt.txn != txn:
            return []
        return [effect for effect in self._resend(attempt, tries=0) if isinstance(effect, Send)]

    # Steps --------------------------------------------------------------------------------------

    def _first_seen(self, request: Commit, *, now: float) -> list[Effect]:
        attempt = Attempt(
            request.txn,
            Phase.VOTING,
            request.expires_at_s,
            request.legs,
            banks := banks_of(request.legs),
            banks,
        )
        refusal = ""
        if request.epoch != self.epoch:
            refusal = "WRONG_EPOCH"
        elif not now < request.expires_at_s <= now + self.timing.attempt_lifetime_max_s:
            refusal = "EXPIRED"
        if refusal and attempt.one_phase:
            # An earlier boot may have sent it to its only bank, which then decided alone.
            return self._ask(replace(attempt, reason=refusal))
        if refusal:
            return self._abort(attempt, refusal, tell=())
        self._remember(attempt)
        return [
            SetTimer(TimerKind.VOTES, request.txn, self.timing.vote_deadline_s),
            *self._resend(attempt, tries=0),
        ]

    def _commit(self, attempt: Attempt) -> list[Effect]:
        if attempt.one_phase:
            # The bank has posted already; its ledger is the log.
            self._remember(replace(attempt, phase=Phase.COMMITTED, waiting_for=(), saved=True))
            return [self._answer(attempt.txn, Outcome.COMMITTED, "", attempt.txn.attempt)]
        attempt = replace(attempt, phase=Phase.COMMITTED, waiting_for=attempt.banks)
        self._remember(attempt)
        return [
            Append(CommitRecord(attempt.txn, attempt.banks), forced=True),
            self._answer(attempt.txn, Outcome.COMMITTED, "", attempt.txn.attempt),
            *self._resend(attempt, tries=0),
        ]

    def _abort(self, attempt: Attempt, reason: str, *, tell: Iterable[str]) -> list[Effect]:
        self._remember(replace(attempt, phase=Phase.ABORTED, waiting_for=(), reason=reason))
        told = [] if attempt.one_phase else [Send(bank, Decide(attempt.txn, commit=False)) for bank in tell]
        return [self._answer(attempt.txn, Outcome.ABORTED, reason), *told]

    def _ask(self, attempt: Attempt) -> list[Effect]:
        attempt = replace(attempt, phase=Phase.ASKING)
        self._remember(attempt)
        return self._resend(attempt, tries=0)

    def _resend(self, attempt: Attempt, *, tries: int) -> list[Effect]:
        """Send what the phase asks for to every silent bank: a lost answer looks like a slow bank."""
        txn = attempt.txn
        effects: list[Effect] = []
        for bank in attempt.waiting_for:
            message: Prepare | Decide | Inquire
            if attempt.phase is Phase.VOTING:
                legs = tuple(leg for leg in attempt.legs if leg.bank == bank)
                message = Prepare(txn, legs, attempt.one_phase)
            elif attempt.phase is Phase.ASKING:
                message = Inquire(txn)
            else:
                message = Decide(txn, commit=True)
            effects.append(Send(bank, message))
        delay_s = exponential(tries + 1, base_s=self.timing.resend_first_s, cap_s=self.timing.resend_cap_s)
        return [*effects, SetTimer(RESENDS[attempt.phase], txn, delay_s, tries)]

    def _open(self, txn: Txn) -> Attempt | None:
        attempt = self.attempts.get(txn.payment)
        if attempt is None or attempt.txn != txn or attempt.phase not in (Phase.VOTING, Phase.ASKING):
            return None
        return attempt

    def _remember(self, attempt: Attempt) -> None:
        known = self.attempts.get(attempt.txn.payment)
        if known is not None and known.expires_at_s > attempt.expires_at_s:
            # An older attempt may come again until it expires, also if the gateway's clock was set back.
            attempt = replace(attempt, expires_at_s=known.expires_at_s)
        self.attempts[attempt.txn.payment] = attempt

    def _answer(self, txn: Txn, outcome: Outcome, reason: str = "", committed_attempt: int = 0) -> Reply:
        return Reply(Answer(txn, outcome, reason, committed_attempt))
