"""The invariants as functions over what the databases hold, read independently of the nodes.

Every check states what must be true and returns the violations that it found, one line each.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from google.protobuf.message import DecodeError

from paylab.core.log_chain import Entry, verify
from paylab.core.payment import TERMINAL
from paylab.lab.real_world import World
from paylab.pb import transaction_logger_pb2


class PaymentRow(NamedTuple):
    """A payment as the gateway's store has it."""

    state: str
    attempt: int
    payer: str
    payee: str
    amount_minor: int
    currency: str
    caller: str
    key: str
    operation: str = "PAY"
    about: str = ""
    accepted_at_s: float = 0.0
    key_until_s: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether banks post it."""
        return self.operation not in ("AUTHORISE", "VOID")


@dataclass(frozen=True)
class Books:
    """Everything that the stores of a lab hold."""

    # by bank and account: currency, posted_minor, held_minor
    accounts: dict[str, dict[str, tuple[str, int, int]]]
    # by bank and txn: state, and legs as JSON text
    transactions: dict[str, dict[str, tuple[str, str]]]
    # by bank: posting, txn, account, amount_minor, currency
    postings: dict[str, list[tuple[int, str, str, int, str]]]
    payments: dict[str, PaymentRow]
    # the log as it is stored
    entries: list[Entry] = field(default_factory=list)
    # by bank and authorisation: account, left_minor, state
    holds: dict[str, dict[str, tuple[str, int, str]]] = field(default_factory=dict)

    @cached_property
    def log(self) -> list[tuple[str, int, str]]:
        """Payment, attempt and state of each entry; one that is no event any more is left to the chain."""
        events = [_event(entry) for entry in self.entries]
        return [(event.payment, event.attempt, event.state) for event in events if event is not None]

    @cached_property
    def states_by_txn(self) -> dict[str, dict[str, str]]:
        """By txn and bank."""
        states: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for bank, rows in self.transactions.items():
            for txn, (state, _) in rows.items():
                states[txn][bank] = state
        return states


_OF_BANK: tuple[str, ...] = (
    "SELECT account, currency, posted_minor, held_minor FROM accounts ORDER BY account",
    "SELECT txn, state, legs FROM transactions ORDER BY txn",
    "SELECT posting, txn, account, amount_minor, currency FROM postings ORDER BY posting",
    "SELECT authorisation, account, left_minor, state FROM holds ORDER BY authorisation",
)
_OF_OTHERS: dict[str, tuple[str, ...]] = {
    "gateway": (f"SELECT payment, {', '.join(PaymentRow._fields)} FROM payments ORDER BY payment",),  # noqa: S608 - names of ours
    "logger": ('SELECT "index", event, hash FROM entries ORDER BY "index"',),
}


def read_books(world: World, banks: Iterable[str]) -> Books:
    """Read every store through connections of our own, all as they are at one moment."""
    banks = list(banks)
    found = world.snapshot({f"bank-{bank}": _OF_BANK for bank in banks} | _OF_OTHERS)
    accounts, transactions, postings, holds = {}, {}, {}, {}
    for bank in banks:
        of_accounts, of_transactions, of_postings, of_holds = found[f"bank-{bank}"]
        accounts[bank] = {row[0]: (row[1], row[2], row[3]) for row in of_accounts}
        transactions[bank] = {row[0]: (row[1], row[2]) for row in of_transactions}
        postings[bank] = [(row[0], row[1], row[2], row[3], row[4]) for row in of_postings]
        holds[bank] = {row[0]: (row[1], row[2], row[3]) for row in of_holds}
    payments = {row[0]: PaymentRow(*row[1:]) for row in found["gateway"][0]}
    entries = [Entry(row[0], row[1], row[2]) for row in found["logger"][0]]
    return Books(accounts, transactions, postings, payments, entries, holds)


def _event(entry: Entry) -> transaction_logger_pb2.LogEvent | None:
    try:
        return transaction_logger_pb2.LogEvent.FromString(entry.event)
    except DecodeError:
        return None


Check = Callable[[Books], tuple[int, list[str]]]


def every_posting_balances(books: Books) -> tuple[int, list[str]]:
    """Inside a bank the lines of one transaction sum to zero in every currency (double entry)."""
    count, found = 0, []
    for bank, lines in books.postings.items():
        sums: Counter[tuple[str, str]] = Counter()
        for _, txn, _, amount_minor, currency in lines:
            sums[txn, currency] += amount_minor
        count += len(sums)
        found += [
            f"{bank} {txn} is off by {total} {currency}" for (txn, currency), total in sums.items() if total
        ]
    return count, found


def balances_are_sums(books: Books) -> tuple[int, list[str]]:
    """A posted balance is the sum of its lines; what is held, of prepared debits and authorisations."""
    count, found = 0, []
    for bank, accounts in books.accounts.items():
        posted: Counter[str] = Counter()
        for _, _, account, amount_minor, _ in books.postings[bank]:
            posted[account] += amount_minor
        held: Counter[str] = Counter()
        for state, legs in books.transactions[bank].values():
            if state == "PREPARED":
                for account, amount_minor, *_ in json.loads(legs):
                    held[account] += max(0, -amount_minor)
        for account, left_minor, _ in books.holds.get(bank, {}).values():
            held[account] += left_minor
        count += len(accounts)
        for account, (_, posted_minor, held_minor) in accounts.items():
            if posted_minor != posted[account]:
                found.append(f"{bank}/{account} says {posted_minor}, its lines say {posted[account]}")
            if held_minor != held[account]:
                found.append(
                    f"{bank}/{account} holds {held_minor}, prepared debits and authorisations {held[account]}"
                )
    return count, found


def money_is_conserved(books: Books) -> tuple[int, list[str]]:
    """Over all banks the clearing accounts sum to zero, but for what prepared twins have not posted yet."""
    clearing: Counter[str] = Counter()
    for lines in books.postings.values():
        for _, _, account, amount_minor, currency in lines:
            if account == "@clearing":
                clearing[currency] += amount_minor
    in_flight: Counter[str] = Counter()
    for txn, states in books.states_by_txn.items():
        if "COMMITTED" in states.values() and "PREPARED" in states.values():
            for bank in (bank for bank, state in states.items() if state == "COMMITTED"):
                for _, of, account, amount_minor, currency in books.postings[bank]:
                    if of == txn and account == "@clearing":
                        in_flight[currency] += amount_minor
    found = [
        f"clearing accounts sum to {total} {currency}, {in_flight[currency]} of it in flight"
        for currency, total in clearing.items()
        if total != in_flight[currency]
    ]
    return len(clearing), found


def both_legs_or_none(books: Books) -> tuple[int, list[str]]:
    """Atomicity: no transaction is committed at one bank and aborted or unknown at another."""
    states_by_txn = books.states_by_txn
    found = []
    for txn, states in states_by_txn.items():
        payment = books.payments.get(txn.rpartition("/")[0])
        if "COMMITTED" not in states.values():
            continue
        if payment is None:
            found.append(f"{txn} is committed, but the gateway knows no such payment")
            continue
        banks = dict.fromkeys(account.partition("/")[0] for account in (payment.payer, payment.payee))
        found += [
            f"{txn} is committed, but {states.get(bank, 'unknown')} at {bank}"
            for bank in banks
            if states.get(bank) not in ("COMMITTED", "PREPARED")
        ]
    return len(states_by_txn), found


def no_key_charged_twice(books: Books) -> tuple[int, list[str]]:
    """At most one committed attempt for every (caller, key), unless the key's time was over in between."""
    committed: defaultdict[tuple[str, str], list[tuple[PaymentRow, str]]] = defaultdict(list)
    for txn, states in books.states_by_txn.items():
        payment = books.payments.get(txn.rpartition("/")[0])
        if payment is not None and "COMMITTED" in states.values():
            committed[payment.caller, payment.key].append((payment, txn))
    found = []
    for (_, key), charges in committed.items():
        charges.sort(key=lambda charge: (charge[0].accepted_at_s, charge[1]))
        times = 1 + sum(
            not 0 < before.key_until_s <= after.accepted_at_s for (before, _), (after, _) in pairwise(charges)
        )
        if times > 1:
            found.append(f"key {key!r} was charged {times} times")
    return len(committed), found


def no_overdraft(books: Books) -> tuple[int, list[str]]:
    """No customer's account is below zero after any of its postings."""
    count, found = 0, []
    for bank, lines in books.postings.items():
        balance: Counter[str] = Counter()
        for posting, _, account, amount_minor, _ in lines:
            if account.startswith("@"):
                continue
            count += 1
            balance[account] += amount_minor
            if balance[account] < 0:
                found.append(f"{bank}/{account} is at {balance[account]} after posting {posting}")
    return count, found


def outcome_agrees_with_ledgers(books: Books) -> tuple[int, list[str]]:
    """A payment that the gateway calls committed is in every ledger, any other terminal one in none."""
    states_by_payment: defaultdict[str, set[str]] = defaultdict(set)
    for txn, states in books.states_by_txn.items():
        states_by_payment[txn.rpartition("/")[0]] |= set(states.values())
    found = []
    for payment, row in books.payments.items():
        at_banks = states_by_payment[payment]
        if row.state == "COMMITTED" and not at_banks & {"COMMITTED", "PREPARED"}:
            found.append(f"{payment} is COMMITTED at the gateway and in no ledger")
        if row.state in ("DECLINED", "CANCELLED", "DEAD_LETTER", "QUEUED") and "COMMITTED" in at_banks:
            found.append(f"{payment} is {row.state} at the gateway, but a bank has posted it")
    return len(books.payments), found


def authorisations_add_up(books: Books) -> tuple[int, list[str]]:
    """What was captured, is being taken over, was given back and is left is what was authorised."""
    count, found = 0, []
    for bank, holds in books.holds.items():
        taken, freed = Counter[str](), Counter[str]()
        for state, legs in books.transactions[bank].values():
            for _, amount_minor, _, *order in json.loads(legs) if state != "ABORTED" else ():
                if order and order[0] in ("TAKE", "FREE"):
                    taken[order[1]] += max(0, -amount_minor)
                if order and order[0] == "FREE" and state == "COMMITTED":
                    freed[order[1]] += max(0, -amount_minor)
        for authorisation, (account, left_minor, state) in holds.items():
            count += 1
            row = books.payments.get(authorisation)
            if row is None or row.operation != "AUTHORISE" or row.payer != f"{bank}/{account}":
                found.append(
                    f"{bank}/{account} holds {left_minor} for {authorisation}, which nobody authorised"
                )
                continue
            total, ended = taken[authorisation] + left_minor, state in ("VOIDED", "EXPIRED")
            if total > row.amount_minor or (total < row.amount_minor and state != "EXPIRED"):
                found.append(f"{total} of {authorisation} are accounted for, of {row.amount_minor} ({state})")
            if (ended and left_minor) or (state == "VOIDED") != bool(freed[authorisation]):
                found.append(
                    f"{authorisation} is {state}, {left_minor} are left and {freed[authorisation]} freed"
                )
    return count, found


def no_more_paid_back_than_paid(books: Books) -> tuple[int, list[str]]:
    """Refunds in the ledgers sum to no more than the payment or capture that they are about."""
    refunded: Counter[str] = Counter()
    states = books.states_by_txn
    for txn, at_banks in states.items():
        row = books.payments.get(txn.rpartition("/")[0])
        if row is not None and row.operation == "REFUND" and "COMMITTED" in at_banks.values():
            refunded[row.about] += row.amount_minor
    found = [
        f"{total} of {about} are paid back, which was {row.amount_minor if row else 'never paid'}"
        for about, total in refunded.items()
        for row in [books.payments.get(about)]
        if row is None or row.operation not in ("PAY", "CAPTURE") or total > row.amount_minor
    ]
    return len(refunded), found


def log_agrees(books: Books) -> tuple[int, list[str]]:
    """The log never says what did not happen, and never says that two different ends happened.

    A dead letter is no end: it may be taken up again.
    """
    found = []
    ends: defaultdict[str, set[str]] = defaultdict(set)
    for payment, _, state in books.log:
        if payment not in books.payments:
            found.append(f"the log knows {payment}, the gateway does not")
        elif state in TERMINAL:
            ends[payment].add(state)
            if books.payments[payment].state != state:
                found.append(
                    f"the log says {payment} is {state}, the gateway says {books.payments[payment].state}"
                )
    found += [
        f"the log says {payment} is {' and '.join(sorted(s))}" for payment, s in ends.items() if len(s) > 1
    ]
    return len(books.log), found


def log_chain_holds(books: Books) -> tuple[int, list[str]]:
    """Each entry of the log has the hash of its event and all entries before it (`core.log_chain`)."""
    verdict = verify(books.entries)
    return len(books.entries), [] if verdict.ok else [str(verdict)]


CHECKS: dict[str, Check] = {
    "every posting balances": every_posting_balances,
    "balances are sums of postings": balances_are_sums,
    "money is conserved": money_is_conserved,
    "both legs or none": both_legs_or_none,
    "no key charged twice": no_key_charged_twice,
    "no overdraft": no_overdraft,
    "outcomes agree with ledgers": outcome_agrees_with_ledgers,
    "authorisations add up": authorisations_add_up,
    "no more paid back than paid": no_more_paid_back_than_paid,
    "log agrees": log_agrees,
    "the log's chain holds": log_chain_holds,
}
