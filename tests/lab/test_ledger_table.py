"""The ledger table without a page: it shows what the ledgers say, and finds what is searched for."""

import xml.etree.ElementTree as ET

import pytest
import traitlets

from paylab import Lab
from paylab.lab.panels.ledgers import read_ledgers
from tests.conftest import Eventually


@pytest.fixture(scope="module")
def filled(lab: Lab) -> Lab:
    alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
    bob = lab.client("bob", bank="boreal")
    alice.pay(bob, "12.50 EUR")
    lab.client("carol", bank="boreal", balance="2500 JPY")
    lab.settle()
    return lab


def test_its_rows_are_the_ledgers(filled: Lab) -> None:
    """Every customer's account with the balance that `lab.balances` has; internal ones only in the sums."""
    table = filled.ledger_table()
    shown = {row[0]: row[2] for row in table.rows}
    assert shown == {account: str(money) for account, money in filled.balances().items()}
    assert shown["alpine/alice"] == "87.50 EUR"
    assert table.total == table.matching == len(shown) == 3
    assert [row[0] for row in table.rows] == sorted(shown)


def test_its_sums_show_that_money_is_conserved(filled: Lab) -> None:
    """In each bank everything sums to zero, and over all banks clearing does."""
    table = filled.ledger_table()
    by_bank = {(row[0], row[1].split()[1]): row[1:] for row in table.sums}
    assert by_bank["alpine", "EUR"] == ["87.50 EUR", "0.00 EUR", "12.50 EUR", "-100.00 EUR", "0.00 EUR"]
    assert by_bank["boreal", "EUR"] == ["12.50 EUR", "0.00 EUR", "-12.50 EUR", "0.00 EUR", "0.00 EUR"]
    assert by_bank["boreal", "JPY"] == ["2500 JPY", "0 JPY", "0 JPY", "-2500 JPY", "0 JPY"]
    assert table.verdict == {
        "balanced": True, "settled": True, "prepared": 0, "clearing": ["0.00 EUR", "0 JPY"]
    }  # fmt: skip


def test_it_is_live(filled: Lab, eventually: Eventually) -> None:
    """A payment of somebody else changes balances and stands first among the postings."""
    table = filled.ledger_table()
    before = {row[0]: row[2] for row in table.rows}
    receipt = filled.client("alice").pay("boreal/bob", "0.01 EUR")
    eventually(lambda: {row[0]: row[2] for row in table.rows}["boreal/bob"] != before["boreal/bob"])
    eventually(lambda: {row[2] for row in table.postings[:2]} == {f"{receipt.payment}/1"})
    assert {(row[1], row[3], row[4]) for row in table.postings[:2]} == {
        ("alpine/alice", "\N{MINUS SIGN}0.01 EUR", True),
        ("boreal/bob", "+0.01 EUR", False),
    }
    filled.client("dave", bank="boreal")
    eventually(lambda: "boreal/dave" in {row[0] for row in table.rows})


def test_search_order_and_choice(filled: Lab, eventually: Eventually) -> None:
    """Part of a name finds accounts, a column sorts them, a chosen account shows its own postings."""
    table = filled.ledger_table()
    table.set_state({"search": "BOREAL/"})  # as the page does
    eventually(lambda: 0 < table.matching < table.total)
    assert all(row[0].startswith("boreal/") for row in table.rows)
    table.search = "nobody"
    eventually(lambda: table.rows == [])
    table.search = ""
    table.order = "-posted"
    eventually(lambda: table.matching == table.total and table.rows[0][0] == "alpine/alice")
    with pytest.raises(traitlets.TraitError):
        table.order = "colour"
    table.account = "boreal/bob"
    eventually(lambda: {row[1] for row in table.postings} == {"boreal/bob"})
    table.account = "'; DROP TABLE postings; --"
    eventually(lambda: len({row[1] for row in table.postings}) > 1)


def test_money_that_is_held_is_shown(filled: Lab, eventually: Eventually) -> None:
    """While a payment waits for its payee's bank, the payer's money is held, not gone."""
    for server in ("boreal-1", "boreal-2"):
        filled.pause(server)
    table = filled.ledger_table()
    paying = filled.client("alice").submit_pay("boreal/bob", "1.00 EUR")
    try:
        eventually(lambda: read_ledgers(filled.world, filled.banks).prepared == 1)
        eventually(lambda: {row[0]: row[3] for row in table.rows}["alpine/alice"] == "1.00 EUR")
        row = {row[0]: row for row in table.rows}["alpine/alice"]
        assert row[2].split()[0] > row[4].split()[0]
        assert table.verdict["prepared"] == 1
    finally:
        for server in ("boreal-1", "boreal-2"):
            filled.resume(server)
    assert paying.result(60).state in ("COMMITTED", "QUEUED")
    assert filled.settle()


def test_its_picture_says_it_in_words(filled: Lab) -> None:
    """The picture has the accounts and the sums; its text names how many there are."""
    table = filled.ledger_table()
    picture = ET.fromstring(table.still().svg("still"))  # noqa: S314 - ours
    texts = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"alpine/alice", "boreal/bob", "customers"} <= texts
    assert f"{table.total} accounts" in table.summary()
