"""The simulated channel: takes generated stubs, and runs grpc.aio's client interceptors around every call."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc.aio import ClientCallDetails, ClientInterceptor, Metadata

from paylab.lab.simulation import sim_calls
from paylab.lab.simulation.sim_intercepted import InterceptedStream, InterceptedUnary

if TYPE_CHECKING:  # the host makes its channels, so at run time the import goes the other way
    from paylab.lab.simulation.sim_host import SimHost

# Of each kind of method: its call, the interceptors that see it, and their method.
KINDS: dict[str, tuple[type[sim_calls.SimCall], type[ClientInterceptor], str]] = {
    kind: (call, interceptor, f"intercept_{kind}")
    for kind, call, interceptor in (
        ("unary_unary", sim_calls.UnaryUnaryCall, grpc.aio.UnaryUnaryClientInterceptor),
        ("unary_stream", sim_calls.UnaryStreamCall, grpc.aio.UnaryStreamClientInterceptor),
        ("stream_unary", sim_calls.StreamUnaryCall, grpc.aio.StreamUnaryClientInterceptor),
        ("stream_stream", sim_calls.StreamStreamCall, grpc.aio.StreamStreamClientInterceptor),
    )
}
Codec = Callable[[Any], Any] | None


class Method:
    """One method of the target, to be called: what a stub holds."""

    def __init__(
        self, channel: "SimChannel", kind: str, name: str, serialize: Codec, deserialize: Codec
    ) -> None:
        """Made by the channel."""
        self.host = channel.host
        self.target = channel.target
        self.name = name
        self.serialize = serialize or bytes
        self.deserialize = deserialize or bytes
        self.out = channel.host.world.network.link(channel.host.identity.node, channel.target)
        self.back = channel.host.world.network.link(channel.target, channel.host.identity.node)
        self.streams_requests = kind.startswith("stream")
        self._channel = channel
        self._call, kind_of_interceptor, hook = KINDS[kind]
        hooks = [
            getattr(interceptor, hook)
            for interceptor in channel.interceptors
            if isinstance(interceptor, kind_of_interceptor)
        ]
        # Passes a call through all of them; what it returns is awaited for the call.
        self.invoke: Callable[[ClientCallDetails, Any], Awaitable[Any]] = self._send
        for outer in reversed(hooks):
            self.invoke = partial(outer, self.invoke)
        self._is_intercepted = bool(hooks)
        self._intercepted = InterceptedStream if kind.endswith("stream") else InterceptedUnary

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,  # noqa: ARG002 - grpc's interface
    ) -> Any:
        """Start a call; `request` is an iterator or None when the method takes a stream."""
        if self._channel.closed:
            raise grpc.aio.UsageError("Channel is closed.")
        if not self._is_intercepted:
            return self._start(request, timeout, metadata)
        metadata = metadata if isinstance(metadata, Metadata) else Metadata(*(metadata or ()))
        details = ClientCallDetails(self.name, timeout, metadata, credentials, wait_for_ready)
        return self._intercepted(self, details, request)

    def _start(self, request: Any, timeout: float | None, metadata: Any) -> Any:
        if not self.streams_requests:
            return self._call(self, request, timeout, metadata)
        call: Any = self._call(self, None, timeout, metadata)
        if request is not None:
            call.feed(request)
        return call

    async def _send(self, details: ClientCallDetails, request: Any) -> Any:
        return self._start(request, details.timeout, details.metadata)


class SimChannel(grpc.aio.Channel):
    """From one host to the node of a name, whoever serves under it at the time."""

    def __init__(self, host: "SimHost", target: str, interceptors: Sequence[ClientInterceptor] = ()) -> None:
        """Nothing is connected: only a call finds out whether there is somebody."""
        self.host = host
        self.target = target
        self.interceptors = interceptors
        self.closed = False
        self._methods: dict[tuple[str, str, Codec, Codec], Method] = {}

    def _method(self, kind: str, name: str, serialize: Codec, deserialize: Codec) -> Any:
        # Stubs are made often, methods once.
        key = (kind, name, serialize, deserialize)
        method = self._methods.get(key)
        if method is None:
            method = self._methods[key] = Method(self, kind, name, serialize, deserialize)
        return method

    def unary_unary(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - grpc's interface
    ) -> Any:
        """A method with one request and one response."""
        return self._method("unary_unary", method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - grpc's interface
    ) -> Any:
        """A method with one request and a stream of responses."""
        return self._method("unary_stream", method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - grpc's interface
    ) -> Any:
        """A method with a stream of requests and one response."""
        return self._method("stream_unary", method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - grpc's interface
    ) -> Any:
        """A method with streams both ways."""
        return self._method("stream_stream", method, request_serializer, response_deserializer)

    async def close(self, grace: float | None = None) -> None:  # noqa: ARG002 - grpc's interface
        """Make no calls any more."""
        self.closed = True

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: ARG002, FBT001, FBT002 - grpc's interface
        """Always ready, until it is closed."""
        return grpc.ChannelConnectivity.SHUTDOWN if self.closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:  # noqa: ARG002 - grpc's interface
        """It never changes of itself."""
        await self.host.world.loop.create_future()

    async def channel_ready(self) -> None:
        """It is."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
