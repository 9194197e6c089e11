"""The chain of hashes: every change to a log shows, and at the entry where it was made."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from paylab.core.log_chain import START, Entry, Head, chained, verify, walk


def log_of(events: list[bytes]) -> list[Entry]:
    entries: list[Entry] = []
    tip = START.hash
    for index, event in enumerate(events, 1):
        tip = chained(tip, event)
        entries.append(Entry(index, event, tip))
    return entries


def head_of(entries: list[Entry]) -> Head:
    return Head(entries[-1].index, entries[-1].hash) if entries else START


LOGS = st.lists(st.binary(min_size=1, max_size=8), min_size=2, max_size=12, unique=True).map(log_of)


@given(LOGS)
def test_a_log_as_it_was_written_verifies(entries: list[Entry]) -> None:
    """Also against any head that it once had, and against itself."""
    verdict = verify(entries, kept=[Head(entry.index, entry.hash) for entry in entries])
    assert verdict.ok
    assert verdict.head == head_of(entries)
    assert verify([], kept=[START]).ok


@given(LOGS, st.integers(0, 12))
def test_a_log_can_be_walked_page_by_page(entries: list[Entry], size: int) -> None:
    """Each page begins where the one before ended."""
    first = walk(entries[:size])
    assert walk(entries[size:], after=first.head) == verify(entries)


@given(LOGS, st.data())
def test_one_bit_that_changes_shows_where_it_is(entries: list[Entry], data: st.DataObject) -> None:
    """In an event or in a hash; everything before it is still good."""
    at = data.draw(st.integers(0, len(entries) - 1))
    field = data.draw(st.sampled_from(["event", "hash"]))
    value = bytearray(getattr(entries[at], field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed: dict[str, Any] = {field: bytes(value)}
    entries[at] = replace(entries[at], **changed)
    verdict = verify(entries)
    assert (verdict.broken_at, verdict.head) == (at + 1, head_of(entries[:at]))


@given(LOGS, st.data())
def test_an_entry_that_is_taken_out_is_missed(entries: list[Entry], data: st.DataObject) -> None:
    """Whether the others keep their numbers or close the gap. At the end only a kept head tells."""
    kept = head_of(entries)
    at = data.draw(st.integers(0, len(entries) - 1))
    rest = entries[:at] + entries[at + 1 :]
    closed = [replace(entry, index=index) for index, entry in enumerate(rest, 1)]
    assert verify(rest, kept=[kept]).broken_at == verify(closed, kept=[kept]).broken_at == at + 1
    if at == len(entries) - 1:
        assert verify(rest).ok


@given(LOGS, st.data())
def test_entries_that_change_places_are_seen(entries: list[Entry], data: st.DataObject) -> None:
    """With their numbers or without."""
    a, b = sorted(data.draw(st.lists(st.integers(0, len(entries) - 1), min_size=2, max_size=2, unique=True)))
    entries[a], entries[b] = entries[b], entries[a]
    assert verify(entries).broken_at == a + 1
    assert verify([replace(e, index=i) for i, e in enumerate(entries, 1)]).broken_at == a + 1


@given(LOGS, st.data())
def test_whoever_hashes_everything_anew_is_seen_by_a_kept_head(
    entries: list[Entry], data: st.DataObject
) -> None:
    """The chain alone holds; a head from after the change gives it away, one from before does not."""
    at = data.draw(st.integers(0, len(entries) - 1))
    events = [entry.event for entry in entries]
    events[at] += b"!"
    forged = log_of(events)
    assert verify(forged).ok
    assert verify(forged, kept=[head_of(entries[:at])]).ok
    later = data.draw(st.integers(at + 1, len(entries)))
    assert verify(forged, kept=[head_of(entries[:later])]).broken_at == later
