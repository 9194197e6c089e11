"""Reads files of payments and of accounts, and finds all that is wrong with them before anything is sent.

What only a bank can know (funds, a closed account, one it has never heard of) is no error here: it
becomes a declined payment. Everything else is a `BadInput`: one line that names file, row and column.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paylab.core.money import MINOR_DIGITS, Money, parse_amount, parse_money
from paylab.errors import InvalidRequest, LabError

PAYMENT_COLUMNS = ("key", "payer", "payee", "amount", "currency")
ACCOUNT_COLUMNS = ("account", "opening_balance", "currency", "status")
# As long a key as the gateway takes.
KEY_LENGTH_MAX = 255
# Names become node names and are read in tables; nobody reads longer ones.
NAME_LENGTH_MAX = 64
# An error is one line and quotes no more of a wrong value than this; no amount is as long.
VALUE_LENGTH_MAX = 40

_NAME = f"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NAME_LENGTH_MAX - 1}}}"
# Nodes that every network has or may have: a bank of that name would be taken for one.
_NODE = re.compile(r"(auth|gateway|coordinator|logger|queue)(-[0-9]+)?|(auth|bank)-lb|bank|client")
# NUL, and what the decoder leaves where the bytes are not UTF-8.
_NOT_TEXT = re.compile("[\0\udc80-\udcff]")
_UNREADABLE = "this is not text in UTF-8"


class BadInput(LabError):
    """A file (or option) that cannot be used; its text is one line: `FILE, row N, column NAME: problem`.

    `row` is the line where the row begins, as an editor counts: the header is row 1. `column` is a name,
    or a position from 1 where there is no name. What makes no sense (a file that is not there) is left out.
    """

    def __init__(self, source: str, problem: str, *, row: int | None = None, column: str = "") -> None:
        place = _on_one_line(source)
        place += f", row {row}" if row is not None else ""
        place += f", column {_on_one_line(column[:VALUE_LENGTH_MAX])}" if column else ""
        super().__init__("BAD_INPUT", f"{place}: {problem}")

    def __str__(self) -> str:
        """Give the line alone: a reason code is of no use to who wrote the file."""
        return self.message


@dataclass(frozen=True, slots=True)
class PaymentOrder:
    """One row of a payments file; accounts are `bank/account`, `row` counts as BadInput's does."""

    row: int
    key: str
    payer: str
    payee: str
    money: Money


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account (`bank/account`) to open, and then to close when `closed`."""

    account: str
    opening: Money
    closed: bool = False
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Checked input of a run: payments and accounts in file order, banks sorted by name."""

    payments: tuple[PaymentOrder, ...]
    accounts: tuple[AccountRow, ...]
    banks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """Cells by column, and where they stand."""

    source: str
    row: int
    cells: dict[str, str]

    def bad(self, column: str, problem: str) -> BadInput:
        return BadInput(self.source, problem, row=self.row, column=column)

    def account(self, column: str) -> str:
        text = self.cells[column]
        if not re.fullmatch(f"{_NAME}/{_NAME}", text):
            raise self.bad(column, f"{_quoted(text)} is not an account such as alpine/alice")
        return text

    def money(self, column: str) -> Money:
        amount, currency = self.cells[column], self.cells["currency"]
        if currency not in MINOR_DIGITS:
            raise self.bad("currency", f"{_quoted(currency)} is not a currency that paylab knows")
        if len(amount) > VALUE_LENGTH_MAX:
            raise self.bad(column, f"{_quoted(amount)} is too long for an amount")
        try:
            return parse_amount(amount, currency)
        except InvalidRequest as error:
            raise self.bad(column, error.message) from None


def bank_of(account: str) -> str:
    """Give the `alpine` of `alpine/alice`."""
    return account.partition("/")[0]


def read_payments(path: str | Path) -> list[PaymentOrder]:
    """Read a CSV file with the columns key, payer, payee, amount, currency; others are ignored.

    A row that repeats an earlier key and says the same is kept: it is a duplicate request, to be
    charged once. Raises BadInput at the first wrong row.
    """
    orders: list[PaymentOrder] = []
    first: dict[str, PaymentOrder] = {}
    for line in _rows(path, PAYMENT_COLUMNS):
        order = _payment(line)
        known = first.setdefault(order.key, order)
        if (known.payer, known.payee, known.money) != (order.payer, order.payee, order.money):
            raise line.bad("key", f"{_quoted(order.key)} is the key of another payment, in row {known.row}")
        orders.append(order)
    named = ((o.row, column, a) for o in orders for column, a in (("payer", o.payer), ("payee", o.payee)))
    _check_banks(str(path), named)
    return orders


def read_accounts(path: str | Path) -> list[AccountRow]:
    """Read a CSV file with the columns account, opening_balance, currency, status (open or closed).

    Of the others only `owner` (a user's name, or empty) is read, where there is one. Raises BadInput
    at the first wrong row; an account that is listed twice is wrong.
    """
    rows: dict[str, int] = {}
    accounts: list[AccountRow] = []
    for line in _rows(path, ACCOUNT_COLUMNS):
        account, opening = line.account("account"), line.money("opening_balance")
        status, owner = line.cells["status"], line.cells.get("owner") or None
        if account in rows:
            raise line.bad("account", f"{account} is in row {rows[account]} already")
        if status not in ("open", "closed"):
            raise line.bad("status", f"{_quoted(status)} is neither open nor closed")
        if owner and not re.fullmatch(_NAME, owner):
            raise line.bad("owner", f"{_quoted(owner)} is not a name such as alice")
        rows[account] = line.row
        accounts.append(AccountRow(account, opening, closed=status == "closed", owner=owner))
    _check_banks(str(path), ((row, "account", account) for account, row in rows.items()))
    return accounts


def read_job(
    payments_path: str | Path,
    accounts_path: str | Path | None = None,
    opening_balance: Money | str | None = None,
) -> Job:
    """Read all that a run needs and hold the two files against each other. Raises BadInput.

    Without an accounts file the accounts are those that the payments name, each in the currency of
    its first use: who ever pays opens with `opening_balance`, who only receives with nothing.
    """
    source, payments = str(payments_path), read_payments(payments_path)
    if accounts_path is None:
        accounts = _accounts_of(source, payments, _opening(opening_balance))
    elif opening_balance is not None:
        raise BadInput("--opening-balance", "not together with --accounts, which gives every balance")
    else:
        accounts = read_accounts(accounts_path)
    banks = {bank_of(row.account) for row in accounts}
    for order in payments:
        for column, account in (("payer", order.payer), ("payee", order.payee)):
            if bank_of(account) not in banks:
                problem = f"{_on_one_line(str(accounts_path))} has no bank {bank_of(account)}"
                raise BadInput(source, problem, row=order.row, column=column)
    return Job(tuple(payments), tuple(accounts), tuple(sorted(banks)))


def _payment(line: _Row) -> PaymentOrder:
    key = line.cells["key"]
    if not key.strip():
        raise line.bad("key", "a payment needs a key")
    if len(key) > KEY_LENGTH_MAX:
        raise line.bad("key", f"{len(key)} characters are too many, a key has at most {KEY_LENGTH_MAX}")
    payer, payee, money = line.account("payer"), line.account("payee"), line.money("amount")
    if payer == payee:
        raise line.bad("payee", f"{payee} would pay itself")
    if money.amount_minor == 0:
        raise line.bad("amount", f"{_quoted(line.cells['amount'])} is nothing to pay")
    return PaymentOrder(line.row, key, payer, payee, money)


def _rows(path: str | Path, columns: Sequence[str]) -> Iterator[_Row]:
    source, header, empty = str(path), list[str](), True
    for row, cells in _records(path):
        for position, cell in enumerate(cells):
            if _NOT_TEXT.search(cell):
                column = header[position] if position < len(header) else str(position + 1)
                raise BadInput(source, _UNREADABLE, row=row, column=column)
        if not header:
            header = cells
            _check_header(source, row, header, columns)
        elif len(cells) != len(header):
            column = [*header, str(len(header) + 1)][min(len(cells), len(header))]
            problem = f"the row has {len(cells)} cells, the header {len(header)}"
            raise BadInput(source, problem, row=row, column=column)
        else:
            empty = False
            yield _Row(source, row, dict(zip(header, cells, strict=True)))
    if not header:
        raise BadInput(source, f"the file is empty; it needs {','.join(columns)}", row=1, column=columns[0])
    if empty:
        raise BadInput(source, "there is a header and nothing else", row=2, column=columns[0])


def _records(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each CSV record with its first line's number; blank lines count but are left out."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(str(path), (error.strerror or "cannot be read").lower()) from None
    # Bytes that are not UTF-8 go through as lone surrogates, so that the error can name their column.
    text = data.decode("utf-8-sig", "surrogateescape")
    reader, row = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield row, cells
            row = reader.line_num + 1
    except csv.Error as error:
        problem = _UNREADABLE if _NOT_TEXT.search(text) else f"this is not CSV: {error}"
        raise BadInput(str(path), problem, row=row) from None


def _check_header(source: str, row: int, header: Sequence[str], columns: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for position, name in enumerate(header):
        if first.setdefault(name, position) != position:
            raise BadInput(source, f"the header has {_quoted(name)} twice", row=row, column=str(position + 1))
    for column in columns:
        if column not in header:
            raise BadInput(source, "the column is missing", row=row, column=column)


def _check_banks(source: str, named: Iterable[tuple[int, str, str]]) -> None:
    """Refuse a bank whose name, in upper or lower case, is that of a node or of another bank."""
    uses: dict[str, tuple[int, str]] = {}
    for row, column, account in named:
        uses.setdefault(bank_of(account), (row, column))
    banks: dict[str, str] = {}
    for bank, (row, column) in uses.items():
        other = banks.setdefault(bank.lower(), bank)
        stem = re.sub(r"-[0-9]+$", "", bank)
        if _NODE.fullmatch(bank.lower()):
            problem = f"a bank cannot be called {bank}, as a node is"
        elif other != bank:
            problem = f"the bank {bank} differs only in case from {other}"
        elif stem != bank and stem in uses:
            problem = f"a bank cannot be called {bank}, as a server of {stem} is"
        else:
            continue
        raise BadInput(source, problem, row=row, column=column)


def _opening(opening_balance: Money | str | None) -> Money:
    option = "--opening-balance"
    if opening_balance is None:
        raise BadInput(option, 'say what payers begin with, such as "100.00 EUR", or name an --accounts file')
    try:
        money = opening_balance if isinstance(opening_balance, Money) else parse_money(opening_balance)
    except (InvalidRequest, ValueError) as error:
        raise BadInput(option, error.message if isinstance(error, InvalidRequest) else str(error)) from None
    if money.amount_minor < 0:
        raise BadInput(option, f"{money} is below zero")
    return money


def _accounts_of(source: str, payments: Sequence[PaymentOrder], opening: Money) -> list[AccountRow]:
    first_use: dict[str, PaymentOrder] = {}
    for order in payments:
        first_use.setdefault(order.payer, order)
        first_use.setdefault(order.payee, order)
    payers = {order.payer for order in payments}
    for account, order in first_use.items():
        if account in payers and order.money.currency != opening.currency:
            problem = f"{account} pays from {order.money.currency}, but --opening-balance is {opening}"
            raise BadInput(source, problem, row=order.row, column="currency")
    return [
        AccountRow(account, opening if account in payers else Money(0, order.money.currency))
        for account, order in first_use.items()
    ]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= VALUE_LENGTH_MAX else text[:VALUE_LENGTH_MAX] + "…")


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)
