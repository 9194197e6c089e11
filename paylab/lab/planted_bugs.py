"""Bugs to find, by name: networks in which one decision is taken wrongly.

    Lab(world="simulated", seed=7, replace=planted("decision-before-force"))

Each is a mistake that somebody has made. What is right stands in the function that the slot holds otherwise.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from paylab.core import ledger, participant
from paylab.core.coordinator import Attempt, Coordinator
from paylab.core.effects import Append, CommitRecord, Effect, EndRecord, TimerKind
from paylab.core.ledger import Account
from paylab.core.messages import Ack, Decide, Outcome, Prepare, Txn, Vote
from paylab.core.participant import Change, Transaction
from paylab.core.payment import Payment, State
from paylab.errors import LabError


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """A mistake: its name, what is done wrongly in one sentence, and the slots that it fills."""

    name: str
    about: str
    replace: Mapping[str, Any]


class DecidesBeforeForcing(Coordinator):
    """Tells the banks first and writes the decision down afterwards."""

    def _commit(self, attempt: Attempt) -> list[Effect]:
        return sorted(super()._commit(attempt), key=lambda effect: isinstance(effect, Append))


class ForgetsDecisions(Coordinator):
    """Starts after a crash with nothing remembered, whatever the log says."""

    def recover(self, records: Iterable[CommitRecord]) -> list[Effect]:  # noqa: ARG002 - that is the bug
        """Remember nothing."""
        return []


class EndsAtFirstAck(Coordinator):
    """Drops the commit record as soon as one bank has acknowledged it."""

    def acknowledge(self, bank: str, ack: Ack) -> list[Effect]:
        """Take one acknowledgement for all."""
        effects = super().acknowledge(bank, ack)
        return effects or ([Append(EndRecord(ack.txn), forced=False)] if ack.ok else [])


class AbortsOnePhase(Coordinator):
    """Takes a silent bank for one that did nothing, also where that bank alone decides."""

    def timer(self, kind: TimerKind, txn: Txn, tries: int = 0) -> list[Effect]:
        """Abort at the vote deadline instead of asking."""
        attempt = self.attempts.get(txn.payment)
        if attempt is not None and attempt.txn == txn and attempt.one_phase and kind is TimerKind.VOTES:
            return self._abort(attempt, "BANK_UNREACHABLE", tell=()) if attempt.waiting_for else []
        return super().timer(kind, txn, tries)


def abort_alone(outcome: Outcome | None) -> bool | None:
    """Abort whatever is in doubt when the coordinator does not say that it is committed."""
    return outcome is Outcome.COMMITTED


def prepare_without_hold(
    row: Transaction | None, accounts: Mapping[str, Account], request: Prepare, *, vote: Any
) -> tuple[Vote, Change]:
    """Look whether there is enough money, and set nothing aside."""
    answer, change = participant.prepare(row, accounts, request, vote=vote)
    return answer, change if request.one_phase else replace(change, accounts=())


def decide_without_hold(
    row: Transaction | None, accounts: Mapping[str, Account], request: Decide
) -> tuple[Ack, Change]:
    """Post what was never set aside."""
    return participant.decide(row, held(accounts, row), request)


def held(accounts: Mapping[str, Account], row: Transaction | None) -> dict[str, Account]:
    """The accounts as if the legs of a prepared row had been set aside."""
    books = dict(accounts)
    if row is not None and row.state is participant.State.PREPARED:
        for leg in row.legs:
            books[leg.account] = ledger.hold(books[leg.account], leg)
    return books


def keep_holds(
    row: Transaction | None, accounts: Mapping[str, Account], request: Decide
) -> tuple[Ack, Change]:
    """Mark an aborted transaction as aborted and leave its hold where it is."""
    ack, change = participant.decide(row, accounts, request)
    return ack, change if request.commit else replace(change, accounts=())


def replay_as_declined(saved: Payment, request_fingerprint: str) -> Payment:  # noqa: ARG001 - the slot's shape
    """Tell a caller who repeats himself that his payment was a duplicate."""
    return replace(saved, state=State.DECLINED, reason="DUPLICATE")


def every_event(event_ids: Sequence[str], known: Collection[str]) -> list[str]:  # noqa: ARG001 - the slot's shape
    """Log whatever arrives, also what arrives again."""
    return list(event_ids)


PLANTED = {
    bug.name: bug
    for bug in (
        PlantedBug(
            "decision-before-force",
            "The coordinator sends its decision before it is forced to the log.",
            {"coordinator.core": DecidesBeforeForcing},
        ),
        PlantedBug(
            "forgotten-decisions",
            "After a restart the coordinator does not read which transactions it had committed.",
            {"coordinator.core": ForgetsDecisions},
        ),
        PlantedBug(
            "ended-at-first-ack",
            "The coordinator drops a commit record when the first bank has acknowledged it, not the last.",
            {"coordinator.core": EndsAtFirstAck},
        ),
        PlantedBug(
            "one-phase-not-asked",
            "When a payment inside one bank gets no answer, the coordinator aborts it instead of asking.",
            {"coordinator.core": AbortsOnePhase},
        ),
        PlantedBug(
            "abort-alone",
            "A bank that is in doubt aborts when the coordinator does not answer.",
            {"bank.in_doubt": abort_alone},
        ),
        PlantedBug(
            "vote-without-hold",
            "A bank votes yes when there is enough money and sets none of it aside.",
            {"bank.prepare": prepare_without_hold, "bank.decide": decide_without_hold},
        ),
        PlantedBug(
            "holds-kept",
            "A bank does not release the hold of a transaction that is aborted.",
            {"bank.decide": keep_holds},
        ),
        PlantedBug(
            "replay-differs",
            "The gateway answers a repeated request with a decline instead of the receipt of the first.",
            {"gateway.same_request": replay_as_declined},
        ),
        PlantedBug(
            "log-without-dedup",
            "The logger appends every event that it is sent, also one that it has.",
            {"logger.fresh": every_event},
        ),
    )
}


def planted(name: str) -> dict[str, Any]:
    """What `Lab(replace=...)` takes to have this bug. Raises LabError for a name that no bug has."""
    if name not in PLANTED:
        raise LabError("NO_SUCH_BUG", f"no bug is called {name!r}; there are {', '.join(PLANTED)}")
    return dict(PLANTED[name].replace)


class PlantedBugs:
    """The list of planted bugs, which prints itself."""

    def __iter__(self) -> Any:
        """The bugs in order."""
        return iter(PLANTED.values())

    def __repr__(self) -> str:
        """One line a bug."""
        return "\n".join(f"{bug.name}: {bug.about}" for bug in PLANTED.values())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'><code>{escape(bug.name)}</code></td>"
            f"<td style='text-align:left'>{escape(bug.about)}</td></tr>"
            for bug in PLANTED.values()
        )
        return f"<table>{rows}</table>"


def planted_bugs() -> PlantedBugs:
    """Every planted bug."""
    return PlantedBugs()
