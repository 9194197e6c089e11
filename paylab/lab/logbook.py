"""The transaction log as a reader sees it: to read, verify, follow, save, reconcile and tamper with."""

import json
from collections.abc import Coroutine, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from paylab.core.log_chain import START, Entry, Head, Verdict, chained
from paylab.core.money import Money
from paylab.errors import LabError
from paylab.lab.checking.ledger_checks import read_books
from paylab.lab.checking.reconciliation import Logged, Reconciliation, reconcile
from paylab.lab.real_world import World
from paylab.nodes import wire
from paylab.nodes.host import Host
from paylab.pb import transaction_logger_pb2 as pb
from paylab.pb import transaction_logger_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    import pandas as pd

    from paylab.lab.drawing.chains import Chain

T = TypeVar("T")
PAGE = 1_000
STORE = "logger"
# Whoever follows waits for as long as nothing happens.
FOLLOW_S = 86_400.0


class Logbook:
    """The log of one lab. What reads asks the logger; what tampers goes past it, to its disk."""

    def __init__(self, world: World, operator: Host, banks: Sequence[str]) -> None:
        """Made by the lab."""
        self._world = world
        self._operator = operator
        self._banks = banks

    def entries(self) -> list[pb.LogEntry]:
        """Every entry in order. Raises LabError for a log that cannot be read any more."""
        return self._ask(self._entries())

    def table(self) -> "pd.DataFrame":
        """The log as a table: index, at_s, payment, attempt, state, reason, payer, payee, amount, hash."""
        import pandas as pd  # noqa: PLC0415 - only for tables

        return pd.DataFrame([_row(entry) for entry in self.entries()]).set_index("index")

    def head(self) -> Head:
        """The end of the log as the logger tells it now; keep it elsewhere, and give it to `verify` later."""
        return self.verify().head

    def verify(self, *kept: Head) -> Verdict:
        """Have the logger walk its chain; the log must still contain the heads that were `kept`."""
        heads = [pb.LogHead(index=head.index, hash=head.hash) for head in kept]
        found = self._ask(self._verify(pb.VerifyRequest(kept=heads)))
        return Verdict(Head(found.head.index, found.head.hash), found.broken_at, found.why)

    def chain(self, *kept: Head) -> "Chain":
        """The chain as it stands on the logger's disk, as a picture, beside heads that were `kept`."""
        from paylab.lab.drawing import chains  # noqa: PLC0415 - only for drawing

        rows = self._world.rows(STORE, 'SELECT "index", event, hash FROM entries ORDER BY "index"')
        return chains.chain([Entry(*row) for row in rows], kept=kept, badge=self._world.badge)

    def follow(self, start: int = 1) -> Generator[pb.LogEntry, None, None]:
        """Yield entries from index `start` on, and each one to come as soon as it is durable."""
        stream = self._ask(self._follow(start))
        try:
            while True:
                yield self._ask(anext(stream))
        finally:
            self._ask(stream.aclose())

    def save(self, path: str | Path) -> int:
        """Write the log as JSON lines, the hashes in hex; returns how many entries."""
        lines = [json.dumps(_row(entry)) + "\n" for entry in self.entries()]
        Path(path).write_text("".join(lines), encoding="utf-8")
        return len(lines)

    def reconcile(self) -> Reconciliation:
        """Compare log, gateway and ledgers, payment by payment. Let everything settle before."""
        logged = [
            Logged(
                event.payment,
                event.state,
                event.payer,
                event.payee,
                wire.money_from_pb(event.money),
                event.operation,
                event.about,
            )
            for event in self._events()
        ]
        return reconcile(read_books(self._world, self._banks), logged)

    # What an intruder does who holds the logger's disk -------------------------------------------

    def edit(self, index: int, **changes: Any) -> None:
        """Change fields of an entry's event, such as `reason="…"` or `amount_minor=1`, and leave its hash."""
        event = pb.LogEvent.FromString(self._stored(index))
        amount_minor = changes.pop("amount_minor", event.money.amount_minor)
        event.money.amount_minor = amount_minor
        for field, value in changes.items():
            if field not in event.DESCRIPTOR.fields_by_name:
                raise LabError("BAD_ARGUMENT", f"an event has no field {field!r}")
            setattr(event, field, value)
        self._store(index, event.SerializeToString(deterministic=True))

    def flip(self, index: int, byte: int = 0) -> None:
        """Flip the lowest bit of one byte of an entry's event."""
        stored = bytearray(self._stored(index))
        stored[byte % len(stored)] ^= 1
        self._store(index, bytes(stored))

    def remove(self, index: int) -> None:
        """Take an entry out; the later ones move up, so that no number is missing."""
        self._stored(index)
        self._world.write(STORE, 'DELETE FROM entries WHERE "index" = ?', index)
        for (later,) in self._world.rows(STORE, 'SELECT "index" FROM entries ORDER BY "index"'):
            if later > index:
                self._world.write(STORE, 'UPDATE entries SET "index" = ? WHERE "index" = ?', later - 1, later)

    def swap(self, a: int, b: int) -> None:
        """Let two entries change places."""
        self._stored(a), self._stored(b)
        for old, new in ((a, 0), (b, a), (0, b)):
            self._world.write(STORE, 'UPDATE entries SET "index" = ? WHERE "index" = ?', new, old)

    def rehash(self) -> None:
        """Compute every hash anew, as an intruder would who knows how the chain works."""
        tip = START.hash
        for index, event in self._world.rows(STORE, 'SELECT "index", event FROM entries ORDER BY "index"'):
            tip = chained(tip, event)
            self._world.write(STORE, 'UPDATE entries SET hash = ? WHERE "index" = ?', tip, index)

    def _stored(self, index: int) -> bytes:
        stored: dict[int, bytes] = dict(self._world.rows(STORE, 'SELECT "index", event FROM entries'))
        if index not in stored:
            raise LabError("NO_SUCH_ENTRY", f"the log has no entry {index}; it has {len(stored)}")
        return stored[index]

    def _store(self, index: int, event: bytes) -> None:
        self._world.write(STORE, 'UPDATE entries SET event = ? WHERE "index" = ?', event, index)

    # Asking the logger --------------------------------------------------------------------------

    def _events(self) -> list[pb.LogEvent]:
        rows = self._world.rows(STORE, 'SELECT event FROM entries ORDER BY "index"')
        return [pb.LogEvent.FromString(row[0]) for row in rows]

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._world.call(work)
        except grpc.aio.AioRpcError as error:
            raise LabError("LOG_UNREADABLE", f"{error.code().name}: {error.details()}") from None

    def _logger(self) -> "pb_grpc.TransactionLoggerAsyncStub":
        return pb_grpc.TransactionLoggerStub(self._operator.channel("logger"))

    async def _entries(self) -> list[pb.LogEntry]:
        entries: list[pb.LogEntry] = []
        while True:
            request = pb.ReadRequest(from_index=len(entries) + 1, limit=PAGE)
            page = list((await self._logger().Read(request)).entries)
            entries += page
            if len(page) < PAGE:
                return entries

    async def _verify(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        return await self._logger().Verify(request)

    async def _follow(self, start: int) -> Any:
        async def entries() -> Any:
            call = self._logger().Follow(pb.FollowRequest(from_index=start), timeout=FOLLOW_S)
            async for entry in call:
                yield entry

        return entries()


def _row(entry: pb.LogEntry) -> dict[str, Any]:
    event = entry.event
    return {
        "index": entry.index,
        "at_s": event.at_s,
        "payment": event.payment,
        "attempt": event.attempt,
        "operation": event.operation,
        "about": event.about,
        "state": event.state,
        "reason": event.reason,
        "payer": event.payer,
        "payee": event.payee,
        "amount": str(Money(event.money.amount_minor, event.money.currency)),
        "hash": entry.hash.hex(),
    }
