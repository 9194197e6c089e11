"""The coordinator: begins an attempt once, forces before it speaks, and asks whom it must."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.coordinator import Coordinator, Timing
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
from paylab.core.money import Money
from paylab.errors import NotFound, WrongState

TXN = Txn("p1", 1)
EXPIRY_S = 15.0


def leg(bank: str, amount_minor: int) -> Leg:
    return Leg(bank, "someone", Money(amount_minor, "EUR"))


TWO_BANKS = (leg("alpine", -50), leg("boreal", 50))
ONE_BANK = (leg("alpine", -50), leg("alpine", 50))


def coordinator(epoch: int = 1) -> Coordinator:
    return Coordinator(epoch=epoch, timing=Timing())


def commit(
    txn: Txn = TXN,
    legs: tuple[Leg, ...] = TWO_BANKS,
    *,
    expires_at_s: float = EXPIRY_S,
    epoch: int = 1,
) -> Commit:
    return Commit(txn, legs, expires_at_s, epoch)


def sent(effects: list[Effect]) -> list[tuple[str, Prepare | Decide | Inquire]]:
    return [(effect.bank, effect.message) for effect in effects if isinstance(effect, Send)]


def answers(effects: list[Effect]) -> list[Answer]:
    return [effect.answer for effect in effects if isinstance(effect, Reply)]


def voted_yes(core: Coordinator, txn: Txn = TXN) -> list[Effect]:
    core.commit(commit(txn), now=0.0)
    core.vote("alpine", Vote(txn, yes=True))
    return core.vote("boreal", Vote(txn, yes=True))


def test_an_attempt_begins_by_asking_every_bank_for_its_legs() -> None:
    """Each bank is asked about its own legs, and two timers run: for the votes and to ask again."""
    effects = coordinator().commit(commit(), now=0.0)
    assert sent(effects) == [
        ("alpine", Prepare(TXN, TWO_BANKS[:1])),
        ("boreal", Prepare(TXN, TWO_BANKS[1:])),
    ]
    assert [effect.kind for effect in effects if isinstance(effect, SetTimer)] == [
        TimerKind.VOTES,
        TimerKind.RESEND_PREPARE,
    ]
    assert not answers(effects)


def test_the_decision_is_forced_before_anybody_hears_of_it() -> None:
    """All yes: the record stands first, forced; the answer and the decisions come after it."""
    effects = voted_yes(coordinator())
    assert effects[0] == Append(CommitRecord(TXN, ("alpine", "boreal")), forced=True)
    assert answers(effects) == [Answer(TXN, Outcome.COMMITTED, "", 1)]
    assert sent(effects) == [("alpine", Decide(TXN, commit=True)), ("boreal", Decide(TXN, commit=True))]


def test_one_no_aborts_and_writes_nothing() -> None:
    """Presumed abort: no log record; the other bank is told once; the bank's reason goes to the gateway."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    effects = core.vote("alpine", Vote(TXN, yes=False, reason="INSUFFICIENT_FUNDS"))
    assert effects == [
        Reply(Answer(TXN, Outcome.ABORTED, "INSUFFICIENT_FUNDS")),
        Send("boreal", Decide(TXN, commit=False)),
    ]
    assert core.timer(TimerKind.RESEND_PREPARE, TXN) == []


def test_a_yes_after_a_no_changes_nothing() -> None:
    """The attempt is aborted; a late vote cannot wake it."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    core.vote("alpine", Vote(TXN, yes=False, reason="ACCOUNT_CLOSED"))
    assert core.vote("boreal", Vote(TXN, yes=True)) == []
    assert core.vote("alpine", Vote(TXN, yes=True)) == []
    assert core.decision(TXN, now=1.0) is Outcome.ABORTED


def test_one_banks_yes_counts_once() -> None:
    """A doubled vote is not the vote of the other bank, nor is that of a bank which does not take part."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    for bank in ("alpine", "alpine", "cedar"):
        assert core.vote(bank, Vote(TXN, yes=True)) == []
    assert core.decision(TXN, now=1.0) is Outcome.UNDECIDED


def test_a_lost_vote_is_asked_for_again() -> None:
    """Only the bank that has not voted is asked; the waits double up to their cap."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    core.vote("alpine", Vote(TXN, yes=True))
    delays_s = []
    for tries in range(8):
        effects = core.timer(TimerKind.RESEND_PREPARE, TXN, tries)
        assert sent(effects) == [("boreal", Prepare(TXN, TWO_BANKS[1:]))]
        (timer,) = (effect for effect in effects if isinstance(effect, SetTimer))
        assert timer.tries == tries + 1
        delays_s.append(timer.delay_s)
    assert delays_s == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_bank_that_does_not_vote_in_time_aborts() -> None:
    """Every bank is told, as each may be prepared; the payment is for the queue."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    effects = core.timer(TimerKind.VOTES, TXN)
    assert answers(effects) == [Answer(TXN, Outcome.ABORTED, "BANK_UNREACHABLE")]
    assert sent(effects) == [("alpine", Decide(TXN, commit=False)), ("boreal", Decide(TXN, commit=False))]


def test_only_commits_are_resent_until_acknowledged() -> None:
    """A lost acknowledgement looks like a slow bank: it is told again, the other one is not."""
    core = coordinator()
    voted_yes(core)
    core.acknowledge("alpine", Ack(TXN, ok=True))
    assert sent(core.timer(TimerKind.RESEND_DECIDE, TXN)) == [("boreal", Decide(TXN, commit=True))]
    core.acknowledge("boreal", Ack(TXN, ok=True))
    assert core.timer(TimerKind.RESEND_DECIDE, TXN) == []


def test_a_bank_that_is_away_for_days_is_still_told() -> None:
    """The waits stop growing, however often the decision has been sent."""
    core = coordinator()
    voted_yes(core)
    effects = core.timer(TimerKind.RESEND_DECIDE, TXN, 100_000)
    assert sent(effects) == [("alpine", Decide(TXN, commit=True)), ("boreal", Decide(TXN, commit=True))]
    assert SetTimer(TimerKind.RESEND_DECIDE, TXN, core.timing.resend_cap_s, 100_001) in effects


def test_a_phase_has_one_chain_of_resends() -> None:
    """The timers of the phase before die out, or everything would be sent twice from then on."""
    core = coordinator()
    effects = voted_yes(core)
    kinds = [effect.kind for effect in effects if isinstance(effect, SetTimer)]
    assert kinds == [TimerKind.RESEND_DECIDE]
    assert core.timer(TimerKind.RESEND_PREPARE, TXN, 1) == []


def test_a_refusal_is_no_acknowledgement() -> None:
    """A bank that refuses a commit keeps the transaction in doubt, where people can see it."""
    core = coordinator()
    voted_yes(core)
    assert core.acknowledge("alpine", Ack(TXN, ok=False, refusal="NEVER_PREPARED")) == []
    assert core.in_doubt() == [TXN]


def test_a_stale_vote_timer_does_nothing() -> None:
    """Nothing needs cancelling: a timer whose attempt has moved on is ignored."""
    core = coordinator()
    voted_yes(core)
    assert core.timer(TimerKind.VOTES, TXN) == []
    assert core.timer(TimerKind.VOTES, Txn("p1", 2)) == []
    assert core.timer(TimerKind.RESEND_DECIDE, Txn("nobody", 1)) == []


def test_the_record_goes_when_banks_and_gateway_know() -> None:
    """Not before, in either order; the last bank's word is lazy, the gateway's forced, as it says it once."""
    banks_first = coordinator()
    voted_yes(banks_first)
    assert banks_first.acknowledge("alpine", Ack(TXN, ok=True)) == []
    assert banks_first.acknowledge("boreal", Ack(TXN, ok=True)) == []
    assert banks_first.saved(TXN) == [Append(EndRecord(TXN), forced=True)]

    gateway_first = coordinator()
    voted_yes(gateway_first)
    assert gateway_first.saved(TXN) == [Append(SavedRecord(TXN), forced=True)]
    assert gateway_first.saved(TXN) == []
    assert gateway_first.acknowledge("alpine", Ack(TXN, ok=True)) == []
    assert gateway_first.acknowledge("boreal", Ack(TXN, ok=True)) == [Append(EndRecord(TXN), forced=False)]


def test_a_restart_resends_what_is_not_settled() -> None:
    """From its log it knows the decision, tells all banks again, and answers the gateway at once."""
    core = coordinator(epoch=2)
    effects = core.recover([CommitRecord(TXN, ("alpine", "boreal"), saved=True)])
    assert sent(effects) == [("alpine", Decide(TXN, commit=True)), ("boreal", Decide(TXN, commit=True))]
    assert answers(core.commit(commit(epoch=1), now=99.0)) == [Answer(TXN, Outcome.COMMITTED, "", 1)]
    assert core.decision(TXN, now=99.0) is Outcome.COMMITTED
    core.acknowledge("alpine", Ack(TXN, ok=True))
    assert core.acknowledge("boreal", Ack(TXN, ok=True)) == [Append(EndRecord(TXN), forced=False)]


@pytest.mark.parametrize(
    ("request_", "now", "reason"),
    [
        (commit(epoch=2), 0.0, "WRONG_EPOCH"),
        (commit(epoch=0), 0.0, "WRONG_EPOCH"),
        (commit(), EXPIRY_S, "EXPIRED"),
        (commit(expires_at_s=61.0), 0.0, "EXPIRED"),
    ],
)
def test_a_stale_request_is_answered_and_never_begun(request_: Commit, now: float, reason: str) -> None:
    """A wrong epoch, an expiry that has passed, or one beyond what is remembered: ABORTED, and closed."""
    core = coordinator()
    effects = core.commit(request_, now=now)
    assert effects == [Reply(Answer(TXN, Outcome.ABORTED, reason))]
    good = commit(expires_at_s=now + 10)
    assert core.commit(good, now=now) == [Reply(Answer(TXN, Outcome.ABORTED, reason))]


def test_an_older_attempt_is_never_begun() -> None:
    """Once attempt 2 is known, attempt 1 is answered ABORTED, and attempt 2 goes on."""
    core = coordinator()
    core.commit(commit(Txn("p1", 2)), now=0.0)
    assert core.commit(commit(), now=0.0) == [Reply(Answer(TXN, Outcome.ABORTED, "OLDER_ATTEMPT"))]
    assert core.decision(Txn("p1", 2), now=0.0) is Outcome.UNDECIDED


def test_an_older_attempt_is_refused_for_as_long_as_it_could_come() -> None:
    """The gateway's clock was set back: attempt 2 is over long before attempt 1 expires, and is forgotten.

    A copy of attempt 1 that is still on its way must not be begun then.
    """
    for first_before_second in (True, False):
        core = coordinator()
        requests = [commit(expires_at_s=50.0, epoch=0), commit(Txn("p1", 2), expires_at_s=5.0, epoch=0)]
        for request in requests if first_before_second else requests[::-1]:
            core.commit(request, now=0.0)
        core.forget(now=20.0)
        assert sent(core.commit(commit(expires_at_s=50.0), now=20.0)) == []


def test_a_newer_attempt_waits_for_the_open_one() -> None:
    """The gateway opens the next attempt only after a definite answer; who comes earlier is not begun."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    effects = core.commit(commit(Txn("p1", 2)), now=0.0)
    assert effects == [Reply(Answer(Txn("p1", 2), Outcome.UNDECIDED))]


def test_a_duplicate_commit_after_a_declined_receipt_is_not_begun_when_salary_has_come_in() -> None:
    """The no is remembered until the attempt expires, and after that it has expired."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    declined = core.vote("alpine", Vote(TXN, yes=False, reason="INSUFFICIENT_FUNDS"))
    assert sent(core.commit(commit(), now=1.0)) == []
    assert answers(core.commit(commit(), now=1.0)) == answers(declined)
    assert core.forget(now=EXPIRY_S - 0.1) == 0
    assert core.forget(now=EXPIRY_S) == 1
    assert core.commit(commit(), now=EXPIRY_S) == [Reply(Answer(TXN, Outcome.ABORTED, "EXPIRED"))]


def test_presumed_abort_never_answers_for_a_commit_whose_record_was_compacted() -> None:
    """Banks alone cannot make it forget: until the gateway knows, a repeated Commit is answered COMMITTED."""
    core = coordinator()
    voted_yes(core)
    for bank in ("alpine", "boreal"):
        core.acknowledge(bank, Ack(TXN, ok=True))
    assert core.forget(now=1e9) == 0
    assert answers(core.commit(commit(), now=1e9)) == [Answer(TXN, Outcome.COMMITTED, "", 1)]
    assert core.commit(commit(Txn("p1", 2)), now=1e9) == [
        Reply(Answer(Txn("p1", 2), Outcome.COMMITTED, "", 1))
    ]
    core.saved(TXN)
    assert core.forget(now=1e9) == 1


def test_a_bank_in_doubt_about_the_unknown_hears_aborted_for_good() -> None:
    """The answer is remembered: the attempt cannot begin afterwards."""
    core = coordinator()
    assert core.decision(TXN, now=0.0) is Outcome.ABORTED
    assert core.commit(commit(), now=0.0) == [Reply(Answer(TXN, Outcome.ABORTED, "UNKNOWN"))]


def test_a_bank_in_doubt_while_others_vote_must_wait() -> None:
    """UNDECIDED: it stays prepared and asks again."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    core.vote("alpine", Vote(TXN, yes=True))
    assert core.decision(TXN, now=3.0) is Outcome.UNDECIDED


def test_one_bank_commits_in_one_phase() -> None:
    """The bank's yes is the commit: no log record, no second message."""
    core = coordinator()
    effects = core.commit(commit(legs=ONE_BANK), now=0.0)
    assert sent(effects) == [("alpine", Prepare(TXN, ONE_BANK, one_phase=True))]
    assert core.vote("alpine", Vote(TXN, yes=True)) == [Reply(Answer(TXN, Outcome.COMMITTED, "", 1))]


def test_in_one_phase_only_the_bank_knows() -> None:
    """No vote in time: it is in doubt, the bank is asked until it answers, and its word decides."""
    for yes in (True, False):
        core = coordinator()
        core.commit(commit(legs=ONE_BANK), now=0.0)
        asked = core.timer(TimerKind.VOTES, TXN)
        assert sent(asked) == [("alpine", Inquire(TXN))]
        assert not answers(asked)
        assert sent(core.timer(TimerKind.RESEND_INQUIRE, TXN)) == [("alpine", Inquire(TXN))]
        assert core.timer(TimerKind.VOTES, TXN) == []
        assert core.decision(TXN, now=9.0) is Outcome.UNDECIDED
        (answer,) = answers(core.vote("alpine", Vote(TXN, yes=yes)))
        assert answer.outcome is (Outcome.COMMITTED if yes else Outcome.ABORTED)
        assert answer.reason == ("" if yes else "BANK_UNREACHABLE")


@pytest.mark.parametrize(("epoch", "now"), [(2, 0.0), (1, EXPIRY_S)])
def test_a_stale_request_of_one_bank_asks_that_bank(epoch: int, now: float) -> None:
    """An earlier boot may have sent it and the bank have posted: an abort of our own would charge twice."""
    core = coordinator(epoch)
    effects = core.commit(commit(legs=ONE_BANK), now=now)
    assert sent(effects) == [("alpine", Inquire(TXN))]
    assert not answers(effects)
    assert answers(core.vote("alpine", Vote(TXN, yes=True))) == [Answer(TXN, Outcome.COMMITTED, "", 1)]


def test_an_operators_abort_is_audited_and_told() -> None:
    """The audit is forced before anybody hears; every bank is told, as each may be prepared or become so."""
    for legs in (TWO_BANKS, ONE_BANK):
        core = coordinator()
        core.commit(commit(legs=legs), now=0.0)
        audit, *rest = core.resolve("p1", commit=False, operator="eve", now=7.0)
        assert audit == Append(ResolvedRecord(TXN, commit=False, operator="eve", at_s=7.0), forced=True)
        assert answers(rest) == [Answer(TXN, Outcome.ABORTED, "RESOLVED")]
        assert sent(rest) == [
            (bank, Decide(TXN, commit=False)) for bank in dict.fromkeys(x.bank for x in legs)
        ]
        assert core.vote("alpine", Vote(TXN, yes=True)) == []
        assert core.decision(TXN, now=8.0) is Outcome.ABORTED


def test_an_operators_commit_is_for_one_bank_and_outlives_a_restart() -> None:
    """No bank answers for it, so the log does, until the gateway has saved the outcome."""
    core = coordinator()
    core.commit(commit(legs=ONE_BANK), now=0.0)
    core.timer(TimerKind.VOTES, TXN)
    audit, record, reply = core.resolve("p1", commit=True, operator="eve", now=7.0)
    assert audit == Append(ResolvedRecord(TXN, commit=True, operator="eve", at_s=7.0), forced=True)
    assert record == Append(CommitRecord(TXN, ()), forced=True)
    assert reply == Reply(Answer(TXN, Outcome.COMMITTED, "", 1))
    for later in (core, coordinator(epoch=2)):
        if later is not core:
            assert not sent(later.recover([CommitRecord(TXN, ())]))
        assert answers(later.commit(commit(legs=ONE_BANK), now=99.0)) == [reply.answer]
        assert later.forget(now=1e9) == 0
        assert later.saved(TXN) == [Append(EndRecord(TXN), forced=True)]
        assert later.forget(now=1e9) == 1


def test_an_operator_cannot_resolve_what_is_decided_or_was_not_promised() -> None:
    """A decision stands, and what no bank has promised cannot be committed; nothing is written of it."""
    core = coordinator()
    with pytest.raises(NotFound):
        core.resolve("p1", commit=False, operator="eve", now=0.0)
    core.commit(commit(), now=0.0)
    core.vote("alpine", Vote(TXN, yes=True))
    with pytest.raises(WrongState, match="boreal did not promise"):
        core.resolve("p1", commit=True, operator="eve", now=0.0)
    core.vote("boreal", Vote(TXN, yes=True))
    for decision in (True, False):
        with pytest.raises(WrongState, match="COMMITTED already"):
            core.resolve("p1", commit=decision, operator="eve", now=0.0)


def test_retrying_sends_to_the_silent_and_sets_no_timer() -> None:
    """Those who have answered hear nothing, and what is settled, or of another attempt, is left alone."""
    core = coordinator()
    core.commit(commit(), now=0.0)
    core.vote("alpine", Vote(TXN, yes=True))
    assert core.retry_now(TXN) == [Send("boreal", Prepare(TXN, TWO_BANKS[1:]))]
    assert core.retry_now(Txn("p1", 2)) == core.retry_now(Txn("p2", 1)) == []
    core.vote("boreal", Vote(TXN, yes=True))
    assert sent(core.retry_now(TXN)) == [(bank, Decide(TXN, commit=True)) for bank in ("alpine", "boreal")]
    for bank in ("alpine", "boreal"):
        core.acknowledge(bank, Ack(TXN, ok=True))
    assert core.retry_now(TXN) == []


ATTEMPTS = st.integers(1, 2)
BANKS = st.sampled_from(["alpine", "boreal"])
YES = st.sampled_from([True, True, False])
# Mostly what keeps an attempt going, so that the runs reach the end of one and the beginning of the next.
EVENTS = st.one_of(
    st.tuples(st.just("commit"), ATTEMPTS, st.sampled_from([1, 1, 2]), st.sampled_from([15.0, 40.0, 90.0])),
    st.tuples(st.just("vote"), ATTEMPTS, BANKS, YES),
    st.tuples(st.just("vote"), ATTEMPTS, BANKS, YES),
    st.tuples(st.just("ack"), ATTEMPTS, BANKS, YES),
    st.tuples(st.just("saved"), ATTEMPTS),
    st.tuples(st.just("timer"), ATTEMPTS, st.sampled_from(list(TimerKind)), st.integers(0, 5)),
    st.tuples(st.just("decision"), ATTEMPTS),
    st.tuples(st.just("forget")),
    st.tuples(st.just("wait"), st.floats(0.1, 30.0)),
)


@given(st.lists(EVENTS, min_size=25, max_size=60), st.sampled_from([TWO_BANKS, ONE_BANK]))
def test_no_order_of_events_breaks_the_rules(  # noqa: C901, PLR0912, PLR0915 - a case for each event and effect
    events: list[tuple[Any, ...]], legs: tuple[Leg, ...]
) -> None:
    """Requests, votes, acknowledgements, timers and questions in any order, lost, doubled and late.

    An attempt is begun at most once, and only in its epoch and before its expiry; the commit record is forced
    before the first word of the commit; no transaction is ever called both COMMITTED and ABORTED; and what
    was decided once is never decided otherwise.
    """
    core, now = coordinator(), 0.0
    begun: set[Txn] = set()
    forced: set[Txn] = set()
    outcomes: dict[Txn, Outcome] = {}
    # Epoch and expiry belong to an attempt for ever.
    requests: dict[int, Commit] = {}
    # In one phase the bank decides, and its word stands.
    words: dict[Txn, bool] = {}

    def heard(txn: Txn, outcome: Outcome) -> None:
        if outcome is not Outcome.UNDECIDED:
            assert outcomes.setdefault(txn, outcome) is outcome

    for what, *arguments in events:
        effects: list[Effect] = []
        match what, arguments:
            case "commit", [2, *_] if legs == ONE_BANK and outcomes.get(TXN) is not Outcome.ABORTED:
                pass  # the gateway opens no second attempt before the first is surely aborted
            case "commit", [attempt, epoch, expires_at_s]:
                request = Commit(Txn("p1", attempt), legs, now + expires_at_s, epoch)
                request = requests.setdefault(attempt, request)
                known = dict(core.attempts)
                effects = core.commit(request, now=now)
                if any(isinstance(message, Prepare) for _, message in sent(effects)):
                    assert request.txn not in begun
                    assert request.epoch == core.epoch
                    assert now < request.expires_at_s
                    assert all(attempt > old.txn.attempt for old in known.values())
                    begun.add(request.txn)
            case "vote", [attempt, bank, yes]:
                txn = Txn("p1", attempt)
                yes = words.setdefault(txn, yes) if legs == ONE_BANK else yes
                effects = core.vote(bank, Vote(txn, yes=yes))
            case "ack", [attempt, bank, ok]:
                effects = core.acknowledge(bank, Ack(Txn("p1", attempt), ok=ok))
            case "saved", [attempt]:
                effects = core.saved(Txn("p1", attempt))
            case "timer", [attempt, kind, tries]:
                effects = core.timer(kind, Txn("p1", attempt), tries)
            case "decision", [attempt] if legs == TWO_BANKS:  # in one phase nobody is in doubt
                # A bank asks about what exists already.
                requests.setdefault(attempt, Commit(Txn("p1", attempt), legs, now + EXPIRY_S, 1))
                heard(Txn("p1", attempt), core.decision(Txn("p1", attempt), now=now))
            case "forget", []:
                core.forget(now=now)
                if legs == TWO_BANKS and Outcome.COMMITTED in outcomes.values() and not core.attempts:
                    return  # gateway and banks know, so nobody asks about this payment any more
            case "wait", [seconds]:
                now += seconds
        for effect in effects:
            match effect:
                case Append(CommitRecord(txn)):
                    assert effect.forced
                    forced.add(txn)
                case Append(EndRecord(txn)):
                    assert outcomes[txn] is Outcome.COMMITTED
                case Send(_, Decide(txn, commit=True)):
                    assert txn in forced
                    heard(txn, Outcome.COMMITTED)
                case Send(_, Decide(txn, commit=False)):
                    heard(txn, Outcome.ABORTED)
                case Reply(answer) if answer.outcome is Outcome.COMMITTED:
                    committed = Txn("p1", answer.committed_attempt)
                    assert committed in forced or len({x.bank for x in legs}) == 1
                    heard(committed, Outcome.COMMITTED)
                case Reply(answer):
                    heard(answer.txn, answer.outcome)
