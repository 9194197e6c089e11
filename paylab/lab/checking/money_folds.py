"""Invariants of money over a history: conserved, charged once, never lost, never below zero."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from paylab.lab.checking.event_facts import Facts
from paylab.lab.checking.folds import TERMINAL, Fold, Payment, Picture
from paylab.nodes.events import Kind

# The calls that carry a key.
ASKED = frozenset(
    f"/paylab.v1.PaymentGateway/{method}" for method in ("Pay", "Authorise", "Capture", "Void", "Refund")
)
CLEARING = "@clearing"
RECEIPT_FIELDS = (
    *("state", "reason", "key", "payer", "payee", "amount_minor", "currency", "attempts"),
    *("operation", "about", "authorised_until_s", "key_until_s"),
)


class Conservation(Fold):
    """Every posting sums to zero, says what was prepared, and between banks no money appears or is lost.

    Source: double entry; the clearing accounts of all banks sum to zero when nothing is in flight.
    """

    name = "money is conserved over time"

    def __init__(self, picture: Picture) -> None:
        """Clearing accounts start at zero, or unknown when the books are older."""
        super().__init__(picture)
        self._clearing: Counter[str] = Counter()

    def bank(self, facts: Facts) -> None:
        """Look at the lines of one posting."""
        lines, txn, bank = facts.get("lines", ()), facts["txn"], facts["bank"]
        payment = self.picture.payment_of(txn)
        if facts["state"] == "COMMITTED" and not lines and (payment is None or payment.moves):
            self.broken(f"{bank} committed {txn} and posted nothing")
        if not lines:
            return
        self.count += 1
        sums: Counter[str] = Counter()
        customers = []
        for line in lines:
            account, amount_minor, currency = line
            sums[currency] += amount_minor
            if account == CLEARING:
                self._clearing[currency] += amount_minor
            else:
                customers.append(line)
        for currency, total in sums.items():
            if total:
                self.broken(f"{bank} posts {txn} off by {total} {currency}")
        prepared = self.picture.txn(txn).legs.get(bank)
        if prepared and prepared != customers:
            self.broken(f"{bank} posts {customers} for {txn}, prepared was {prepared}")
        if payment is not None and customers != (asked := _legs_at(payment, bank)):
            self.broken(f"{bank} posts {customers} for {txn}, the payment asks for {asked}")

    def quiet(self, _: Facts) -> None:
        """Nothing is in flight, so clearing sums to zero."""
        for currency, total in self._clearing.items():
            if total and not self.picture.continued:
                self.broken(f"nothing is in flight, and the clearing accounts sum to {total} {currency}")


def _legs_at(payment: Payment, bank: str) -> list[list[Any]]:
    row = payment.row
    if not payment.moves:
        return []
    legs = ((row["payer"], -row["amount_minor"]), (row["payee"], row["amount_minor"]))
    return [[a.partition("/")[2], minor, row["currency"]] for a, minor in legs if a.partition("/")[0] == bank]


class NoOverdraft(Fold):
    """No customer's account is below zero after any posting, and no bank promises more than is there.

    Source: holds are the escrow of P. O'Neil, The Escrow Transactional Method, TODS 11(4), 1986.
    """

    name = "no overdraft at any moment"

    def bank(self, facts: Facts) -> None:
        """Look at the balances after each change."""
        self._look(facts, facts["txn"])

    def expired(self, facts: Facts) -> None:
        """So, too, when an authorisation expires."""
        self._look(facts, f"the end of {facts['authorisation']}")

    def _look(self, facts: Facts, what: str) -> None:
        for account, posted_minor, held_minor in facts.get("after", ()):
            self.count += 1
            if not 0 <= held_minor <= posted_minor:
                where = f"{facts['bank']}/{account}"
                self.broken(f"{where} has {posted_minor} and holds {held_minor} after {what}")


class OneCharge(Fold):
    """At most one committed charge a key, and every terminal answer under a key is the same.

    Source: draft-ietf-httpapi-idempotency-key-header; a key is scoped to its caller.
    """

    name = "one charge a key, one answer"

    def __init__(self, picture: Picture) -> None:
        """No key is known."""
        super().__init__(picture)
        self._charged: dict[str, str] = {}
        self._owner: dict[tuple[str, str], str] = {}
        self._answer: dict[str, tuple[Any, ...]] = {}
        self._told: dict[tuple[str, str], str] = {}

    def gateway(self, facts: Facts) -> None:
        """A key belongs to the payment that came first."""
        owner = self._owner.setdefault((facts["caller"], facts["key"]), facts["payment"])
        if owner != facts["payment"]:
            self.broken(
                f"key {facts['key']!r} of {facts['caller']} has payments {owner} and {facts['payment']}"
            )

    def bank(self, facts: Facts) -> None:
        """A payment is charged in one attempt only."""
        if facts["state"] != "COMMITTED":
            return
        self.count += 1
        txn = facts["txn"]
        payment = txn.rpartition("/")[0]
        if payment not in self.picture.payments and not self.picture.continued:
            self.broken(f"{facts['bank']} posted {txn}, and the gateway knows no such payment")
        charged = self._charged.setdefault(payment, txn)
        if charged != txn:
            key = self.picture.payments[payment].row["key"] if payment in self.picture.payments else "?"
            self.broken(f"key {key!r} was charged twice, as {charged} and as {txn}")

    def forgotten(self, facts: Facts) -> None:
        """A key whose time is over may be used again."""
        for caller, key in facts["keys"]:
            self._owner.pop((caller, key), None)
            self._told.pop((caller, key), None)

    def receipt(self, facts: Facts) -> None:
        """Compare with the answers before."""
        event = self.picture.event
        if event.method in ASKED and event.kind is Kind.RETURNED:
            told = self._told.setdefault((event.node, facts["key"]), facts["payment"])
            if told != facts["payment"]:
                self.broken(
                    f"{event.node} asked with key {facts['key']!r} and got {told}, then {facts['payment']}"
                )
        if facts["state"] in TERMINAL:
            answer = tuple(facts.get(name) for name in RECEIPT_FIELDS)
            first = self._answer.setdefault(facts["payment"], answer)
            if first != answer:
                self.broken(f"{facts['payment']} was answered {_brief(first)} and {_brief(answer)}")


def _brief(answer: Sequence[Any]) -> str:
    return " ".join(str(part) for part in answer if part)


class Acknowledged(Fold):
    """What a client was told is durable, and stays true through every crash.

    Source: durability; an answer that leaves before its write is durable is a promise that a crash breaks.
    """

    name = "no acknowledged payment is lost"

    def __init__(self, picture: Picture) -> None:
        """Nothing was acknowledged."""
        super().__init__(picture)
        self._acknowledged: dict[str, str] = {}
        self._unposted: dict[str, None] = {}

    def receipt(self, facts: Facts) -> None:
        """A terminal receipt says what the gateway's row says."""
        event = self.picture.event
        payment, state = facts["payment"], facts["state"]
        known = self.picture.payments.get(payment)
        if known is None:
            if not self.picture.continued:
                self.broken(f"{event.node} has a receipt of {payment}, which the gateway never wrote down")
            return
        wrong = [
            f"{name} {facts[name]}, not {known.row[name]}"
            for name in ("payer", "payee", "amount_minor", "currency", "key")
            if facts[name] != known.row[name]
        ]
        if wrong:
            self.broken(f"the receipt of {payment} at {event.node} says {' and '.join(wrong)}")
        if state not in TERMINAL:
            return
        self.count += 1
        if state != known.state:
            self.broken(
                f"{event.node} was told that {payment} is {state}, on the gateway's disk it is {known.state}"
            )
        elif event.kind is Kind.RETURNED:
            self._acknowledged[payment] = state
            if state == "COMMITTED" and not known.banks <= known.posted:
                self._unposted[payment] = None

    def gateway(self, facts: Facts) -> None:
        """What was acknowledged does not change."""
        told = self._acknowledged.get(facts["payment"], facts["state"])
        if told != facts["state"]:
            self.broken(f"{facts['payment']} was acknowledged as {told} and became {facts['state']}")

    def quiet(self, _: Facts) -> None:
        """By now both banks have posted what was acknowledged."""
        for payment in self._unposted:
            known = self.picture.payments[payment]
            if missing := sorted(known.banks - known.posted):
                self.broken(f"{payment} was acknowledged, and {' and '.join(missing)} never posted it")
        self._unposted.clear()
