"""The log: every event once, in a chain of hashes that covers all before it."""

import hashlib
from collections.abc import Callable
from itertools import count
from typing import Any

import grpc

from paylab import Lab
from paylab.core.authorization import Identity, Role
from paylab.pb import transaction_logger_pb2 as pb
from paylab.pb import transaction_logger_pb2_grpc as pb_grpc

Dial = Callable[..., grpc.Channel]
GATEWAY = Identity("gateway", Role.GATEWAY)
OPERATOR = Identity("lab", Role.OPERATOR)
TIMEOUT_S = 20.0
NAMES = count(1)


def payment(lab: Lab) -> str:
    """Pay once, wait until the log has it, and return the payment's id."""
    n = next(NAMES)
    alice = lab.client(f"alice-{n}", bank="alpine", balance="5.00 EUR")
    receipt = alice.pay(lab.client(f"bob-{n}", bank="boreal"), "1.00 EUR")
    assert lab.settle()
    return receipt.payment


def entries(lab: Lab, dial: Dial, start: int = 0, limit: int = 0) -> list[pb.LogEntry]:
    stub = pb_grpc.TransactionLoggerStub(dial(lab, "logger", OPERATOR))
    return list(stub.Read(pb.ReadRequest(from_index=start, limit=limit), timeout=TIMEOUT_S).entries)


def append(lab: Lab, dial: Dial, *events: pb.LogEvent) -> int:
    stub: Any = pb_grpc.TransactionLoggerStub(dial(lab, "logger", GATEWAY))
    return int(stub.Append(pb.AppendRequest(events=events), timeout=TIMEOUT_S).appended)


def test_a_payment_is_logged(lab: Lab, dial: Dial) -> None:
    """Its end is in the log once, with who paid whom how much."""
    paid = payment(lab)
    (entry,) = [entry for entry in entries(lab, dial) if entry.event.payment == paid]
    assert (entry.event.state, entry.event.attempt, entry.event.money.amount_minor) == ("COMMITTED", 1, 100)


def test_an_event_that_comes_again_is_the_same_event(lab: Lab, dial: Dial) -> None:
    """Sent again, alone, doubled in one call or among new ones, it is skipped."""
    payment(lab)
    before = entries(lab, dial)
    again = before[-1].event
    assert append(lab, dial, again) == 0
    assert append(lab, dial, again, again) == 0
    assert entries(lab, dial) == before


def test_the_chain_covers_everything(lab: Lab, dial: Dial) -> None:
    """Each hash is SHA-256 over the hash before it, at first 32 zero bytes, and the event's bytes."""
    for _ in range(2):
        payment(lab)
    tip = bytes(32)
    for index, entry in enumerate(entries(lab, dial), 1):
        tip = hashlib.sha256(tip + entry.event.SerializeToString(deterministic=True)).digest()
        assert (entry.index, entry.hash) == (index, tip)


def test_reading_starts_and_stops_where_asked(lab: Lab, dial: Dial) -> None:
    """Indices count from 1 without gaps."""
    for _ in range(2):
        payment(lab)
    whole = entries(lab, dial)
    assert entries(lab, dial, 2) == whole[1:]
    assert entries(lab, dial, 1, 1) == whole[:1]
    assert entries(lab, dial, len(whole) + 1) == []


def test_a_logger_that_was_away_misses_nothing(lab: Lab, dial: Dial) -> None:
    """Payments go on meanwhile; their events wait in the gateway's outbox and arrive once."""
    n = next(NAMES)
    alice = lab.client(f"alice-{n}", bank="alpine", balance="5.00 EUR")
    bob = lab.client(f"bob-{n}", bank="boreal")
    lab.crash("logger")
    paid = [alice.pay(bob, "1.00 EUR").payment for _ in range(3)]
    assert lab.world.rows("gateway", "SELECT count(*) FROM outbox WHERE topic = 'log'") == [(3,)]
    lab.restart("logger")
    assert lab.settle()
    logged = [entry.event.payment for entry in entries(lab, dial)]
    assert [logged.count(each) for each in paid] == [1, 1, 1]


def test_the_chain_goes_on_after_a_restart(lab: Lab, dial: Dial) -> None:
    """The next entry is chained to the last one on disk."""
    payment(lab)
    lab.crash("logger")
    lab.restart("logger")
    payment(lab)
    last, latest = entries(lab, dial)[-2:]
    expected = hashlib.sha256(last.hash + latest.event.SerializeToString(deterministic=True)).digest()
    assert latest.hash == expected
