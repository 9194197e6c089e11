"""Makes up a day of payments: the same seed gives the same two files, to the byte, on every machine.

**Who.** Customers and merchants are dealt out to the banks in turn; there is one merchant for every
20 payments and one customer for every 5. A payment comes from any customer alike. One in six goes to
another customer; the rest go to merchants, where the merchant of rank r gets a share in proportion
to 1/r (Zipf's law, 1949): few large shops and many small ones.

**How much.** Amounts are log-normal, as purchases roughly are: half are below 22 EUR, the mean is
about twice that, and none is above 5,000 EUR.

**When.** `at` follows the rhythm of a day, hour by hour (`PAYMENTS_PER_HOUR`), and sorts the file.
The reader of payment files ignores it.

**What a bank must decline.** In every 500 payments each row of `MISTAKES` occurs once, and two customers
spend more than they can ever have: opening balance plus all that others might pay them. Every such row is
wrong in one way only. Every other row commits in whatever order payments run: each customer opens with
enough for all of its orders, declined ones included, without counting what it receives.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

from paylab.core.money import Money
from paylab.lab.payment_files import ACCOUNT_COLUMNS, PAYMENT_COLUMNS, AccountRow, BadInput, PaymentOrder

BANK_NAMES = ("alpine", "boreal", "coral", "delta", "ember", "fjord", "grove", "harbor")
CURRENCY, OTHER_CURRENCY = "EUR", "USD"
# Below this a day has hardly any payment that commits.
PAYMENTS_MIN = 20
# Out of 1,000: quiet nights, a peak at lunch, a higher one after work.
PAYMENTS_PER_HOUR = (4, 2, 1, 1, 2, 6, 16, 36, 52, 54, 56, 64, 86, 78, 58, 54, 60, 84, 96, 76, 48, 34, 20, 12)
AMOUNT_MEDIAN_MINOR, AMOUNT_SIGMA, AMOUNT_MAX_MINOR = 22_00, 1.2, 5_000_00
# What customers keep beyond the day's orders.
SPARE_MEDIAN_MINOR, SPARE_SIGMA = 300_00, 1.0
TO_CUSTOMERS = 1 / 6
PAYMENTS_PER_MISTAKE = 500


@dataclass(frozen=True, slots=True)
class Mistake:
    """A payment that a bank declines for `reason`; where a name is empty an ordinary account stands."""

    reason: str
    currency: str
    payer: str = ""
    payee: str = ""


# The named accounts exist once in each bank, but for "nobody", which exists in none.
MISTAKES = (
    Mistake("ACCOUNT_NOT_FOUND", CURRENCY, payer="nobody"),
    Mistake("ACCOUNT_NOT_FOUND", CURRENCY, payee="nobody"),
    Mistake("ACCOUNT_CLOSED", CURRENCY, payer="closed-customer"),
    Mistake("ACCOUNT_CLOSED", CURRENCY, payee="closed-merchant"),
    # The payee's account is in the other currency, then the payer's.
    Mistake("CURRENCY_MISMATCH", CURRENCY, payee="dollar-merchant"),
    Mistake("CURRENCY_MISMATCH", OTHER_CURRENCY, payee="dollar-merchant"),
)


@dataclass(frozen=True, slots=True)
class TimedOrder:
    """An order and the time of day at which it was given, as `HH:MM:SS`."""

    at: str
    order: PaymentOrder


@dataclass(frozen=True, slots=True)
class _Transfer:
    """Who pays whom how much; not yet a row."""

    payer: str
    payee: str
    money: Money


@dataclass(frozen=True, slots=True)
class _Town:
    """The ordinary accounts; merchants stand largest first."""

    banks: Sequence[str]
    customers: Sequence[str]
    merchants: Sequence[str]


def generate(seed: int, payments: int = 2000, banks: int = 4) -> tuple[list[AccountRow], list[TimedOrder]]:
    """Make up a day, as the module says: accounts by bank, orders by time.

    Raises BadInput, naming the option, for fewer than `PAYMENTS_MIN` payments or a number of banks
    that is not 1 to 8.
    """
    if payments < PAYMENTS_MIN:
        raise BadInput("--payments", f"{payments} are too few, at least {PAYMENTS_MIN} make a day")
    if not 1 <= banks <= len(BANK_NAMES):
        raise BadInput("--banks", f"there can be 1 to {len(BANK_NAMES)} banks, not {banks}")
    rng = Random(seed)  # noqa: S311 - it has to be repeatable, not secret
    town = _Town(
        BANK_NAMES[:banks],
        _deal(BANK_NAMES[:banks], "customer", payments // 5),
        _deal(BANK_NAMES[:banks], "merchant", max(banks, payments // 20)),
    )
    rounds = max(1, payments // PAYMENTS_PER_MISTAKE)
    transfers = _mistakes(rng, town, rounds)
    transfers += _purchases(rng, town, payments - len(transfers) - 2 * rounds)
    accounts = _accounts(rng, town, transfers)
    transfers += _overspending(rng, town, accounts, transfers, 2 * rounds)
    rng.shuffle(transfers)
    return accounts, _timetable(rng, transfers)


def write_day(
    folder: str | Path, *, seed: int = 7, payments: int = 2000, banks: int = 4
) -> tuple[Path, Path]:
    """Generate a day into `folder` (made if need be) and return its accounts.csv and payments.csv.

    Raises BadInput for what `generate` refuses and for a folder that cannot be written.
    """
    accounts, orders = generate(seed, payments, banks)
    paths = Path(folder) / "accounts.csv", Path(folder) / "payments.csv"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _write(paths[0], ACCOUNT_COLUMNS, map(_account_cells, accounts))
        _write(paths[1], (*PAYMENT_COLUMNS, "at"), map(_order_cells, orders))
    except OSError as error:
        raise BadInput(str(folder), (error.strerror or "cannot be written").lower()) from None
    return paths


def _deal(banks: Sequence[str], kind: str, count: int) -> list[str]:
    return [f"{bank}/{kind}-{number:04}" for number, bank in enumerate(islice(cycle(banks), count), start=1)]


def _amount(rng: Random, currency: str = CURRENCY) -> Money:
    amount_minor = round(AMOUNT_MEDIAN_MINOR * rng.lognormvariate(0, AMOUNT_SIGMA))
    return Money(min(max(1, amount_minor), AMOUNT_MAX_MINOR), currency)


def _purchases(rng: Random, town: _Town, count: int) -> list[_Transfer]:
    """`count` payments that no bank has a reason to decline."""
    shares = [1 / rank for rank in range(1, len(town.merchants) + 1)]
    transfers = []
    for merchant in rng.choices(town.merchants, shares, k=count):
        payer, friend = rng.sample(town.customers, k=2)
        payee = friend if rng.random() < TO_CUSTOMERS else merchant
        transfers.append(_Transfer(payer, payee, _amount(rng)))
    return transfers


def _mistakes(rng: Random, town: _Town, rounds: int) -> list[_Transfer]:
    """Every mistake once a round, each time at some bank."""
    transfers = []
    for mistake in MISTAKES * rounds:
        bank = rng.choice(town.banks)
        payer = f"{bank}/{mistake.payer}" if mistake.payer else rng.choice(town.customers)
        payee = f"{bank}/{mistake.payee}" if mistake.payee else rng.choice(town.merchants)
        transfers.append(_Transfer(payer, payee, _amount(rng, mistake.currency)))
    return transfers


def _accounts(rng: Random, town: _Town, transfers: Sequence[_Transfer]) -> list[AccountRow]:
    """All accounts, sorted; who pays opens with enough for all of it and some to spare, in tens of EUR."""
    spent: Counter[str] = Counter()
    for transfer in transfers:
        spent[transfer.payer] += transfer.money.amount_minor

    def opening(payer: str) -> Money:
        spare_minor = round(SPARE_MEDIAN_MINOR * rng.lognormvariate(0, SPARE_SIGMA))
        return Money(-(-(spent[payer] + spare_minor) // 10_00) * 10_00, CURRENCY)

    rows = [AccountRow(customer, opening(customer)) for customer in town.customers]
    rows += [AccountRow(merchant, Money(0, CURRENCY)) for merchant in town.merchants]
    for bank in town.banks:
        rows.append(AccountRow(f"{bank}/closed-customer", opening(f"{bank}/closed-customer"), closed=True))
        rows.append(AccountRow(f"{bank}/closed-merchant", Money(0, CURRENCY), closed=True))
        rows.append(AccountRow(f"{bank}/dollar-merchant", Money(0, OTHER_CURRENCY)))
    return sorted(rows, key=lambda row: row.account)


def _overspending(
    rng: Random, town: _Town, accounts: Sequence[AccountRow], transfers: Sequence[_Transfer], count: int
) -> list[_Transfer]:
    """One order each by `count` customers, larger than everything that they could ever have."""
    most = Counter({row.account: row.opening.amount_minor for row in accounts})
    for transfer in transfers:
        most[transfer.payee] += transfer.money.amount_minor
    return [
        _Transfer(payer, rng.choice(town.merchants), Money(most[payer] + _amount(rng).amount_minor, CURRENCY))
        for payer in rng.sample(town.customers, k=count)
    ]


def _timetable(rng: Random, transfers: Sequence[_Transfer]) -> list[TimedOrder]:
    """Give every transfer a time, a key and a row, in that order."""
    hours = rng.choices(range(24), PAYMENTS_PER_HOUR, k=len(transfers))
    times = sorted(f"{hour:02}:{rng.randrange(60):02}:{rng.randrange(60):02}" for hour in hours)
    return [
        TimedOrder(
            at, PaymentOrder(number + 1, f"day-{number:05}", transfer.payer, transfer.payee, transfer.money)
        )
        for number, (at, transfer) in enumerate(zip(times, transfers, strict=True), start=1)
    ]


def _account_cells(row: AccountRow) -> list[str]:
    return [row.account, *str(row.opening).split(), "closed" if row.closed else "open"]


def _order_cells(timed: TimedOrder) -> list[str]:
    order = timed.order
    return [order.key, order.payer, order.payee, *str(order.money).split(), timed.at]


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
