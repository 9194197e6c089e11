"""The outbox: every row is sent at least once and in order, whatever the receiver does."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import grpc
from sqlalchemy import MetaData, func, select

from paylab.nodes.batching import UNHURRIED_S
from paylab.nodes.events import Recorder
from paylab.nodes.host import Host
from paylab.nodes.outbox import BATCH_MAX, OutboxPump, outbox_table, put
from paylab.nodes.store import Database, Store, sqlite_engine

T = TypeVar("T")

TABLES = MetaData()
OUTBOX = outbox_table(TABLES)


class InstantHost:
    """As much of a host as a pump asks for; sleeping takes no time."""

    def __init__(self) -> None:
        self.rng = random.Random(1)  # noqa: S311 - jitter guards no secret
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def unavailable() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


class Receiver:
    """Fails as often as it is told to, before or after it took the rows in."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.received: list[list[bytes]] = []

    async def send(self, payloads: list[bytes]) -> None:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "lost request":
            raise unavailable()
        self.received.append(payloads)
        if failure == "lost answer":
            raise unavailable()


def in_loop(function: Callable[[], T]) -> Coroutine[Any, Any, T]:
    async def run() -> T:
        return function()

    return run()


async def pumped(receiver: Receiver, rows: list[tuple[str, bytes]], *, more: int = 0) -> InstantHost:
    """Pump until the topic "log" is empty; `more` rows arrive while it pumps."""
    host = InstantHost()
    recorder = Recorder("n", lambda: 0.0, lambda _: None)
    store = Store(Database(sqlite_engine(None)), run_blocking=in_loop, recorder=recorder)
    await store.create_tables(TABLES)
    await store.run(lambda connection: put(connection, OUTBOX, rows))
    pump = OutboxPump(cast("Host", host), store=store, table=OUTBOX, topic="log", send=receiver.send)
    running = asyncio.create_task(pump.run())
    for n in range(more):
        await store.run(lambda connection, n=n: put(connection, OUTBOX, [("log", b"more %d" % n)]))  # type: ignore[misc] # mypy cannot infer a lambda with a default
        pump.wake()
    count = select(func.count()).select_from(OUTBOX).where(OUTBOX.c.topic == "log")
    async with asyncio.timeout(20):
        while (await store.rows(count))[0][0]:  # noqa: ASYNC110 - the pump tells nobody when it is done
            await asyncio.sleep(0)
    running.cancel()
    others = select(OUTBOX.c.payload).where(OUTBOX.c.topic != "log").order_by(OUTBOX.c.seq)
    assert [row.payload for row in await store.rows(others)] == [p for topic, p in rows if topic != "log"]
    return host


def test_rows_leave_in_order_and_once() -> None:
    """With nothing going wrong each row is sent once, and another topic's rows stay where they are."""
    receiver = Receiver()
    rows = [("log" if n % 3 else "queue", b"%d" % n) for n in range(9)]
    asyncio.run(pumped(receiver, rows))
    assert [p for batch in receiver.received for p in batch] == [p for topic, p in rows if topic == "log"]


def test_a_batch_has_a_limit() -> None:
    """A long outbox leaves in several calls."""
    receiver = Receiver()
    asyncio.run(pumped(receiver, [("log", b"%d" % n) for n in range(2 * BATCH_MAX + 5)]))
    assert [len(batch) for batch in receiver.received] == [BATCH_MAX, BATCH_MAX, 5]


class SlowReceiver(Receiver):
    """Others come before it has answered."""

    async def send(self, payloads: list[bytes]) -> None:
        await super().send(payloads)
        for _ in range(50):
            await asyncio.sleep(0)


def test_a_busy_pump_pauses_and_a_quiet_one_does_not() -> None:
    """Nobody waits for it, so rows that come in a row leave in few calls; a backlog leaves at once."""
    host = asyncio.run(pumped(Receiver(), [("log", b"%d" % n) for n in range(BATCH_MAX + 5)]))
    assert host.slept == []
    receiver = SlowReceiver()
    host = asyncio.run(pumped(receiver, [("log", b"first")], more=3))
    assert set(host.slept) == {UNHURRIED_S}
    assert [p for batch in receiver.received for p in batch] == [b"first", b"more 0", b"more 1", b"more 2"]


def test_a_lost_request_is_sent_again() -> None:
    """Nothing arrives the first two times, everything the third; between tries it waits."""
    receiver = Receiver("lost request", "lost request")
    host = asyncio.run(pumped(receiver, [("log", b"a"), ("log", b"b")]))
    assert receiver.received == [[b"a", b"b"]]
    assert len(host.slept) == 2


def test_a_lost_answer_means_that_rows_arrive_twice() -> None:
    """At least once, never less: the row stays until its receiver has said that it has it."""
    receiver = Receiver("lost answer")
    asyncio.run(pumped(receiver, [("log", b"a"), ("log", b"b")]))
    assert receiver.received == [[b"a", b"b"]] * 2


def test_a_batch_that_is_sent_again_takes_along_what_has_come() -> None:
    """So receivers must look at every row by itself: a batch may be half known."""
    receiver = Receiver(*["lost answer"] * 9)
    asyncio.run(pumped(receiver, [("log", b"first")], more=3))
    assert len(receiver.received[0]) < 4
    assert receiver.received[9] == [b"first", b"more 0", b"more 1", b"more 2"]


def test_rows_that_arrive_while_it_pumps_are_not_forgotten() -> None:
    """Each wakes the pump, and all of them leave, in order."""
    receiver = Receiver("lost answer", "", "lost request")
    asyncio.run(pumped(receiver, [("log", b"first")], more=20))
    seen = list(dict.fromkeys(p for batch in receiver.received for p in batch))
    assert seen == [b"first", *(b"more %d" % n for n in range(20))]
