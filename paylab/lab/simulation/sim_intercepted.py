"""Simulated calls around which client interceptors run: what a stub returns where there are any."""

import asyncio
from asyncio import CancelledError, Future
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import EOF, AioRpcError, ClientCallDetails, Metadata

from paylab.lab.simulation import sim_calls

if TYPE_CHECKING:  # methods make these calls, so at run time the import goes the other way
    from paylab.lab.simulation.sim_channel import Method


class Intercepted:
    """A call that interceptors are about to make, or have made.

    It starts when it is awaited, in the awaiting task, at no task of its own; one that is not awaited
    at once starts in a task after the running callback, as grpc.aio's do.
    """

    def __init__(self, method: "Method", details: ClientCallDetails, request: Any) -> None:
        """Start soon."""
        self._method = method
        self._loop = method.host.world.loop
        self._work: Any = method.invoke(details, request)
        self._starter: asyncio.Handle | None = self._loop.call_soon(self._start)
        self._task: asyncio.Task[Any] | None = None
        self._ended = False
        self._call: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Future[None]] = []
        self._callbacks: list[Callable[[Any], None]] = []

    def _start(self) -> None:
        self._starter = None
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._call = await self._work
        except BaseException as error:  # noqa: BLE001 - whoever awaits the call gets it
            self._error = error
        self._end()

    def _end(self) -> None:
        self._ended = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        for callback in self._callbacks:
            self.add_done_callback(callback)

    def _made(self) -> Generator[Any, None, Any]:
        """The call that the interceptors made. Raises what they raised."""
        if self._starter is not None:
            self._starter.cancel()
            self._starter = None
            try:
                self._call = yield from self._work.__await__()
            except BaseException as error:
                self._error = error
                raise
            finally:
                self._end()
            return self._call
        while not self._ended:
            self._waiters.append(self._loop.create_future())
            try:
                yield from self._waiters[-1]
            except CancelledError:
                self.cancel()
                raise
        if self._error is not None:
            raise self._error
        return self._call

    async def _call_made(self) -> Any:
        """The call; None when an interceptor raised before there was one."""
        while not self._ended:
            self._waiters.append(self._loop.create_future())
            await self._waiters[-1]
        if isinstance(self._call, sim_calls.SimCall):
            return self._call
        return None

    def cancel(self) -> bool:
        """Give up."""
        if self._ended:
            return bool(self._call is not None and self._call.cancel())
        if self._task is not None:
            return self._task.cancel()
        if self._starter is not None:
            self._starter.cancel()
            self._starter = None
            self._work.close()
            self._error = CancelledError()
            self._end()
            return True
        return False  # it runs in the task that awaits it: cancel that

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        if self._call is not None:
            return bool(self._call.cancelled())
        return isinstance(self._error, CancelledError)

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended and (self._call is None or bool(self._call.done()))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call at its end."""
        if not self._ended:
            self._callbacks.append(callback)
        elif self._call is not None:
            self._call.add_done_callback(lambda _: callback(self))
        else:
            callback(self)

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return None if self._call is None else self._call.time_remaining()

    async def initial_metadata(self) -> Any:
        """What the server sent ahead."""
        call = await self._call_made()
        return await call.initial_metadata() if call else _of(self._error, "initial_metadata", Metadata())

    async def trailing_metadata(self) -> Any:
        """What the server sent at the end."""
        call = await self._call_made()
        return await call.trailing_metadata() if call else _of(self._error, "trailing_metadata", Metadata())

    async def code(self) -> grpc.StatusCode:
        """The status, at the end."""
        call = await self._call_made()
        code: grpc.StatusCode = (
            await call.code() if call else _of(self._error, "code", grpc.StatusCode.CANCELLED)
        )
        return code

    async def details(self) -> Any:
        """What the status says, at the end."""
        call = await self._call_made()
        return await call.details() if call else _of(self._error, "details", sim_calls.LOCAL_CANCELLATION)

    async def debug_error_string(self) -> Any:
        """The same once more."""
        return await self.details()

    async def wait_for_connection(self) -> None:
        """There is always a connection."""


class InterceptedUnary(Intercepted):
    """One response."""

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the response, which an interceptor may have given itself."""
        call = yield from self._made()
        if isinstance(call, (sim_calls.SimCall, Intercepted)):
            return (yield from call.__await__())  # type: ignore[union-attr] # it is a unary call
        return call


class InterceptedStream(Intercepted):
    """A stream of responses."""

    _iterator: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the responses."""
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def _iterate(self) -> AsyncIterator[Any]:
        async for response in await _Made(self):
            yield response

    async def read(self) -> Any:
        """The next response, or EOF."""
        try:
            return await anext(aiter(self))
        except StopAsyncIteration:
            return EOF

    async def write(self, request: Any) -> None:
        """Send one request."""
        await (await _Made(self)).write(request)

    async def done_writing(self) -> None:
        """Say that no other request comes."""
        await (await _Made(self)).done_writing()


class _Made:
    """Awaits the call under an intercepted one."""

    def __init__(self, call: Intercepted) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, None, Any]:
        return self._call._made()  # noqa: SLF001 - the two are one


def _of(error: BaseException | None, name: str, otherwise: Any) -> Any:
    return getattr(error, name)() if isinstance(error, AioRpcError) else otherwise
