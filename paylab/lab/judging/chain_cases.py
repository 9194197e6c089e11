"""The cases of 07/verify: chains in good order, edited, cut and computed anew, with heads that were kept."""

from collections.abc import Iterable
from dataclasses import replace

from paylab.core.log_chain import START, Entry, Head, chained, verify
from paylab.lab.checking.ledger_checks import read_books
from paylab.lab.judging.exercises import Finding, Solution
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import seeded

Entries = list[Entry]


def _chain(events: Iterable[bytes]) -> Entries:
    head, entries = START, []
    for event in events:
        head = Head(head.index + 1, chained(head.hash, event))
        entries.append(Entry(head.index, event, head.hash))
    return entries


def _without(entries: Entries, place: int) -> Entries:
    """Take one out; the later ones move up, so that no number is missing."""
    left = entries[: place - 1] + entries[place:]
    return [replace(entry, index=number) for number, entry in enumerate(left, 1)]


def _edited(entries: Entries, place: int, event: bytes) -> Entries:
    return [replace(entry, event=event) if entry.index == place else entry for entry in entries]


def _swapped(entries: Entries, a: int, b: int) -> Entries:
    places = list(entries)
    places[a - 1], places[b - 1] = entries[b - 1], entries[a - 1]
    return [replace(entry, index=number) for number, entry in enumerate(places, 1)]


def _rehashed(entries: Entries) -> Entries:
    fresh = _chain(entry.event for entry in entries)
    return [replace(entry, hash=new.hash) for entry, new in zip(entries, fresh, strict=True)]


def _heads(entries: Entries, *places: int) -> list[Head]:
    return [Head(place, entries[place - 1].hash) for place in places]


LOG = _chain([b"p1 COMMITTED", b"p2 COMMITTED", b"p3 DECLINED", b"p4 COMMITTED", b"p5 COMMITTED"])
ELSE = b"p3 COMMITTED"
CHAINS: tuple[tuple[str, Entries], ...] = (
    ("as they were written", LOG),
    ("none at all", []),
    ("entry 3 says something else", _edited(LOG, 3, ELSE)),
    ("entry 1 says something else", _edited(LOG, 1, ELSE)),
    ("entry 3 has another hash", [replace(e, hash=bytes(32)) if e.index == 3 else e for e in LOG]),  # noqa: PLR2004
    ("entry 3 was taken out, the later ones moved up", _without(LOG, 3)),
    ("entries 2 and 4 have changed places", _swapped(LOG, 2, 4)),
    ("entry 3 was taken out and every hash computed anew, number 3 is missing", [
        *LOG[:2], *(replace(e, index=e.index + 1) for e in _rehashed(_without(LOG, 3))[2:])
    ]),
)  # fmt: skip
FORGED = _rehashed(_edited(LOG, 2, ELSE))
KEPT: tuple[tuple[str, Entries, list[Head]], ...] = (
    ("as they were written", LOG, _heads(LOG, 2, 5)),
    ("the last one is cut off", LOG[:4], _heads(LOG, 5)),
    ("the last two are cut off", LOG[:3], _heads(LOG, 2, 5)),
    ("every hash was computed anew after a change of entry 2", FORGED, _heads(LOG, 5)),
    ("every hash was computed anew after a change of entry 2", FORGED, _heads(LOG, 1, 3, 5)),
    ("all are gone", [], _heads(LOG, 2)),
)


def _walked(mine: Solution, told: str, entries: Entries, kept: list[Head]) -> Finding:
    expected = verify(entries, kept=kept)
    returned = mine(list(entries), list(kept))
    right = returned == expected.broken_at and not isinstance(returned, bool)
    heads = f"; kept: the heads of {', '.join(str(head.index) for head in kept)}" if kept else ""
    return Finding(
        f"{len(entries)} entries, {told}{heads}",
        repr(returned),
        "that is the place" if right else f"it is {expected.broken_at}: {expected}",
        passed=right,
    )


def by_chain(mine: Solution, case: int) -> Finding:
    """A chain, and no head."""
    told, entries = CHAINS[case]
    return _walked(mine, told, entries, [])


def by_heads(mine: Solution, case: int) -> Finding:
    """A chain, and heads of it that somebody saw earlier."""
    return _walked(mine, *KEPT[case])


def intruder(mine: Solution, seed: int) -> Finding:
    """The log of a network that has worked, in the hands of somebody who holds its disk."""
    with network(seed) as lab:
        log = read_books(lab.world, lab.banks).entries
    rng = seeded(seed, "intruder")
    place = rng.randrange(2, len(log))
    flipped = bytearray(log[place - 1].event)
    flipped[rng.randrange(len(flipped))] ^= 1
    edited = _edited(log, place, bytes(flipped))
    kept = _heads(log, 1, rng.randrange(place, len(log) + 1))
    # A head of before the forgery says nothing of it; the last one need not be the one that does.
    for told, entries, heads in (
        ("as the network wrote them", log, kept),
        (f"a byte of entry {place} is flipped", edited, []),
        (f"entry {place} was taken out", _without(log, place), []),
        (f"a byte of entry {place} is flipped, all hashes computed anew", _rehashed(edited), kept),
        (f"entry {place} and all after it are cut off", log[: place - 1], [*kept, *_heads(log, 1)]),
    ):
        finding = _walked(mine, told, entries, heads)
        if not finding.passed:
            return replace(finding, case=f"{finding.case}, seed {seed}")
    return Finding(
        f"a network's log and an intruder, seed {seed}", mine.told(), "each was found", passed=True
    )


def network(seed: int) -> Lab:
    """A small network in which six payments were made; the last one is more than Alice has."""
    lab = Lab(world="simulated", seed=seed, bank_servers=1, auth_servers=1, lease_s=4.5, name="books")
    alice = lab.client("alice", bank="alpine", balance="60.00 EUR")
    bob = lab.client("bob", bank="boreal")
    for n in range(6):
        alice.pay(bob, f"{10 + n}.00 EUR", key=f"order-{n}")
    lab.settle()
    return lab
