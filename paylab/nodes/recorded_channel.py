"""What stands around every call at its caller: history, the Lamport clock and the time that is left.

It wraps a channel and is no interceptor, which in grpc.aio costs a task and a call object of its own.
"""

import asyncio
from collections.abc import Generator, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import grpc

from paylab.nodes import wire
from paylab.nodes.events import CURRENT_CALL, Kind, Recorder
from paylab.nodes.interceptors import CALL_KEY, DEADLINE, LAMPORT_KEY, clock_of

if TYPE_CHECKING:  # the host makes its channels, so at run time the import goes the other way
    from paylab.nodes.host import Host

# A call without a deadline would wait for ever for a node that hangs.
TIMEOUT_DEFAULT_S = 10.0


class RecordedChannel:
    """Stands where a channel would, and records the calls that are made through it."""

    def __init__(self, channel: grpc.aio.Channel, host: "Host", target: str) -> None:
        """Record with the host's recorder what goes over `channel` to `target`."""
        self._channel = channel
        self._host = host
        self._target = target
        # Stubs are made often, methods once.
        self.unary_unary = cache(partial(self._recorded, RecordedCall, channel.unary_unary))
        self.unary_stream = cache(partial(self._recorded, _as_it_is, channel.unary_stream))

    def _recorded(self, call: Any, method: Any, name: str, *codecs: Any, **named_codecs: Any) -> "Method":
        return Method(self._host.recorder, self._target, name, method(name, *codecs, **named_codecs), call)

    def __getattr__(self, name: str) -> Any:
        """The rest is the channel's own business."""
        return getattr(self._channel, name)


class Method:
    """One method of the target, to be called: what a stub holds."""

    def __init__(self, recorder: Recorder, target: str, name: str, method: Any, call: Any) -> None:
        """Call `method`; what it returns is wrapped by `call`."""
        self._recorder = recorder
        self._target = target
        self._name = name
        self._method = method
        self._call = call

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> Any:
        """Stamp the call with its id, the Lamport clock and the time that is left; record it; start it."""
        recorder = self._recorder
        about: dict[str, Any] = {
            "payments": wire.payments_of(request),
            "peer": self._target,
            "method": self._name,
            "call": recorder.new_call(),
            "parent": CURRENT_CALL.get(),
        }
        recorder.record(Kind.SENT, detail=request, **about)
        timeout_s = TIMEOUT_DEFAULT_S if timeout is None else timeout
        deadline = DEADLINE.get()
        if deadline is not None:
            timeout_s = max(0.0, min(timeout_s, deadline - asyncio.get_running_loop().time()))
        stamped = (*(metadata or ()), (LAMPORT_KEY, str(recorder.lamport)), (CALL_KEY, about["call"]))
        call = self._method(request, timeout=timeout_s, metadata=Pairs(stamped), **options)
        return self._call(call, recorder, about)


class Pairs(grpc.aio.Metadata):
    """Metadata that is read through once, for which grpc's own sorts it into lists and out of them again."""

    def __init__(self, pairs: tuple[tuple[str, str | bytes], ...]) -> None:
        """The pairs are kept as they are."""
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        """One after the other."""
        return iter(self._pairs)

    def __len__(self) -> int:
        """How many."""
        return len(self._pairs)


class RecordedCall:
    """A call under way; how it ends is recorded for whoever awaits it."""

    __slots__ = ("_about", "_call", "_recorder", "_trailers")

    def __init__(self, call: Any, recorder: Recorder, about: dict[str, Any]) -> None:
        """It has been sent."""
        self._call = call
        self._recorder = recorder
        self._about = about
        self._trailers: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the response. Raises AioRpcError; a cancelled waiter cancels the call."""
        recorder, about = self._recorder, self._about
        try:
            response = yield from self._call.__await__()
            self._trailers = yield from self._call.trailing_metadata().__await__()
        except grpc.aio.AioRpcError as error:
            self._observe(error.trailing_metadata())
            recorder.record(Kind.FAILED, detail=f"{error.code().name}: {error.details()}", **about)
            raise
        except asyncio.CancelledError:
            recorder.record(Kind.FAILED, detail="CANCELLED", **about)
            raise
        self._observe(self._trailers)
        payments = wire.payments_of(response) or about["payments"]
        recorder.record(Kind.RETURNED, detail=response, **about | {"payments": payments})
        return response

    async def trailing_metadata(self) -> Any:
        """What the server sent at the end."""
        return await self._call.trailing_metadata() if self._trailers is None else self._trailers

    def _observe(self, metadata: Any) -> None:
        for key, value in metadata or ():
            if key == LAMPORT_KEY:
                self._recorder.observe(clock_of(value))

    def __getattr__(self, name: str) -> Any:
        """The rest is the call's own business."""
        return getattr(self._call, name)


def _as_it_is(call: Any, _recorder: Recorder, _about: dict[str, Any]) -> Any:
    """Of a stream, only that it was opened is recorded."""
    return call
