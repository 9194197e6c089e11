"""The exercises of chapter 07: walking the chain, counting what an outbox sends again, naming differences."""

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from paylab.errors import LabError
from paylab.lab.checking.ledger_checks import read_books
from paylab.lab.judging.chain_cases import CHAINS, KEPT, by_chain, by_heads, intruder, network
from paylab.lab.judging.consumer_cases import BATCHES, counted, crashes
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.judging.judging import LONG_ID, short
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import seeded
from paylab.pb import transaction_logger_pb2 as pb

# 07/reconcile -----------------------------------------------------------------------------------

UNKNOWN, NOT_LOGGED, LOG_DIFFERS, LEDGERS_DIFFER = "UNKNOWN", "NOT LOGGED", "LOG DIFFERS", "LEDGERS DIFFER"
MEANS = {
    UNKNOWN: "the gateway does not know it",
    NOT_LOGGED: "the log does not know its end",
    LOG_DIFFERS: "log and gateway disagree about its end",
    LEDGERS_DIFFER: "the ledgers did not move what the gateway says",
}
Told = Mapping[str, tuple[str, int]]
PAID, DECLINED = ("COMMITTED", 500), ("DECLINED", 900)
# Log, gateway, ledgers, and what must be named.
BOOKS: tuple[tuple[Told, Told, Mapping[str, int], Mapping[str, str]], ...] = (
    ({"p1": PAID}, {"p1": PAID}, {"p1": 500}, {}),
    ({"p1": DECLINED}, {"p1": DECLINED}, {}, {}),
    ({}, {"p1": PAID}, {"p1": 500}, {"p1": NOT_LOGGED}),
    ({"p1": PAID}, {}, {"p1": 500}, {"p1": UNKNOWN}),
    ({}, {}, {"p1": 500}, {"p1": UNKNOWN}),
    ({"p1": DECLINED}, {"p1": ("COMMITTED", 900)}, {"p1": 900}, {"p1": LOG_DIFFERS}),
    ({"p1": ("COMMITTED", 50)}, {"p1": PAID}, {"p1": 500}, {"p1": LOG_DIFFERS}),
    ({"p1": PAID}, {"p1": PAID}, {}, {"p1": LEDGERS_DIFFER}),
    ({"p1": DECLINED}, {"p1": DECLINED}, {"p1": 900}, {"p1": LEDGERS_DIFFER}),
    ({}, {"p1": ("PREPARING", 500)}, {}, {}),
    ({"p1": ("QUEUED", 500)}, {"p1": ("PREPARING", 500)}, {}, {}),
    ({"p1": PAID, "p2": PAID}, {"p1": PAID, "p2": PAID}, {"p2": 500}, {"p1": LEDGERS_DIFFER}),
)


def _named(mine: Solution, told: str, books: tuple[Any, ...], expected: Mapping[str, str]) -> Finding:
    returned = mine(*(dict(book) for book in books))
    right = returned == expected and isinstance(returned, dict)
    text = ", ".join(f"{payment}: {word}, {MEANS[word]}" for payment, word in expected.items()) or "nothing"
    so = "every difference has its name" if right else f"what differs: {text}"
    return Finding(told, short(returned), LONG_ID.sub(r"\1…", so), passed=right)


def _by_hand(mine: Solution, case: int) -> Finding:
    *books, expected = BOOKS[case]
    told = "log {}; gateway {}; ledgers {}".format(*books)
    return _named(mine, told, tuple(books), expected)


def _from_books(mine: Solution, seed: int) -> Finding:
    """A network's own books after somebody was at its disks; the lab's reconciliation says what differs."""
    lab = network(seed)
    try:
        done = _tamper(lab, seeded(seed, "books"))
        names = {why: word for word, why in MEANS.items()}
        found = lab.log.reconcile().differences
        # A changed sum is told in other words.
        expected = {each.payment: names.get(each.why, LOG_DIFFERS) for each in found}
        return _named(mine, f"six payments of a network, seed {seed}; {done}", _three(lab), expected)
    finally:
        with suppress(LabError):  # what is broken was broken on purpose
            lab.close()


def _tamper(lab: Lab, rng: random.Random) -> str:
    """Let four payments go wrong, each in a way of its own; returns what was done."""
    events = [entry.event for entry in lab.log.entries()]
    logged, posted, forgotten, lost = rng.sample(range(1, 6), 4)
    lab.log.edit(logged, state="DECLINED")
    txn = f"{events[posted - 1].payment}/{events[posted - 1].attempt}"
    for bank in lab.banks:
        lab.world.write(f"bank-{bank}", "DELETE FROM postings WHERE txn = ?", txn)
    lab.world.write("gateway", "DELETE FROM payments WHERE payment = ?", events[forgotten - 1].payment)
    lab.world.write("logger", 'DELETE FROM entries WHERE "index" = ?', lost)
    return f"entry {logged} edited, {lost} deleted, postings of {posted} and payment {forgotten} deleted"


def _three(lab: Lab) -> tuple[dict[str, Any], ...]:
    """What log, gateway and ledgers say about each payment."""
    books = read_books(lab.world, lab.banks)
    log = {}
    for entry in books.entries:
        event = pb.LogEvent.FromString(entry.event)
        log[event.payment] = (event.state, event.money.amount_minor)
    gateway = {payment: (row[0], row[4]) for payment, row in books.payments.items()}
    ledgers = {
        txn.rpartition("/")[0]: amount_minor
        for _, txn, account, amount_minor, _ in books.postings["boreal"]
        if account == "bob"
    }
    return log, gateway, {payment: amount for payment, amount in ledgers.items() if payment}


# The table --------------------------------------------------------------------------------------


def _as_json(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """Numbers as they are, a dictionary in a list; anything else as the text that stands for it."""
    try:
        json.dumps(answer)
    except (TypeError, ValueError):
        return repr(answer)
    if isinstance(answer, dict):
        return [answer]  # a dictionary by itself would stand for what was raised
    return answer if isinstance(answer, int) else repr(answer)


def _from_json(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved[0] if isinstance(saved, list) else saved


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


EXERCISES = (
    Exercise(
        "07/verify",
        "Where a log stops being what was written",
        "Each hash covers the event and the hash before it; whoever kept a head sees what a new chain hides.",
        _starter("first_wrong(entries, kept)", "Return the number of the first wrong entry, 0 for none."),
        (
            "Entries have .index, .event, .hash, heads .index, .hash; before entry 1 stand 32 zero bytes.",
            "Walk: the number must be the next one, sha256(hash before + event).digest() must be the hash.",
            "At the number of a kept head the hash must be its hash; a head beyond the end misses an entry.",
        ),
        (
            Check("chains by hand", 5, facts(len(CHAINS)), by_chain, unit="fact"),
            Check("heads that were kept", 3, facts(len(KEPT)), by_heads, unit="fact"),
            Check("an intruder", 2, by_seed, intruder),
        ),
        _as_json,
        _from_json,
    ),
    Exercise(
        "07/outbox-consumer",
        "Sent at least once, counted once",
        "What was counted and what was seen are saved together, so that a crash loses both or neither.",
        _starter(
            "consume(state, events)",
            'Return the state to save (JSON); "total_minor": what was COMMITTED.',
        ),
        (
            "An event has .event_id, .state and .amount_minor; at first the state is {'total_minor': 0}.",
            "Put the ids that you have counted into the state: nothing else survives a crash.",
            "JSON has no sets: keep a list, and look at every event, also inside one batch.",
        ),
        (
            Check("batches by hand", 5, facts(len(BATCHES)), counted, unit="fact"),
            Check("crashes", 5, by_seed, crashes),
        ),
        _as_json,
        _from_json,
    ),
    Exercise(
        "07/reconcile",
        "Name the differences",
        "Three books kept by different nodes agree about every payment, or the difference has a name.",
        _starter("differences(log, gateway, ledgers)", "Return {payment: its word} for all that differ."),
        (
            "log and gateway map a payment to (state, amount), ledgers to what arrived, if anything did.",
            "Look at all payments that any of the three knows, and ask in the order of the four words.",
            "Only COMMITTED moves money; COMMITTED, DECLINED, CANCELLED and DEAD_LETTER are ends.",
        ),
        (
            Check("books by hand", 6, facts(len(BOOKS)), _by_hand, unit="fact"),
            Check("a network's books", 4, by_seed, _from_books),
        ),
        _as_json,
        _from_json,
    ),
)
