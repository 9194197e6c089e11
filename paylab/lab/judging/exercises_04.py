"""The exercises of chapter 04: the participant's vote, the recovery rule, and the presumed-abort answer.

Each is judged by facts, by drills, and by the explorer: every state that a few faults can lead to.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from paylab.core.coordinator import Coordinator, Phase
from paylab.core.effects import CommitRecord, Effect
from paylab.core.ledger import Account
from paylab.core.messages import Leg, Outcome, Txn
from paylab.core.money import Money
from paylab.errors import LabError
from paylab.lab import faults
from paylab.lab.campaigns.drills import Drill, drill
from paylab.lab.drawing import facts as events_of
from paylab.lab.exploring.explorer import explore
from paylab.lab.exploring.space import Space
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.lab import Lab
from paylab.nodes.events import Event

if TYPE_CHECKING:  # only drawing needs it
    from paylab.lab.drawing.timeline import Timeline

STATES_MAX = 30_000
SPACE = "space"
# The coordinator dies at its first decision, just after it is on disk or just before; odd and even seeds.
DECISION = {1: "unanswered", 0: "before"}


@dataclass(frozen=True, slots=True)
class Walk:
    """The shortest way to a wrong state, as a picture and in words."""

    story: str
    events: tuple[Event, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    badge: str

    @property
    def timeline(self) -> "Timeline":
        """The space-time diagram."""
        from paylab.lab.drawing.timeline import timeline  # noqa: PLC0415 - only for drawing

        return timeline(self.events, nodes=self.nodes, badge=self.badge)


def _explored(mine: Solution, slots: Mapping[str, Any], **bounds: int) -> Finding:
    """Every state of a small space; a wrong one is shown with the shortest way to it."""
    found = explore(Space(**bounds), replace=slots, states_max=STATES_MAX)
    faults_told = ", ".join(f"{bounds[name]} {name}" for name in ("crashes", "losses"))
    case = f"every state within {faults_told}: {found.states:,} of them until the verdict"
    walk = None
    if found.trace is not None:
        steps = "\n".join(step.what for step in found.trace.steps[1:])
        drawn = found.trace.timeline()
        walk = Walk(steps, tuple(found.trace.events()), tuple(drawn.layout.columns), drawn.badge)
    so = (
        found.violations[0] if found.violations else "every invariant holds in each, and each leads to an end"
    )
    return Finding(case, mine.told(), so, walk, passed=found.ok)


def _of_drill(mine: Solution, case: str, found: Drill) -> Finding:
    so = "every check held" if found.ok else found.violations[0]
    return Finding(case, mine.told(), so, found, passed=found.ok)


# 04/vote ----------------------------------------------------------------------------------------


def _account(
    name: str, posted: int, *, held: int = 0, currency: str = "EUR", closed: bool = False
) -> Account:
    return Account(name, currency, posted, held, closed=closed)


def _leg(account: str, minor: int) -> Leg:
    return Leg("alpine", account, Money(minor, "EUR"))


ALICE = _account("alice", 100)
# What a bank has, what is asked of it, and what it must say.
VOTES: tuple[tuple[tuple[Account, ...], tuple[Leg, ...], str], ...] = (
    ((ALICE,), (_leg("alice", -100),), ""),
    ((ALICE,), (_leg("alice", -101),), "INSUFFICIENT_FUNDS"),
    ((_account("alice", 100, held=60),), (_leg("alice", -50),), "INSUFFICIENT_FUNDS"),
    ((_account("bob", 0),), (_leg("bob", 50),), ""),
    ((), (_leg("nobody", 50),), "ACCOUNT_NOT_FOUND"),
    ((_account("bob", 0, closed=True),), (_leg("bob", 50),), "ACCOUNT_CLOSED"),
    ((_account("bob", 0, currency="CHF"),), (_leg("bob", 50),), "CURRENCY_MISMATCH"),
    ((ALICE, _account("bob", 0, closed=True)), (_leg("alice", -10), _leg("bob", 10)), "ACCOUNT_CLOSED"),
)


def _vote(mine: Solution, case: int) -> Finding:
    accounts, legs, expected = VOTES[case]
    returned = mine({account.account: account for account in accounts}, legs)
    right = returned == expected and isinstance(returned, str)
    has = ", ".join(map(_balance, accounts)) or "no account at all"
    asked = ", ".join(f"{leg.account} {leg.money}" for leg in legs)
    must = "yes" if not expected else f"no: {expected}"
    so = "it is right" if right else f"the bank must say {must}"
    return Finding(f"the bank has {has}; asked for: {asked}", repr(returned), so, passed=right)


def _balance(account: Account) -> str:
    held = f" of which {account.held_minor} are held" if account.held_minor else ""
    closed = ", closed" if account.closed else ""
    return f"{account.account} with {account.posted_minor} {account.currency} cents{held}{closed}"


def _slot_of_votes(mine: Solution) -> dict[str, Any]:
    return {"bank.vote": lambda accounts, legs: mine(dict(accounts), legs)}


def _rush(mine: Solution, seed: int) -> Finding:
    """Four payments at the same time from an account that affords two."""
    lab = Lab(
        world="simulated",
        seed=seed,
        bank_servers=1,
        auth_servers=1,
        lease_s=4.5,
        replace=_slot_of_votes(mine),
        name="rush",
    )
    try:
        alice = lab.client("alice", bank="alpine", balance="25.00 EUR")
        bob = lab.client("bob", bank="boreal")
        paying = [alice.submit_pay(bob, "10.00 EUR", key=f"order-{n}", deadline_s=30.0) for n in range(4)]
        receipts = [future.result(30.0) for future in paying]
        lab.settle()
        paid = sum(receipt.state == "COMMITTED" for receipt in receipts)
        violations = list(lab.check().violations)
        if not violations and paid != 2:  # noqa: PLR2004 - what 25 euros afford at 10 each
            violations.append(f"{paid} of 4 payments were carried out, and the account affords 2")
        events = tuple(events_of.around_payment(lab.history, receipts[-1].payment))
        found = Drill(seed, tuple(violations), receipts[-1].payment, events, lab.nodes, lab.badge)
    finally:
        with suppress(LabError):  # what is broken has been told
            lab.close()
    return _of_drill(mine, f"four payments of 10 euros at once from 25 euros, seed {seed}", found)


def _every_vote(mine: Solution, _case: int) -> Finding:
    return _explored(mine, _slot_of_votes(mine), crashes=0, losses=1, duplicates=0)


# 04/recovery ------------------------------------------------------------------------------------

PAID, SENT = Txn("p1", 1), Txn("p2", 3)
BOTH = ("alpine", "boreal")
LOGS: tuple[tuple[CommitRecord, ...], ...] = (
    (),
    (CommitRecord(PAID, BOTH),),
    (CommitRecord(PAID, BOTH), CommitRecord(SENT, ("boreal", "cascade"))),
    (CommitRecord(PAID, BOTH, saved=True),),
)


def _told(mine: Solution, records: Sequence[CommitRecord]) -> set[tuple[str, Txn]]:
    return {(str(bank), txn) for bank, txn in mine(list(records))}


def _log(mine: Solution, case: int) -> Finding:
    records = LOGS[case]
    returned = mine(list(records))
    expected = {(bank, record.txn) for record in records for bank in record.banks}
    right = isinstance(returned, list) and set(returned) == expected and len(returned) == len(expected)
    log = ", ".join(f"COMMIT {r.txn} at {' and '.join(r.banks)}{_saved_word(r)}" for r in records) or "empty"
    text = ", ".join(f"{bank}: {txn}" for bank, txn in sorted(expected, key=str)) or "nobody"
    so = "those are the banks" if right else f"told must be {text}"
    return Finding(f"the log after a restart: {log}", _pairs(returned), so, passed=right)


def _saved_word(record: CommitRecord) -> str:
    return " (the gateway has saved it)" if record.saved else ""


def _pairs(returned: Any) -> str:
    if isinstance(returned, list) and all(isinstance(pair, tuple) for pair in returned):
        return ", ".join(f"({', '.join(map(str, pair))})" for pair in returned) or "an empty list"
    return repr(returned)


def _slot_of_recovery(mine: Solution) -> dict[str, Any]:
    class Recovers(Coordinator):
        """Remembers and tells after a restart what the solution says, and nothing else."""

        def recover(self, records: Iterable[CommitRecord]) -> list[Effect]:
            """Recover the part of each record that is told."""
            known = list(records)
            told = _told(mine, known)
            kept = [
                replace(record, banks=tuple(bank for bank in record.banks if (bank, record.txn) in told))
                for record in known
            ]
            return super().recover([record for record in kept if record.banks])

    return {"coordinator.core": Recovers}


def _after_a_crash(mine: Solution, seed: int) -> Finding:
    point = DECISION[seed % 2]
    schedule = [
        faults.at(0, faults.crash_at_commit("coordinator", point)),
        faults.at(1.0, faults.restart("coordinator")),
    ]
    found = drill(seed, schedule=schedule, replace=_slot_of_recovery(mine))
    when = "just after" if seed % 2 else "just before"
    return _of_drill(mine, f"the coordinator dies {when} its first decision is on disk, seed {seed}", found)


def _every_restart(mine: Solution, _case: int) -> Finding:
    return _explored(mine, _slot_of_recovery(mine), crashes=1, losses=0, duplicates=0, attempts=1)


# 04/presumed-abort ------------------------------------------------------------------------------

# What is known of the transaction that a bank asks about, and what it must hear.
ANSWERS = (("VOTING", "UNDECIDED"), ("COMMITTED", "COMMITTED"), ("ABORTED", "ABORTED"), (None, "ABORTED"))


def _answer(mine: Solution, case: int) -> Finding:
    phase, expected = ANSWERS[case]
    returned = mine(phase)
    right = returned == expected
    known = f"is {phase}" if phase else "is not known: neither in memory nor in the log"
    so = "the bank is told the truth" if right else f"the bank must hear {expected}"
    return Finding(f"the transaction {known}", repr(returned), so, passed=right)


def _slot_of_answers(mine: Solution) -> dict[str, Any]:
    class Answers(Coordinator):
        """Answers banks in doubt as the solution says."""

        def decision(self, txn: Txn, *, now: float) -> Outcome:
            """What is known of this transaction, judged by the solution."""
            known = self.attempts.get(txn.payment)
            if known is not None and known.txn != txn:
                return super().decision(txn, now=now)
            phase = Phase.VOTING if known and known.phase is Phase.ASKING else known.phase if known else None
            outcome = Outcome(mine(None if phase is None else phase.value))
            if known is None and outcome is Outcome.ABORTED:
                super().decision(txn, now=now)  # it closes the attempt for good
            return outcome

    return {"coordinator.core": Answers}


def _asked(mine: Solution, seed: int) -> Finding:
    point = DECISION[seed % 2]
    schedule = [
        faults.at(0, faults.crash_at_commit("coordinator", point)),
        faults.at(2.0, faults.restart("coordinator")),
    ]
    found = drill(seed, schedule=schedule, replace=_slot_of_answers(mine))
    when = "just after" if seed % 2 else "just before"
    case = f"the coordinator dies {when} its first decision is on disk; the banks ask, seed {seed}"
    return _of_drill(mine, case, found)


def _every_question(mine: Solution, _case: int) -> Finding:
    return _explored(mine, _slot_of_answers(mine), crashes=1, losses=1, duplicates=0, attempts=1)


# Answers as JSON --------------------------------------------------------------------------------


def _text(_arguments: tuple[Any, ...], answer: Any) -> Any:
    return answer if answer is None or isinstance(answer, str) else repr(answer)


def _same(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved


def encode_pairs(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """Banks and transactions as texts; anything else as the text that stands for it."""
    if isinstance(answer, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in answer):  # noqa: PLR2004 - a pair
        return [[str(bank), str(txn)] for bank, txn in answer]
    return repr(answer)


def decode_pairs(arguments: tuple[Any, ...], saved: Any) -> Any:
    """Undo `encode_pairs`; the transactions are those of the log that was asked about."""
    if isinstance(saved, str):
        return saved
    known = {str(record.txn): record.txn for record in arguments[0]}
    return [(bank, known.get(txn, txn)) for bank, txn in saved]


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


EXERCISES = (
    Exercise(
        "04/vote",
        "The participant's vote",
        "A bank says yes only to what it can still keep when everything that it has promised before is kept.",
        _starter("vote(accounts, legs)", 'Return "" for yes, or the reason of the no.'),
        (
            "accounts maps names to Accounts; a leg has .account and .money, negative for whoever pays.",
            "What can be spent is account.available_minor: what is posted, less what is held for promises.",
            "Go through the legs; ACCOUNT_NOT_FOUND, ACCOUNT_CLOSED, CURRENCY_MISMATCH, INSUFFICIENT_FUNDS.",
        ),
        (
            Check("requests by hand", 4, facts(len(VOTES)), _vote, unit="fact"),
            Check("a rush on one account", 3, by_seed, _rush),
            Check("every state", 3, facts(1), _every_vote, unit=SPACE),
        ),
        _text,
        _same,
    ),
    Exercise(
        "04/recovery",
        "What a restarted coordinator says first",
        "After a restart every bank of every commit in the log is told again: nobody knows who has heard.",
        _starter("to_tell(records)", "Return a list of (bank, txn): who must hear COMMIT again."),
        (
            "A record has .txn, .banks and .saved; it is dropped only when nobody needs it any more.",
            "The log does not say which bank has acknowledged: that was in memory.",
            ".saved tells that the gateway knows the outcome. What does it tell of the banks?",
        ),
        (
            Check("logs by hand", 4, facts(len(LOGS)), _log, unit="fact"),
            Check("after a crash", 3, by_seed, _after_a_crash),
            Check("every state", 3, facts(1), _every_restart, unit=SPACE),
        ),
        encode_pairs,
        decode_pairs,
    ),
    Exercise(
        "04/presumed-abort",
        "What a bank in doubt is told",
        "What the coordinator does not know was never committed: a commit is in the log before it is said.",
        _starter("answer(phase)", "Return COMMITTED, ABORTED or UNDECIDED; phase None: it is not known."),
        (
            'phase is "VOTING", "COMMITTED", "ABORTED", or None when neither memory nor log knows it.',
            "While votes are still coming in, either end is possible.",
            "A commit is forced to the log before anybody hears of it. So what does an empty log mean?",
        ),
        (
            Check("questions by hand", 4, facts(len(ANSWERS)), _answer, unit="fact"),
            Check("asked after a crash", 3, by_seed, _asked),
            Check("every state", 3, facts(1), _every_question, unit=SPACE),
        ),
        _text,
        _same,
    ),
)
