"""A node's disk: SQLAlchemy Core on SQLite, one writer a database, whole batches in one commit.

While a commit is under way, the transactions that arrive form the next one (group commit). A
transaction is a function of the connection; it must not touch anything else, because a batch in which
one fails is rolled back and run again one by one.

Statements run on the event loop, and only what may wait for long leaves it: for the disk, and for another
process that writes. A statement takes microseconds, but SQLite gives the interpreter away at each one: a
thread would ask the busy loop to have it back ten times a batch, and both would mostly wait for each other.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Executable, MetaData, create_engine, event
from sqlalchemy.pool import StaticPool

from paylab.nodes.events import Kind, Recorder

T = TypeVar("T")
Transaction = Callable[[Connection], Any]
Told = Callable[[Any], None] | None

# A longer batch would keep those who wait for it waiting without saving much more.
BATCH_MAX = 256
BUSY_TIMEOUT_MS = 10_000
BEGIN = "BEGIN IMMEDIATE"


class RunBlocking(Protocol):
    """How the host runs something that blocks."""

    def __call__(self, function: Callable[[], T]) -> Awaitable[T]:
        """Run `function` and return what it returns."""


class StoreFenced(asyncio.CancelledError):
    """The node that owns this handle is dead: its code is being cancelled, and nothing reaches the disk."""


def sqlite_engine(path: Path | None) -> Engine:
    """An engine on a file, or in memory for None: WAL, synchronous FULL, one connection."""
    engine = create_engine(
        f"sqlite:///{path}" if path else "sqlite://",
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 0")  # whoever waits for a lock waits in a thread

    return engine


class Database:
    """One database and its one writer."""

    def __init__(self, engine: Engine) -> None:
        """Nothing is opened before the first transaction."""
        self.engine = engine
        self._connection: Connection | None = None
        self._waiting: list[Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._under_way: asyncio.Future[None] | None = None

    def enqueue(self, store: "Store", transaction: Transaction, told: Told = None) -> asyncio.Future[Any]:
        """Put a transaction into the next batch; `told` hears what it returned once that is durable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((store, transaction, told, future))
        if self._writer is None:
            self._writer = loop.create_task(self._write(store.run_blocking))
        return future

    async def written(self) -> None:
        """Return once the batch that is being written at this moment is written."""
        if self._under_way is not None:
            await asyncio.shield(self._under_way)

    async def _write(self, run_blocking: RunBlocking) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # let what is ready at this moment join
            batch = self._next_batch()
            self._under_way = asyncio.get_running_loop().create_future()
            results = await self._commit([transaction for _, transaction, _, _ in batch], run_blocking)
            self._under_way.set_result(None)
            self._under_way = None
            hand_over(batch, results)
        self._writer = None

    def _next_batch(self) -> "list[Waiting]":
        taken, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        for store, _, _, future in taken:
            if store.fenced:
                future.cancel()
        return [item for item in taken if not item[0].fenced]

    async def _commit(self, transactions: list[Transaction], run_blocking: RunBlocking) -> "list[Result]":
        try:
            await self._begin(run_blocking)
            results = self._run(transactions)
            await run_blocking(self._driver.commit)
        except Exception as error:  # noqa: BLE001 - the disk refuses: everybody in the batch gets it
            self._driver.rollback()
            return [(None, error) for _ in transactions]
        return results

    async def _begin(self, run_blocking: RunBlocking) -> None:
        try:
            self._driver.execute(BEGIN)
        except sqlite3.OperationalError:  # another process writes
            await run_blocking(self._begin_patiently)

    def _begin_patiently(self) -> None:
        self._driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        try:
            self._driver.execute(BEGIN)
        finally:
            self._driver.execute("PRAGMA busy_timeout = 0")

    def _run(self, transactions: list[Transaction]) -> "list[Result]":
        """Run them inside what was begun: together or, if one of them fails, one by one."""
        self._driver.execute("SAVEPOINT batch")
        try:
            results: list[Result] = [(transaction(self._open()), None) for transaction in transactions]
        except Exception as error:  # noqa: BLE001 - whatever it is, its owner gets it
            self._driver.execute("ROLLBACK TO batch")
            if len(transactions) == 1:
                return [(None, error)]
        else:
            return results
        return [result for one in transactions for result in self._run([one])]

    def _open(self) -> Connection:
        # One connection for good: fetching it from the pool costs more than a small transaction.
        self._connection = self._connection or self.engine.connect()
        return self._connection

    @property
    def _driver(self) -> Any:
        # Straight to it, because SQLAlchemy's own begin and commit cost more than a small transaction.
        return self._open().connection.dbapi_connection  # a sqlite3.Connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self.engine.dispose()


Waiting = tuple["Store", Transaction, Told, asyncio.Future[Any]]
Result = tuple[Any, BaseException | None]


def hand_over(batch: Sequence[Waiting], results: Sequence[Result]) -> None:
    """Tell what is durable now, and give each who waits what its transaction returned or raised."""
    for (store, _, told, future), (value, error) in zip(batch, results, strict=True):
        if told is not None and error is None:
            try:
                told(value)
            except Exception as failure:  # noqa: BLE001 - those behind it are told all the same
                error = failure  # noqa: PLW2901 - whoever waits gets it
        if future.done() or store.fenced:
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


class Store:
    """One node's handle on a database."""

    def __init__(self, database: Database, *, run_blocking: RunBlocking, recorder: Recorder) -> None:
        """Handles of several nodes may share a database."""
        self.run_blocking = run_blocking
        self.fenced = False
        self._database = database
        self._recorder = recorder

    async def create_tables(self, tables: MetaData) -> None:
        """Create what is missing; called before the node serves."""
        await self.run(tables.create_all)

    async def run(
        self, transaction: Callable[[Connection], T], *, told: Callable[[T], None] | None = None
    ) -> T:
        """Run a transaction and return its result once that is durable. Raises what it raises.

        `told` is called with the result at that very moment, in the order of the commits, also when this node
        died meanwhile: so a history says what the disk holds. It only records.
        """
        if self.fenced:
            raise StoreFenced
        result: T = await self._database.enqueue(self, transaction, told)
        return result

    async def rows(self, query: Executable) -> Sequence[Any]:
        """What a query finds."""
        return await self.run(lambda connection: connection.execute(query).all())

    async def execute(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Run one statement, for each of `rows` if there are any; returns how many rows it touched."""
        return await self.run(lambda connection: int(connection.execute(statement, rows).rowcount))

    def forced(self, what: str, *payments: str, facts: Mapping[str, Any] | None = None) -> None:
        """Record a write that somebody waits for because the protocol demands it."""
        self._recorder.record(Kind.FORCED_WRITE, payments=payments, detail=what, facts=facts)

    def fence(self) -> None:
        """From now on this handle writes nothing and hears nothing."""
        self.fenced = True

    async def drain(self) -> None:
        """Return once no batch that began before the fence is under way; a twin may go on writing."""
        await self._database.written()


class Databases:
    """The databases of a process, by name, in one folder or in memory."""

    def __init__(self, folder: Path | None) -> None:
        """A file is made when its database is first opened."""
        self._folder = folder
        self._open: dict[str, Database] = {}

    def open(self, name: str) -> Database:
        """The database of that name; every caller in the process shares it."""
        if name not in self._open:
            path = self._folder / f"{name}.sqlite" if self._folder else None
            self._open[name] = Database(sqlite_engine(path))
        return self._open[name]

    def close(self) -> None:
        """Close them all."""
        for database in self._open.values():
            database.close()
        self._open.clear()
