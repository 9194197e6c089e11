"""The simulated server: takes generated servicers and runs each call in a task of its own, as grpc.aio does."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError, ServerInterceptor

from paylab.lab.sim_calls import CANCELLED, OK, SimCall
from paylab.lab.virtual_time import NS_PER_S

if TYPE_CHECKING:  # the host makes its servers, so at run time the import goes the other way
    from paylab.lab.simulator import SimHost

UNKNOWN = grpc.StatusCode.UNKNOWN


@dataclass(frozen=True, slots=True)
class CallDetails(grpc.HandlerCallDetails):
    """What an interceptor is told about a call."""

    method: str
    invocation_metadata: Any


class SimServer(grpc.aio.Server):
    """Serves under its host's name while it is started."""

    def __init__(
        self, host: "SimHost", interceptors: Sequence[ServerInterceptor], *, message_bytes_max: int
    ) -> None:
        """Not reachable before `start`."""
        # grpc.aio.Server's own initialiser would open a real server.
        self.host = host
        self.calls: dict[ServedCall, None] = {}
        self.message_bytes_max = message_bytes_max
        self._registered: dict[str, Any] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._stopped = asyncio.Event()
        find: Any = self._find
        for interceptor in reversed(interceptors):
            find = _Continuation(interceptor, find)
        self._pipeline: Callable[[CallDetails], Any] = find

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Ask these, in order, about methods that are not registered."""
        self._generic += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Serve the methods of a service."""
        for name, handler in method_handlers.items():
            self._registered[f"/{service_name}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """There are no ports: nodes find each other by name."""
        return 1

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """There are no ports: nodes find each other by name."""
        return 1

    async def start(self) -> None:
        """Be reachable."""
        self.host.world.servers[self.host.identity.node] = self

    async def stop(self, grace: float | None) -> None:
        """Take no calls any more; those under way get `grace` seconds, then they are cancelled."""
        self.leave()
        running = [served.task for served in self.calls if served.task is not None]
        if running and grace:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await asyncio.gather(*running, return_exceptions=True)
        for served in list(self.calls):
            served.refuse(grpc.StatusCode.UNAVAILABLE, "Server is shutting down")
        self._stopped.set()

    def leave(self) -> None:
        """Take no calls any more."""
        if self.host.world.servers.get(self.host.identity.node) is self:
            del self.host.world.servers[self.host.identity.node]

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's interface
        """Wait until it has stopped; whether that took too long."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    async def _find(self, details: CallDetails) -> Any:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    # One call -----------------------------------------------------------------------------------

    def accept(self, call: SimCall) -> None:
        """A call has arrived."""
        host = self.host
        served = ServedCall(self, call)
        self.calls[served] = None
        context = host.daemon_context if call.daemon else host.context
        served.task = host.world.loop.create_task(self._serve(served), context=context.copy())

    async def _serve(self, served: "ServedCall") -> None:
        call = served.call
        try:
            if len(call.message) > self.message_bytes_max:
                size = f"{len(call.message)} vs. {self.message_bytes_max}"
                served.refuse(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({size})"
                )
                return
            handler = await self._pipeline(CallDetails(call.method.name, call.metadata))
            if handler is None:
                served.refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
                return
            await served.handle(handler)
        except AbortError:
            pass  # the status has left
        except asyncio.CancelledError:
            served.refuse(CANCELLED, "RPC cancelled")
            raise
        except Exception as error:  # noqa: BLE001 - as grpc.aio does
            served.refuse(UNKNOWN, f"Unexpected {type(error)}: {error}")
        finally:
            self.calls.pop(served, None)


class _Continuation:
    """An interceptor and what comes after it."""

    def __init__(self, interceptor: ServerInterceptor, following: Any) -> None:
        self._intercept: Any = interceptor.intercept_service
        self._following = following

    def __call__(self, details: CallDetails) -> Any:
        return self._intercept(self._following, details)


class ServedCall(grpc.aio.ServicerContext[Any, Any]):
    """One call at its server: the `context` of a handler, and the way back to the caller."""

    def __init__(self, server: SimServer, call: SimCall) -> None:
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
            response = await answer if inspect.isawaitable(answer) else answer
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

    def expire_soon(self) -> None:
        """The deadline has come at the caller; it comes here as much later as the call took to arrive."""
        self._loop.after_ns(self.lag_ns, self.cancel_by_caller, None)

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

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        """End the call with an error."""
        self._trailing = tuple(trailing_metadata) or self._trailing
        self._details = details or self._details
        if not self._status_sent:
            self._send_status(code, None)
        raise AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with an error."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())  # type: ignore[attr-defined] # a named tuple

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
