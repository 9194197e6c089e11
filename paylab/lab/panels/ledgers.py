"""What the ledgers say at a moment, read from their disks past the nodes: accounts, sums, last postings."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from paylab.core.ledger import CLEARING, FUNDING
from paylab.core.money import Money
from paylab.lab.real_world import World

# One statement is one moment: what it reads of a bank fits together, also while payments flow.
ONE_BANK = f"""
SELECT 'account', account, owner, currency, posted_minor, held_minor, closed FROM accounts
UNION ALL SELECT 'internal', account, '', currency, sum(amount_minor), 0, 0 FROM postings
WHERE account IN ('{CLEARING}', '{FUNDING}') GROUP BY account, currency
UNION ALL SELECT 'prepared', '', '', '', count(*), 0, 0 FROM transactions WHERE state = 'PREPARED'
"""  # noqa: S608 - the names are ours


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One account: `posted` is what the ledger says, `held` what payments under way have reserved of it."""

    account: str
    owner: str
    posted: Money
    held: Money
    closed: bool

    @property
    def available(self) -> Money:
        """What can be spent."""
        return Money(self.posted.amount_minor - self.held.amount_minor, self.posted.currency)


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of a ledger; `txn` is "payment/attempt", or "opening"."""

    account: str
    txn: str
    money: Money
    at_s: float


@dataclass(frozen=True, slots=True)
class BankSums:
    """A bank's sums in one currency. Customers, clearing and funding add up to nothing."""

    bank: str
    customers: Money
    held: Money
    clearing: Money
    funding: Money

    @property
    def total(self) -> Money:
        """What double entry makes zero."""
        parts = (self.customers, self.clearing, self.funding)
        return Money(sum(part.amount_minor for part in parts), self.customers.currency)


@dataclass(frozen=True, slots=True)
class Ledgers:
    """All accounts by name, sums by bank and currency, and how many transactions hold money for a payment."""

    accounts: Sequence[AccountLine] = ()
    sums: Sequence[BankSums] = ()
    prepared: int = 0
    # Over all banks, by currency: zero when nothing is on its way between them.
    clearing: Sequence[Money] = field(default=())


def read_ledgers(world: World, banks: Iterable[str]) -> Ledgers:
    """Read every bank, each at one moment; between two of them a payment may be on its way."""
    accounts: list[AccountLine] = []
    sums: list[BankSums] = []
    prepared = 0
    for bank in banks:
        internal: Counter[tuple[str, str]] = Counter()
        for kind, name, owner, currency, minor, held, closed in world.rows(f"bank-{bank}", ONE_BANK):
            if kind == "prepared":
                prepared += minor
                continue
            internal["" if kind == "account" else name, currency] += minor
            if kind == "account":
                internal["held", currency] += held
                line = AccountLine(
                    f"{bank}/{name}", owner, Money(minor, currency), Money(held, currency), bool(closed)
                )
                accounts.append(line)
        sums += [
            BankSums(
                bank, *(Money(internal[name, currency], currency) for name in ("", "held", CLEARING, FUNDING))
            )
            for currency in sorted({currency for _, currency in internal})
        ]
    clearing: Counter[str] = Counter()
    for one in sums:
        clearing[one.clearing.currency] += one.clearing.amount_minor
    return Ledgers(
        sorted(accounts, key=lambda line: line.account),
        sums,
        prepared,
        [Money(minor, currency) for currency, minor in clearing.items()],
    )


def read_postings(world: World, banks: Iterable[str], *, account: str = "", count: int = 12) -> list[Posting]:
    """The latest postings, newest first; of one account as "bank/name", or of all customers."""
    only, _, name = account.partition("/")
    quoted = name.replace("'", "''")
    where = f"account = '{quoted}'" if account else "account NOT LIKE '@%'"
    found = []
    for bank in banks if not account else [only]:
        rows = world.rows(
            f"bank-{bank}",
            "SELECT account, txn, amount_minor, currency, at_s FROM postings"  # noqa: S608 - quoted above
            f" WHERE {where} ORDER BY posting DESC LIMIT {count}",
        )
        found += [Posting(f"{bank}/{row[0]}", row[1], Money(row[2], row[3]), row[4]) for row in rows]
    return sorted(found, key=lambda posting: -posting.at_s)[:count]
