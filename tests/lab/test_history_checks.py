"""Every history check holds on runs of both worlds, and goes red on a history broken on purpose."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import paylab
from paylab.__main__ import main
from paylab.lab.checking.check_command import judge_file
from paylab.lab.checking.history_checks import FOLDS, HistoryChecks, feed
from paylab.nodes.events import Event, Kind
from tests.lab import saved_history
from tests.lab.saved_history import Entry, entries, of, write

NAMES = {fold.name for fold in FOLDS}


@pytest.fixture(scope="module", params=("simulated", "real"))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("saved") / f"{request.param}.jsonl"
    saved_history.save(path, world=request.param)
    return path


def posting(lines: list[Entry], bank: str = "boreal") -> tuple[int, Entry]:
    """The first posting of a two-phase payment at a bank."""
    return next(
        of(lines, "bank", lambda f: bool(f.get("lines")) and f["bank"] == bank and len(f["lines"]) == 2)
    )


def first(lines: list[Entry], at: str, **wanted: Any) -> tuple[int, Entry]:
    return next(of(lines, at, lambda facts: all(facts.get(name) == value for name, value in wanted.items())))


def silence(lines: list[Entry], number: int) -> int:
    """Take away what a line says, as if nobody had written it."""
    del lines[number - 1]["facts"]
    return number


def quiet(lines: list[Entry]) -> int:
    return next(number for number, _ in of(lines, "quiet"))


# Each changes the lines and returns the number of the line that the finding must name.


def remove_a_posting_line(lines: list[Entry]) -> int:
    number, facts = posting(lines)
    facts["lines"].pop()
    return number


def change_an_amount(lines: list[Entry]) -> int:
    number, facts = posting(lines)
    for line in facts["lines"]:
        line[1] *= 2
    return number


def abort_at_one_bank(lines: list[Entry]) -> int:
    number, facts = posting(lines, "alpine")
    facts["state"] = "ABORTED"
    del facts["lines"], facts["after"]
    other, _ = posting(lines)
    return max(number, other)


def lose_a_posting(lines: list[Entry]) -> int:
    silence(lines, posting(lines)[0])
    return quiet(lines)


def use_a_key_twice(lines: list[Entry]) -> int:
    number, facts = first(lines, "gateway", key="three")
    facts["key"] = "one"
    return number


def charge_under_another_attempt(lines: list[Entry]) -> int:
    number, facts = posting(lines)
    other, _ = posting(lines, "alpine")
    facts["txn"] = facts["txn"].removesuffix("/1") + "/2"
    return max(number, other)


def answer_a_replay_differently(lines: list[Entry]) -> int:
    numbers = [number for number, _ in of(lines, "receipt", lambda facts: facts["key"] == "one")]
    for number in numbers[2:]:
        lines[number - 1]["facts"]["attempts"] = 2
    return numbers[2]


def swap_an_answer(lines: list[Entry]) -> int:
    declined, facts = first(lines, "receipt", state="DECLINED")
    number, _ = next(
        (number, facts)
        for number, facts in of(lines, "receipt", lambda facts: facts["state"] == "DECLINED")
        if lines[number - 1]["kind"] == "returned"
    )
    assert declined < number
    lines[number - 1]["facts"] = facts | {"state": "COMMITTED", "reason": ""}
    return number


def change_a_receipts_amount(lines: list[Entry]) -> int:
    number, facts = first(lines, "receipt")
    facts["amount_minor"] += 1
    return number


def overdraw(lines: list[Entry]) -> int:
    number, facts = posting(lines, "alpine")
    facts["after"][0][1] = -1
    return number


def promise_too_much(lines: list[Entry]) -> int:
    number, facts = first(lines, "bank", state="PREPARED", bank="alpine")
    facts["after"][0][2] = facts["after"][0][1] + 1
    return number


def capture_too_much(lines: list[Entry]) -> int:
    for _, facts in of(lines, "gateway", lambda facts: facts["operation"] == "CAPTURE"):
        facts["amount_minor"] += 700
    return first(lines, "bank", txn=f"{facts['payment']}/1", bank="alpine")[0]


def capture_what_was_never_set_aside(lines: list[Entry]) -> int:
    _, facts = first(lines, "gateway", operation="AUTHORISE")
    silence(lines, first(lines, "bank", txn=f"{facts['payment']}/1", bank="alpine", state="COMMITTED")[0])
    _, facts = first(lines, "gateway", operation="CAPTURE")
    return first(lines, "bank", txn=f"{facts['payment']}/1", bank="alpine")[0]


def pay_back_too_much(lines: list[Entry]) -> int:
    for _, facts in of(lines, "gateway", lambda facts: facts["operation"] == "REFUND"):
        facts["amount_minor"] += 700
    return first(lines, "bank", txn=f"{facts['payment']}/1", bank="boreal", state="COMMITTED")[0]


def expire_too_early(lines: list[Entry]) -> int:
    number, expired = first(lines, "expired")
    for _, facts in of(lines, "gateway", lambda facts: facts["payment"] == expired["authorisation"]):
        facts["authorised_until_s"] += 60
    return number


def expire_too_much(lines: list[Entry]) -> int:
    number, facts = first(lines, "expired")
    facts["released_minor"] += 1
    return number


def decide_the_contrary(lines: list[Entry]) -> int:
    number, facts = first(lines, "decide")
    facts["items"][0][1] = False
    return number


def change_an_end(lines: list[Entry]) -> int:
    numbers = [number for number, _ in of(lines, "gateway", lambda f: f["state"] == "COMMITTED")]
    facts = lines[numbers[0] - 1]["facts"]
    lines[numbers[1] - 1]["facts"] = facts | {"state": "DECLINED", "reason": "INSUFFICIENT_FUNDS"}
    return numbers[1]


def refuse_a_decision(lines: list[Entry]) -> int:
    number, facts = posting(lines)
    lines[number - 1]["facts"] = {
        "at": "refusal",
        "bank": "boreal",
        "txn": facts["txn"],
        "refusal": "ALREADY_ABORTED",
    }
    return number


def decide_before_forcing(lines: list[Entry]) -> int:
    silence(lines, first(lines, "decision")[0])
    return first(lines, "coordinator", outcome="COMMITTED")[0]


def vote_before_forcing(lines: list[Entry]) -> int:
    silence(lines, first(lines, "bank", state="PREPARED")[0])
    return first(lines, "votes")[0]


def lose_an_update(lines: list[Entry]) -> int:
    number, facts = posting(lines)
    facts["after"][0][1] += 500
    return number


def log_twice(lines: list[Entry]) -> int:
    number, facts = first(lines, "logger")
    facts["events"] *= 2
    return number


def log_another_end(lines: list[Entry]) -> int:
    number, facts = first(lines, "logger")
    facts["events"][0] = facts["events"][0].replace("COMMITTED", "DECLINED")
    return number


def log_nothing(lines: list[Entry]) -> int:
    silence(lines, first(lines, "logger")[0])
    return quiet(lines)


def leave_an_attempt_open(lines: list[Entry]) -> int:
    silence(lines, first(lines, "gateway", state="COMMITTED")[0])
    return quiet(lines)


def remove_a_line(lines: list[Entry]) -> int:
    number, _ = first(lines, "coordinator")
    node = lines.pop(number - 1)["node"]
    return next(n for n, line in enumerate(lines, start=1) if n >= number and line.get("node") == node)


def turn_a_clock_back(lines: list[Entry]) -> int:
    number, _ = first(lines, "coordinator")
    lines[number - 1]["lamport"] = 1
    return number


BREAKS: dict[Callable[[list[Entry]], int], str] = {
    remove_a_posting_line: "money is conserved over time",
    change_an_amount: "money is conserved over time",
    abort_at_one_bank: "both banks or none, over time",
    lose_a_posting: "both banks or none, over time",
    use_a_key_twice: "one charge a key, one answer",
    charge_under_another_attempt: "one charge a key, one answer",
    answer_a_replay_differently: "one charge a key, one answer",
    swap_an_answer: "no acknowledged payment is lost",
    change_a_receipts_amount: "no acknowledged payment is lost",
    overdraw: "no overdraft at any moment",
    promise_too_much: "no overdraft at any moment",
    capture_too_much: "no more is taken than was given",
    capture_what_was_never_set_aside: "no more is taken than was given",
    pay_back_too_much: "no more is taken than was given",
    expire_too_early: "no more is taken than was given",
    expire_too_much: "account histories are serialisable",
    decide_the_contrary: "decisions never contradict",
    change_an_end: "decisions never contradict",
    refuse_a_decision: "decisions never contradict",
    decide_before_forcing: "forced before it is said",
    vote_before_forcing: "forced before it is said",
    lose_an_update: "account histories are serialisable",
    log_twice: "the log agrees over time",
    log_another_end: "the log agrees over time",
    log_nothing: "the log agrees over time",
    leave_an_attempt_open: "nothing is left in doubt",
    remove_a_line: "the history is whole",
    turn_a_clock_back: "the history is whole",
}


def test_every_check_is_broken_by_something() -> None:
    """No fold is left out."""
    assert set(BREAKS.values()) == NAMES


def test_a_sound_history_passes_every_check(saved: Path) -> None:
    """And each check has checked something."""
    report = judge_file(saved).report
    assert report.ok, report
    assert set(report.checked) == NAMES
    assert all(report.checked.values())
    assert report.in_doubt == 0


@pytest.mark.parametrize("broken", BREAKS, ids=lambda function: function.__name__)
def test_a_broken_history_is_flagged_with_check_and_line(
    saved: Path, tmp_path: Path, broken: Callable[[list[Entry]], int]
) -> None:
    """Also when whoever edited the file made its chain fit."""
    lines = entries(saved)
    number = broken(lines)
    report = judge_file(write(tmp_path / "broken.jsonl", lines)).report
    found = [line for line in report.violations if line.startswith(f"{BREAKS[broken]}: ")]
    assert any(line.endswith(f"(line {number})") for line in found), (number, report)


def test_the_command_judges_a_file(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all holds, 1 with check and line when something is broken, 2 with one line for a bad file."""
    assert main(["check", str(saved)]) == 0
    assert "holds   money is conserved over time" in capsys.readouterr().out
    assert main(["check", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    lines = entries(saved)
    number = change_an_amount(lines)
    assert main(["check", str(write(tmp_path / "broken.jsonl", lines)), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert any(f"(line {number})" in line for line in said["violations"])
    cut = tmp_path / "cut.jsonl"
    cut.write_text(saved.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    assert main(["check", str(cut)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("paylab: BAD_HISTORY: ")
    assert ", line " in error
    assert error.count("\n") == 1


# Histories made by hand --------------------------------------------------------------------------


def told(facts: Iterable[dict[str, Any]]) -> HistoryChecks:
    """The checks of a history in which one bank's server says all of this."""
    events = [Event("alpine-1", n, n, 0.0, Kind.STATE, facts=f) for n, f in enumerate(facts, start=1)]
    return feed(events)


def opened(bank: str, account: str, amount_minor: int) -> dict[str, Any]:
    return {"at": "opened", "bank": bank, "accounts": [[account, amount_minor, "EUR"]]}


def prepared(bank: str, txn: str, account: str, amount_minor: int, after: tuple[int, int]) -> dict[str, Any]:
    legs = [[account, amount_minor, "EUR"]]
    about = {"at": "bank", "bank": bank, "txn": txn, "state": "PREPARED"}
    return about | {"legs": legs, "after": [[account, *after]]}


def posted(bank: str, txn: str, account: str, amount_minor: int, after: tuple[int, int]) -> dict[str, Any]:
    lines = [[account, amount_minor, "EUR"], ["@clearing", -amount_minor, "EUR"]]
    about = {"at": "bank", "bank": bank, "txn": txn, "state": "COMMITTED"}
    return about | {"lines": lines, "after": [[account, *after]]}


def serialisable(checks: HistoryChecks) -> list[str]:
    name = "account histories are serialisable: "
    return [line.removeprefix(name) for line in checks.violations() if line.startswith(name)]


def test_a_circle_of_reads_is_no_serial_history() -> None:
    """Each of two payments spends what the other one brought."""
    checks = told(
        [
            opened("alpine", "ada", 0),
            opened("boreal", "ben", 0),
            posted("alpine", "p/1", "ada", 5, (5, 0)),
            prepared("alpine", "q/1", "ada", -5, (5, 5)),
            posted("boreal", "q/1", "ben", 5, (5, 0)),
            prepared("boreal", "p/1", "ben", -5, (5, 5)),
            posted("boreal", "p/1", "ben", -5, (0, 0)),
            posted("alpine", "q/1", "ada", -5, (0, 0)),
        ]
    )
    [found] = serialisable(checks)
    assert found.startswith("each of these had read what the one before it posted, in a circle: ")
    assert sorted(found.rpartition(": ")[2].split(", ")) == ["p/1", "q/1"]


def test_posting_in_different_orders_at_two_banks_is_serial() -> None:
    """Holds make postings commute: nobody had read what the other one posted."""
    checks = told(
        [
            opened("alpine", "ada", 5),
            opened("boreal", "ben", 5),
            prepared("alpine", "p/1", "ada", -5, (5, 5)),
            prepared("boreal", "q/1", "ben", -5, (5, 5)),
            posted("alpine", "p/1", "ada", -5, (0, 0)),
            posted("alpine", "q/1", "ada", 5, (5, 0)),
            posted("boreal", "q/1", "ben", -5, (0, 0)),
            posted("boreal", "p/1", "ben", 5, (5, 0)),
        ]
    )
    assert serialisable(checks) == []


def test_a_debit_before_its_money_has_no_serial_order() -> None:
    """The balances move rightly, and yet no order explains who could pay."""
    checks = told(
        [
            opened("alpine", "ada", 0),
            prepared("alpine", "p/1", "ada", -5, (0, 5)),
            posted("alpine", "q/1", "ada", 5, (5, 5)),
            posted("alpine", "p/1", "ada", -5, (0, 0)),
        ]
    )
    assert serialisable(checks) == ["no order of payments explains that alpine/ada could pay p/1"]


def test_an_account_that_nobody_opened_is_reported() -> None:
    """Unless the books are older than the history."""
    facts = posted("alpine", "p/1", "ada", 5, (5, 0))
    assert serialisable(told([facts])) == ["alpine/ada was never opened (event 1)"]
    older = feed([Event("alpine-1", 9, 9, 0.0, Kind.STATE, facts=facts)], continued=True)
    assert older.violations() == []
    assert "what happened before this history began: its books are older" in older.unchecked()


def test_a_report_is_bounded() -> None:
    """A thousand findings of one kind are counted, not listed."""
    checks = told(posted("alpine", f"p{n}/1", "ada", 5, (-1, 0)) for n in range(1000))
    overdrafts = [line for line in checks.violations() if line.startswith("no overdraft at any moment: ")]
    assert len(overdrafts) == 101
    assert overdrafts[-1].endswith("1000 findings in all")


# The lab's report --------------------------------------------------------------------------------


def test_the_labs_report_reads_well() -> None:
    """A table for a notebook, a line per check as text, and what could not be checked."""
    with paylab.Lab(world="simulated", seed=7, name="report") as lab:
        ada = lab.client("ada", bank="alpine", balance="10.00 EUR")
        ada.pay("alpine/ada-too", "1.00 EUR")
        report = lab.check()
        assert "not checked: that everything came to rest" in str(report)
        assert lab.settle()
        report = lab.check()
        assert report.ok
        assert report.unchecked == []
        html = report._repr_html_()
        assert html.count("<tr>") == len(report.checked) + 1
        assert "✔ holds" in html
        assert set(report.checked) > NAMES


def test_a_ledger_that_forgets_is_found() -> None:
    """A posted payment vanishes from a bank's disk without a trace in the balances."""
    lab = paylab.Lab(world="simulated", seed=7, name="forgetful")
    ada = lab.client("ada", bank="alpine", balance="10.00 EUR")
    ben = lab.client("ben", bank="alpine")
    ada.pay(ben, "1.00 EUR")
    lab.settle()
    for change in (
        "DELETE FROM transactions",
        "DELETE FROM postings WHERE txn != 'opening'",
        "UPDATE accounts SET posted_minor = 1000 * (account = 'ada')",
    ):
        lab.world.rows("bank-alpine", change)
    violations = lab.check().violations
    assert "ledgers agree with the history: alpine has committed 0, the history saw 1" in violations
    with pytest.raises(paylab.PaylabError, match="ledgers agree"):
        lab.close()


def test_a_lab_that_continues_from_older_books_says_so(tmp_path: Path) -> None:
    """What it cannot have seen is no violation."""
    for boot in range(2):
        with paylab.Lab(data_dir=tmp_path, name="older") as lab:
            ada = lab.client("ada", bank="alpine", balance="10.00 EUR")
            ben = lab.client("ben", bank="boreal")
            assert ada.pay(ben, "1.00 EUR", key="same").state == "COMMITTED"
            assert ada.pay(ben, "1.00 EUR", key=f"boot-{boot}").state == "COMMITTED"
            assert lab.settle()
            report = lab.check()
            assert report.ok
            assert bool(report.unchecked) is (boot == 1)
            path = tmp_path / f"{boot}.jsonl"
            lab.history.stream_to(path)
        assert judge_file(path).ok


def test_checks_cost_little_of_a_payment() -> None:
    """Folding a run's history takes a small part of the processor time of the run itself."""
    began_s = time.process_time()
    with paylab.Lab(world="simulated", seed=7, lease_s=30.0, name="cost") as lab:
        ada = lab.client("ada", bank="alpine", balance="1000.00 EUR")
        ben = lab.client("ben", bank="boreal")
        for _ in range(10):
            for payment in [ada.submit_pay(ben, "1.00 EUR") for _ in range(20)]:
                assert payment.result(60).state == "COMMITTED"
        ran_s = time.process_time() - began_s
        events = list(lab.history)
    began_s = time.process_time()
    checks = feed(events)
    assert checks.violations() == []
    folded_s = time.process_time() - began_s
    assert folded_s < 0.2 * ran_s
