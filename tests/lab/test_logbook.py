"""The log from outside: what a reader sees of it, and of whoever tampers with it, in both worlds."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from paylab import Lab
from paylab.core.log_chain import Head
from paylab.errors import LabError
from tests.conftest import CHEAP


@pytest.fixture
def lab(world: str) -> Iterator[Lab]:
    """A network of its own with five committed payments and a decline; its log is going to be ruined."""
    with Lab(name="logbook", password_cost=CHEAP, world=world, bank_servers=1, auth_servers=1) as lab:
        alice = lab.client("alice", balance="10.00 EUR")
        bob = lab.client("bob", bank="boreal")
        for n in range(5):
            alice.pay(bob, "1.00 EUR", key=f"order-{n}")
        alice.pay(bob, "99.00 EUR", key="too much")
        assert lab.settle()
        yield lab
        if not lab.check().ok:
            with pytest.raises(LabError, match="log"):
                lab.close()


def test_it_reads_verifies_and_saves(lab: Lab, tmp_path: Path) -> None:
    """Entry by entry, as a table, as JSON lines; the head is that of the last entry."""
    entries = lab.log.entries()
    assert [entry.event.state for entry in entries] == ["COMMITTED"] * 5 + ["DECLINED"]
    verdict = lab.log.verify()
    assert verdict.ok
    assert verdict.head == lab.log.head() == Head(6, entries[-1].hash)
    assert str(verdict) == "6 entries are as they were written"
    assert lab.log.save(tmp_path / "log.jsonl") == 6
    saved = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [bytes.fromhex(row["hash"]) for row in saved] == [entry.hash for entry in entries]
    assert list(lab.log.table()["amount"]) == ["1.00 EUR"] * 5 + ["99.00 EUR"]


def test_a_follower_hears_of_every_entry_once(lab: Lab) -> None:
    """Those that are there first, then one as soon as it is written."""
    follower = lab.log.follow(4)
    seen = [entry.index for entry in itertools.islice(follower, 3)]
    lab.client("alice").pay("boreal/bob", "1.00 EUR", key="another")
    seen.append(next(follower).index)
    follower.close()
    assert seen == [4, 5, 6, 7]


@pytest.mark.parametrize("tamper", ["edit", "flip", "remove", "swap"])
def test_tampering_shows_at_the_entry(lab: Lab, tamper: str) -> None:
    """Whoever has the disk and not the rest of the chain is found out at once."""
    change = {
        "edit": lambda: lab.log.edit(3, amount_minor=1),
        "flip": lambda: lab.log.flip(3, 5),
        "remove": lambda: lab.log.remove(3),
        "swap": lambda: lab.log.swap(3, 5),
    }
    change[tamper]()
    verdict = lab.log.verify()
    assert verdict.broken_at == 3
    assert verdict.head.index == 2


def test_only_a_kept_head_tells_of_a_log_that_was_hashed_anew(lab: Lab) -> None:
    """The end can be cut off, and everything can be hashed anew; the chain alone does not show it."""
    head = lab.log.head()
    lab.log.remove(6)
    assert lab.log.verify().ok
    assert lab.log.verify(head).broken_at == 6
    lab.log.edit(2, amount_minor=1)
    lab.log.rehash()
    assert lab.log.verify().ok
    assert not lab.log.verify(head).ok
    assert "the log does not know its end" in str(lab.log.reconcile())
    assert "log and gateway disagree about who pays whom how much" in str(lab.log.reconcile())
    lab.client("alice").pay("boreal/bob", "1.00 EUR", key="later")


def test_reconciliation_names_what_differs(lab: Lab) -> None:
    """Nothing at first; then an end that changed, a posting that is gone, and a payment nobody asked for."""
    found = lab.log.reconcile()
    assert found.ok
    assert found.payments == 6
    first, second, third = (entry.event.payment for entry in lab.log.entries()[:3])
    lab.log.edit(1, state="DECLINED")
    lab.world.write("bank-boreal", "DELETE FROM postings WHERE txn = ?", f"{second}/1")
    lab.world.write("gateway", "DELETE FROM payments WHERE payment = ?", third)
    found = lab.log.reconcile()
    assert {difference.payment: difference.why for difference in found.differences} == {
        first: "log and gateway disagree about its end",
        second: "the ledgers did not move what the gateway says",
        third: "the gateway does not know it",
    }
    assert "3 differ" in found._repr_html_()


def test_what_cannot_be_is_refused(lab: Lab) -> None:
    """An entry that is not there, a field that no event has."""
    with pytest.raises(LabError, match="it has 6"):
        lab.log.flip(7)
    with pytest.raises(LabError, match="no field"):
        lab.log.edit(1, colour="red")


def test_a_log_whose_bytes_are_no_event_says_so(lab: Lab) -> None:
    """Reading stops there; verification names the entry."""
    lab.world.write("logger", 'UPDATE entries SET event = ? WHERE "index" = 4', b"\xff\xff\xff")
    with pytest.raises(LabError, match="entry 4 is no event any more"):
        lab.log.entries()
    assert lab.log.verify().broken_at == 4
    lab.world.write("logger", 'DELETE FROM entries WHERE "index" = 4')
