"""The invariants as functions over what the databases hold, read independently of the nodes.

Every check states what must be true and returns the violations that it found, one line each.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from paylab.core.log_chain import Entry, verify
from paylab.core.payment import TERMINAL
from paylab.lab.real_world import World
from paylab.pb import transaction_logger_pb2


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that the stores of a lab hold."""

    # by bank and account: currency, posted_minor, held_minor
    accounts: dict[str, dict[str, tuple[str, int, int]]]
    # by bank and txn: state, and legs as JSON text
    transactions: dict[str, dict[str, tuple[str, str]]]
    # by bank: posting, txn, account, amount_minor, currency
    postings: dict[str, list[tuple[int, str, str, int, str]]]
    # by payment: state, attempt, payer, payee, amount_minor, currency, caller, key
    payments: dict[str, tuple[str, int, str, str, int, str, str, str]]
    # the log as it is stored
    entries: list[Entry] = field(default_factory=list)

    @property
    def log(self) -> list[tuple[str, int, str]]:
        """Payment, attempt and state of each entry; one that is no event any more is left to the chain."""
        events = [_event(entry) for entry in self.entries]
        return [(event.payment, event.attempt, event.state) for event in events if event is not None]


def read_books(world: World, banks: Iterable[str]) -> Books:
    """Read every store through connections of our own."""
    accounts, transactions, postings = {}, {}, {}
    for bank in banks:
        store = f"bank-{bank}"
        rows = world.rows(
            store, "SELECT account, currency, posted_minor, held_minor FROM accounts ORDER BY account"
        )
        accounts[bank] = {row[0]: (row[1], row[2], row[3]) for row in rows}
        rows = world.rows(store, "SELECT txn, state, legs FROM transactions ORDER BY txn")
        transactions[bank] = {row[0]: (row[1], row[2]) for row in rows}
        rows = world.rows(
            store, "SELECT posting, txn, account, amount_minor, currency FROM postings ORDER BY posting"
        )
        postings[bank] = [(row[0], row[1], row[2], row[3], row[4]) for row in rows]
    rows = world.rows(
        "gateway",
        "SELECT payment, state, attempt, payer, payee, amount_minor, currency, caller, key"
        " FROM payments ORDER BY payment",
    )
    payments = {row[0]: (row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8]) for row in rows}
    stored = world.rows("logger", 'SELECT "index", event, hash FROM entries ORDER BY "index"')
    return Books(
        accounts, transactions, postings, payments, [Entry(row[0], row[1], row[2]) for row in stored]
    )


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
    """A posted balance is the sum of its lines, and what is held is what prepared debits need."""
    count, found = 0, []
    for bank, accounts in books.accounts.items():
        posted: Counter[str] = Counter()
        for _, _, account, amount_minor, _ in books.postings[bank]:
            posted[account] += amount_minor
        held: Counter[str] = Counter()
        for state, legs in books.transactions[bank].values():
            if state == "PREPARED":
                for account, amount_minor, _ in json.loads(legs):
                    held[account] += max(0, -amount_minor)
        count += len(accounts)
        for account, (_, posted_minor, held_minor) in accounts.items():
            if posted_minor != posted[account]:
                found.append(f"{bank}/{account} says {posted_minor}, its lines say {posted[account]}")
            if held_minor != held[account]:
                found.append(f"{bank}/{account} holds {held_minor}, its prepared debits need {held[account]}")
    return count, found


def money_is_conserved(books: Books) -> tuple[int, list[str]]:
    """Over all banks the clearing accounts sum to zero, but for what prepared twins have not posted yet."""
    clearing: Counter[str] = Counter()
    for lines in books.postings.values():
        for _, _, account, amount_minor, currency in lines:
            if account == "@clearing":
                clearing[currency] += amount_minor
    in_flight: Counter[str] = Counter()
    for txn, states in _states_by_txn(books).items():
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
    states_by_txn = _states_by_txn(books)
    found = []
    for txn, states in states_by_txn.items():
        payment = books.payments.get(txn.rpartition("/")[0])
        if "COMMITTED" not in states.values():
            continue
        if payment is None:
            found.append(f"{txn} is committed, but the gateway knows no such payment")
            continue
        banks = dict.fromkeys(account.partition("/")[0] for account in payment[2:4])
        found += [
            f"{txn} is committed, but {states.get(bank, 'unknown')} at {bank}"
            for bank in banks
            if states.get(bank) not in ("COMMITTED", "PREPARED")
        ]
    return len(states_by_txn), found


def no_key_charged_twice(books: Books) -> tuple[int, list[str]]:
    """At most one committed attempt for every (caller, key)."""
    committed: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for txn, states in _states_by_txn(books).items():
        payment = books.payments.get(txn.rpartition("/")[0])
        if payment is not None and "COMMITTED" in states.values():
            committed[payment[6], payment[7]].add(txn)
    found = [
        f"key {key!r} was charged {len(txns)} times" for (_, key), txns in committed.items() if len(txns) > 1
    ]
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
    for txn, states in _states_by_txn(books).items():
        states_by_payment[txn.rpartition("/")[0]] |= set(states.values())
    found = []
    for payment, row in books.payments.items():
        at_banks = states_by_payment[payment]
        if row[0] == "COMMITTED" and not at_banks & {"COMMITTED", "PREPARED"}:
            found.append(f"{payment} is COMMITTED at the gateway and in no ledger")
        if row[0] in ("DECLINED", "CANCELLED", "DEAD_LETTER", "QUEUED") and "COMMITTED" in at_banks:
            found.append(f"{payment} is {row[0]} at the gateway, but a bank has posted it")
    return len(books.payments), found


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
            if books.payments[payment][0] != state:
                found.append(
                    f"the log says {payment} is {state}, the gateway says {books.payments[payment][0]}"
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
    "log agrees": log_agrees,
    "the log's chain holds": log_chain_holds,
}


def _states_by_txn(books: Books) -> dict[str, dict[str, str]]:
    states: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for bank, rows in books.transactions.items():
        for txn, (state, _) in rows.items():
            states[txn][bank] = state
    return states
