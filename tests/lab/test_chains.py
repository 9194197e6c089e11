"""The picture of a chain: what is right, what is wrong, what nobody looked at, and where a head was kept."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from paylab.core.log_chain import START, Entry, Head, chained
from paylab.lab.drawing.chains import SHOWN_MAX, chain
from paylab.lab.lab import Lab


def written(count: int) -> list[Entry]:
    head, entries = START, []
    for n in range(1, count + 1):
        head = Head(n, chained(head.hash, b""))
        entries.append(Entry(n, b"", head.hash))
    return entries


def looks(html: str) -> list[int]:
    return [html.count(f'class="entry {look}"') for look in ("right", "wrong", "unseen")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(world="simulated", seed=7, bank_servers=1, auth_servers=1, name="chain") as lab:
        alice = lab.client("alice", balance="50.00 EUR")
        bob = lab.client("bob", bank="boreal")
        for n in range(1, 8):
            alice.pay(bob, f"{n}.00 EUR")
        assert lab.settle()
        yield lab


def test_a_log_is_drawn_entry_by_entry(lab: Lab) -> None:
    """Seven boxes with state, sum and hash, six links, and the verdict in words."""
    picture = lab.log.chain()
    html = picture._repr_html_()
    assert looks(html) == [7, 0, 0]
    assert html.count('class="link right"') == 6
    assert "7.00 EUR" in html
    assert lab.log.entries()[6].hash.hex()[:10] in html
    assert str(picture) == "7 entries fit together"
    assert "simulated, seed 7" in html


def test_nobody_looks_behind_the_first_wrong_entry(lab: Lab) -> None:
    """Two are right, one is wrong, four are not looked at; flipped back, all are right."""
    lab.log.flip(3, 5)
    html = lab.log.chain()._repr_html_()
    lab.log.flip(3, 5)
    assert looks(html) == [2, 1, 4]
    assert "entry 3 does not match its hash" in html
    assert looks(lab.log.chain()._repr_html_()) == [7, 0, 0]


def test_an_event_that_cannot_be_read_is_drawn_all_the_same() -> None:
    """Its box says so."""
    entries = written(2)
    entries[1] = replace(entries[1], event=b"\xff\xff\xff")
    assert "no event" in chain(entries, badge="")._repr_html_()


def test_a_kept_head_is_pinned_and_misses_what_was_cut_off() -> None:
    """Two of five are gone: one is named as missing, the other is behind it."""
    entries = written(5)
    head = Head(5, entries[4].hash)
    html = chain(entries[:3], kept=[head], badge="")._repr_html_()
    assert looks(html) == [3, 1, 1]
    assert html.count(">missing<") == 2
    assert f"kept: {head.hash.hex()[:10]}" in html


def test_a_long_log_is_cut_in_the_picture() -> None:
    """It says how many more there are; none at all is drawn as well."""
    html = chain(written(SHOWN_MAX + 3), badge="")._repr_html_()
    assert looks(html) == [SHOWN_MAX, 0, 0]
    assert "and 3 more" in html
    assert "0 entries fit together" in chain([], badge="")._repr_html_()


def test_copies_are_tampered_with_and_the_log_is_not(lab: Lab) -> None:
    """A flipped bit shows; hashes computed anew hide it from all but a head that was kept."""
    stored = lab.log.chain()
    flipped = stored.flipped(3, 5)
    assert flipped.verdict.broken_at == 3
    assert str(flipped.rehashed()) == "7 entries fit together"
    assert flipped.rehashed().beside(lab.log.head()).verdict.broken_at == 7
    assert flipped.flipped(3, 5) == stored.rehashed() == stored
    assert str(stored.beside(lab.log.head())) == "7 entries fit together, the kept head too"
    assert lab.log.verify().ok
