"""The simulated disk: real SQLite in memory, in virtual time; it keeps what was committed, nothing else."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection

from paylab.lab.faulty_world import CommitPoint
from paylab.lab.simulation.choices import Choices, Lane
from paylab.nodes.store import (
    BEGIN,
    Database,
    Databases,
    Result,
    Store,
    Told,
    Transaction,
    Waiting,
    hand_over,
    sqlite_engine,
)

if TYPE_CHECKING:  # the host makes its stores, so at run time the import goes the other way
    from paylab.lab.simulation.sim_host import SimHost

T = TypeVar("T")

# What a forced write takes: a solid-state disk that tells the truth.
COMMIT_LEAST_US = 300
COMMIT_MOST_US = 1_000
# A node that dies after a commit has this long to say so.
LAST_WORDS_US = 2_000
NS_PER_US = 1_000


class SimDatabase(Database):
    """Commits a batch at once, and then lets the time pass that it takes.

    What does so belongs to no node, so it outlives whoever happened to wake it.
    """

    def __init__(self, lane: Lane) -> None:
        """`lane` chooses how long commits take."""
        super().__init__(sqlite_engine(None))
        self._lane = lane
        self._writing = False
        # What runs in it is no node's. Worlds live in threads, and two of those cannot be in one context.
        self._nobodys = Context()

    def enqueue(self, store: Store, transaction: Transaction, told: Told = None) -> asyncio.Future[Any]:
        """Put a transaction into the next batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((store, transaction, told, future))
        if not self._writing:
            self._writing = True
            loop.call_soon(self._start, context=self._nobodys)
        return future

    def _start(self) -> None:
        loop: Any = asyncio.get_running_loop()  # a VirtualLoop
        batch = self._next_batch()
        self._driver.execute(BEGIN)
        results = self._run([transaction for _, transaction, _, _ in batch])
        self._driver.commit()
        duration_us = COMMIT_LEAST_US + self._lane.below(COMMIT_MOST_US - COMMIT_LEAST_US)
        loop.after_ns(duration_us * NS_PER_US, self._finish, (batch, results))

    def _finish(self, written: tuple[list[Waiting], list[Result]]) -> None:
        hand_over(*written)
        self._writing = bool(self._waiting)
        if self._writing:
            self._start()


class SimDatabases(Databases):
    """The databases of one simulated world, in memory; they outlive every node."""

    def __init__(self, choices: Choices) -> None:
        """Empty; `choices` has a lane for each."""
        super().__init__(None)
        self._choices = choices

    def open(self, name: str) -> Database:
        """The database of that name; every node of the world shares it."""
        if name not in self._open:
            self._open[name] = SimDatabase(self._choices.lane("disk", name))
        return self._open[name]

    def rows(self, name: str, query: str) -> list[tuple[Any, ...]]:
        """Read past the nodes' code; empty when there is no such database."""
        return list(self._execute(name, query).fetchall()) if name in self._open else []

    def write(self, name: str, statement: str, *values: Any) -> int:
        """Change past the nodes' code; returns how many rows changed."""
        return int(self._execute(name, statement, *values).rowcount)

    def _execute(self, name: str, statement: str, *values: Any) -> Any:
        connection = self._open[name].engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(statement, values)
            return cursor
        finally:
            connection.close()


class SimStore(Store):
    """One node's handle on a database, and the place where the node may die."""

    def __init__(self, database: Database, *, host: "SimHost") -> None:
        """Handles of several nodes may share a database."""
        super().__init__(database, run_blocking=host.run_blocking, recorder=host.recorder)
        self._host = host

    async def run(
        self, transaction: Callable[[Connection], T], *, told: Callable[[T], None] | None = None
    ) -> T:
        """Run a transaction and return its result once that is durable. Raises what it raises."""
        armed, host = self._host.crash_point, self._host
        if armed is None and host.steps is None:
            return await super().run(transaction, told=told)
        wrote = False

        def watched(connection: Connection) -> T:
            nonlocal wrote
            if self.fenced:
                raise NodeDied  # it died in this very batch
            before = _changes(connection)
            result = transaction(connection)
            wrote = _changes(connection) > before
            if wrote and armed and armed.point is CommitPoint.BEFORE and armed.reached():
                host.die_of(armed)
                raise NodeDied
            if host.steps and host.step("before a write" if wrote else "before a read"):
                raise NodeDied
            return result

        result = await super().run(watched, told=told)
        if wrote and armed and armed.point is not CommitPoint.BEFORE and armed.reached():
            if armed.point is CommitPoint.UNANSWERED:
                host.die_of(armed)
                await asyncio.sleep(0)  # from which a dead node's code never comes back
            else:
                host.die_soon_of(armed)
        if host.steps and host.step("after a write" if wrote else "after a read"):
            await asyncio.sleep(0)  # the same
        return result


class NodeDied(Exception):
    """Takes a transaction back because its node has died in it."""


def _changes(connection: Connection) -> int:
    raw: Any = connection.connection.dbapi_connection  # a sqlite3.Connection
    return int(raw.total_changes)
