"""A simulated call behaves as one of grpc.aio does: each fact is tested over both hosts, from one source."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from paylab.core import authorization
from paylab.core.authorization import Identity, Role, Rule
from paylab.errors import KeyReused
from paylab.lab.real_world import RealWorld, World
from paylab.lab.simulation.simulator import SimWorld
from paylab.nodes import wire

SERVICE = "/paylab.test.Conformance/"
MEBIBYTE = 1024 * 1024
# Long for a computer, short for a reader.
SOON_S = 0.2
PATIENCE_S = 10.0

MINE: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="nothing")


class Handlers(grpc.GenericRpcHandler):
    """Methods by name, on raw bytes."""

    def __init__(self) -> None:
        self.unary: dict[str, Callable[..., Any]] = {}
        self.server_stream: dict[str, Callable[..., Any]] = {}
        self.both_streams: dict[str, Callable[..., Any]] = {}
        self._made: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        name = handler_call_details.method.removeprefix(SERVICE)
        if name not in self._made:
            if name in self.unary:
                self._made[name] = grpc.unary_unary_rpc_method_handler(self.unary[name])
            elif name in self.server_stream:
                self._made[name] = grpc.unary_stream_rpc_method_handler(self.server_stream[name])
            elif name in self.both_streams:
                self._made[name] = grpc.stream_stream_rpc_method_handler(self.both_streams[name])
        return self._made.get(name)


REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class Passing(grpc.aio.UnaryUnaryClientInterceptor):
    """Does nothing but stand there."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


class PassingStreams(grpc.aio.UnaryStreamClientInterceptor):
    """The same for streams of responses."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


class Pair:
    """A server and a caller in one world, with a recorded channel or one that is intercepted."""

    def __init__(self, world: World, allow: Callable[[str], None], *, intercepted: bool) -> None:
        self.world = world
        self._intercepted = intercepted
        self._dialled: Any = None
        self.handlers = Handlers()
        self.allow = allow
        self.server_host: Any = None
        self.caller_host: Any = None

    async def start(self) -> None:
        self.server_host = self.world.host(Identity("server", Role.GATEWAY))
        self.caller_host = self.world.host(Identity("caller", Role.CLIENT))
        server = self.server_host.server()
        server.add_generic_rpc_handlers((self.handlers,))
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflection.enable_server_reflection([health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        await server.start()

    async def stop(self) -> None:
        if self._dialled is not None:
            await self._dialled.close()
        await self.world.stop(self.caller_host)
        await self.world.stop(self.server_host)

    @property
    def channel(self) -> Any:
        if not self._intercepted:
            return self.caller_host.channel("server")
        self._dialled = self._dialled or self.caller_host.dial("server", [Passing(), PassingStreams()])
        return self._dialled

    def serve(self, handler: Callable[[bytes, Any], Awaitable[bytes]]) -> Any:
        """Serve a unary method; returns what a stub would hold."""
        self.allow(SERVICE + "Call")
        self.handlers.unary["Call"] = handler
        return self.channel.unary_unary(SERVICE + "Call")

    def serve_stream(self, handler: Callable[[bytes, Any], Any]) -> Any:
        self.allow(SERVICE + "Stream")
        self.handlers.server_stream["Stream"] = handler
        return self.channel.unary_stream(SERVICE + "Stream")

    def serve_both(self, handler: Callable[[Any, Any], Any]) -> Any:
        self.allow(SERVICE + "Both")
        self.handlers.both_streams["Both"] = handler
        return self.channel.stream_stream(SERVICE + "Both")


Body = Callable[[Pair], Coroutine[Any, Any, Any]]
Run = Callable[[Body], Any]


@pytest.fixture(params=["real", "simulated", "real intercepted", "simulated intercepted"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a coroutine function with a pair of hosts, in one world and in the other."""

    def allow(method: str) -> None:
        monkeypatch.setitem(authorization.RULES, method, Rule(None))

    def ignore(_event: object) -> None:
        pass

    world: World
    if request.param.startswith("real"):
        world = RealWorld("conformance", data_dir=tmp_path, sink=ignore)
    else:
        world = SimWorld("conformance", seed=1, sink=ignore)
    pair = Pair(world, allow, intercepted=request.param.endswith("intercepted"))
    world.call(pair.start())
    yield lambda body: world.call(body(pair), timeout_s=30)
    world.call(pair.stop())
    world.close()


async def echo(request: bytes, _context: Any) -> bytes:
    return b"<" + request + b">"


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_unary_call_is_answered(run: Run) -> None:
    """A call gives the response, status OK, and the same response again."""

    async def body(pair: Pair) -> None:
        call = pair.serve(echo)(b"hello")
        assert await call == b"<hello>"
        assert await call == b"<hello>"
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()

    run(body)


def test_call_starts_without_being_awaited(run: Run) -> None:
    """A call that nobody awaits is made all the same."""

    async def body(pair: Pair) -> None:
        arrived = asyncio.Event()

        async def note(_request: bytes, _context: Any) -> bytes:
            arrived.set()
            return b""

        call = pair.serve(note)(b"")
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
        assert await call == b""

    run(body)


def test_many_calls_at_once(run: Run) -> None:
    """Concurrent calls get each its own answer."""

    async def body(pair: Pair) -> None:
        method = pair.serve(echo)
        answers = await asyncio.gather(*(method(b"%d" % n) for n in range(50)))
        assert answers == [b"<%d>" % n for n in range(50)]

    run(body)


def test_metadata_travels_both_ways(run: Run) -> None:
    """Repeated and binary keys reach the server; initial and trailing metadata reach the caller."""

    async def body(pair: Pair) -> None:
        seen: list[tuple[str, str | bytes]] = []

        async def handler(_request: bytes, context: Any) -> bytes:
            seen.extend((key, value) for key, value in context.invocation_metadata() if key.startswith("x-"))
            await context.send_initial_metadata((("x-initial", "1"),))
            context.set_trailing_metadata((("x-trailing", "2"), ("x-raw-bin", b"\x00\xff")))
            return b""

        sent = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x01"))
        call = pair.serve(handler)(b"", metadata=sent)
        await call
        assert sorted(seen) == sorted(sent)
        assert ("x-initial", "1") in tuple(await call.initial_metadata())
        trailing = await call.trailing_metadata()
        assert trailing["x-trailing"] == "2"
        assert trailing["x-raw-bin"] == b"\x00\xff"

    run(body)


def test_abort_carries_code_details_and_trailers(run: Run) -> None:
    """What a handler aborts with is what the caller gets."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, context: Any) -> bytes:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here", (("x-why", "gone"),))
            return b""

        call = pair.serve(handler)(b"")
        error = await failure_of(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "not here"
        assert ("x-why", "gone") in tuple(error.trailing_metadata())
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert await call.details() == "not here"
        assert ("x-why", "gone") in tuple(await call.trailing_metadata())

    run(body)


def test_paylab_error_arrives_with_its_reason(run: Run) -> None:
    """A PaylabError of a handler is the same error at the caller."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, _context: Any) -> bytes:
            raise KeyReused("KEY_REUSED", "another request")

        error = wire.status_to_error(await failure_of(pair.serve(handler)(b"")))
        assert isinstance(error, KeyReused)
        assert error.reason == "KEY_REUSED"

    run(body)


def test_exception_of_a_handler_is_unknown(run: Run) -> None:
    """Whatever else a handler raises is UNKNOWN to the caller, and a failure of the server."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, _context: Any) -> bytes:
            raise ZeroDivisionError("oh")

        error = await failure_of(pair.serve(handler)(b""))
        assert error.code() is grpc.StatusCode.UNKNOWN
        assert error.details() == "Unexpected <class 'ZeroDivisionError'>: oh"
        assert [type(failure) for failure in pair.server_host.failures] == [ZeroDivisionError]
        pair.server_host.failures.clear()

    run(body)


def test_code_without_abort(run: Run) -> None:
    """A handler may set a status and return."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, context: Any) -> bytes:
            context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            context.set_details("not now")
            return b""

        error = await failure_of(pair.serve(handler)(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")

    run(body)


def test_unknown_method_is_unimplemented(run: Run) -> None:
    """Nobody serves it."""

    async def body(pair: Pair) -> None:
        error = await failure_of(pair.channel.unary_unary("/paylab.test.Nobody/Nothing")(b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    run(body)


def test_unavailable_target(run: Run) -> None:
    """A node that does not run refuses the connection."""

    async def body(pair: Pair) -> None:
        channel = pair.caller_host.channel("nobody")
        error = await failure_of(channel.unary_unary(SERVICE + "Call")(b"", timeout=PATIENCE_S))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    run(body)


def test_deadline_ends_call_and_handler(run: Run) -> None:
    """At the deadline the caller gets DEADLINE_EXCEEDED and the handler is cancelled where it stands."""

    async def body(pair: Pair) -> None:
        ended = asyncio.Event()
        remaining = []

        async def handler(_request: bytes, context: Any) -> bytes:
            remaining.append(context.time_remaining())
            try:
                await asyncio.sleep(3 * PATIENCE_S)
            finally:
                ended.set()
            return b""

        error = await failure_of(pair.serve(handler)(b"", timeout=SOON_S))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "Deadline Exceeded"
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        assert 0 < remaining[0] <= SOON_S

    run(body)


def test_deadline_that_has_passed(run: Run) -> None:
    """A call with no time left fails at once."""

    async def body(pair: Pair) -> None:
        error = await failure_of(pair.serve(echo)(b"", timeout=0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    run(body)


@pytest.mark.parametrize("how", ["call", "task"])
def test_cancelling_caller_cancels_handler(run: Run, how: str) -> None:
    """Cancelling the call, or the task that awaits it, ends both sides."""

    async def body(pair: Pair) -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def handler(_request: bytes, _context: Any) -> bytes:
            began.set()
            try:
                await asyncio.sleep(3 * PATIENCE_S)
            finally:
                ended.set()
            return b""

        call = pair.serve(handler)(b"")

        async def wait() -> Any:
            return await call

        if how == "call":  # grpc.aio lets a call be cancelled by one task while no other awaits it
            await began.wait()
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            task = asyncio.create_task(wait())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        assert call.done()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED

    run(body)


@pytest.mark.parametrize("style", ["yields", "writes"])
def test_server_stream(run: Run, style: str) -> None:
    """Responses come in order and then the end, whether the handler yields or writes them."""

    async def body(pair: Pair) -> None:
        async def yields(request: bytes, _context: Any) -> AsyncIterator[bytes]:
            for n in range(100):
                yield request + b"%d" % n

        async def writes(request: bytes, context: Any) -> None:
            for n in range(100):
                await context.write(request + b"%d" % n)

        method = pair.serve_stream(yields if style == "yields" else writes)
        got = [response async for response in method(b"n")]
        assert got == [b"n%d" % n for n in range(100)]
        call = method(b"m")
        assert await call.read() == b"m0"
        assert call.cancel() or call.done()

    run(body)


def test_server_stream_that_fails(run: Run) -> None:
    """What was sent before an abort arrives, then the error."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            await context.abort(grpc.StatusCode.DATA_LOSS, "no more")

        call = pair.serve_stream(handler)(b"")
        assert await call.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() is grpc.StatusCode.DATA_LOSS

    run(body)


def test_leaving_a_stream_ends_its_handler(run: Run) -> None:
    """A cancelled stream stops its handler."""

    async def body(pair: Pair) -> None:
        ended = asyncio.Event()

        async def handler(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"again"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        call = pair.serve_stream(handler)(b"")
        async for _ in call:
            break
        call.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()

    run(body)


@pytest.mark.parametrize("style", ["iterator", "writer"])
def test_streams_both_ways(run: Run, style: str) -> None:
    """A conversation: each request gets its response, then both sides are done."""

    async def body(pair: Pair) -> None:
        async def handler(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request.upper()

        method = pair.serve_both(handler)
        if style == "iterator":

            async def words() -> AsyncIterator[bytes]:
                for word in (b"one", b"two", b"three"):
                    yield word

            got = [response async for response in method(words())]
        else:
            call, got = method(), []
            for word in (b"one", b"two", b"three"):
                await call.write(word)
                got.append(await call.read())
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        assert got == [b"ONE", b"TWO", b"THREE"]

    run(body)


def test_health_and_reflection_are_served(run: Run) -> None:
    """The standard services run unmodified."""

    async def body(pair: Pair) -> None:
        health_stub: Any = health_pb2_grpc.HealthStub(pair.channel)
        answer = await health_stub.Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        pair.allow(REFLECT)
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(pair.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        async for response in stub.ServerReflectionInfo(iter([question])):
            names = [service.name for service in response.list_services_response.service]
            assert names == [health.SERVICE_NAME, reflection.SERVICE_NAME]

    run(body)


def test_certificate_names_the_caller(run: Run) -> None:
    """The server learns the caller's node and identity from its certificate."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, context: Any) -> bytes:
            names: list[bytes] = list(context.auth_context()["x509_subject_alternative_name"])
            assert context.peer_identity_key() == "x509_subject_alternative_name"
            assert list(context.peer_identities()) == names
            return b" ".join(names)

        assert await pair.serve(handler)(b"") == b"caller caller.client.paylab"

    run(body)


def test_context_of_the_caller_stays_there(run: Run) -> None:
    """A context variable of the caller is unknown to the handler."""

    async def body(pair: Pair) -> None:
        async def handler(_request: bytes, _context: Any) -> bytes:
            return MINE.get().encode()

        MINE.set("secret")
        assert await pair.serve(handler)(b"") == b"nothing"

    run(body)


def test_big_message_passes_and_a_bigger_one_does_not(run: Run) -> None:
    """The server takes 4 MiB; more is RESOURCE_EXHAUSTED."""

    async def body(pair: Pair) -> None:
        async def size(request: bytes, _context: Any) -> bytes:
            return b"%d" % len(request)

        method = pair.serve(size)
        assert await method(bytes(3 * MEBIBYTE)) == b"%d" % (3 * MEBIBYTE)
        error = await failure_of(method(bytes(5 * MEBIBYTE)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(body)


def test_done_callbacks(run: Run) -> None:
    """Both sides can ask to be told of the end."""

    async def body(pair: Pair) -> None:
        told: list[str] = []

        async def handler(_request: bytes, context: Any) -> bytes:
            context.add_done_callback(lambda _: told.append("server"))
            return b""

        call = pair.serve(handler)(b"")
        call.add_done_callback(lambda _: told.append("caller"))
        await call
        await pair.caller_host.sleep(SOON_S)
        assert sorted(told) == ["caller", "server"]

    run(body)
