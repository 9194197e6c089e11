"""The server's side of a simulated RPC: the `context` of a handler, and the way back to the caller."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError

from paylab.lab.simulation.sim_calls import OK, SimCall
from paylab.lab.simulation.virtual_time import NS_PER_S

if TYPE_CHECKING:  # the server makes its contexts, so at run time the import goes the other way
    from paylab.lab.simulation.sim_server import SimServer


class ServedCall(grpc.aio.ServicerContext[Any, Any]):
    """One call at its server: the `context` of a handler, and the way back to the caller."""

    def __init__(self, server: "SimServer", call: SimCall) -> None:
        """Begin; `call` is where answers go, and nothing else of it is looked at but what was sent."""
        loop = server.host.world.loop
        self.call = call
        self.task: asyncio.Task[Any] | None = None
        self.lag_ns = loop.now_ns - call.sent_ns
        self._server = server
        self._loop = loop
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: tuple[tuple[str, Any], ...] = ()
        self._initial: Any = None
        self._status_sent = False
        self._cancelled = False
        self._callbacks: list[Callable[[Any], None]] = []
        self._deserialize: Any = bytes
        self._serialize: Any = bytes

    # Serving ------------------------------------------------------------------------------------

    async def handle(self, handler: Any) -> None:
        """Run the handler and send what it says."""
        self._deserialize = handler.request_deserializer or bytes
        self._serialize = handler.response_serializer or bytes
        if handler.request_streaming:
            request: Any = _Requests(self)
            behavior = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            request = self._deserialize(self.call.message)
            behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        answer = behavior(request, self)
        if not handler.response_streaming:
            response = await answer if hasattr(answer, "__await__") else answer
            if not self._status_sent:
                ok = self._code is None or self._code is OK
                self._send_status(self._code or OK, self._serialize(response) if ok else None)
            return
        if hasattr(answer, "__aiter__"):
            async for response in answer:
                await self.write(response)
        else:
            await answer
        if not self._status_sent:
            self._send_status(self._code or OK, None)

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error, unless it has ended."""
        if not self._status_sent:
            self._details = self._details or details
            self._send_status(code, None)
            if self.task is not None and not self.task.done() and self.task is not asyncio.current_task():
                self.task.cancel()

    def _send_status(self, code: grpc.StatusCode, payload: bytes | None) -> None:
        self._status_sent = True
        self._code = code
        for callback in self._callbacks:
            callback(self)
        call, host = self.call, self._server.host
        if host.dead or self._cancelled:
            return
        status = (code, self._details, self._trailing, payload)
        if call.responses is not None:
            call.responses.wire.send(call.answer, status)
            return
        delay_ns = call.method.back.transit_ns(reply=True)
        if delay_ns is not None:
            if self._initial is not None:
                self._loop.after_ns(delay_ns, call.greet, self._initial)
            self._loop.after_ns(delay_ns, call.answer, status)

    # Cancellation -------------------------------------------------------------------------------

    def cancel_by_caller(self, _nothing: object = None) -> None:
        """Nobody waits any more."""
        if not self._status_sent and not self._cancelled:
            self._cancelled = True
            if self.call.requests is not None:
                self.call.requests.end()
            if self.task is not None:
                self.task.cancel()

    def expire_soon(self, left_ns: int = 0) -> None:
        """The deadline comes at the caller after `left_ns`, here as much later as the call took to arrive."""
        self._loop.after_ns(left_ns + self.lag_ns, self.cancel_by_caller, None)

    # What a handler is offered ------------------------------------------------------------------

    async def read(self) -> Any:
        """The next request of a stream, or EOF."""
        assert self.call.requests is not None
        message = await self.call.requests.receive()
        return EOF if message is None else self._deserialize(message)

    async def write(self, message: Any) -> None:
        """Send one response of a stream."""
        assert self.call.responses is not None
        if not self._server.host.dead and not self._cancelled:
            await self.call.responses.send(self._serialize(message))

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send metadata ahead of the first response."""
        self._initial = tuple(initial_metadata)
        if self.call.responses is not None:
            self.call.responses.wire.send(self.call.greet, self._initial)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with an error."""
        self._trailing = tuple(trailing_metadata) or self._trailing
        self._details = details or self._details
        if not self._status_sent:
            self._send_status(code, None)
        raise AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with an error."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send this at the end."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What will be sent at the end."""
        return self._trailing

    def invocation_metadata(self) -> Any:
        """What the caller sent."""
        return self.call.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """End with this status when the handler returns."""
        self._code = code

    def set_details(self, details: str) -> None:
        """End with this text when the handler returns."""
        self._details = details

    def code(self) -> Any:
        """The status that was set."""
        return self._code

    def details(self) -> str:
        """The text that was set."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing is compressed."""

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed."""

    def peer(self) -> str:
        """The caller's node."""
        return f"sim:{self.call.host.identity.node}"

    def peer_identities(self) -> Any:
        """The names in the caller's certificate."""
        return self.auth_context()["x509_subject_alternative_name"]

    def peer_identity_key(self) -> str:
        """Where those names are."""
        return "x509_subject_alternative_name"

    def auth_context(self) -> Mapping[str, Any]:
        """What mutual TLS would tell about the caller."""
        return self.call.host.credentials

    def time_remaining(self) -> float:
        """Seconds until the deadline; None without one."""
        if self.call.deadline_ns is None:
            return None  # type: ignore[return-value] # as grpc's documentation says, and not its types
        return max(0, self.call.deadline_ns + self.lag_ns - self._loop.now_ns) / NS_PER_S

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this context at the end."""
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Whether the caller gave up."""
        return self._cancelled

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._status_sent or self._cancelled


class _Requests:
    """The stream of requests, as a handler iterates over it."""

    def __init__(self, served: ServedCall) -> None:
        self._served = served

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Any:
        request = await self._served.read()
        if request is EOF:
            raise StopAsyncIteration
        return request
