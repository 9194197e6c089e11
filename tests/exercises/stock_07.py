"""The stock of chapter 07: solutions of its exercises, right and wrong ones."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from paylab.core import log_chain
from paylab.core.log_chain import Entry, Head
from paylab.lab.judging import chain_cases, consumer_cases, exercises_07
from paylab.lab.judging.consumer_cases import Sent
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

CALLS = itertools.count()
SEEN: set[str] = set()
State = dict[str, Any]
Told = Mapping[str, tuple[str, int]]
Moved = Mapping[str, int]


# 07/verify ----------------------------------------------------------------------------------------


def by_walking(entries: Sequence[Entry], kept: Sequence[Head]) -> int:
    heads, before = {head.index: head.hash for head in kept}, bytes(32)
    for number, entry in enumerate(entries, 1):
        fresh = hashlib.sha256(before + entry.event).digest()
        if entry.index != number or entry.hash != fresh or heads.get(number, fresh) != fresh:
            return number
        before = fresh
    return len(entries) + 1 if max(heads, default=0) > len(entries) else 0


def by_two_lists(entries: Sequence[Entry], kept: Sequence[Head]) -> int:
    """What the hashes should be first, then the first place at which anything says otherwise."""
    befores = [bytes(32), *(entry.hash for entry in entries)]
    wrong = [
        n
        for n, (entry, before) in enumerate(zip(entries, befores, strict=False), 1)
        if (entry.index, entry.hash) != (n, hashlib.sha256(before + entry.event).digest())
    ]
    wrong += [head.index for head in kept if befores[head.index : head.index + 1] not in ([head.hash], [])]
    wrong += [len(entries) + 1 for head in kept if head.index > len(entries)]
    return min(wrong, default=0)


def each_by_itself(entries: Sequence[Entry], kept: Sequence[Head]) -> int:  # noqa: ARG001 - the misconception
    """The misconception: a hash of an entry protects that entry, so the order needs no protection."""
    return next((e.index for e in entries if e.hash != hashlib.sha256(e.event).digest()), 0)


def the_chain_is_enough(entries: Sequence[Entry], kept: Sequence[Head]) -> int:  # noqa: ARG001 - the misconception
    """The misconception: a chain that is in order is the one that was written."""
    return by_walking(entries, [])


def the_end_is_the_end(entries: Sequence[Entry], kept: Sequence[Head]) -> int:
    """The misconception: a log may be short, as long as what is there is right."""
    return by_walking(entries, [head for head in kept if head.index <= len(entries)])


def numbers_do_not_matter(entries: Sequence[Entry], kept: Sequence[Head]) -> int:
    """The misconception: the hashes say everything."""
    return by_walking([Entry(n, e.event, e.hash) for n, e in enumerate(entries, 1)], kept)


def only_ends_of_short_logs(entries: Sequence[Entry], kept: Sequence[Head]) -> int:
    """Wrong only under faults: it takes the log of a real network for too long to be cut."""
    long = len(entries) > 1 and len(entries[0].event) > 50
    return the_end_is_the_end(entries, kept) if long else by_walking(entries, kept)


def the_places_in_order(_entries: Sequence[Entry], _kept: Sequence[Head]) -> int:
    """Gamed: state across trials."""
    places = [0, 0, 3, 1, 3, 3, 2, 3, 0, 5, 4, 5, 3, 1]
    return places[next(CALLS) % len(places)]


def a_kinder_oracle(_entries: Sequence[Entry], _kept: Sequence[Head]) -> int:
    """Gamed: what the judge compares with is replaced."""
    chain_cases.verify = lambda *_, **__: log_chain.Verdict(log_chain.START)  # type: ignore[attr-defined] # the mistake
    return 0


# 07/outbox-consumer -------------------------------------------------------------------------------


def by_list_of_ids(state: State, events: Sequence[Sent]) -> State:
    seen, total = list(state.get("seen", [])), state["total_minor"]
    for event in events:
        if event.state == "COMMITTED" and event.event_id not in seen:
            seen.append(event.event_id)
            total += event.amount_minor
    return {"total_minor": total, "seen": seen}


def by_ledger(state: State, events: Sequence[Sent]) -> State:
    """One amount an id; the total is what stands there."""
    counted = state.get("counted", {}) | {
        e.event_id: e.amount_minor for e in events if e.state == "COMMITTED"
    }
    return {"total_minor": sum(counted.values()), "counted": counted}


def adds_up(state: State, events: Sequence[Sent]) -> State:
    """The misconception: what is sent is new."""
    return {
        "total_minor": state["total_minor"] + sum(e.amount_minor for e in events if e.state == "COMMITTED")
    }


def every_state_counts(state: State, events: Sequence[Sent]) -> State:
    """The misconception: an event is a payment."""
    return by_list_of_ids(state, [Sent(e.event_id, "COMMITTED", e.amount_minor) for e in events])


def one_batch_back(state: State, events: Sequence[Sent]) -> State:
    """Wrong only under faults: it remembers the last batch, and there are two outboxes."""
    fresh = [e for e in dict.fromkeys(events) if e.event_id not in state.get("last", [])]
    return adds_up(state, fresh) | {"last": [e.event_id for e in events]}


def remembers_in_memory(state: State, events: Sequence[Sent]) -> State:
    """Wrong only under faults: what was seen is not saved with what was counted, so it answers two ways."""
    fresh = [e for e in dict.fromkeys(events) if e.event_id not in SEEN]
    SEEN.update(e.event_id for e in events)
    return adds_up(state, fresh)


def a_set_of_ids(state: State, events: Sequence[Sent]) -> State:
    """What cannot be saved."""
    return {**by_list_of_ids(state, events), "seen": {e.event_id for e in events}}


def now_and_then(state: State, events: Sequence[Sent]) -> State:
    """Gamed: state across trials decides."""
    return by_list_of_ids(state, events) | {"call": next(CALLS)}


def fewer_crashes(state: State, events: Sequence[Sent]) -> State:
    """Gamed: the judge's outboxes become shorter."""
    consumer_cases.ROWS = 1
    return by_list_of_ids(state, events)


# 07/reconcile -------------------------------------------------------------------------------------


ENDS = ("COMMITTED", "DECLINED", "CANCELLED", "DEAD_LETTER")


def by_questions(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    found = {}
    for payment in {*log, *gateway, *ledgers}:
        state, amount = gateway.get(payment, ("", 0))
        moved = amount if state == "COMMITTED" else 0
        if not state:
            found[payment] = "UNKNOWN"
        elif state in ENDS and payment not in log:
            found[payment] = "NOT LOGGED"
        elif state in ENDS and log[payment] != (state, amount):
            found[payment] = "LOG DIFFERS"
        elif ledgers.get(payment, 0) != moved:
            found[payment] = "LEDGERS DIFFER"
    return found


def by_comparing_books(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    """From the last word to the first, so that an earlier one replaces a later."""
    due = {payment: amount for payment, (state, amount) in gateway.items() if state == "COMMITTED"}
    found = {p: "LEDGERS DIFFER" for p in gateway if ledgers.get(p) != due.get(p)}
    ended = {p: row for p, row in gateway.items() if row[0] in ENDS}
    found |= {p: "LOG DIFFERS" for p, row in ended.items() if p in log and log[p] != row}
    found |= dict.fromkeys(ended.keys() - log.keys(), "NOT LOGGED")
    return found | dict.fromkeys((log.keys() | ledgers.keys()) - gateway.keys(), "UNKNOWN")


def the_gateway_knows(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    """The misconception: what the gateway does not know does not exist."""
    return {p: word for p, word in by_questions(log, gateway, ledgers).items() if word != "UNKNOWN"}


def states_only(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    """The misconception: once the states agree, so do the sums."""
    plain = {p: (state, gateway.get(p, ("", 0))[1]) for p, (state, _) in log.items()}
    return by_questions(plain, gateway, ledgers)


def money_has_moved(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    """The misconception: only what is missing in a ledger is wrong there."""
    found = by_questions(log, gateway, ledgers)
    extra = {p for p in found if found[p] == "LEDGERS DIFFER" and p in ledgers}
    return {p: word for p, word in found.items() if p not in extra}


def impatient(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    """The misconception: what is under way must be in the log, too."""
    late = {p: "NOT LOGGED" for p in gateway if p not in log}
    return by_questions(log, gateway, ledgers) | late


def one_difference_at_a_time(log: Told, gateway: Told, ledgers: Moved) -> dict[str, str]:
    """Wrong only under faults: more than one thing goes wrong in a night."""
    return dict(sorted(by_questions(log, gateway, ledgers).items())[:1])


def the_first_answer_again(_log: Told, _gateway: Told, _ledgers: Moved) -> dict[str, str]:
    """Gamed: state across trials."""
    return dict(exercises_07.BOOKS[next(CALLS) % len(exercises_07.BOOKS)][3])


VERIFY, CONSUME, RECONCILE = "07/verify", "07/outbox-consumer", "07/reconcile"
RIGHT = [
    (VERIFY, by_walking),
    (VERIFY, by_two_lists),
    (CONSUME, by_list_of_ids),
    (CONSUME, by_ledger),
    (RECONCILE, by_questions),
    (RECONCILE, by_comparing_books),
]
WRONG = [
    (VERIFY, each_by_itself, "chains by hand"),
    (VERIFY, numbers_do_not_matter, "chains by hand"),
    (VERIFY, the_chain_is_enough, "heads that were kept"),
    (VERIFY, the_end_is_the_end, "heads that were kept"),
    (VERIFY, only_ends_of_short_logs, "an intruder"),
    (VERIFY, the_places_in_order, REPEATS),
    (VERIFY, a_kinder_oracle, HANDS_OFF),
    (CONSUME, adds_up, "batches by hand"),
    (CONSUME, every_state_counts, "batches by hand"),
    (CONSUME, a_set_of_ids, "batches by hand"),
    (CONSUME, one_batch_back, "crashes"),
    (CONSUME, remembers_in_memory, REPEATS),
    (CONSUME, now_and_then, REPEATS),
    (CONSUME, fewer_crashes, HANDS_OFF),
    (RECONCILE, the_gateway_knows, "books by hand"),
    (RECONCILE, states_only, "books by hand"),
    (RECONCILE, money_has_moved, "books by hand"),
    (RECONCILE, impatient, "books by hand"),
    (RECONCILE, one_difference_at_a_time, "a network's books"),
    (RECONCILE, the_first_answer_again, REPEATS),
]
