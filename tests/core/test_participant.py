"""A bank's side of two-phase commit: promises are kept, repetitions change nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.ledger import CLEARING, Account
from paylab.core.messages import Ack, Decide, HoldOrder, Inquire, Leg, Prepare, Txn, Verb, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, State, Transaction, decide, inquire, prepare, superseded

TXN = Txn("p1", 1)


def leg(amount_minor: int, account: str = "alice", currency: str = "EUR") -> Leg:
    return Leg("alpine", account, Money(amount_minor, currency))


class Bank:
    """Rows in memory: what a bank server does around the rules."""

    def __init__(self, **opening_minor: int) -> None:
        self.rows: dict[Txn, Transaction] = {}
        self.accounts = {name: Account(name, "EUR", amount) for name, amount in opening_minor.items()}
        self.clearing_minor = 0
        self.changes: list[Change] = []

    def prepare(self, request: Prepare) -> Vote:
        vote, change = prepare(self.rows.get(request.txn), self.accounts, request)
        self._write(change)
        return vote

    def decide(self, request: Decide) -> Ack:
        ack, change = decide(self.rows.get(request.txn), self.accounts, request)
        self._write(change)
        return ack

    def inquire(self, request: Inquire) -> Vote:
        vote, change = inquire(self.rows.get(request.txn), request)
        self._write(change)
        return vote

    def _write(self, change: Change) -> None:
        self.changes.append(change)
        if change.transaction is not None:
            self.rows[change.transaction.txn] = change.transaction
        self.accounts.update({account.account: account for account in change.accounts})
        self.clearing_minor += sum(
            line.money.amount_minor for line in change.lines if line.account == CLEARING
        )

    def state(self, txn: Txn = TXN) -> State | None:
        return self.rows[txn].state if txn in self.rows else None


def test_yes_places_a_hold_and_is_forced() -> None:
    """The promise is durable before the vote leaves; the money is set aside and not yet gone."""
    bank = Bank(alice=100)
    assert bank.prepare(Prepare(TXN, (leg(-60),))) == Vote(TXN, yes=True)
    assert (bank.accounts["alice"].posted_minor, bank.accounts["alice"].available_minor) == (100, 40)
    assert bank.changes[-1].forced
    assert not bank.changes[-1].lines


def test_commit_turns_the_hold_into_a_posting() -> None:
    """Nothing stays held, the posting balances on the clearing account, and the acknowledgement is forced."""
    bank = Bank(alice=100)
    bank.prepare(Prepare(TXN, (leg(-60),)))
    assert bank.decide(Decide(TXN, commit=True)) == Ack(TXN, ok=True)
    assert (bank.accounts["alice"].posted_minor, bank.accounts["alice"].held_minor) == (40, 0)
    assert bank.clearing_minor == 60
    assert bank.changes[-1].forced


def test_abort_releases_the_hold_without_a_forced_write() -> None:
    """Presumed abort: a lost abort would be found again by asking."""
    bank = Bank(alice=100)
    bank.prepare(Prepare(TXN, (leg(-60),)))
    assert bank.decide(Decide(TXN, commit=False)) == Ack(TXN, ok=True)
    assert bank.accounts["alice"] == Account("alice", "EUR", 100)
    assert not bank.changes[-1].forced


def test_a_no_leaves_a_tombstone_and_no_hold() -> None:
    """Money that comes in later does not turn the same transaction's no into a yes."""
    bank = Bank(alice=10)
    no = bank.prepare(Prepare(TXN, (leg(-60),)))
    assert no == Vote(TXN, yes=False, reason="INSUFFICIENT_FUNDS")
    bank.accounts["alice"] = replace(bank.accounts["alice"], posted_minor=1_000)
    assert bank.prepare(Prepare(TXN, (leg(-60),))) == no
    assert bank.accounts["alice"].held_minor == 0


def test_a_no_in_one_phase_is_forced() -> None:
    """Nobody else remembers it: forgotten, it could become a yes after the payment was declined."""
    bank = Bank(alice=10)
    bank.prepare(Prepare(TXN, (leg(-60),), one_phase=True))
    assert bank.changes[-1].forced


def test_a_tombstone_refuses_a_late_prepare() -> None:
    """An abort that overtakes its Prepare closes the transaction for good."""
    bank = Bank(alice=100)
    assert bank.decide(Decide(TXN, commit=False)) == Ack(TXN, ok=True)
    assert bank.prepare(Prepare(TXN, (leg(-60),))) == Vote(TXN, yes=False, reason="ALREADY_ABORTED")
    assert bank.accounts["alice"] == Account("alice", "EUR", 100)


def test_a_commit_that_was_never_prepared_is_refused() -> None:
    """It is reported and never acknowledged, or the coordinator would forget a debit that never was."""
    bank = Bank(alice=100)
    assert bank.decide(Decide(TXN, commit=True)) == Ack(TXN, ok=False, refusal="NEVER_PREPARED")
    assert bank.rows == {}


@pytest.mark.parametrize(
    ("first", "second", "refusal"),
    [(False, True, "ALREADY_ABORTED"), (True, False, "ALREADY_COMMITTED")],
)
def test_a_contradicting_decision_is_refused(first: bool, second: bool, refusal: str) -> None:  # noqa: FBT001 - a case of the table
    """What was done stays done, and the contradiction is reported."""
    bank = Bank(alice=100)
    bank.prepare(Prepare(TXN, (leg(-60),)))
    bank.decide(Decide(TXN, commit=first))
    before = bank.accounts["alice"]
    assert bank.decide(Decide(TXN, commit=second)) == Ack(TXN, ok=False, refusal=refusal)
    assert bank.accounts["alice"] == before


def test_one_phase_posts_at_once() -> None:
    """Debit and credit in one write; money that stays inside the bank does not touch the clearing account."""
    bank = Bank(alice=100, bob=0)
    vote = bank.prepare(Prepare(TXN, (leg(-60), leg(60, "bob")), one_phase=True))
    assert vote.yes
    assert bank.state() is State.COMMITTED
    assert (bank.accounts["alice"].posted_minor, bank.accounts["bob"].posted_minor) == (40, 60)
    assert bank.accounts["alice"].held_minor == 0
    assert bank.clearing_minor == 0
    assert len(bank.changes) == 1
    assert bank.changes[0].forced


def test_an_inquiry_about_the_unknown_aborts_it_for_good() -> None:
    """The tombstone is forced before the answer, so the Prepare that is still on its way gets a no."""
    bank = Bank(alice=100, bob=0)
    assert not bank.inquire(Inquire(TXN)).yes
    assert bank.changes[-1].forced
    late = bank.prepare(Prepare(TXN, (leg(-60), leg(60, "bob")), one_phase=True))
    assert not late.yes
    assert bank.accounts["alice"].posted_minor == 100


def test_an_inquiry_tells_what_became_of_it() -> None:
    """Yes for what was posted; for what was refused the reason of then."""
    bank = Bank(alice=100, bob=0)
    bank.prepare(Prepare(TXN, (leg(-60), leg(60, "bob")), one_phase=True))
    assert bank.inquire(Inquire(TXN)) == Vote(TXN, yes=True)
    other = Txn("p2", 1)
    bank.prepare(Prepare(other, (leg(-60), leg(60, "bob")), one_phase=True))
    assert bank.inquire(Inquire(other)) == Vote(other, yes=False, reason="INSUFFICIENT_FUNDS")


def test_legs_of_one_transaction_share_the_funds() -> None:
    """Two debits that would each fit do not both fit."""
    bank = Bank(alice=100)
    vote = bank.prepare(Prepare(TXN, (leg(-60), leg(-60))))
    assert vote == Vote(TXN, yes=False, reason="INSUFFICIENT_FUNDS")


def test_a_later_attempt_says_that_the_earlier_ones_are_aborted() -> None:
    """Only those of the same payment that are prepared; an older attempt says nothing of a newer one."""
    bank = Bank(alice=100)
    for txn in (Txn("p1", 1), Txn("p1", 2), Txn("p2", 1)):
        bank.prepare(Prepare(txn, (leg(-20),)))
    bank.decide(Decide(Txn("p1", 1), commit=False))
    rows = list(bank.rows.values())
    assert superseded(rows, Prepare(Txn("p1", 3), ())) == [Decide(Txn("p1", 2), commit=False)]
    assert superseded(rows, Prepare(Txn("p1", 2), ())) == []
    assert superseded(rows, Prepare(Txn("p2", 1), ())) == []


def test_an_authorisation_is_prepared_and_posts_nothing() -> None:
    """Its hold stays through the commit, and a capture in one phase takes it in one write."""
    bank = Bank(alice=100, shop=0)
    place, take = (HoldOrder(verb, "p1", 9.0) for verb in (Verb.PLACE, Verb.TAKE))
    authorise = Prepare(TXN, (Leg("alpine", "alice", Money(-60, "EUR"), place),))
    assert bank.prepare(authorise).yes
    assert bank.decide(Decide(TXN, commit=True)).ok
    assert (bank.accounts["alice"].posted_minor, bank.accounts["alice"].held_minor) == (100, 60)
    assert not any(change.lines for change in bank.changes)
    legs = (Leg("alpine", "alice", Money(-50, "EUR"), take), leg(50, "shop"))
    assert bank.prepare(Prepare(Txn("p2", 1), legs, one_phase=True)).yes
    assert (bank.accounts["alice"].posted_minor, bank.accounts["alice"].held_minor) == (50, 10)
    assert bank.accounts["shop"].posted_minor == 50
    too_much = bank.prepare(Prepare(Txn("p3", 1), legs, one_phase=True))
    assert too_much == Vote(Txn("p3", 1), yes=False, reason="AUTHORISATION_CLOSED")


MESSAGES = st.one_of(
    st.builds(
        Prepare,
        st.builds(Txn, st.sampled_from(["p1", "p2", "p3"]), st.integers(1, 2)),
        st.lists(
            st.builds(leg, st.integers(-80, 80), st.sampled_from(["alice", "bob", "nobody"])),
            min_size=1,
            max_size=3,
        ).map(tuple),
        st.booleans(),
    ),
    st.builds(Decide, st.builds(Txn, st.sampled_from(["p1", "p2", "p3"]), st.integers(1, 2)), st.booleans()),
    st.builds(Inquire, st.builds(Txn, st.sampled_from(["p1", "p2", "p3"]), st.integers(1, 2))),
)


@given(st.lists(MESSAGES, max_size=60))
def test_any_sequence_of_messages_keeps_the_promises(messages: list[Prepare | Decide | Inquire]) -> None:
    """Prepare, Decide and Inquire in any order and as often as they like: nothing is overdrawn or made up.

    A transaction's end never changes, holds are those of prepared debits, what is acknowledged is what the
    row says, and each posting moves its legs once.
    """
    bank = Bank(alice=100, bob=20)
    ends: dict[Txn, State] = {}
    for message in messages:
        match message:
            case Prepare(txn):
                vote = bank.prepare(message)
                assert vote.yes == (bank.rows[txn].state is not State.ABORTED)
            case Decide(txn, commit):
                ack = bank.decide(message)
                if ack.ok:
                    assert bank.state(txn) is (State.COMMITTED if commit else State.ABORTED)
                else:
                    assert bank.changes[-1] == Change()
            case Inquire(txn):
                assert bank.inquire(message).yes == (bank.state(txn) is State.COMMITTED)
        for txn, row in bank.rows.items():
            assert ends.get(txn, row.state) is row.state
            if row.state is not State.PREPARED:
                ends[txn] = row.state
        assert all(account.available_minor >= 0 for account in bank.accounts.values())
        prepared = [row for row in bank.rows.values() if row.state is State.PREPARED]
        held = sum(max(0, -x.money.amount_minor) for row in prepared for x in row.legs)
        assert sum(account.held_minor for account in bank.accounts.values()) == held
        assert sum(account.posted_minor for account in bank.accounts.values()) + bank.clearing_minor == 120
        posted = sum(
            x.money.amount_minor
            for row in bank.rows.values()
            if row.state is State.COMMITTED
            for x in row.legs
        )
        assert bank.clearing_minor == -posted


@given(st.lists(MESSAGES, max_size=20), MESSAGES)
def test_a_repeated_message_gets_the_same_answer_and_changes_nothing(
    before: list[Prepare | Decide | Inquire], message: Prepare | Decide | Inquire
) -> None:
    """Whatever came before, a message that is delivered twice has the effect of one."""
    bank = Bank(alice=100, bob=20)
    answers: list[Vote | Ack] = []
    for each in [*before, message, message]:
        match each:
            case Prepare():
                answers.append(bank.prepare(each))
            case Decide():
                answers.append(bank.decide(each))
            case Inquire():
                answers.append(bank.inquire(each))
    assert answers[-1] == answers[-2]
    assert bank.changes[-1] == Change()
