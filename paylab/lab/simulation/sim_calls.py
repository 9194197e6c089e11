"""The caller's side of a simulated RPC: call objects that behave as those of grpc.aio do.

Only bytes, metadata, a status and cancellation cross to the other node, each in the time that the link takes.
"""

import asyncio
from asyncio import CancelledError, Future
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import EOF, AioRpcError, Metadata

from paylab.lab.simulation.sim_streams import Stream, Wire
from paylab.lab.simulation.virtual_time import DAEMON, NS_PER_S

if TYPE_CHECKING:  # the channel makes its calls, so at run time the import goes the other way
    from paylab.lab.simulation.sim_channel import Method

OK = grpc.StatusCode.OK
CANCELLED = grpc.StatusCode.CANCELLED
LOCAL_CANCELLATION = "Locally cancelled by application!"


class SimCall:
    """One RPC as its caller sees it, whatever it sends and gets."""

    __slots__ = (
        "_callbacks",
        "_code",
        "_details",
        "_initial",
        "_local",
        "_payload",
        "_response",
        "_trailing",
        "_waiters",
        "daemon",
        "deadline_ns",
        "host",
        "message",
        "metadata",
        "method",
        "requests",
        "responses",
        "revoked",
        "sent_ns",
        "served",
    )

    def __init__(self, method: "Method", request: Any, timeout: float | None, metadata: Any) -> None:
        """Send it at once; a stream of requests is sent as it comes."""
        self.method = method
        self.host = host = method.host
        self.daemon = DAEMON.get()
        self.metadata: tuple[tuple[str, Any], ...] = tuple(metadata) if metadata else ()
        self.message = b""
        self.requests: Stream | None = None
        self.responses: Stream | None = None
        # The other side's object, once the call has arrived there; only the network uses it.
        self.served: Any = None
        # Word of the caller's cancellation was faster than the call itself.
        self.revoked = False
        self.sent_ns = host.world.loop.now_ns
        self.deadline_ns: int | None = None
        if timeout is not None:
            self.deadline_ns = self.sent_ns + max(0, round(timeout * NS_PER_S))
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._initial: tuple[tuple[str, Any], ...] = ()
        self._trailing: tuple[tuple[str, Any], ...] = ()
        self._payload: bytes | None = None
        self._response: Any = None
        self._local = False
        self._waiters: list[Future[None]] = []
        self._callbacks: list[Callable[[Any], None]] = []
        if host.dead or host.step(f"before {method.name}"):
            return  # nothing leaves a dead node, and nothing comes back
        if request is not None:
            self.message = method.serialize(request)
        host.calls[self] = None
        if self.deadline_ns is not None:
            host.world.deadlines.add(self)
        self._send()
        host.step(f"sent {method.name}")

    def _send(self) -> None:
        host, link = self.host, self.method.out
        loop = host.world.loop
        delay_ns = link.transit_ns()
        if delay_ns is not None:
            loop.after_ns(delay_ns, host.world.arrive, self)
        if not link.calm and link.duplicates() and (again_ns := link.transit_ns()) is not None:
            loop.after_ns(again_ns, host.world.arrive, self)

    # What arrives -------------------------------------------------------------------------------

    def answer(self, status: tuple[grpc.StatusCode, str, Any, bytes | None]) -> None:
        """The end has arrived: code, details, trailing metadata and the response of a unary call."""
        if self._code is None and not self.host.step(f"answered {self.method.name}"):
            code, self._details, self._trailing, self._payload = status
            self._finish(code)

    def greet(self, metadata: Any) -> None:
        """Initial metadata has arrived."""
        self._initial = metadata

    def expire(self) -> None:
        """The deadline has come, here and soon at the server as well."""
        if self._code is None:
            self._details = "Deadline Exceeded"
            self._finish(grpc.StatusCode.DEADLINE_EXCEEDED)
            if self.served is not None:
                self.served.expire_soon()

    def _finish(self, code: grpc.StatusCode) -> None:
        self._code = code
        self.host.calls.pop(self, None)
        if self.deadline_ns is not None:
            self.host.world.deadlines.discard(self)
        if self.responses is not None:
            self.responses.end()
        if self.requests is not None:
            self.requests.end()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        for callback in self._callbacks:
            callback(self)

    # What a call object offers ------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended."""
        return self._code is not None

    def cancelled(self) -> bool:
        """Whether it was cancelled, here or there."""
        return self._code is CANCELLED

    def cancel(self) -> bool:
        """Give up here at once, and tell the server, which hears of it a little later."""
        if self._code is not None:
            return False
        self._local = True
        self._details = LOCAL_CANCELLATION
        self._finish(CANCELLED)
        if not self.host.dead:
            self.tell_cancelled()
        return True

    def tell_cancelled(self) -> None:
        """Send word to the server that nobody waits any more."""
        loop = self.host.world.loop
        delay_ns = self.method.out.transit_ns()
        if delay_ns is None:
            if self.deadline_ns is None:
                return
            delay_ns = max(0, self.deadline_ns - loop.now_ns)  # the server knows the deadline itself
        loop.after_ns(delay_ns, _cancel_served, self)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call at its end."""
        if self._code is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        if self.deadline_ns is None:
            return None
        return max(0, self.deadline_ns - self.host.world.loop.now_ns) / NS_PER_S

    async def initial_metadata(self) -> Metadata:
        """What the server sent ahead."""
        await self._ended()
        return Metadata(*self._initial)

    async def trailing_metadata(self) -> Metadata:
        """What the server sent at the end."""
        if self._code is None:
            await self._ended()
        return Metadata(*self._trailing)

    async def code(self) -> grpc.StatusCode:
        """The status, at the end."""
        await self._ended()
        assert self._code is not None
        return self._code

    async def details(self) -> str:
        """What the status says, at the end."""
        await self._ended()
        return self._details

    async def debug_error_string(self) -> str:
        """The same once more."""
        await self._ended()
        return self._details

    async def wait_for_connection(self) -> None:
        """There is always a connection."""

    async def _ended(self) -> None:
        while self._code is None:
            await self._waiter()

    def _waiter(self) -> "Future[None]":
        waiter = self.host.world.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def _raise_unless_ok(self) -> None:
        if self._code is OK:
            return
        if self._local:
            raise CancelledError
        assert self._code is not None
        raise AioRpcError(
            self._code, Metadata(*self._initial), Metadata(*self._trailing), self._details, self._details
        )


def _cancel_served(call: SimCall) -> None:
    call.revoked = True
    if call.served is not None:
        call.served.cancel_by_caller()


class UnaryResponseCall(SimCall):
    """A call with one response, to be awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the response. Raises AioRpcError; a cancelled waiter cancels the call."""
        try:
            while self._code is None:
                yield from self._waiter()
        except CancelledError:
            self.cancel()
            raise
        self._raise_unless_ok()
        if self._payload is not None:
            self._response, self._payload = self.method.deserialize(self._payload), None
        return self._response


class StreamResponseCall(SimCall):
    """A call with a stream of responses, to be iterated or read."""

    def __init__(self, method: "Method", request: Any, timeout: float | None, metadata: Any) -> None:
        """Send it at once; the server fills our stream over its own link."""
        self._iterator: AsyncIterator[Any] | None = None
        super().__init__(method, request, timeout, metadata)

    def _send(self) -> None:
        loop = self.host.world.loop
        self.responses = Stream(loop, Wire(loop, self.method.back, reply=True), daemon=self.daemon)
        super()._send()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the responses. Raises AioRpcError at the end of a call that failed."""
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def _iterate(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not EOF:
            yield response

    async def read(self) -> Any:
        """The next response, or EOF. Raises AioRpcError at the end of a call that failed."""
        try:
            message = await self.responses.receive() if self.responses is not None else None
            if message is None:
                await self._ended()
        except CancelledError:
            self.cancel()
            raise
        if message is None:
            self._raise_unless_ok()
            return EOF
        return self.method.deserialize(message)


class StreamRequestCall(SimCall):
    """A call with a stream of requests: an iterator that is sent, or `write` and `done_writing`."""

    def _send(self) -> None:
        loop = self.host.world.loop
        wire = Wire(loop, self.method.out, reply=False)
        self.requests = Stream(loop, wire, daemon=self.daemon)
        wire.send(self.host.world.arrive, self)  # the call goes ahead of its messages, on the same wire

    def feed(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Send whatever an iterator yields."""
        self._pump = self.host.world.loop.create_task(self._send_all(requests))

    async def _send_all(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self.write(request)
            else:
                for request in requests:
                    await self.write(request)
            await self.done_writing()
        except asyncio.InvalidStateError:
            pass  # the call ended before its requests did
        except Exception:  # noqa: BLE001 - as grpc.aio does when a caller's iterator fails
            self.cancel()

    async def write(self, request: Any) -> None:
        """Send one request. Raises InvalidStateError when the call has ended."""
        if self.done() or self.requests is None:
            raise asyncio.InvalidStateError("RPC already finished.")
        await self.requests.send(self.method.serialize(request))

    async def done_writing(self) -> None:
        """Say that no other request comes."""
        if not self.done() and self.requests is not None:
            self.requests.close()


class UnaryUnaryCall(UnaryResponseCall, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""


class UnaryStreamCall(StreamResponseCall, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class StreamUnaryCall(StreamRequestCall, UnaryResponseCall, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""


class StreamStreamCall(StreamRequestCall, StreamResponseCall, grpc.aio.StreamStreamCall[Any, Any]):
    """Streams both ways."""

    def _send(self) -> None:
        loop = self.host.world.loop
        self.responses = Stream(loop, Wire(loop, self.method.back, reply=True), daemon=self.daemon)
        super()._send()
