"""Every check turns red when the books are cooked: the files of a lab, changed behind its back."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from paylab import Lab
from paylab.errors import LabError
from paylab.lab.checking.checks import CHECKS as ALL_CHECKS
from paylab.lab.checking.checks import Report
from paylab.lab.checking.ledger_checks import CHECKS, read_books
from paylab.lab.real_world import RealWorld
from paylab.nodes.passwords import PasswordCost
from paylab.pb import transaction_logger_pb2

BANKS = ("alpine", "boreal")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cheap: PasswordCost) -> Path:
    """What a lab leaves: payments across banks, inside one and declined, and payments that follow others."""
    folder = tmp_path_factory.mktemp("books")
    with Lab(name="books", data_dir=folder, bank_servers=1, auth_servers=1, password_cost=cheap) as lab:
        alice = lab.client("alice", bank="alpine", balance="50.00 EUR")
        bob, carol = lab.client("bob", bank="boreal"), lab.client("carol", bank="alpine")
        assert [alice.pay(other, "5.00 EUR").state for other in (bob, carol)] == ["COMMITTED"] * 2
        assert alice.pay(bob, "500.00 EUR").state == "DECLINED"
        held, voided = alice.authorise(bob, "9.00 EUR"), alice.authorise(bob, "2.00 EUR")
        assert bob.refund(bob.capture(held, "4.00 EUR"), "1.00 EUR").state == "COMMITTED"
        assert bob.void(voided).state == "COMMITTED"
        assert lab.settle()
    return folder


@contextmanager
def reader(folder: Path) -> Iterator[RealWorld]:
    """A world that only reads a folder."""
    world = RealWorld("reader", data_dir=folder, sink=lambda _: None)
    try:
        yield world
    finally:
        world.close()


def judged(folder: Path) -> dict[str, list[str]]:
    """What each check finds in a folder."""
    with reader(folder) as world:
        books = read_books(world, BANKS)
    return {name: check(books)[1] for name, check in CHECKS.items()}


def cook(folder: Path, store: str, *statements: str) -> None:
    with closing(sqlite3.connect(folder / f"{store}.sqlite")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


ACROSS = "(SELECT txn FROM postings WHERE account = 'bob' ORDER BY posting LIMIT 1)"
PAID = (
    "(SELECT payment FROM payments WHERE payee = 'boreal/bob' AND operation = 'PAY' AND state = 'COMMITTED')"
)
REFUSED = "(SELECT payment FROM payments WHERE state = 'DECLINED')"
AGAIN = "replace(txn, '/1', '/2'), state, legs, reason, since_s"
LINE = "INSERT INTO postings (txn, account, amount_minor, currency, at_s) VALUES"

COOKED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a line is changed": (
        "every posting balances",
        "bank-boreal",
        ("UPDATE postings SET amount_minor = amount_minor + 1 WHERE account = 'bob'",),
    ),
    "a line is missing": (
        "every posting balances",
        "bank-alpine",
        ("DELETE FROM postings WHERE account = '@clearing'",),
    ),
    "a balance is changed": (
        "balances are sums of postings",
        "bank-boreal",
        ("UPDATE accounts SET posted_minor = posted_minor + 1 WHERE account = 'bob'",),
    ),
    "a hold is left behind": (
        "balances are sums of postings",
        "bank-alpine",
        ("UPDATE accounts SET held_minor = 100 WHERE account = 'alice'",),
    ),
    "money is made": (
        "money is conserved",
        "bank-boreal",
        (
            "UPDATE postings SET amount_minor = 900 WHERE account = 'bob'",
            "UPDATE postings SET amount_minor = -900 WHERE account = '@clearing'",
            "UPDATE accounts SET posted_minor = 900 WHERE account = 'bob'",
        ),
    ),
    "one leg is aborted": (
        "both legs or none",
        "bank-boreal",
        (f"UPDATE transactions SET state = 'ABORTED' WHERE txn = {ACROSS}",),  # noqa: S608 - text of ours
    ),
    "one leg is unknown": (
        "both legs or none",
        "bank-boreal",
        (f"DELETE FROM transactions WHERE txn = {ACROSS}",),  # noqa: S608 - text of ours
    ),
    "a transaction of nobody": (
        "both legs or none",
        "bank-alpine",
        ("INSERT INTO transactions VALUES ('ghost/1', 'COMMITTED', '[]', '', 0)",),
    ),
    "an entry of the log is taken out": (
        "the log's chain holds",
        "logger",
        ('DELETE FROM entries WHERE "index" = 1',),
    ),
    "a second attempt commits": (
        "no key charged twice",
        "bank-boreal",
        (
            f"INSERT INTO transactions SELECT {AGAIN} FROM transactions WHERE txn = {ACROSS}",  # noqa: S608 - text of ours
        ),
    ),
    "an account is overdrawn": (
        "no overdraft",
        "bank-boreal",
        (f"{LINE} ('x/1', 'bob', -900, 'EUR', 0)", f"{LINE} ('x/1', 'bob', 900, 'EUR', 0)"),
    ),
    "a committed payment is called declined": (
        "outcomes agree with ledgers",
        "gateway",
        (f"UPDATE payments SET state = 'DECLINED' WHERE payment = {PAID}",),  # noqa: S608 - text of ours
    ),
    "a declined payment is called committed": (
        "outcomes agree with ledgers",
        "gateway",
        (f"UPDATE payments SET state = 'COMMITTED' WHERE payment = {REFUSED}",),  # noqa: S608 - text of ours
    ),
    "an authorisation keeps what was captured": (
        "authorisations add up",
        "bank-alpine",
        (
            "UPDATE holds SET left_minor = 900 WHERE state = 'OPEN'",
            "UPDATE accounts SET held_minor = 900 WHERE account = 'alice'",
        ),
    ),
    "an authorisation loses what is left": (
        "authorisations add up",
        "bank-alpine",
        ("UPDATE holds SET left_minor = 0 WHERE state = 'OPEN'",),
    ),
    "a void that nobody asked for": (
        "authorisations add up",
        "bank-alpine",
        ("UPDATE holds SET left_minor = 0, state = 'VOIDED' WHERE state = 'OPEN'",),
    ),
    "a hold of nobody": (
        "authorisations add up",
        "bank-alpine",
        ("INSERT INTO holds VALUES ('ghost', 'alice', 0, 0, 'OPEN')",),
    ),
    "an authorisation's hold is not in the balance": (
        "balances are sums of postings",
        "bank-alpine",
        ("UPDATE accounts SET held_minor = 0 WHERE account = 'alice'",),
    ),
    "more is paid back than was paid": (
        "no more paid back than paid",
        "gateway",
        ("UPDATE payments SET amount_minor = 401 WHERE operation = 'REFUND'",),
    ),
    "something else is paid back": (
        "no more paid back than paid",
        "gateway",
        ("UPDATE payments SET about = 'ghost' WHERE operation = 'REFUND'",),
    ),
    "the gateway forgot a payment": (
        "log agrees",
        "gateway",
        (f"DELETE FROM payments WHERE payment = {REFUSED}",),  # noqa: S608 - text of ours
    ),
    "the gateway changed its mind": (
        "log agrees",
        "gateway",
        (f"UPDATE payments SET state = 'CANCELLED' WHERE payment = {REFUSED}",),  # noqa: S608 - text of ours
    ),
}


def test_honest_books_pass(folder: Path) -> None:
    """Every check holds, and each of them had something to look at."""
    with reader(folder) as world:
        books = read_books(world, BANKS)
    for name, check in CHECKS.items():
        count, found = check(books)
        assert (count > 0, found) == (True, []), name


@pytest.mark.parametrize("kind", COOKED)
def test_cooked_books_are_found_out(folder: Path, tmp_path: Path, kind: str) -> None:
    """The check that must see it does, in one line that names what is wrong."""
    name, store, statements = COOKED[kind]
    copied = shutil.copytree(folder, tmp_path / "books")
    cook(copied, store, *statements)
    found = judged(copied)[name]
    assert found
    assert all("\n" not in line for line in found)


def test_a_log_with_two_ends_is_found_out(folder: Path, tmp_path: Path) -> None:
    """A forged entry that says declined of what was committed."""
    copied = shutil.copytree(folder, tmp_path / "books")
    with closing(sqlite3.connect(copied / "logger.sqlite")) as connection, connection:
        ((blob,),) = connection.execute('SELECT event FROM entries ORDER BY "index" LIMIT 1')
        event = transaction_logger_pb2.LogEvent.FromString(blob)
        assert event.state == "COMMITTED"
        event.state = "DECLINED"
        connection.execute(
            "INSERT INTO entries VALUES (99, 'forged', ?, x'00')", (event.SerializeToString(),)
        )
    assert any("COMMITTED and DECLINED" in line for line in judged(copied)["log agrees"])


def test_every_check_has_been_seen_red() -> None:
    """A check that can turn red only in theory is none."""
    assert {name for name, _, _ in COOKED.values()} == set(CHECKS)
    assert set(CHECKS) < set(ALL_CHECKS)


def test_a_running_lab_notices_and_closing_it_says_so(tmp_path: Path, cheap: PasswordCost) -> None:
    """The checks read the files themselves, so a lie of the database shows at once."""
    lab = Lab(name="cooked", data_dir=tmp_path, bank_servers=1, auth_servers=1, password_cost=cheap)
    alice = lab.client("alice", bank="alpine", balance="50.00 EUR")
    alice.pay(lab.client("bob", bank="boreal"), "5.00 EUR")
    assert lab.settle()
    assert lab.check().ok
    cook(tmp_path, "bank-boreal", "UPDATE accounts SET posted_minor = 600 WHERE account = 'bob'")
    report = lab.check()
    assert not report.ok
    assert report.failed()["balances are sums of postings"] == 1
    assert "boreal/bob says 600, its lines say 500" in str(report)
    with pytest.raises(LabError, match="boreal/bob says 600, its lines say 500"):
        lab.close()


def test_a_report_shows_some_violations_and_counts_the_rest() -> None:
    """A broken network does not fill the screen."""
    report = Report({"no overdraft": 99}, [f"no overdraft: a/{n} is at -1" for n in range(25)], 3)
    text = str(report)
    assert "BROKEN  no overdraft (99 checked)" in text
    assert text.count("is at -1") == 10
    assert "… 25 violations in all" in text
    assert "in doubt now: 3" in text
    assert repr(report) == text


def test_the_books_are_read_at_one_moment(cheap: PasswordCost) -> None:
    """However often somebody checks while payments are under way, nothing looks broken."""
    with Lab(name="moments", password_cost=cheap, bank_servers=1, auth_servers=1) as lab:
        load = lab.load(rate=60, duration="3 s")
        count = 0
        while not load.done:
            assert lab.check().violations == []
            count += 1
        assert count > 10
        assert len(load.result().paid) > 100
