"""What must become of a file of payments, computed from the files alone: no line of this knows paylab.

It answers only where the answer does not depend on the order in which payments run, and asserts that.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

COMMITTED = "COMMITTED"


def expected_outcomes(payments_csv: str | Path, accounts_csv: str | Path) -> dict[str, str]:
    """COMMITTED, or the one reason to decline, by key.

    An order lacks funds for certain when it is above opening balance plus all that its payer may
    receive; it has them for certain when the opening balance covers it and all other orders of the
    payer that could hold funds. AssertionError for an order between the two, and for one with two faults.
    """
    accounts = {row["account"]: row for row in _read(accounts_csv)}
    orders = {row["key"]: row for row in _read(payments_csv)}
    incoming: defaultdict[str, Decimal] = defaultdict(Decimal)
    for order in orders.values():
        incoming[order["payee"]] += Decimal(order["amount"])
    opening = defaultdict(Decimal, {name: Decimal(row["opening_balance"]) for name, row in accounts.items()})

    reasons: dict[str, set[str]] = {}
    held: defaultdict[str, Decimal] = defaultdict(Decimal)
    for key, order in orders.items():
        payer, amount = order["payer"], Decimal(order["amount"])
        reasons[key] = set(_refusals(order, accounts))
        if payer in accounts and amount > opening[payer] + incoming[payer]:
            reasons[key].add("INSUFFICIENT_FUNDS")
        else:
            # An order that the payee's bank declines holds the payer's money until then.
            held[payer] += amount
    for key, order in orders.items():
        assert len(reasons[key]) <= 1, f"{key} has several faults: {sorted(reasons[key])}"
        if not reasons[key]:
            assert held[order["payer"]] <= opening[order["payer"]], f"{key} depends on the order of payments"
    return {key: min(found, default=COMMITTED) for key, found in reasons.items()}


def clearing_positions(
    payments_csv: str | Path, outcomes: Mapping[str, str]
) -> dict[tuple[str, str], Decimal]:
    """What each bank received from other banks less what it sent them, by (bank, currency), in major units.

    Counts the keys whose outcome is COMMITTED, each once. A bank that dealt with no other is left out.
    """
    positions: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for order in {row["key"]: row for row in _read(payments_csv)}.values():
        sender, receiver = (order[end].split("/")[0] for end in ("payer", "payee"))
        if outcomes[order["key"]] == COMMITTED and sender != receiver:
            positions[sender, order["currency"]] -= Decimal(order["amount"])
            positions[receiver, order["currency"]] += Decimal(order["amount"])
    return dict(positions)


def _refusals(order: Mapping[str, str], accounts: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Every reason but funds for which a bank refuses its side of the order."""
    for name in (order["payer"], order["payee"]):
        account = accounts.get(name)
        if account is None:
            yield "ACCOUNT_NOT_FOUND"
            continue
        if account["status"] == "closed":
            yield "ACCOUNT_CLOSED"
        if account["currency"] != order["currency"]:
            yield "CURRENCY_MISMATCH"


def _read(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
