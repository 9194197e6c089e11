"""Time stands still unless somebody waits, and events happen in one order only."""

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from paylab.errors import LabError
from paylab.lab.durations import seconds
from paylab.lab.simulation.virtual_thread import VirtualThread
from paylab.lab.simulation.virtual_time import DAEMON, OWNER


@pytest.fixture
def thread() -> Iterator[VirtualThread]:
    made = VirtualThread("test")
    yield made
    made.close()
    assert not made.loop.failures


def test_an_hour_takes_no_time(thread: VirtualThread) -> None:
    """Sleeping moves the virtual clock and hardly the real one."""
    began_s = time.monotonic()
    thread.call(asyncio.sleep(3600))
    assert thread.loop.time() == 3600.0
    assert time.monotonic() - began_s < 5


def test_time_stands_still_between_calls(thread: VirtualThread) -> None:
    """A task that sleeps on its own does not move while nobody waits, and does while somebody does."""
    woken = []

    async def ticking() -> None:
        while True:
            await asyncio.sleep(1)
            woken.append(thread.loop.time())

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(ticking())

    task = thread.call(start())
    time.sleep(0.05)
    assert woken == []
    thread.call(asyncio.sleep(3.5))
    assert woken == [1.0, 2.0, 3.0]
    thread.aside(task.cancel)


def test_events_of_a_moment_keep_their_order(thread: VirtualThread) -> None:
    """Timers for the same moment fire in the order in which they were set."""
    fired: list[int] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        for n in range(100):
            loop.call_at(1.0, fired.append, n)
        await asyncio.sleep(2)

    thread.call(body())
    assert fired == list(range(100))


def test_cancelled_timers_do_not_pile_up(thread: VirtualThread) -> None:
    """Deadlines that were met are thrown out long before they would come."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10_000):
            loop.call_later(1e6, print).cancel()

    thread.call(body())
    assert len(thread.loop._events) < 2_000


def test_submitted_work_runs_in_order_once_somebody_waits(thread: VirtualThread) -> None:
    """Nothing of it happens before; then all of it begins at the same moment."""
    log: list[tuple[str, float]] = []

    async def work(name: str) -> str:
        log.append((name, thread.loop.time()))
        await asyncio.sleep(1)
        log.append((name, thread.loop.time()))
        return name

    futures = [thread.submit(work(name)) for name in "abc"]
    time.sleep(0.05)
    assert log == []
    assert futures[2].result() == "c"
    assert log == [("a", 0.0), ("b", 0.0), ("c", 0.0), ("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert [future.result() for future in futures] == ["a", "b", "c"]


def test_a_future_can_be_awaited_on_another_loop(thread: VirtualThread) -> None:
    """A kernel's own loop gets the result."""

    async def work() -> int:
        await asyncio.sleep(100)
        return 7

    async def cell() -> int:
        return await thread.submit(work())

    assert asyncio.run(cell()) == 7


def test_errors_reach_whoever_waits(thread: VirtualThread) -> None:
    """What the work raises is raised; cancelled work says so."""

    async def broken() -> None:
        raise ValueError("oh")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ValueError, match="oh"):
        thread.call(broken())
    with pytest.raises(concurrent.futures.CancelledError):
        thread.call(cancelled())


def test_deadlock_says_where_it_waits(thread: VirtualThread) -> None:
    """Work that waits for what cannot come fails at once, and names the line."""

    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    with pytest.raises(LabError, match=r"DEADLOCK.*nothing is left.*wait"):
        thread.call(wait_for_nothing())


def test_heartbeats_do_not_hide_a_deadlock(thread: VirtualThread) -> None:
    """Daemons alone keep a call waiting for ten virtual minutes, not for ever."""

    async def beat() -> None:
        while True:  # noqa: ASYNC110 - it waits for nothing
            await asyncio.sleep(1)

    async def start() -> asyncio.Task[None]:
        context = contextvars.Context()
        context.run(DAEMON.set, True)  # noqa: FBT003 - the variable is one of yes and no
        return asyncio.get_running_loop().create_task(beat(), context=context)

    daemon = thread.call(start())
    with pytest.raises(LabError, match=r"DEADLOCK.*only heartbeats"):
        thread.call(asyncio.Event().wait())
    assert thread.loop.time() < 1_000
    thread.call(asyncio.sleep(10_000))  # a call with a timer of its own is no deadlock
    thread.aside(daemon.cancel)


def test_frozen_owner_runs_no_line(thread: VirtualThread) -> None:
    """What belongs to a frozen owner waits, and goes on in order when it thaws."""

    class Node:
        frozen: list[asyncio.Handle] | None = None

    node, log = Node(), list[float]()

    async def work() -> None:
        while True:
            await asyncio.sleep(1)
            log.append(thread.loop.time())

    async def start() -> asyncio.Task[None]:
        context = contextvars.Context()
        context.run(OWNER.set, node)
        return asyncio.get_running_loop().create_task(work(), context=context)

    task = thread.call(start())
    thread.call(asyncio.sleep(1.5))
    thread.aside(lambda: thread.loop.freeze(node))
    thread.call(asyncio.sleep(3))
    assert log == [1.0]
    thread.aside(lambda: thread.loop.thaw(node))
    thread.call(asyncio.sleep(1.2))
    assert log == [1.0, 4.5, 5.5]
    thread.aside(task.cancel)


def test_threads_run_inline(thread: VirtualThread) -> None:
    """What would go to a thread runs at once, on the loop's own."""

    async def body() -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert thread.call(body()) == "paylab test"


def test_blocking_face_on_the_loop_raises(thread: VirtualThread) -> None:
    """It would wait for itself."""

    async def body() -> None:
        thread.call(asyncio.sleep(1))

    with pytest.raises(LabError, match="WOULD_DEADLOCK"):
        thread.call(body())


def test_wall_clock_limits_a_call(thread: VirtualThread) -> None:
    """Work that keeps the loop busy for ever is given up after the limit."""

    async def busy() -> None:
        while True:  # noqa: ASYNC110 - it waits for nothing
            await asyncio.sleep(1)

    with pytest.raises(LabError, match="TIMEOUT"):
        thread.call(busy(), timeout_s=0.1)


def test_garbage_collection_causes_nothing(thread: VirtualThread) -> None:
    """An async generator that nobody finished is kept, not closed at a moment that memory decides."""
    closed = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def body() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1)

    thread.call(body())
    assert closed == []

    async def close() -> None:
        for generator in thread.loop.abandon():
            await generator.aclose()

    thread.call(close())
    assert closed == [True]


@pytest.mark.parametrize(
    ("text", "expected"), [("3 h", 10_800.0), ("20 ms", 0.02), ("1.5min", 90.0), (2, 2.0), ("1 d", 86_400.0)]
)
def test_durations(text: float | str, expected: float) -> None:
    """Seconds, or a number and a unit."""
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "3", "3 weeks", "-1 s", -1])
def test_bad_durations(text: float | str) -> None:
    """Anything else is refused."""
    with pytest.raises(LabError, match="BAD_ARGUMENT"):
        seconds(text)
