"""The transaction logger: an append-only log in which every entry's hash covers the one before."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from paylab.core.authorization import Role
from paylab.core.log_chain import START, Entry, Head, Verdict, ended, walk
from paylab.nodes.host import Host
from paylab.nodes.log_sink import LogSink, SqlSink
from paylab.nodes.node import Node
from paylab.pb import transaction_logger_pb2 as pb
from paylab.pb import transaction_logger_pb2_grpc as pb_grpc

READ_DEFAULT = 1_000
READ_MAX = 10_000


class TransactionLogger(Node, pb_grpc.TransactionLoggerServicer):
    """Fed by outboxes at least once; removes duplicates by event id."""

    role = Role.LOGGER

    def __init__(self, host: Host, *, sink: LogSink | None = None) -> None:
        """Keep the log in `sink`; without one in the store "logger"."""
        super().__init__(host)
        self._store = host.store("logger")
        self._sink: LogSink = sink or SqlSink(self._store)
        self._grown = asyncio.Condition()

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve TransactionLogger."""
        pb_grpc.add_TransactionLoggerServicer_to_server(self, server)
        return ["paylab.v1.TransactionLogger"]

    async def boot(self) -> None:
        """Open the log."""
        await self._sink.open()

    async def Append(self, request: pb.AppendRequest, context: Any) -> pb.AppendResponse:
        """Add what is new, and answer once it is durable."""
        events = {event.event_id: event.SerializeToString(deterministic=True) for event in request.events}
        payments = dict.fromkeys(event.payment for event in request.events)

        def record(appended: Sequence[str]) -> None:
            facts = {"at": "logger", "events": list(appended)}
            self._store.forced(f"{len(appended)} log entries", *payments, facts=facts)

        appended = await self._sink.append(events, self.host.decisions.logger_fresh, told=record)
        async with self._grown:
            self._grown.notify_all()
        return pb.AppendResponse(appended=len(appended))

    async def Read(self, request: pb.ReadRequest, context: Any) -> pb.ReadResponse:
        """Read entries in order."""
        limit = min(request.limit or READ_DEFAULT, READ_MAX)
        entries = await self._sink.read(request.from_index, limit)
        return pb.ReadResponse(entries=[await _to_pb(entry, context) for entry in entries])

    async def Follow(self, request: pb.FollowRequest, context: Any) -> AsyncIterator[pb.LogEntry]:
        """Yield entries in order, those to come as soon as they are durable."""
        following = max(1, request.from_index)
        while True:
            async with self._grown:
                entries = await self._sink.read(following, READ_DEFAULT)
                if not entries:
                    await self._grown.wait()
            for entry in entries:
                yield await _to_pb(entry, context)
                following = entry.index + 1

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:
        """Walk the chain from the first entry to the last."""
        verdict = await self._verified([Head(head.index, head.hash) for head in request.kept])
        return pb.VerifyResponse(
            head=pb.LogHead(index=verdict.head.index, hash=verdict.head.hash),
            broken_at=verdict.broken_at,
            why=verdict.why,
        )

    async def _verified(self, kept: Sequence[Head]) -> Verdict:
        verdict = Verdict(START)
        while verdict.ok and (page := await self._sink.read(verdict.head.index + 1, READ_MAX)):
            verdict = walk(page, after=verdict.head, kept=kept)
        return ended(verdict, kept=kept)


async def _to_pb(entry: Entry, context: Any) -> pb.LogEntry:
    try:
        event = pb.LogEvent.FromString(entry.event)
    except DecodeError:
        await context.abort(grpc.StatusCode.DATA_LOSS, f"entry {entry.index} is no event any more: verify")
        raise
    return pb.LogEntry(index=entry.index, event=event, hash=entry.hash)
