"""Messages on their way between two simulated nodes: one at a time and in order, as on one HTTP/2 stream."""

from asyncio import Future
from collections import deque
from collections.abc import Callable
from typing import Any

from paylab.lab.simulation.sim_network import MEDIAN_NS, Link
from paylab.lab.simulation.virtual_time import VirtualLoop

# A sender waits while this many of its messages have not been read.
WINDOW = 32


class Wire:
    """Carries things one way; what was sent first arrives first, and after a loss nothing more arrives."""

    __slots__ = ("_last_ns", "_link", "_loop", "_reply", "broken")

    def __init__(self, loop: VirtualLoop, link: Link, *, reply: bool) -> None:
        """`reply` says whether the link's loss of replies applies, or its loss of requests."""
        self._loop = loop
        self._link = link
        self._reply = reply
        self._last_ns = 0
        self.broken = False

    def send(self, function: Callable[[Any], None], argument: Any) -> None:
        """Call a function when the message arrives."""
        delay_ns = None if self.broken else self._link.transit_ns(reply=self._reply)
        if delay_ns is None:
            self.broken = True
            return
        self._last_ns = max(self._last_ns, self._loop.now_ns + delay_ns)
        self._loop.at_ns(self._last_ns, function, argument)


class Stream:
    """The messages of one direction of a streaming call."""

    __slots__ = ("_arrived", "_loop", "_reader", "_unread", "_writers", "daemon", "ended", "wire")

    def __init__(self, loop: VirtualLoop, wire: Wire, *, daemon: bool) -> None:
        """Nothing sent yet; `daemon` says whether the call is one of a daemon's."""
        self.wire = wire
        self.daemon = daemon
        # Nothing more will arrive.
        self.ended = False
        self._loop = loop
        self._arrived: deque[bytes] = deque()
        self._unread = 0
        self._reader: Future[None] | None = None
        self._writers: deque[Future[None]] = deque()

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the other side does not read."""
        while self._unread >= WINDOW and not self.ended:
            self._writers.append(self._loop.create_future())
            await self._writers[-1]
        self._unread += 1
        self.wire.send(self._arrive, message)

    def close(self) -> None:
        """Say that nothing more is sent."""
        self.wire.send(self.end, None)

    async def receive(self) -> bytes | None:
        """The next message; None when there is no other."""
        while not self._arrived:
            if self.ended:
                return None
            self._reader = self._loop.create_future()
            await self._reader
        # The sender learns that there is room again when word of it has travelled back.
        self._loop.after_ns(MEDIAN_NS, self._make_room, None)
        return self._arrived.popleft()

    def end(self, _nothing: object = None) -> None:
        """Let nobody wait any more."""
        self.ended = True
        self._wake()
        while self._writers:
            _wake(self._writers.popleft())

    def _arrive(self, message: bytes) -> None:
        if not self.ended:
            self._arrived.append(message)
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            _wake(self._reader)
            self._reader = None

    def _make_room(self, _nothing: object) -> None:
        self._unread -= 1
        if self._writers:
            _wake(self._writers.popleft())


def _wake(future: "Future[None]") -> None:
    if not future.done():
        future.set_result(None)
