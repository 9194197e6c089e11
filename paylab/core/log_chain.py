"""The transaction log's chain of hashes: an entry's hash covers its event and every entry before it.

Whoever edits, removes or reorders an entry must compute all later hashes anew, and somebody who kept one of
those, a head, sees it. Without a head that is kept elsewhere the chain says nothing about its own end.

Source: S. Haber, W. S. Stornetta, How to Time-Stamp a Digital Document, Journal of Cryptology 3(2), 1991.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log at some moment: how many entries it had, and the hash of the last of them."""

    index: int
    hash: bytes


START = Head(0, bytes(32))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it is stored; `event` is the event's bytes."""

    index: int
    event: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found: the head it came to, and the first entry that is wrong, 0 for none."""

    head: Head
    broken_at: int = 0
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the whole log is as it was written."""
        return not self.broken_at

    def __str__(self) -> str:
        """Write it in one line."""
        if self.ok:
            return f"{self.head.index} entries are as they were written"
        return f"entry {self.broken_at} {self.why}; the {self.head.index} before it fit together"


def chained(previous: bytes, event: bytes) -> bytes:
    """The hash of an entry: SHA-256 over the previous hash, which has 32 bytes, and the event's bytes."""
    return hashlib.sha256(previous + event).digest()


def walk(entries: Iterable[Entry], *, after: Head = START, kept: Iterable[Head] = ()) -> Verdict:
    """Walk the entries that follow `after`; a later call may go on where this one ends."""
    expected = {head.index: head.hash for head in kept}
    head = after
    for entry in entries:
        at = head.index + 1
        if entry.index != at:
            return Verdict(head, at, f"is missing: entry {entry.index} follows")
        if chained(head.hash, entry.event) != entry.hash:
            return Verdict(head, at, "does not match its hash")
        if expected.get(at, entry.hash) != entry.hash:
            return Verdict(head, at, "has another hash than the head that was kept")
        head = Head(at, entry.hash)
    return Verdict(head)


def ended(verdict: Verdict, *, kept: Iterable[Head] = ()) -> Verdict:
    """The verdict on a log that ends where the walk ended: a head that was kept beyond its end is missed."""
    beyond = max((head.index for head in kept), default=0)
    if verdict.ok and beyond > verdict.head.index:
        return Verdict(verdict.head, verdict.head.index + 1, f"is missing: the log once had {beyond} entries")
    return verdict


def verify(entries: Iterable[Entry], *, kept: Collection[Head] = ()) -> Verdict:
    """Verify a whole log; `kept` are heads that somebody saw earlier and kept elsewhere."""
    return ended(walk(entries, kept=kept), kept=kept)
