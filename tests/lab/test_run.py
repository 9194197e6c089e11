"""Files of payments through the whole network, from the command line and from Python."""

import csv
import dataclasses
import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import paylab
from paylab.__main__ import main
from paylab.core.money import Money
from paylab.lab.payment_files import Job, bank_of, read_job
from paylab.lab.workload import RunResult, run_job
from tests.lab.day_oracle import clearing_positions, expected_outcomes

ROOT = Path(__file__).parents[2]
PAYMENTS, ACCOUNTS = ROOT / "data" / "payments.csv", ROOT / "data" / "accounts.csv"
PKDD99 = ROOT.parent / "shared" / "data" / "pkdd99-payments.csv"

needs_pkdd99 = pytest.mark.skipif(not PKDD99.exists(), reason="the PKDD'99 payment orders are not here")


def run_command(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "paylab", "run", *map(str, arguments), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def clearing(folder: Path, bank: str) -> Counter[str]:
    """A bank's clearing position in minor units by currency, read from its ledger."""
    with closing(sqlite3.connect(folder / f"bank-{bank}.sqlite")) as ledger:
        rows = ledger.execute(
            "SELECT currency, -sum(amount_minor) FROM postings WHERE account = '@clearing' GROUP BY currency"
        )
        return Counter(dict(rows.fetchall()))


def first_payments(job: Job, count: int) -> Job:
    return dataclasses.replace(job, payments=job.payments[:count])


def test_the_day_commits_every_good_row_and_declines_the_others(tmp_path: Path) -> None:
    """Outcomes, reasons and clearing positions are those computed from the files without paylab."""
    status, result = run_command(PAYMENTS, "--accounts", ACCOUNTS, "--data-dir", tmp_path)
    expected = expected_outcomes(PAYMENTS, ACCOUNTS)
    counts = Counter(expected.values())
    assert status == 0
    assert result["payments"] == len(expected)
    assert result["committed"] == counts.pop("COMMITTED")
    assert result["declined"] == dict(counts)
    assert (result["queued"], result["in_doubt"], result["duplicates"]) == (0, 0, 0)
    assert result["conserved"] is True
    assert set(result["latency_ms"]) == {"p50", "p95", "p99"}
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as gateway:
        rows = gateway.execute("SELECT key, state, reason FROM payments").fetchall()
    assert {key: reason or state for key, state, reason in rows} == expected
    for (bank, currency), position in clearing_positions(PAYMENTS, expected).items():
        assert clearing(tmp_path, bank)[currency] == position * 100

    again_status, again = run_command(PAYMENTS, "--accounts", ACCOUNTS, "--data-dir", tmp_path)
    assert (again_status, again["committed"]) == (0, result["committed"])
    for (bank, currency), position in clearing_positions(PAYMENTS, expected).items():
        assert clearing(tmp_path, bank)[currency] == position * 100, "the second run charged somebody again"


def pkdd99_orders() -> list[dict[str, str]]:
    with PKDD99.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@needs_pkdd99
def test_real_orders_all_commit_to_the_haler(tmp_path: Path) -> None:
    """6,471 real orders between 14 banks: every clearing position is the sum computed from the file."""
    status, result = run_command(PKDD99, "--opening-balance", "50000.00 CZK", "--data-dir", tmp_path)
    assert status == 0
    assert (result["payments"], result["committed"], result["in_doubt"]) == (6471, 6471, 0)
    expected: Counter[str] = Counter()
    for order in pkdd99_orders():
        haler = int(Decimal(order["amount"]) * 100)
        expected[order["payee"].partition("/")[0]] += haler
        expected["home"] -= haler
    assert len(expected) == 14
    assert {bank: clearing(tmp_path, bank)["CZK"] for bank in expected} == dict(expected)


@needs_pkdd99
def test_payers_who_run_dry_are_declined_in_some_order() -> None:
    """Nobody is overdrawn, and every declined order exceeds what its payer has left."""
    job = first_payments(read_job(PKDD99, opening_balance=Money(5000_00, "CZK")), 1500)
    with paylab.Lab(banks=job.banks, bank_servers=1, name="dry") as lab:
        result = run_job(lab, job, progress=False)
        balances = lab.balances()
    assert result.ok, result
    spent: defaultdict[str, int] = defaultdict(int)
    for row in result.rows:
        assert row.state == "COMMITTED" or row.reason == "INSUFFICIENT_FUNDS"
        if row.state == "COMMITTED":
            spent[row.order.payer] += row.order.money.amount_minor
    assert 0 < result.declined["INSUFFICIENT_FUNDS"] < len(result.rows)
    for row in result.rows:
        left_minor = 5000_00 - spent[row.order.payer]
        assert balances[row.order.payer].amount_minor == left_minor >= 0
        if row.state == "DECLINED":
            assert row.order.money.amount_minor > left_minor


@pytest.fixture
def day_lab() -> Iterator[tuple[paylab.Lab, Job]]:
    job = first_payments(read_job(PAYMENTS, ACCOUNTS), 400)
    with paylab.Lab(banks=job.banks, name="day") as lab:
        yield lab, job


def in_the_middle(lab: paylab.Lab, job: Job, act: Callable[[], None]) -> RunResult:
    """Run a job, and `act` once a quarter of it has been answered."""
    quarter, answered = threading.Event(), Counter[str]()

    def count(event: Any) -> None:
        if event.kind == "answered" and event.method.endswith("/Pay"):
            answered["Pay"] += 1
            if answered["Pay"] == len(job.payments) // 4:
                quarter.set()

    lab.history.listen(count)
    results: list[RunResult] = []
    runner = threading.Thread(target=lambda: results.append(run_job(lab, job, progress=False)))
    runner.start()
    assert quarter.wait(60)
    act()
    runner.join(180)
    assert results, "the run did not end"
    return results[0]


@pytest.mark.parametrize("node", ["alpine-1", "coordinator", "gateway", "logger", "bank-lb"])
def test_a_crash_in_the_middle_loses_and_doubles_nothing(day_lab: tuple[paylab.Lab, Job], node: str) -> None:
    """Whichever node crashes and comes back, every payment ends as the files say."""
    lab, job = day_lab

    def crash_and_restart() -> None:
        lab.crash(node)
        assert not lab.is_up(node)
        lab.restart(node)

    in_the_middle(lab, job, crash_and_restart)
    assert lab.settle(timeout_s=60)
    again = run_job(lab, job, progress=False)  # the same keys: asks what became of each
    expected = expected_outcomes(PAYMENTS, ACCOUNTS)
    assert {row.order.key: row.reason or row.state for row in again.rows} == {
        order.key: expected[order.key] for order in job.payments
    }
    report = lab.check()
    assert report.ok, report
    assert report.in_doubt == 0


def test_the_twin_serves_on_while_a_bank_server_is_down(day_lab: tuple[paylab.Lab, Job]) -> None:
    """With one of two bank servers down to the end of the run, every payment still ends as it should."""
    lab, job = day_lab
    result = in_the_middle(lab, job, lambda: lab.crash("alpine-1"))
    expected = expected_outcomes(PAYMENTS, ACCOUNTS)
    outcomes = {row.order.key: row.reason or row.state for row in result.rows}
    assert outcomes == {order.key: expected[order.key] for order in job.payments}
    lab.restart("alpine-1")
    assert lab.check().ok


BAD = {
    "missing column": ("key,payer,payee,amount\nk,alpine/a,boreal/b,1.00\n", "row 1, column currency"),
    "negative": ("key,payer,payee,amount,currency\nk,alpine/a,boreal/b,-1.00,EUR\n", "row 2, column amount"),
    "decimals": ("key,payer,payee,amount,currency\nk,alpine/a,boreal/b,1.005,EUR\n", "row 2, column amount"),
    "currency": ("key,payer,payee,amount,currency\nk,alpine/a,boreal/b,1.00,XXQ\n", "row 2, column currency"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be used is refused before any node boots."""
    text, place = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr("paylab.lab.lab.Lab.__init__", lambda *_, **__: pytest.fail("a node booted"))
    assert main(["run", str(path), "--opening-balance", "10.00 EUR"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bad.csv" in error
    assert place in error


@pytest.mark.parametrize("arguments", [["run"], ["run", "x.csv", "--nonsense"], ["nonsense"], []])
def test_an_unknown_option_is_usage_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown options and commands print the usage."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: paylab" in capsys.readouterr().err


def test_every_account_of_the_day_is_at_a_known_bank() -> None:
    """The day in data/ is between four banks."""
    job = read_job(PAYMENTS, ACCOUNTS)
    assert len(job.banks) == 4
    assert {bank_of(account.account) for account in job.accounts} == set(job.banks)
