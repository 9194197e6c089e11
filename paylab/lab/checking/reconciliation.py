"""Reconciliation: what the log, the gateway and the ledgers say about each payment, side by side.

The three are kept by different nodes and written at different moments. Once everything has come to rest they
must agree; whatever differs is named, payment by payment.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from paylab.core.money import Money
from paylab.lab.checking.folds import AT_REST
from paylab.lab.checking.ledger_checks import Books

MISSING = "nothing"
SHOWN_MAX = 20
COLUMNS = ("payment", "log", "gateway", "ledgers", "what differs")


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log says of a payment's latest step."""

    payment: str
    state: str
    payer: str
    payee: str
    money: Money
    operation: str = "PAY"
    about: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One payment about which not all say the same."""

    payment: str
    log: str
    gateway: str
    ledgers: str
    why: str

    def __str__(self) -> str:
        """Write it in one line."""
        return f"{self.payment}: {self.why} (log {self.log}; gateway {self.gateway}; ledgers {self.ledgers})"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How many payments were compared, and where the three differ."""

    payments: int
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether all three say the same of every payment."""
        return not self.differences

    def __str__(self) -> str:
        """A line per difference."""
        head = f"{self.payments} payments compared, {len(self.differences)} differ"
        return "\n".join([head, *map(str, self.differences[:SHOWN_MAX])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = f"<p>{self.payments:,} payments compared, {len(self.differences)} differ.</p>"
        if self.ok:
            return head
        names = "".join(f"<th>{name}</th>" for name in COLUMNS)
        rows = "".join(f"<tr>{_cells(each)}</tr>" for each in self.differences[:SHOWN_MAX])
        return f"{head}<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(each: Difference) -> str:
    texts = (each.payment, each.log, each.gateway, each.ledgers, each.why)
    return "".join(f"<td style='text-align:left'>{escape(text)}</td>" for text in texts)


def reconcile(books: Books, log: Iterable[Logged]) -> Reconciliation:
    """Compare the three; `log` is in the order of the log, of each payment the latest step counts."""
    logged = {step.payment: step for step in log}
    posted = _posted(books)
    payments = sorted({*books.payments, *logged, *posted})
    found = [
        Difference(payment, _log_says(logged.get(payment)), _gateway_says(books, payment), says, why)
        for payment in payments
        for says in [_ledgers_say(posted[payment])]
        if (why := _why(books, logged.get(payment), posted[payment], payment))
    ]
    return Reconciliation(len(payments), tuple(found))


# By bank, what a payment moved on customers' accounts: account, amount and currency.
Moved = dict[str, list[tuple[str, int, str]]]


def _posted(books: Books) -> defaultdict[str, Moved]:
    posted: defaultdict[str, Moved] = defaultdict(dict)
    for bank, lines in books.postings.items():
        for _, txn, account, amount_minor, currency in lines:
            payment, slash, _ = txn.rpartition("/")
            if slash and not account.startswith("@"):
                posted[payment].setdefault(bank, []).append((f"{bank}/{account}", amount_minor, currency))
    return posted


def _why(books: Books, logged: Logged | None, moved: Moved, payment: str) -> str:
    """What differs, in words; empty when nothing does."""
    row = books.payments.get(payment)
    if row is None:
        return "the gateway does not know it"
    state = row.state
    if state in AT_REST and logged is None:
        return "the log does not know its end"
    if logged is not None and state in AT_REST and logged.state != state:
        return "log and gateway disagree about its end"
    terms = (row.payer, row.payee, Money(row.amount_minor, row.currency), row.operation, row.about)
    if logged is not None and terms != (
        *(logged.payer, logged.payee, logged.money),
        *(logged.operation, logged.about),
    ):
        return "log and gateway disagree about who pays whom how much"
    both = [(row.payer, -row.amount_minor, row.currency), (row.payee, row.amount_minor, row.currency)]
    lines = [line for lines in moved.values() for line in lines]
    if sorted(lines) != sorted(both if state == "COMMITTED" and row.moves else []):
        return "the ledgers did not move what the gateway says"
    return ""


def _log_says(logged: Logged | None) -> str:
    return _says(logged.state, logged.operation, logged.money) if logged else MISSING


def _gateway_says(books: Books, payment: str) -> str:
    row = books.payments.get(payment)
    return _says(row.state, row.operation, Money(row.amount_minor, row.currency)) if row else MISSING


def _says(state: str, operation: str, money: Money) -> str:
    return f"{state} {money}" if operation == "PAY" else f"{state} {operation.lower()} {money}"


def _ledgers_say(moved: Moved) -> str:
    lines = [line for lines in moved.values() for line in lines]
    return ", ".join(f"{account} {Money(amount, currency)}" for account, amount, currency in lines) or MISSING
