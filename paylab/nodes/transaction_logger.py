"""The transaction logger: an append-only log in which every entry's hash covers the one before."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import grpc
from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, String, Table, func, insert, select

from paylab.core.authorization import Role
from paylab.nodes.host import Host
from paylab.nodes.node import Node
from paylab.pb import transaction_logger_pb2 as pb
from paylab.pb import transaction_logger_pb2_grpc as pb_grpc

TABLES = MetaData()
ENTRIES = Table(
    "entries",
    TABLES,
    Column("index", Integer, primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
    Column("event", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
FIRST_HASH = bytes(32)
READ_DEFAULT = 1_000
READ_MAX = 10_000


def chained(previous: bytes, event: bytes) -> bytes:
    """The hash of an entry: SHA-256 over the previous hash and the event's bytes."""
    return hashlib.sha256(previous + event).digest()


class TransactionLogger(Node, pb_grpc.TransactionLoggerServicer):
    """Fed by outboxes at least once; removes duplicates by event id."""

    role = Role.LOGGER

    def __init__(self, host: Host) -> None:
        """Keep the log in the store "logger"."""
        super().__init__(host)
        self._store = host.store("logger")

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve TransactionLogger."""
        pb_grpc.add_TransactionLoggerServicer_to_server(self, server)
        return ["paylab.v1.TransactionLogger"]

    async def boot(self) -> None:
        """Create the table."""
        await self._store.create_tables(TABLES)

    async def Append(self, request: pb.AppendRequest, context: Any) -> pb.AppendResponse:
        """Add what is new, and answer once it is durable."""
        events = {event.event_id: event.SerializeToString(deterministic=True) for event in request.events}
        payments = dict.fromkeys(event.payment for event in request.events)

        def record(appended: list[str]) -> None:
            facts = {"at": "logger", "events": appended}
            self._store.forced(f"{len(appended)} log entries", *payments, facts=facts)

        appended = await self._store.run(
            lambda connection: _append(connection, events, self.host.decisions.logger_fresh), told=record
        )
        return pb.AppendResponse(appended=len(appended))

    async def Read(self, request: pb.ReadRequest, context: Any) -> pb.ReadResponse:
        """Read entries in order."""
        query = (
            select(ENTRIES)
            .where(ENTRIES.c.index >= request.from_index)
            .order_by(ENTRIES.c.index)
            .limit(min(request.limit or READ_DEFAULT, READ_MAX))
        )
        rows = await self._store.run(lambda connection: connection.execute(query).mappings().all())
        entries = [
            pb.LogEntry(index=row["index"], event=pb.LogEvent.FromString(row["event"]), hash=row["hash"])
            for row in rows
        ]
        return pb.ReadResponse(entries=entries)


def _append(
    connection: Connection,
    events: dict[str, bytes],
    fresh: Callable[[Sequence[str], Collection[str]], list[str]],
) -> list[str]:
    known = select(ENTRIES.c.event_id).where(ENTRIES.c.event_id.in_(list(events)))
    present = {row.event_id for row in connection.execute(known)}
    last = (
        connection.execute(
            select(ENTRIES.c.hash, ENTRIES.c.index).where(
                ENTRIES.c.index == select(func.max(ENTRIES.c.index)).scalar_subquery()
            )
        )
        .mappings()
        .first()
    )
    index, tip = (last["index"], last["hash"]) if last else (0, FIRST_HASH)
    rows = []
    for event_id in fresh(list(events), present):
        event = events[event_id]
        index, tip = index + 1, chained(tip, event)
        rows.append({"index": index, "event_id": event_id, "event": event, "hash": tip})
    if rows:
        connection.execute(insert(ENTRIES), rows)
    return [str(row["event_id"]) for row in rows]
