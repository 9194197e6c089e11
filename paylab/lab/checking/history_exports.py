"""A history for other tools: ShiViz draws it, Elle and other list-append checkers judge it."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from paylab.lab.checking.event_facts import facts_of
from paylab.lab.checking.history import detail_text
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

Clock = dict[str, int]
# The first line of ShiViz's file is the expression for the others, the second one would part several runs.
SHIVIZ_HEADER = r"(?<event>.*)\n(?<host>\S*) (?<clock>{.*})" + "\n\n"
TEXT_MAX = 200


def shiviz(events: Iterable[Event]) -> str:
    """A log for https://bestchai.bitbucket.io/shiviz: two lines an event, with vector clocks.

    A node's clock counts its own events from 1; a received call brings the clock of its sending, an answer
    that came back that of its giving. What two servers of a bank learn of each other through their ledger is
    not in the clocks, as no message carries it. Calls that only keep the network alive are left out.
    """
    clocks: dict[str, Clock] = {}
    sent: dict[str, Clock] = {}
    answered: dict[str, tuple[Event, Clock]] = {}
    lines = []
    for event in events:
        if event.method in HOUSEKEEPING:
            continue
        clock = clocks.setdefault(event.node, {})
        clock[event.node] = clock.get(event.node, 0) + 1
        _merge(clock, _heard(event, sent, answered))
        if event.kind is Kind.SENT:
            sent[event.call] = dict(clock)
        elif event.kind in (Kind.ANSWERED, Kind.REFUSED) and event.call:
            answered.setdefault(event.call, (event, dict(clock)))
        lines.append(f"{_say(event)}\n{event.node} {json.dumps(clock, sort_keys=True)}\n")
    return SHIVIZ_HEADER + "".join(lines)


def _heard(event: Event, sent: dict[str, Clock], answered: dict[str, tuple[Event, Clock]]) -> Clock:
    """The clock that came with a message."""
    if event.kind is Kind.RECEIVED:
        return sent.get(event.call, {})
    if event.kind in (Kind.RETURNED, Kind.FAILED) and event.call in answered:
        answer, clock = answered[event.call]
        # A call that failed by itself, at its deadline, has heard nothing.
        if event.kind is Kind.RETURNED or (answer.kind is Kind.REFUSED and answer.lamport < event.lamport):
            return clock
    return {}


def _merge(clock: Clock, other: Clock) -> None:
    for node, count in other.items():
        clock[node] = max(clock.get(node, 0), count)


def _say(event: Event) -> str:
    what = event.method.rpartition("/")[2]
    text = f"{event.kind.value} {what} {event.peer} {detail_text(event)}"
    return " ".join(text.split())[:TEXT_MAX]


def list_append(events: Iterable[Event]) -> Iterator[str]:
    """One JSON line for every write transaction at a bank, in the form of Elle's list-append histories.

        {"index": 7, "type": "ok", "process": 2, "f": "txn", "value": [["append", "alpine/ada", 12]]}

    An account is a list, and the number that is appended stands for the posting; "txn" names the attempt. Who
    prepares a debit, or posts one in one phase, reads the account's list first; at the end every account is
    read once. Each transaction is one bank's. A payment as one transaction over both banks would be refused
    by such a checker, rightly by its rules: two banks may post two payments in different orders, which holds
    allow (`paylab/lab/checking/serialisability.py`).
    """
    lists: dict[str, list[int]] = {}
    promised: set[tuple[str, str]] = set()
    processes: dict[str, int] = {}
    appended = index = 0
    for event in events:
        facts = facts_of(event)
        if facts is None or facts["at"] != "bank":
            continue
        lines, legs = facts.get("lines", ()), facts.get("legs", ())
        value: list[list[Any]] = []
        # A debit reads when it is promised, in one phase when it is posted.
        place = (facts["bank"], facts["txn"])
        reads = legs or ([] if place in promised else lines)
        promised |= {place} if legs else set()
        for account, amount_minor, _ in reads:
            key = f"{facts['bank']}/{account}"
            if amount_minor < 0 and not account.startswith("@"):
                value.append(["r", key, list(lists.get(key, []))])
        for account, _, _ in lines:
            appended += 1
            key = f"{facts['bank']}/{account}"
            lists.setdefault(key, []).append(appended)
            value.append(["append", key, appended])
        if value:
            process = processes.setdefault(event.node, len(processes))
            yield _operation(index, process, value, facts["txn"])
            index += 1
    final = [["r", account, lists[account]] for account in sorted(lists)]
    yield _operation(index, len(processes), final, "the end")


def _operation(index: int, process: int, value: list[list[Any]], txn: str) -> str:
    operation = {"index": index, "type": "ok", "process": process, "f": "txn", "value": value, "txn": txn}
    return json.dumps(operation) + "\n"
