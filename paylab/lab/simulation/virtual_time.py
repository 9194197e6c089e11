"""An event loop with a virtual clock: an event happens, then everything that it causes, then the next event.

Nothing ever waits for real. Moments are whole nanoseconds and events of the same moment happen in the order
in which they were scheduled, so a run is the same run every time. What belongs to a node that is paused or
dead is set aside instead of run, so not a single line of such a node is executed.
"""

# ruff: noqa: SLF001 - this is an event loop, and asyncio's handles have no public face for one

import asyncio
import heapq
from asyncio import Handle, TimerHandle
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

NS_PER_S = 1_000_000_000
# Timers that were cancelled are thrown out when they are this many and more than half of all.
CANCELLED_MAX = 512
# How often it is asked whether anything but daemons has something to do.
LOOK_EVERY_NS = 60 * NS_PER_S


class Owner(Protocol):
    """What a callback can belong to. While `frozen` is a list, the owner's callbacks are collected there."""

    frozen: list[Handle] | None


# Whose code is running; nobody's is never frozen. Tasks and callbacks inherit it.
OWNER: ContextVar[Owner | None] = ContextVar("paylab_owner", default=None)
# Whether the running code is a daemon's, whose timers alone keep nothing going.
DAEMON: ContextVar[bool] = ContextVar("paylab_daemon", default=False)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in a fixed order and jumps from event to event.

    An event is a timer of asyncio's, or a plain function that `at_ns` or `after_ns` scheduled for the world
    itself; the latter costs less and belongs to nobody.
    """

    _ready: Any
    _stopping: bool

    def __init__(self) -> None:
        """The clock starts at zero."""
        super().__init__()
        self.now_ns = 0
        # Somebody wants a word between two callbacks: `attend` is called.
        self.attention = True
        self.attend: Callable[[], None] = lambda: None
        # Nothing is left that could happen.
        self.idle: Callable[[], None] = self.stop
        # A minute has passed; the argument says whether daemons alone have something to do.
        self.look: Callable[[bool], None] = lambda _: None
        # How many owners are frozen now.
        self.frozen_owners = 0
        self.failures: list[BaseException] = []
        self._events: list[tuple[int, int, Callable[[Any], None] | None, Any]] = []
        self._scheduled_count = 0
        self._cancelled_count = 0
        self._look_at_ns = LOOK_EVERY_NS
        self._abandoned: list[Any] = []

    # The clock ----------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now_ns / NS_PER_S

    def at_ns(self, when_ns: int, function: Callable[[Any], None], argument: Any) -> None:
        """Call a function of the world's own at a moment that has not passed."""
        self._scheduled_count += 1
        heapq.heappush(self._events, (when_ns, self._scheduled_count, function, argument))

    def after_ns(self, delay_ns: int, function: Callable[[Any], None], argument: Any) -> None:
        """Call a function of the world's own after a delay."""
        self._scheduled_count += 1
        heapq.heappush(self._events, (self.now_ns + delay_ns, self._scheduled_count, function, argument))

    def call_at(  # type: ignore[override] # the type is made for every argument list
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> TimerHandle:
        """Schedule a callback, as asyncio does."""
        timer = TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined] # so that cancel() tells us
        self._scheduled_count += 1
        when_ns = max(round(when * NS_PER_S), self.now_ns)
        heapq.heappush(self._events, (when_ns, self._scheduled_count, None, timer))
        return timer

    def call_soon(  # type: ignore[override] # the type is made for every argument list
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Handle:
        """Run a callback at this moment, after those that wait already."""
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _timer_handle_cancelled(self, _handle: TimerHandle) -> None:
        self._cancelled_count += 1
        if self._cancelled_count > CANCELLED_MAX and 2 * self._cancelled_count > len(self._events):
            self._events = [event for event in self._events if event[2] or not event[3]._cancelled]
            heapq.heapify(self._events)
            self._cancelled_count = 0

    # Running ------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        # All there is in one go: to be called for every event costs as much as an event of the world's does.
        ready = self._ready
        while True:
            if self.attention:
                self.attend()
            if self._stopping:
                return
            if not ready:
                self._happen()
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not (handle._cancelled or (self.frozen_owners and self._set_aside(handle))):
                    handle._run()

    def _happen(self) -> None:
        """Let the next event happen."""
        while self._events:
            when_ns, _, function, argument = heapq.heappop(self._events)
            if function is None:
                if argument._cancelled:
                    self._cancelled_count -= 1
                    continue
                argument._scheduled = False
            if when_ns >= self._look_at_ns:
                self._look_at_ns = when_ns + LOOK_EVERY_NS
                self.look(self._daemons_alone(argument))
            self.now_ns = when_ns
            if function is None:
                self._ready.append(argument)
            else:
                function(argument)
            return
        self.idle()

    def _daemons_alone(self, argument: Any) -> bool:
        return _is_daemons(argument) and all(_is_daemons(event[3]) for event in self._events)

    def _set_aside(self, handle: Handle) -> bool:
        owner: Owner | None = handle._context.get(OWNER)  # type: ignore[attr-defined] # no stub
        if owner is None or owner.frozen is None:
            return False
        owner.frozen.append(handle)
        return True

    def thaw(self, owner: Owner) -> None:
        """Run what was set aside, in the order in which it would have run."""
        if owner.frozen is not None:
            self._ready.extend(owner.frozen)
            owner.frozen = None
            self.frozen_owners -= 1

    def freeze(self, owner: Owner) -> None:
        """Run nothing of an owner's from now on."""
        if owner.frozen is None:
            owner.frozen = []
            self.frozen_owners += 1

    # What asyncio asks of a loop ----------------------------------------------------------------

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override] # the type is made for every argument list
        """Run it at once: there are no threads in a virtual world."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits gets it
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what a callback raised, for the world to report."""
        message, error = str(context.get("message")), context.get("exception")
        # Whether nobody wanted a result is found out by the garbage collector, at any time.
        if "never retrieved" not in message:
            self.failures.append(error if error is not None else RuntimeError(message))

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def abandon(self) -> list[Any]:
        """Async generators that nobody finished, to be closed when the world ends."""
        abandoned, self._abandoned = self._abandoned, []
        return abandoned

    def _asyncgen_finalizer_hook(self, generator: Any) -> None:
        # When the garbage collector comes by is not part of the run, so it may cause nothing in it.
        self._asyncgens.discard(generator)  # type: ignore[attr-defined] # no stub
        self._abandoned.append(generator)

    def _process_events(self, event_list: Any) -> None:
        """There is no input and output."""

    def _write_to_self(self) -> None:
        """Nothing sleeps in a system call."""


def _is_daemons(item: Any) -> bool:
    """Whether an event is a cancelled timer, or was scheduled by a daemon."""
    if isinstance(item, TimerHandle):
        return item._cancelled or bool(item._context.get(DAEMON, False))  # type: ignore[attr-defined] # no stub
    return bool(getattr(item, "daemon", False))
