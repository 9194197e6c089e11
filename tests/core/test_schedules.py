"""The schedules behind the rules: each loses, doubles or blocks money if its rule is taken away.

Every schedule is carried out twice: with the rules as they are, and with the one rule replaced that guards
against it. Then it must break, or the schedule would prove nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from paylab.core import participant
from paylab.core import payment as gateway_rules
from paylab.core.coordinator import Attempt, Coordinator
from paylab.core.decisions import DEFAULT, Decisions
from paylab.core.effects import Append, Effect, EndRecord
from paylab.core.messages import Ack, Answer, Commit, Decide, Inquire, Outcome, Prepare, Txn, Vote
from paylab.core.participant import Change, State
from paylab.core.payment import Payment
from paylab.core.payment import State as PaymentState
from tests.core.model_network import ACROSS, INSIDE, LIFETIME_S, OPENING_MINOR, GatewayNode, ModelNetwork

Schedule = Callable[[Decisions], None]
FIRST = Txn("p1", 1)


def started(*payments: tuple[str, str, int], rules: Decisions = DEFAULT) -> ModelNetwork:
    """A network whose gateway knows the epoch and has opened and asked for the first payment."""
    network = ModelNetwork(*payments, rules=rules)
    network.gateway.known_epoch = 1
    network.gateway.open("p1")
    network.gateway.ask("p1")
    return network


def give_up_waiting(network: ModelNetwork) -> None:
    """The vote deadline passes."""
    timer = next(timer for timer in network.coordinator.timers if timer.kind == "VOTES")
    network.coordinator.fire(timer)


def last_vote(network: ModelNetwork) -> Any:
    """Both banks are prepared and one vote has arrived; the other one, which decides."""
    network.deliver(0)
    for _ in OPENING_MINOR:
        network.deliver(network.find(Prepare))
    network.deliver(network.find(Vote))
    return network.bag.pop(network.find(Vote))[1]


# The schedules --------------------------------------------------------------------------------------


def an_old_abort_after_a_new_attempt(rules: Decisions) -> None:
    """The abort of attempt 1 reaches a bank that is prepared for attempt 2: it is another transaction.

    Attempt 2 commits, and whoever hears the old abort late, bank or gateway, changes nothing.
    """
    network = started((*ACROSS, 60), rules=rules)
    network.deliver(network.find(Commit))
    give_up_waiting(network)
    late = [(to, message) for to, message in network.bag if isinstance(message, Decide)]
    abort_heard = next(message for to, message in network.bag if to == "gateway")
    network.bag = [("gateway", abort_heard)]
    network.deliver(0)
    assert network.gateway.rows["p1"].state is PaymentState.QUEUED
    network.wait(int(LIFETIME_S) + 1)  # until the coordinator has forgotten attempt 1
    network.gateway.open("p1")
    network.gateway.ask("p1")
    network.deliver(0)
    for _ in OPENING_MINOR:
        network.deliver(network.find(Prepare))
    network.bag += [*late, ("gateway", abort_heard)]
    while network.bag:
        network.deliver(len(network.bag) - 1)
    network.quiet()
    network.check_end()
    row = network.gateway.rows["p1"]
    assert (row.state, row.attempt) == (PaymentState.COMMITTED, 2)


def a_duplicate_commit_after_a_decline_when_salary_has_come_in(rules: Decisions) -> None:
    """The receipt says declined; the same Commit arrives once more and could now be paid: it is not begun.

    Both banks have restarted meanwhile and have lost the no, which two phases need not force.
    """
    for later_s in (0, 1_000):
        network = started((*ACROSS, 160), rules=rules)
        commit = network.bag[0]
        while network.bag:
            network.deliver(0)
        assert network.gateway.rows["p1"].state is PaymentState.DECLINED
        network.wait(later_s)
        for bank in network.banks.values():
            bank.crash()
        disk = network.banks["alpine"].disk
        disk.accounts["alice"] = rich = replace(disk.accounts["alice"], posted_minor=1_100)
        network.bag.append(commit)
        while network.bag:
            network.deliver(0)
        assert disk.accounts["alice"] == rich
        assert network.gateway.rows["p1"].state is PaymentState.DECLINED


def a_duplicate_commit_after_a_decline_and_a_restart(rules: Decisions) -> None:
    """The coordinator has restarted and remembers no abort; the attempt is of an epoch that has passed."""
    network = started((*ACROSS, 160), rules=rules)
    commit = network.bag[0]
    while network.bag:
        network.deliver(0)
    network.coordinator.crash()
    for bank in network.banks.values():
        bank.crash()
    disk = network.banks["alpine"].disk
    disk.accounts["alice"] = rich = replace(disk.accounts["alice"], posted_minor=1_100)
    network.bag.append(commit)
    while network.bag:
        network.deliver(0)
    assert disk.accounts["alice"] == rich


def a_duplicate_commit_after_a_decline_inside_one_bank(rules: Decisions) -> None:
    """The only bank has forced its no: neither its restart nor the coordinator's makes a yes of it."""
    network = started((*INSIDE, 160), rules=rules)
    commit = network.bag[0]
    while network.bag:
        network.deliver(0)
    assert network.gateway.rows["p1"].state is PaymentState.DECLINED
    network.banks["alpine"].crash()
    disk = network.banks["alpine"].disk
    disk.accounts["alice"] = rich = replace(disk.accounts["alice"], posted_minor=1_100)
    network.bag.append(("alpine", Prepare(commit[1].txn, commit[1].legs, one_phase=True)))  # still on its way
    while network.bag:
        network.deliver(0)
    assert disk.accounts["alice"] == rich


def presumed_abort_and_a_compacted_commit(rules: Decisions) -> None:
    """The banks have acknowledged, the answer to the gateway was lost, and the coordinator restarts.

    Had it dropped its record, it would presume abort and the gateway would pay a second time.
    """
    network = started((*ACROSS, 60), rules=rules)
    while network.bag:
        if network.bag[0][0] == "gateway":
            network.bag.pop(0)
        else:
            network.deliver(0)
    assert network.states()[FIRST] == dict.fromkeys(OPENING_MINOR, State.COMMITTED)
    network.coordinator.write_lazily()
    network.wait(1_000)
    network.coordinator.crash()
    network.gateway.ask("p1")
    network.quiet()
    network.check_end()
    assert network.gateway.rows["p1"].attempt == 1


def a_late_prepare_against_a_tombstone(rules: Decisions) -> None:
    """The abort overtakes its Prepare: when that arrives, nothing is set aside for it."""
    network = started((*ACROSS, 60), rules=rules)
    network.deliver(network.find(Commit))
    prepare = network.bag[network.find(Prepare, "alpine")]
    give_up_waiting(network)
    network.bag = [(to, message) for to, message in network.bag if not isinstance(message, Prepare)]
    while network.bag:
        network.deliver(0)
    network.bag.append(prepare)
    network.deliver(0)
    assert network.bag.pop()[1] == ("alpine", Vote(FIRST, yes=False, reason="ALREADY_ABORTED"))
    assert network.banks["alpine"].disk.accounts["alice"].held_minor == 0


def a_commit_that_was_never_prepared(rules: Decisions) -> None:
    """A bank has lost its promise: it refuses the commit, which stays where people see it."""
    network = started((*ACROSS, 60), rules=rules)
    vote = last_vote(network)
    network.banks["alpine"].disk.rows.clear()
    network.coordinator.receive(vote)
    while network.bag:
        network.deliver(0)
    assert network.refused == [("alpine", Ack(FIRST, ok=False, refusal="NEVER_PREPARED"))]
    network.gateway.tell_saved()
    while network.bag:
        network.deliver(0)
    assert network.coordinator.core.in_doubt() == [FIRST]
    assert "p1" in network.coordinator.log


def one_phase_unknown(rules: Decisions) -> None:
    """The only bank does not answer, is asked, knows nothing, and says aborted; then the Prepare arrives.

    The bank restarts in between. Attempt 2 pays, attempt 1 must not.
    """
    network = started((*INSIDE, 40), rules=rules)
    network.deliver(0)
    late = network.bag.pop(network.find(Prepare))
    give_up_waiting(network)
    while network.bag:
        network.deliver(0)
    assert network.gateway.rows["p1"].state is PaymentState.QUEUED
    network.banks["alpine"].crash()
    network.bag.append(late)
    network.quiet()
    network.check_end()
    assert network.states()[FIRST] == {"alpine": State.ABORTED}
    row = network.gateway.rows["p1"]
    assert (row.state, row.attempt) == (PaymentState.COMMITTED, 2)


def a_crash_between_the_forced_write_and_the_first_word(rules: Decisions) -> None:
    """The record licenses what was never said: after the restart it is said."""
    network = started((*ACROSS, 60), rules=rules)
    network.coordinator.receive(last_vote(network), survive=1)
    told = [message for _, message in network.bag if isinstance(message, Decide)]
    assert told == [Decide(FIRST, commit=True)] * 2
    network.quiet()
    network.check_end()
    assert network.gateway.rows["p1"].state is PaymentState.COMMITTED


def a_crash_before_the_forced_write(rules: Decisions) -> None:
    """Nothing was said: the prepared banks ask and hear aborted, and the next attempt pays."""
    network = started((*ACROSS, 60), rules=rules)
    network.coordinator.receive(last_vote(network), survive=0)
    network.quiet()
    network.check_end()
    assert set(network.states()[FIRST].values()) == {State.ABORTED}
    assert network.gateway.rows["p1"].attempt == 2


def the_gateways_word_and_a_crash_of_the_coordinator(rules: Decisions) -> None:
    """The gateway says once that it has saved; the coordinator restarts before the banks have acknowledged.

    The record still goes in the end: the gateway's word was written before it was answered.
    """
    network = started((*ACROSS, 60), rules=rules)
    while network.bag:
        if isinstance(network.bag[0][1], Decide):
            network.bag.pop(0)
        else:
            network.deliver(0)
    assert network.gateway.rows["p1"].state is PaymentState.COMMITTED
    network.gateway.tell_saved()
    while network.bag:
        network.deliver(0)
    assert not network.gateway.outbox
    network.coordinator.crash()
    network.quiet()
    assert network.coordinator.log == {}
    network.check_end()


# The rules taken away -------------------------------------------------------------------------------


def same_attempt_again(payment: Payment, **about: Any) -> Payment:
    """Use an attempt's number twice."""
    opened = gateway_rules.open_attempt(payment, **about)
    return replace(opened, attempt=1)


def any_abort_counts(payment: Payment, answer: Answer, **about: Any) -> Payment:
    """Take an answer about another attempt for one about the open attempt."""
    return gateway_rules.conclude(payment, replace(answer, txn=payment.txn), **about)


class ForgetsAborts(Coordinator):
    """Presumes abort, so why remember one?"""

    def _abort(self, attempt: Attempt, reason: str, *, tell: Any) -> list[Effect]:
        effects = super()._abort(attempt, reason, tell=tell)
        del self.attempts[attempt.txn.payment]
        return effects


class AnyExpiry(Coordinator):
    """Begins what has expired."""

    def commit(self, request: Commit, *, now: float) -> list[Effect]:
        return super().commit(replace(request, expires_at_s=max(request.expires_at_s, now + 1)), now=now)


class AnyEpoch(Coordinator):
    """Begins what an earlier boot may have begun."""

    def commit(self, request: Commit, *, now: float) -> list[Effect]:
        return super().commit(replace(request, epoch=self.epoch), now=now)


class EndsWithoutGateway(Coordinator):
    """Drops a commit record when the banks know, whether the gateway does or not."""

    def acknowledge(self, bank: str, ack: Ack) -> list[Effect]:
        effects = super().acknowledge(bank, ack)
        attempt = self.attempts.get(ack.txn.payment)
        if effects or attempt is None or attempt.waiting_for or not ack.ok:
            return effects
        return [Append(EndRecord(ack.txn), forced=False)]


class SpeaksFirst(Coordinator):
    """Tells the decision, then writes it."""

    def _commit(self, attempt: Attempt) -> list[Effect]:
        record, *rest = super()._commit(attempt)
        return [*rest, record] if isinstance(record, Append) else [record, *rest]


class PresumesCommit(Coordinator):
    """Answers a bank in doubt about what it does not know with commit."""

    def decision(self, txn: Txn, *, now: float) -> Outcome:
        known = txn.payment in self.attempts
        return super().decision(txn, now=now) if known else Outcome.COMMITTED


class BelievesItself(Coordinator):
    """Does not write down that the gateway has saved."""

    def saved(self, txn: Txn) -> list[Effect]:
        return [effect for effect in super().saved(txn) if not isinstance(effect, Append)]


def no_tombstone(*arguments: Any) -> tuple[Ack, Change]:
    """Abort what is not known without a trace."""
    ack, change = participant.decide(*arguments)
    return ack, participant.UNCHANGED if arguments[0] is None else change


def commits_anything(*arguments: Any) -> tuple[Ack, Change]:
    """Acknowledge a commit of what was never prepared."""
    row, _, request = arguments
    if row is None and request.commit:
        return Ack(request.txn, ok=True), participant.UNCHANGED
    return participant.decide(*arguments)


def lazy_no(*arguments: Any, vote: Any) -> tuple[Vote, Change]:
    """Say no and do not force it."""
    answer, change = participant.prepare(*arguments, vote=vote)
    return answer, change if answer.yes else replace(change, forced=False)


def inquired_without_tombstone(row: Any, request: Inquire) -> tuple[Vote, Change]:
    """Say aborted and leave it at that."""
    return participant.inquire(row, request)[0], participant.UNCHANGED


def inquired_lazily(row: Any, request: Inquire) -> tuple[Vote, Change]:
    """Say aborted before the tombstone is durable."""
    vote, change = participant.inquire(row, request)
    return vote, replace(change, forced=False)


BROKEN: list[tuple[Schedule, str, dict[str, Any]]] = [
    (an_old_abort_after_a_new_attempt, "same attempt", {"gateway_open_attempt": same_attempt_again}),
    (an_old_abort_after_a_new_attempt, "any answer", {"gateway_conclude": any_abort_counts}),
    (
        a_duplicate_commit_after_a_decline_when_salary_has_come_in,
        "no memory",
        {"coordinator_core": ForgetsAborts},
    ),
    (
        a_duplicate_commit_after_a_decline_when_salary_has_come_in,
        "no expiry",
        {"coordinator_core": AnyExpiry},
    ),
    (a_duplicate_commit_after_a_decline_and_a_restart, "no epoch", {"coordinator_core": AnyEpoch}),
    (a_duplicate_commit_after_a_decline_inside_one_bank, "no not forced", {"bank_prepare": lazy_no}),
    (presumed_abort_and_a_compacted_commit, "banks only", {"coordinator_core": EndsWithoutGateway}),
    (a_late_prepare_against_a_tombstone, "no tombstone", {"bank_decide": no_tombstone}),
    (a_commit_that_was_never_prepared, "acknowledged", {"bank_decide": commits_anything}),
    (one_phase_unknown, "no tombstone", {"bank_inquire": inquired_without_tombstone}),
    (one_phase_unknown, "tombstone not forced", {"bank_inquire": inquired_lazily}),
    (a_crash_between_the_forced_write_and_the_first_word, "told first", {"coordinator_core": SpeaksFirst}),
    (a_crash_before_the_forced_write, "presumed commit", {"coordinator_core": PresumesCommit}),
    (the_gateways_word_and_a_crash_of_the_coordinator, "not written", {"coordinator_core": BelievesItself}),
]
SCHEDULES = list(dict.fromkeys(schedule for schedule, _, _ in BROKEN))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
def test_the_rules_carry_the_schedule(schedule: Schedule) -> None:
    """Nothing is lost, doubled or blocked."""
    schedule(DEFAULT)


@pytest.mark.parametrize(
    ("schedule", "rules"),
    [
        pytest.param(schedule, replace(DEFAULT, **broken), id=f"{schedule.__name__}-{name}")
        for schedule, name, broken in BROKEN
    ],
)
def test_without_its_rule_the_schedule_breaks(schedule: Schedule, rules: Decisions) -> None:
    """The same schedule, one rule replaced: something that must hold does not."""
    with pytest.raises(AssertionError):
        schedule(rules)


def two_drivers(network: ModelNetwork) -> None:
    """A retrying client, the queue and a resumed gateway all hear the abort: one attempt is opened.

    One of them hears it only after that attempt has committed: the frozen answer stays as it is.
    """
    network.coordinator.crash()
    for _ in range(3):
        network.gateway.ask("p1")
    while network.bag[0][0] == "coordinator":
        network.deliver(0)
    abort = network.bag[network.find(Answer, "gateway")]
    while network.bag:
        network.deliver(0)
        assert network.gateway.rows["p1"].attempt <= 2
    network.quiet()
    network.check_end()
    network.bag.append(abort)
    network.deliver(0)
    network.check_end()
    assert network.gateway.rows["p1"].attempt == 2
    assert sum(account == "bob" for _, account, _ in network.banks["boreal"].disk.lines) == 1


def test_two_drivers_of_one_payment_move_it_once() -> None:
    """The gateway's row is compared and set, so whoever comes second changes nothing."""
    two_drivers(started((*ACROSS, 60)))


class SetsWithoutComparing(GatewayNode):
    """Writes what its driver believes."""

    def _replace(self, before: Payment, after: Payment) -> None:
        self.rows[before.payment] = after
        if after.state is PaymentState.COMMITTED:
            self.outbox.add(after.txn)


def test_without_compare_and_set_the_second_driver_undoes_the_first() -> None:
    """A driver that believes attempt 1 to be open writes over what has become of it."""
    network = started((*ACROSS, 60))
    careless = SetsWithoutComparing(network, list(network.gateway.rows.values()))
    careless.known_epoch, careless.asked = network.gateway.known_epoch, network.gateway.asked
    network.gateway = careless
    with pytest.raises(AssertionError):
        two_drivers(network)
