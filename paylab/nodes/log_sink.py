"""Where the transaction logger keeps its entries: append at the end, read from anywhere, change nothing."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
)

from paylab.core.log_chain import START, Entry, Head, chained
from paylab.nodes.statements import Statement, among
from paylab.nodes.store import Store

TABLES = MetaData()
ENTRIES = Table(
    "entries",
    TABLES,
    Column("index", Integer, primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
    Column("event", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
_KNOWN = Statement(select(ENTRIES.c.event_id).where(among(ENTRIES.c.event_id, "event_ids")))
_LAST = Statement(select(ENTRIES.c.index, ENTRIES.c.hash).order_by(ENTRIES.c.index.desc()).limit(1))
_INSERT = Statement(insert(ENTRIES))
_FROM = (
    select(ENTRIES.c.index, ENTRIES.c.event, ENTRIES.c.hash)
    .where(ENTRIES.c.index >= bindparam("start"))
    .order_by(ENTRIES.c.index)
    .limit(bindparam("limit"))
)
# Which of these event ids, in order, are new to a log that has `known`.
Fresh = Callable[[Sequence[str], Collection[str]], list[str]]


class LogSink(Protocol):
    """An append-only log of events, each in it once."""

    async def open(self) -> None:
        """Make it ready, before the node serves."""

    async def append(
        self, events: Mapping[str, bytes], fresh: Fresh, *, told: Callable[[Sequence[str]], None]
    ) -> list[str]:
        """Add the fresh ones among events by id; returns their ids, and tells them, once they are durable."""

    async def read(self, start: int, limit: int) -> list[Entry]:
        """Entries in order from index `start` on, at most `limit`."""


class SqlSink:
    """A log in the logger's own database."""

    def __init__(self, store: Store) -> None:
        """Nothing is opened yet."""
        self._store = store

    async def open(self) -> None:
        """Create the table."""
        await self._store.create_tables(TABLES)

    async def append(
        self, events: Mapping[str, bytes], fresh: Fresh, *, told: Callable[[Sequence[str]], None]
    ) -> list[str]:
        """Add what is fresh, in one transaction with looking."""
        return await self._store.run(lambda connection: _append(connection, events, fresh), told=told)

    async def read(self, start: int, limit: int) -> list[Entry]:
        """Entries in order from index `start` on, at most `limit`."""
        asked = {"start": start, "limit": limit}
        rows = await self._store.run(lambda connection: connection.execute(_FROM, asked).mappings().all())
        return [Entry(row["index"], row["event"], row["hash"]) for row in rows]


def _append(connection: Connection, events: Mapping[str, bytes], fresh: Fresh) -> list[str]:
    known = {row.event_id for row in _KNOWN.rows(connection, {"event_ids": json.dumps(list(events))})}
    last = _LAST.rows(connection, {})
    head = Head(*last[0]) if last else START
    rows = []
    for event_id in fresh(list(events), known):
        head = Head(head.index + 1, chained(head.hash, events[event_id]))
        rows.append({"index": head.index, "event_id": event_id, "event": events[event_id], "hash": head.hash})
    if rows:
        _INSERT.run(connection, rows)
    return [str(row["event_id"]) for row in rows]
