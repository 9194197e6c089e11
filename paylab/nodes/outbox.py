"""The transactional outbox: a row written in the same transaction as the change it tells of, sent later.

A row goes only after its receiver has acknowledged it, so it is sent at least once and in order; receivers
remove duplicates.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from typing import Any

import grpc
from sqlalchemy import (
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
)

from paylab.core.backoff import full_jitter
from paylab.errors import Overloaded
from paylab.nodes import wire
from paylab.nodes.batching import UNHURRIED_S
from paylab.nodes.host import Host
from paylab.nodes.statements import Statement
from paylab.nodes.store import Store

BATCH_MAX = 100
RETRY_BASE_S = 0.1
RETRY_CAP_S = 2.0


def outbox_table(metadata: MetaData) -> Table:
    """The outbox of one store."""
    return Table(
        "outbox",
        metadata,
        Column("seq", Integer, primary_key=True, autoincrement=True),
        Column("topic", String, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Index("outbox_by_topic", "topic", "seq"),
        sqlite_autoincrement=True,
    )


def put(connection: Connection, table: Table, rows: Sequence[tuple[str, bytes]]) -> None:
    """Add (topic, payload) rows inside the caller's transaction."""
    if rows:
        _insert(table).run(connection, [{"topic": topic, "payload": payload} for topic, payload in rows])


def filled_topics(connection: Connection, table: Table) -> list[str]:
    """The topics that have rows."""
    return [row.topic for row in _topics(table).rows(connection, {})]


@cache
def _topics(table: Table) -> Statement:
    return Statement(select(table.c.topic).distinct().order_by(table.c.topic))


@cache
def _insert(table: Table) -> Statement:
    return Statement(insert(table), columns=("topic", "payload"))


class OutboxPump:
    """Sends the rows of one topic, in order."""

    def __init__(
        self,
        host: Host,
        *,
        store: Store,
        table: Table,
        topic: str,
        send: Callable[[list[bytes]], Awaitable[object]],
    ) -> None:
        """`send` returns once the receiver has made the payloads its own; it may raise AioRpcError."""
        self._host = host
        self._store = store
        self._send = send
        self._filled = asyncio.Event()
        self._filled.set()  # rows may be left from before a crash
        mine = table.c.topic == topic
        self._oldest = Statement(
            select(table.c.seq, table.c.payload).where(mine).order_by(table.c.seq).limit(BATCH_MAX)
        )
        self._sent = Statement(delete(table).where(mine & (table.c.seq <= bindparam("last"))))

    def wake(self) -> None:
        """Say that there may be rows."""
        self._filled.set()

    async def run(self) -> None:
        """Pump for ever."""
        failures = 0
        while True:
            await self._filled.wait()
            self._filled.clear()
            rows = await self._store.run(self._read)
            if not rows:
                continue
            try:
                await self._send([row.payload for row in rows])
            except grpc.aio.AioRpcError as failure:
                failures += 1
                backoff_s = full_jitter(failures, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._host.rng)
                # What was written down must arrive: there is no deadline, and no error to give up for.
                error = wire.status_to_error(failure)
                asked_s = error.pushback_s if isinstance(error, Overloaded) else 0.0
                await self._host.sleep(asked_s + backoff_s)
                self._filled.set()
            else:
                failures = 0
                await self._store.run(partial(self._drop, last=rows[-1].seq))
                if len(rows) == BATCH_MAX:
                    self._filled.set()
                elif self._filled.is_set():  # more is about to come
                    await self._host.sleep(UNHURRIED_S)

    def _drop(self, connection: Connection, *, last: int) -> None:
        self._sent.run(connection, [{"last": last}])

    def _read(self, connection: Connection) -> Sequence[Any]:
        return self._oldest.rows(connection, {})
