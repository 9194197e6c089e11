"""The generated day: the same bytes for the same seed, and payments that end as they are meant to."""

import csv
import os
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from paylab.lab.generate import MISTAKES, TimedOrder, generate, write_day
from paylab.lab.payment_files import BadInput, bank_of, read_accounts, read_job, read_payments
from tests.lab.day_oracle import clearing_positions, expected_outcomes

DATA = Path(__file__).parents[2] / "data"
DECLINES = ("INSUFFICIENT_FUNDS", "ACCOUNT_NOT_FOUND", "ACCOUNT_CLOSED", "CURRENCY_MISMATCH")


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("accounts.csv", "payments.csv")}


def test_the_stored_day_is_the_generated_one(tmp_path: Path) -> None:
    """data/ holds what seed 7 gives."""
    write_day(tmp_path)
    assert read_bytes(tmp_path) == read_bytes(DATA)


def test_the_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Two processes that hash strings differently write the same files."""
    code = (
        "import sys; from paylab.lab.generate import write_day; write_day(sys.argv[1], seed=11, payments=600)"
    )
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", code, tmp_path / hash_seed], env=environment, check=True)
    assert read_bytes(tmp_path / "1") == read_bytes(tmp_path / "2")
    write_day(tmp_path / "3", seed=12, payments=600)
    assert read_bytes(tmp_path / "1") != read_bytes(tmp_path / "3")


def test_the_files_say_what_was_generated(tmp_path: Path) -> None:
    """Reading the files gives the accounts and orders back, row numbers included."""
    accounts_path, payments_path = write_day(tmp_path / "new" / "folder", seed=3, payments=500)
    accounts, timed = generate(3, 500)
    assert read_accounts(accounts_path) == accounts
    assert read_payments(payments_path) == [row.order for row in timed]


def test_the_stored_day_has_every_kind_of_decline() -> None:
    """8 of each kind, 1,968 that commit, and no order whose outcome depends on the order of the others."""
    outcomes = expected_outcomes(DATA / "payments.csv", DATA / "accounts.csv")
    assert Counter(outcomes.values()) == {"COMMITTED": 1968, **dict.fromkeys(DECLINES, 8)}
    positions = clearing_positions(DATA / "payments.csv", outcomes)
    assert {key for key, amount in positions.items() if amount} == {
        (bank, "EUR") for bank in ("alpine", "boreal", "coral", "delta")
    }
    assert sum(positions.values()) == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("payments", "banks"), [(20, 1), (60, 8), (1100, 3)])
def test_any_day_ends_as_it_is_meant_to(tmp_path: Path, seed: int, payments: int, banks: int) -> None:
    """The oracle finds one reason at most in each row and asserts that good rows commit in any order."""
    accounts_path, payments_path = write_day(tmp_path, seed=seed, payments=payments, banks=banks)
    job = read_job(payments_path, accounts_path)
    assert (len(job.payments), len(job.banks)) == (payments, banks)
    outcomes = expected_outcomes(payments_path, accounts_path)
    times = max(1, payments // 500)
    meant = Counter([mistake.reason for mistake in MISTAKES * times] + ["INSUFFICIENT_FUNDS"] * 2 * times)
    assert Counter(outcomes.values()) == {**meant, "COMMITTED": payments - meant.total()}


def test_the_day_looks_like_one() -> None:
    """Quiet nights, a few large merchants, a few large amounts, keys used once, payments within banks too."""
    _, timed = generate(7)
    hours = Counter(row.at[:2] for row in timed)
    assert sum(hours[f"{hour:02}"] for hour in range(6)) < 0.05 * len(timed) < hours["18"]
    assert all(earlier.at <= later.at for earlier, later in pairwise(timed))
    assert len({row.order.key for row in timed}) == len(timed)
    received = Counter(row.order.payee for row in timed if "/merchant-" in row.order.payee).most_common()
    assert received[0][1] > 250
    assert median(count for _, count in received) < 20
    amounts = [amount_of(row) for row in timed]
    assert 18 < median(amounts) < 26
    assert 40 < sum(amounts) / len(amounts) < 55
    assert max(amounts) > 1000
    assert 200 < sum(bank_of(row.order.payer) == bank_of(row.order.payee) for row in timed) < 800


def amount_of(row: TimedOrder) -> Decimal:
    return Decimal(str(row.order.money).split()[0])


def test_impossible_days_are_refused(tmp_path: Path) -> None:
    """One line names the option, or the folder that cannot be written."""
    with pytest.raises(BadInput, match=r"^--payments: 19 are too few, at least 20 make a day$"):
        generate(7, 19)
    with pytest.raises(BadInput, match=r"^--banks: there can be 1 to 8 banks, not 9$"):
        generate(7, 100, 9)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"/file: file exists$"):
        write_day(tmp_path / "file")


def test_the_oracle_knows_when_it_does_not_know(tmp_path: Path) -> None:
    """Two orders that an account can pay one of, and an order with two faults, get no answer."""
    accounts = tmp_path / "accounts.csv"
    accounts.write_text(
        "account,opening_balance,currency,status\na/x,10.00,EUR,open\nb/y,0.00,USD,closed\n"
        "b/z,0.00,EUR,open\n"
    )
    payments = tmp_path / "payments.csv"
    for rows, complaint in (
        (["k1,a/x,b/z,6.00,EUR", "k2,a/x,b/z,6.00,EUR"], "k1 depends on the order of payments"),
        (["k1,a/x,b/y,6.00,EUR"], "k1 has several faults"),
    ):
        payments.write_text("\n".join(["key,payer,payee,amount,currency", *rows]))
        with pytest.raises(AssertionError, match=complaint):
            expected_outcomes(payments, accounts)


def test_the_oracle_counts_a_repeated_key_once(tmp_path: Path) -> None:
    """A duplicate row moves no money, in a bank or between banks."""
    accounts, payments = tmp_path / "accounts.csv", tmp_path / "payments.csv"
    accounts.write_text("account,opening_balance,currency,status\na/x,10.00,EUR,open\nb/z,0.00,EUR,open\n")
    with payments.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["key", "payer", "payee", "amount", "currency"]] + [["k1", "a/x", "b/z", "6.00", "EUR"]] * 2
        )
    outcomes = expected_outcomes(payments, accounts)
    assert outcomes == {"k1": "COMMITTED"}
    assert clearing_positions(payments, outcomes) == {
        ("a", "EUR"): Decimal("-6.00"),
        ("b", "EUR"): Decimal("6.00"),
    }
