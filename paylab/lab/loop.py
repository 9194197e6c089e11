"""The one event loop that owns every aio object, in a daemon thread of its own."""

import asyncio
import concurrent.futures
import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from paylab.errors import LabError

T = TypeVar("T")

CALL_TIMEOUT_S = 120.0
CLOSED = "this lab is closed: boot another"
# SQLite gives the interpreter away at every statement and waits this long to get it back from a busy loop;
# Python's default of 5 ms makes a commit of 5 ms last 40.
SWITCH_INTERVAL_S = 0.0005
# A history is a hundred thousand objects that stay, and hardly anything here is a cycle: with Python's
# default of 700 new objects, a seventh of the processor's time goes into looking for some.
GC_THRESHOLD = (20_000, 20, 10)


def tune_interpreter() -> None:
    """Set what is the whole process's for a loop among threads and a long history."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if 0 < gc.get_threshold()[0] < GC_THRESHOLD[0]:
        gc.set_threshold(*GC_THRESHOLD)


class LabFuture(concurrent.futures.Future[T], Generic[T]):
    """A result to come: `result()` blocks, `await` works on any event loop, and `cancel()` ends the work."""

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking the loop that awaits."""
        return asyncio.wrap_future(self).__await__()


class LoopThread:
    """Runs coroutines for every other thread: cells, widget callbacks, tests."""

    def __init__(self, name: str) -> None:
        """Start the loop."""
        tune_interpreter()
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"paylab {name}", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> LabFuture[T]:
        """Start work on the loop; from any thread. Raises LabError once the lab is closed."""
        self._check_open(work)
        future: LabFuture[T] = LabFuture()

        def start() -> None:
            task = self._loop.create_task(work)
            task.add_done_callback(lambda task: _hand_over(task, future))
            future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(task.cancel))

        self._loop.call_soon_threadsafe(start)
        return future

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run work on the loop and wait.

        Raises LabError from the loop's own thread, after `timeout_s`, and once the lab is closed.
        """
        self._check_open(work)
        if threading.current_thread() is self._thread:
            work.close()
            raise LabError("WOULD_DEADLOCK", "the blocking face was called from the lab's own event loop")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # the work itself timed out
            raise LabError("TIMEOUT", f"no result within {timeout_s:.0f} s") from None
        finally:
            future.cancel()  # an interrupted cell leaves nothing running

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop after `delay_s`; from any thread. Raises LabError once it is closed."""
        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, callback)
        except RuntimeError:
            raise LabError("CLOSED", CLOSED) from None

    @property
    def closed(self) -> bool:
        """Whether the loop has been closed."""
        return self._loop.is_closed()

    def _check_open(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._loop.is_closed():
            work.close()
            raise LabError("CLOSED", CLOSED)

    def close(self) -> None:
        """Cancel what is left, so that nobody waits for ever; stop the loop and join its thread."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _hand_over(task: "asyncio.Task[T]", future: "LabFuture[T]") -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
        if task.cancelled():
            future.set_exception(concurrent.futures.CancelledError())
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The faster uvloop where it exists, which is not on Windows."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
