"""The thread in which a virtual loop lives. Time moves only while somebody waits for a call or a future."""

import asyncio
import concurrent.futures
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from paylab.errors import LabError
from paylab.lab.loop import CALL_TIMEOUT_S, CLOSED, LabFuture, tune_interpreter
from paylab.lab.simulation.virtual_time import LOOK_EVERY_NS, NS_PER_S, VirtualLoop

T = TypeVar("T")

# A call for which nothing but heartbeats has happened for this long will never return.
PATIENCE_S = 600.0


class WaitedFuture(LabFuture[T]):
    """A result to come. Asking for it is waiting for it, and lets time move until it is there."""

    def __init__(self, wait: Callable[[], None]) -> None:
        """`wait` is called whenever somebody begins to wait."""
        super().__init__()
        self._wait = wait

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, `timeout` seconds of the wall clock at most."""
        self._wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end."""
        self._wait()
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call `fn` at the end; that is waiting, too."""
        self._wait()
        super().add_done_callback(fn)


@dataclass(slots=True, eq=False)
class Job:
    """Work that another thread gave us."""

    future: WaitedFuture[Any]
    task: asyncio.Task[Any] | None = None
    error: BaseException | None = None

    def cancel(self) -> None:
        """End the work early."""
        if self.task is not None:
            self.task.cancel()

    def hand_over(self) -> None:
        """Give the result to whoever waits."""
        assert self.task is not None
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        elif self.task.cancelled():
            self.future.set_exception(concurrent.futures.CancelledError())
        elif (error := self.task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.task.result())


class VirtualThread:
    """Runs coroutines on a virtual loop for every other thread; has the face of `LoopThread`."""

    def __init__(self, name: str) -> None:
        """Start the loop; its clock stands still."""
        tune_interpreter()
        self.loop = VirtualLoop()
        self.loop.attend = self._attend
        self.loop.idle = self._idle
        self.loop.look = self._look
        # Says what the nodes wait for, for the message about a deadlock.
        self.describe: Callable[[], list[str]] = list
        self._arrived = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._waited: dict[Job, None] = {}
        self._ended: list[Job] = []
        self._only_daemons = 0
        self._thread = threading.Thread(target=self._run, name=f"paylab {name}", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> WaitedFuture[T]:
        """Start work; it moves on while anybody waits for its future or for anything else."""
        return self._submit(work).future

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run work and wait for it, `timeout_s` of the wall clock at most.

        Raises LabError from the loop's own thread, after `timeout_s`, and when the work waits for something
        that cannot happen any more.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise LabError("WOULD_DEADLOCK", "the blocking face was called from the lab's own event loop")
        job = self._submit(work)
        try:
            return job.future.result(timeout_s)  # type: ignore[no-any-return] # a job is of any type
        except concurrent.futures.TimeoutError:
            if job.future.done():
                raise  # the work itself timed out
            raise LabError("TIMEOUT", f"no result within {timeout_s:.0f} s") from None
        finally:
            if not job.future.done():
                self._post(job.cancel)  # an interrupted cell leaves nothing running

    def aside(self, function: Callable[[], T]) -> T:
        """Call a function between two callbacks of the loop, from any thread; time does not move for it."""
        if threading.current_thread() is self._thread:
            return function()
        result: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                result.set_exception(error)

        self._post(run)
        return result.result(CALL_TIMEOUT_S)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call a function as `aside` does, after `delay_s` of the wall clock, without waiting for it."""
        timer = threading.Timer(delay_s, self._post, (callback,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Stop the loop and join its thread."""
        if not self.loop.is_closed():
            self._post(self.loop.stop)
            self._thread.join()
            self.loop.close()

    # On the loop's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - the simulator itself is broken: say so to all who wait
            for job in self._waited:
                if not job.future.done():
                    job.future.set_exception(error)

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Job:
        if self.loop.is_closed():
            work.close()
            raise LabError("CLOSED", CLOSED)
        job = Job(WaitedFuture(lambda: self._post(lambda: self._wait_for(job))))
        self._post(lambda: self._start(job, work))

        def ended(future: concurrent.futures.Future[Any]) -> None:
            if future.cancelled():
                self._post(job.cancel)

        super(WaitedFuture, job.future).add_done_callback(ended)  # this is no waiting
        return job

    def _post(self, function: Callable[[], None]) -> None:
        with self._arrived:
            self._inbox.append(function)
            self.loop.attention = True
            self._arrived.notify()

    def _start(self, job: Job, work: Coroutine[Any, Any, Any]) -> None:
        job.task = self.loop.create_task(work)
        job.task.add_done_callback(lambda _: self._end(job))

    def _wait_for(self, job: Job) -> None:
        if not job.future.done():
            self._waited[job] = None
            self._only_daemons = 0

    def _end(self, job: Job) -> None:
        self._ended.append(job)
        self.loop.attention = True

    def _attend(self) -> None:
        """Hand results over, take new work in, and stand still while nobody waits."""
        while True:
            ended, self._ended = self._ended, []
            for job in ended:
                self._waited.pop(job, None)
                job.hand_over()
            with self._arrived:
                while not (self._inbox or self._waited or self.loop.stopping):
                    self._arrived.wait()
                if not self._inbox:
                    self.loop.attention = False
                    return
                function = self._inbox.popleft()
            function()

    # Deadlock -----------------------------------------------------------------------------------

    def _idle(self) -> None:
        self._give_up("nothing is left that could happen")

    def _look(self, daemons_alone: bool) -> None:  # noqa: FBT001 - the loop's callback
        self._only_daemons = self._only_daemons + 1 if daemons_alone else 0
        if self._only_daemons * LOOK_EVERY_NS >= PATIENCE_S * NS_PER_S:
            self._give_up(f"only heartbeats have happened for {PATIENCE_S:.0f} s of virtual time")

    def _give_up(self, why: str) -> None:
        """Fail every job that is waited for; a second time, even one that clings to life."""
        self._only_daemons = 0
        for job in list(self._waited):
            assert job.task is not None
            if job.error is not None:
                self._end(job)
                continue
            lines = [f"a call waits at {where(job.task)}", *self.describe()]
            job.error = LabError("DEADLOCK", f"{why}: " + "; ".join(lines))
            job.cancel()


def where(task: asyncio.Task[Any]) -> str:
    """The innermost line of ours at which a task waits."""
    waiting: Any = task.get_coro()
    place = "its start"
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            entry = traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            name = "/".join(entry.filename.replace("\\", "/").split("/")[-2:])
            place = f"{name}:{entry.lineno} in {entry.name}"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return place
