"""The disk of a node: batches in one commit, no transaction hurts another, the dead write nothing."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select, text
from sqlalchemy.exc import IntegrityError

from paylab.nodes.events import Event, Kind, Recorder
from paylab.nodes.store import Database, Databases, Store, StoreFenced, sqlite_engine

T = TypeVar("T")

TABLES = MetaData()
NOTES = Table("notes", TABLES, Column("id", Integer, primary_key=True), Column("text", String))


async def in_thread(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function)


def store_on(database: Database, run_blocking: Any = in_thread) -> Store:
    events: list[Event] = []
    recorder = Recorder("n", lambda: 0.0, events.append)
    return Store(database, run_blocking=run_blocking, recorder=recorder)


class SlowDisk:
    """Commits wait while it is held."""

    def __init__(self) -> None:
        self.began, self._free = asyncio.Event(), asyncio.Event()
        self.let_go()

    def hold(self) -> None:
        self._free.clear()
        self.began.clear()

    def let_go(self) -> None:
        self._free.set()

    async def __call__(self, function: Callable[[], T]) -> T:
        self.began.set()
        await self._free.wait()
        return await in_thread(function)


def commits(database: Database) -> list[None]:
    counted: list[None] = []
    write = database._commit

    async def commit(transactions: list[Any], run_blocking: Any) -> Any:
        counted.append(None)
        return await write(transactions, run_blocking)

    database._commit = commit  # type: ignore[method-assign] # to look on
    return counted


def note(n: int) -> Callable[[Connection], int]:
    def write(connection: Connection) -> int:
        connection.execute(insert(NOTES).values(id=n, text=f"note {n}"))
        return n

    return write


async def ids(store: Store) -> list[int]:
    return [row.id for row in await store.rows(select(NOTES.c.id).order_by(NOTES.c.id))]


def test_what_arrives_during_a_commit_shares_the_next(tmp_path: Path) -> None:
    """A hundred transactions at once take a few commits, and each gets its own result."""

    async def run() -> None:
        database = Database(sqlite_engine(tmp_path / "s.sqlite"))
        store = store_on(database)
        await store.create_tables(TABLES)
        counted = commits(database)
        assert await asyncio.gather(*(store.run(note(n)) for n in range(100))) == list(range(100))
        assert len(counted) <= 3
        assert await ids(store) == list(range(100))
        database.close()

    asyncio.run(run())


def test_one_failing_transaction_does_not_hurt_the_others() -> None:
    """The batch is rolled back and run one by one: only the one that fails raises."""

    async def run() -> None:
        store = store_on(Database(sqlite_engine(None)))
        await store.create_tables(TABLES)
        work = [note(1), note(2), note(1), note(3)]
        results = await asyncio.gather(*(store.run(each) for each in work), return_exceptions=True)
        assert [r for r in results if not isinstance(r, Exception)] == [1, 2, 3]
        assert isinstance(results[2], IntegrityError)
        assert await ids(store) == [1, 2, 3]

    asyncio.run(run())


def test_a_listener_that_fails_hurts_nobody_but_who_brought_it() -> None:
    """The others of its batch are told and get their results, and the database goes on."""

    async def run() -> None:
        store = store_on(Database(sqlite_engine(None)))
        await store.create_tables(TABLES)
        heard: list[int] = []

        def deaf(_: int) -> None:
            raise ValueError("deaf")

        told = [heard.append, deaf, heard.append]
        work = [store.run(note(n), told=listener) for n, listener in enumerate(told)]
        results = await asyncio.gather(*work, return_exceptions=True)
        assert [repr(result) for result in results] == ["0", "ValueError('deaf')", "2"]
        assert heard == [0, 2]
        assert await ids(store) == [0, 1, 2]

    asyncio.run(run())


def test_a_transaction_that_fails_halfway_leaves_nothing() -> None:
    """All or nothing, alone or in a batch."""

    async def run() -> None:
        store = store_on(Database(sqlite_engine(None)))
        await store.create_tables(TABLES)

        def half(connection: Connection) -> None:
            note(7)(connection)
            raise ValueError("halfway")

        results = await asyncio.gather(store.run(note(1)), store.run(half), return_exceptions=True)
        assert isinstance(results[1], ValueError)
        with pytest.raises(ValueError, match="halfway"):
            await store.run(half)
        assert await ids(store) == [1]

    asyncio.run(run())


def test_the_dead_write_nothing() -> None:
    """After the fence a handle refuses, and what it had waiting never reaches the disk; its twin goes on."""

    async def run() -> None:
        database = Database(sqlite_engine(None))
        disk = SlowDisk()
        dead, twin = store_on(database), store_on(database, disk)
        await twin.create_tables(TABLES)
        disk.hold()
        first = asyncio.create_task(twin.run(note(1)))
        await disk.began.wait()
        waiting = asyncio.create_task(dead.run(note(2)))
        others = asyncio.create_task(twin.run(note(3)))
        await asyncio.sleep(0)  # both are in the next batch now
        dead.fence()
        disk.let_go()
        await asyncio.gather(first, others)
        assert await ids(twin) == [1, 3]
        with pytest.raises(StoreFenced):
            await dead.run(note(4))
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())


def test_a_restart_waits_for_the_write_that_was_under_way() -> None:
    """A commit that began before the fence may still land: drain returns after it, nobody is answered."""

    async def run() -> None:
        database = Database(sqlite_engine(None))
        disk = SlowDisk()
        dead = store_on(database, disk)
        await dead.create_tables(TABLES)
        disk.hold()
        answered = asyncio.create_task(dead.run(note(1)))
        await disk.began.wait()
        dead.fence()
        drained = asyncio.create_task(dead.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        disk.let_go()
        await drained
        with pytest.raises(asyncio.CancelledError):
            await answered
        assert await ids(store_on(database)) == [1]

    asyncio.run(run())


def test_a_crash_does_not_wait_for_a_busy_twin() -> None:
    """Drain waits for what the dead node began, not for the end of its twin's work."""

    async def run() -> None:
        database = Database(sqlite_engine(None))
        dead, twin = store_on(database), store_on(database)
        await twin.create_tables(TABLES)
        stop = asyncio.Event()

        async def busy(start: int) -> None:
            n = start
            while not stop.is_set():
                await twin.run(note(n))
                n += 2

        load = [asyncio.create_task(busy(start)) for start in (0, 1)]
        await twin.run(lambda connection: connection.execute(text("SELECT 1")).all())
        dead.fence()
        async with asyncio.timeout(10):
            await dead.drain()
        stop.set()
        await asyncio.gather(*load)

    asyncio.run(run())


def test_files_outlive_the_process(tmp_path: Path) -> None:
    """A second opening of the folder finds what the first one wrote, in WAL with full synchronous."""

    async def write() -> list[Any]:
        databases = Databases(tmp_path)
        store = store_on(databases.open("notes"))
        await store.create_tables(TABLES)
        await store.run(note(1))
        pragmas = [
            await store.run(lambda c, name=name: c.execute(text(f"PRAGMA {name}")).scalar())  # type: ignore[misc] # mypy cannot infer a lambda with a default
            for name in ("journal_mode", "synchronous")
        ]
        databases.close()
        return pragmas

    async def read() -> list[int]:
        databases = Databases(tmp_path)
        found = await ids(store_on(databases.open("notes")))
        databases.close()
        return found

    assert asyncio.run(write()) == ["wal", 2]
    assert asyncio.run(read()) == [1]


def test_told_hears_what_is_durable_in_order() -> None:
    """The recorder of a history hears of each commit as it happens, also of a node that died meanwhile."""

    async def run() -> None:
        database = Database(sqlite_engine(None))
        store = store_on(database)
        await store.create_tables(TABLES)
        heard: list[int] = []
        await asyncio.gather(
            *(store.run(note(n), told=heard.append) for n in (1, 2, 2, 3)), return_exceptions=True
        )
        assert heard == [1, 2, 3]

    asyncio.run(run())


def test_a_forced_write_is_recorded() -> None:
    """The history shows it as an event of its node."""
    events: list[Event] = []

    database = Database(sqlite_engine(None))
    store = Store(database, run_blocking=in_thread, recorder=Recorder("n", lambda: 1.0, events.append))
    store.forced("COMMIT p/1", "p")
    assert [(e.kind, e.node, e.payments, e.detail) for e in events] == [
        (Kind.FORCED_WRITE, "n", ("p",), "COMMIT p/1")
    ]


def test_another_process_that_writes_is_waited_for_off_the_loop(tmp_path: Path) -> None:
    """Two processes may have one database: who finds it locked waits, and its event loop goes on."""

    async def run() -> None:
        path = tmp_path / "shared.sqlite"
        database = Database(sqlite_engine(path))
        store = store_on(database)
        await store.create_tables(TABLES)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO notes (id, text) VALUES (1, 'theirs')")
            mine = asyncio.create_task(store.run(note(2)))
            async with asyncio.timeout(5):  # a loop that waits for the lock itself is late
                for _ in range(100):
                    await asyncio.sleep(0.001)
            assert not mine.done()
            other.execute("COMMIT")
        assert await mine == 2
        assert await ids(store) == [1, 2]
        database.close()

    asyncio.run(run())


def test_a_disk_that_refuses_is_an_error_for_everybody_in_the_batch() -> None:
    """A commit that fails leaves nothing, its owners get the error, and the next batch goes through."""

    async def run() -> None:
        full = False

        async def disk(function: Callable[[], T]) -> T:
            if full:
                raise OSError("the disk is full")
            return function()

        store = store_on(Database(sqlite_engine(None)), disk)
        await store.create_tables(TABLES)
        full = True
        results = await asyncio.gather(*(store.run(note(n)) for n in (1, 2)), return_exceptions=True)
        assert [str(result) for result in results] == ["the disk is full"] * 2
        full = False
        assert await ids(store) == []
        assert await store.run(note(3)) == 3

    asyncio.run(run())
