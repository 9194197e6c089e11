"""The coordinator's disk: its epoch, the commits that are not settled, and what operators resolved.

A commit record goes when everybody knows the decision, so the log is as long as what is under way, not as
what has been.
"""

import asyncio
import json
from collections.abc import Sequence

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from paylab.core.effects import Append, CommitRecord, EndRecord, ResolvedRecord, SavedRecord
from paylab.core.messages import Txn
from paylab.nodes.batching import UNHURRIED_S, Batcher
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.statements import Statement

TABLES = MetaData()
EPOCHS = Table("epochs", TABLES, Column("epoch", Integer, primary_key=True))
COMMITS = Table(
    "commits",
    TABLES,
    Column("payment", String, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("banks", String, nullable=False),  # JSON list of those that must acknowledge
    Column("saved", Boolean, nullable=False),  # the gateway has the outcome
)
RESOLUTIONS = Table(
    "resolutions",
    TABLES,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("payment", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("commit", Boolean, nullable=False),
    Column("operator", String, nullable=False),
    Column("at_s", Float, nullable=False),
)

_INSERT = Statement(insert(COMMITS))
_SAVE = Statement(update(COMMITS).where(COMMITS.c.payment == bindparam("_payment")).values(saved=True))
_END = Statement(delete(COMMITS).where(COMMITS.c.payment == bindparam("_payment")))


class CommitLog:
    """The store "coordinator"; what is appended at the same time is written in one transaction."""

    def __init__(self, host: Host) -> None:
        """Nothing is read yet."""
        self._host = host
        self._store = host.store("coordinator")
        # A payment waits for what is forced, and nobody for the rest, which must not make it wait.
        self._forced: Batcher[Append, None] = Batcher(self._write, spawn=host.spawn)
        self._rest: Batcher[Append, None] = Batcher(self._write, spawn=host.spawn, pause_s=UNHURRIED_S)

    async def create_tables(self) -> None:
        """Create what is missing."""
        await self._store.create_tables(TABLES)

    async def next_epoch(self) -> int:
        """Count one boot more; returns its number once that is forced."""

        def count(connection: Connection) -> int:
            latest = connection.execute(select(EPOCHS.c.epoch)).scalar()
            epoch = int(latest or 0) + 1
            change = insert(EPOCHS) if latest is None else update(EPOCHS)
            connection.execute(change.values(epoch=epoch))
            return epoch

        return await self._store.run(count, told=lambda epoch: self._store.forced(f"EPOCH {epoch}"))

    async def commits(self) -> list[CommitRecord]:
        """The commits that not everybody knows yet."""
        rows = await self._store.rows(select(COMMITS).order_by(COMMITS.c.payment))
        return [CommitRecord(Txn(r.payment, r.attempt), tuple(json.loads(r.banks)), r.saved) for r in rows]

    async def resolutions(self) -> list[ResolvedRecord]:
        """The audit, oldest first."""
        rows = await self._store.rows(select(RESOLUTIONS).order_by(RESOLUTIONS.c.seq))
        return [ResolvedRecord(Txn(r.payment, r.attempt), r.commit, r.operator, r.at_s) for r in rows]

    def append(self, append: Append) -> "asyncio.Future[None]":
        """Write a record with whatever else is waiting; the future is done once it is durable."""
        return (self._forced if append.forced else self._rest).submit(append)

    async def _write(self, appends: Sequence[Append]) -> Sequence[None]:
        """Write to the log; dropping a commit record is its end record."""
        records = [append.record for append in appends]
        commits = [_commit_row(record) for record in records if isinstance(record, CommitRecord)]
        saved = [{"_payment": record.txn.payment} for record in records if isinstance(record, SavedRecord)]
        ended = [{"_payment": record.txn.payment} for record in records if isinstance(record, EndRecord)]
        resolved = [_resolution_row(record) for record in records if isinstance(record, ResolvedRecord)]

        def write(connection: Connection) -> None:
            if commits:
                _INSERT.run(connection, commits)
            if saved:
                _SAVE.run(connection, saved)
            if ended:
                _END.run(connection, ended)
            if resolved:
                connection.execute(insert(RESOLUTIONS), resolved)

        def record(_: None) -> None:
            for append in appends:
                self._record(append)

        await self._store.run(write, told=record)
        return [None] * len(appends)

    def _record(self, append: Append) -> None:
        """Say what is on the disk now."""
        entry = append.record
        if isinstance(entry, CommitRecord):
            self._host.recorder.record(
                Kind.FORCED_WRITE if append.forced else Kind.STATE,
                payments=(entry.txn.payment,),
                detail=f"COMMIT {entry.txn}",
                facts={"at": "decision", "txn": str(entry.txn), "banks": list(entry.banks)},
            )
        elif isinstance(entry, ResolvedRecord):
            decision = "COMMIT" if entry.commit else "ABORT"
            self._store.forced(f"RESOLVED {entry.txn} {decision} by {entry.operator}", entry.txn.payment)
        elif append.forced:  # about the log, no part of two-phase commit, so in no payment's story
            self._store.forced(f"SAVED {entry.txn}")


def _commit_row(record: CommitRecord) -> dict[str, object]:
    return {
        "payment": record.txn.payment,
        "attempt": record.txn.attempt,
        "banks": json.dumps(record.banks),
        "saved": record.saved,
    }


def _resolution_row(record: ResolvedRecord) -> dict[str, object]:
    return {
        "payment": record.txn.payment,
        "attempt": record.txn.attempt,
        "commit": record.commit,
        "operator": record.operator,
        "at_s": record.at_s,
    }
