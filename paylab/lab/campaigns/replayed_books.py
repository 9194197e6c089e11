"""Finds what banks wrote into their books that the rules do not write.

Every change of a bank's rows is in the history. `paylab.core.participant` is asked what it makes of the rows
before, and the difference is put into words.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from paylab.core import ledger, participant
from paylab.core.ledger import Account
from paylab.core.messages import Decide, Prepare
from paylab.core.money import Money
from paylab.core.participant import Change, State, Transaction
from paylab.core.payment import SHORT
from paylab.lab.checking.event_facts import Facts
from paylab.lab.judging.missteps import Misstep
from paylab.nodes import wire
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2

Accounts = dict[str, Account]


class ReplayedBooks:
    """Follows the books of all banks; `found` is what the rules would have written otherwise.

    A bank is blamed once for a transaction: what follows from the first mistake is none of its own.
    """

    def __init__(self) -> None:
        """No account is open."""
        self.found: list[Misstep] = []
        self._accounts: defaultdict[str, Accounts] = defaultdict(dict)  # by bank and name
        self._rows: dict[tuple[str, str], Transaction] = {}  # by bank and txn
        self._asked: dict[tuple[str, str], Prepare] = {}
        self._blamed: set[tuple[str, str]] = set()

    def see(self, event: Event) -> None:
        """Take one event."""
        if event.kind is Kind.SENT and isinstance(event.detail, bank_pb2.PrepareRequest):
            for item in map(wire.prepare_from_pb, event.detail.items):
                self._asked.update({(leg.bank, str(item.txn)): item for leg in item.legs})
        elif event.facts is not None and event.facts["at"] == "opened":
            opened = [Account(name, currency, minor) for name, minor, currency in event.facts["accounts"]]
            self._accounts[event.facts["bank"]].update({each.account: each for each in opened})
        elif event.facts is not None and event.facts["at"] in ("bank", "expired"):
            accounts = self._accounts[event.facts["bank"]]
            after = _after(accounts, event.facts)
            if event.facts["at"] == "bank":
                self._judge(event, event.facts, after)
            accounts |= after

    def _judge(self, event: Event, facts: Facts, after: Accounts) -> None:
        """Compare a bank's new row, and its accounts after it, with what the rules make of the old ones."""
        bank, txn = place = facts["bank"], facts["txn"]
        asked, row = self._asked.get(place), self._rows.get(place)
        accounts = self._accounts[bank]
        written = Transaction(wire.txn_from_text(txn), State(facts["state"]), asked.legs if asked else ())
        self._rows[place] = written
        # What an authorisation's hold has left is not in the history.
        if place in self._blamed or asked is None or any(leg.hold for leg in asked.legs):
            return
        expected = self._by_the_rules(row, accounts, written, asked)
        what = _state_differs(row, written, expected, facts) or _refusal_missed(written, accounts, expected)
        if not what and expected.transaction is not None:
            ruled = accounts | {account.account: account for account in expected.accounts}
            what = _books_differ(written, ruled, accounts | after, expected, facts)
        if what:
            self._blamed.add(place)
            self.found.append(Misstep(event, f"{event.node} {what}", written.txn.payment))

    def _by_the_rules(
        self, row: Transaction | None, accounts: Mapping[str, Account], written: Transaction, asked: Prepare
    ) -> Change:
        if written.state is State.ABORTED or (row is not None and row.state is State.PREPARED):
            if written.state is State.PREPARED:
                return participant.UNCHANGED
            decide = Decide(written.txn, commit=written.state is State.COMMITTED)
            return participant.decide(row, accounts, decide)[1]
        return participant.prepare(row, accounts, asked)[1]


def _after(accounts: Mapping[str, Account], facts: Facts) -> Accounts:
    """The accounts that a bank says it has changed."""
    return {
        name: replace(accounts[name], posted_minor=posted_minor, held_minor=held_minor)
        for name, posted_minor, held_minor in facts.get("after", ())
        if name in accounts
    }


def _state_differs(row: Transaction | None, written: Transaction, expected: Change, facts: Facts) -> str:
    """What is wrong with the state of the new row; empty when nothing is."""
    txn, verb = written.txn, VERBS[written.state]
    if expected.transaction is None and row is not None:
        if row.state is not written.state:
            return f"{verb} {txn}, which {facts['bank']} had {VERBS[row.state]}"
        if written.state is State.PREPARED:
            return f"prepared {txn} a second time and set its money aside once more"
        return f"{'posted' if facts.get('lines') else verb} {txn} a second time"
    return ""


def _refusal_missed(written: Transaction, accounts: Mapping[str, Account], expected: Change) -> str:
    """Why the bank should have said no; empty when it need not."""
    if expected.transaction is None or expected.transaction.state is written.state:
        return ""
    reason = expected.transaction.reason
    debit = next((leg for leg in written.legs if leg.debit_minor), None)
    if reason == SHORT and debit is not None:
        account = accounts[debit.account]
        held = Money(account.held_minor, account.currency)
        reason = (
            f"{account.account} has {Money(account.posted_minor, account.currency)}, {held} of it on hold"
        )
    asked = f" of {-debit.money}" if debit is not None else ""
    return f"{VERBS[written.state]} {written.txn}{asked}, which it had to refuse: {reason}"


def _books_differ(
    written: Transaction, ruled: Mapping[str, Account], found: Accounts, expected: Change, facts: Facts
) -> str:
    """What is wrong with the accounts after a row that is right; empty when nothing is."""
    txn, state = written.txn, VERBS[written.state]
    lines = [[line.account, line.money.amount_minor, line.money.currency] for line in expected.lines]
    posted = [line for line in facts.get("lines", ()) if line[0] != ledger.CLEARING]
    if posted and not lines:
        what = "debit" if posted[0][1] < 0 else "credit"
        return f"posted the {what} of {txn} when it {state} it"
    if lines and not posted:
        return f"committed {txn} and posted nothing"
    for name, account in found.items():
        surplus = Money(account.held_minor - ruled[name].held_minor, account.currency)
        if surplus.amount_minor > 0:
            return f"kept the hold of {surplus} of the {state} {txn}"
        if surplus.amount_minor < 0:
            return f"{state} {txn} and did not set {-surplus} aside for it"
        if account.posted_minor != ruled[name].posted_minor:
            rightly = Money(ruled[name].posted_minor, account.currency)
            return (
                f"left {Money(account.posted_minor, account.currency)} on {name} after {txn}, not {rightly}"
            )
    return ""


VERBS = {State.PREPARED: "prepared", State.COMMITTED: "committed", State.ABORTED: "aborted"}
