"""The simulated world does the same for the same seed, and breaks as a real one does, only on request."""

import asyncio
import functools
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import Column, Connection, MetaData, String, Table, insert

import paylab
from paylab.core import authorization
from paylab.core.authorization import Identity, Role, Rule
from paylab.errors import LabError
from paylab.lab.checking.history import History, as_dict
from paylab.lab.faulty_world import CommitPoint, FaultyWorld
from paylab.lab.real_world import World
from paylab.lab.simulation.choices import Choices
from paylab.lab.simulation.sim_channel import SimChannel
from paylab.lab.simulation.sim_host import SimHost
from paylab.lab.simulation.sim_server import SimServer
from paylab.lab.simulation.simulator import EPOCH_S, SimWorld

TABLES = MetaData()
NOTES = Table("notes", TABLES, Column("note", String, primary_key=True))
METHOD = "/paylab.test.Simulator/Call"
Handler = Callable[[bytes, Any], Awaitable[bytes]]


class One(grpc.GenericRpcHandler):
    """One unary method on bytes."""

    def __init__(self, handler: Handler) -> None:
        self._handler: Any = grpc.unary_unary_rpc_method_handler(handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == METHOD else None


class Bench:
    """A world with a caller and a server, and what the server has received."""

    def __init__(self, choices: Choices | None = None) -> None:
        self.history = History()
        self.world = SimWorld("bench", seed=1, sink=self.history.add, choices=choices)
        self.received: list[tuple[bytes, float]] = []
        self.cancelled: list[bytes] = []
        self.caller = self.host("caller")
        self.server = self.host("server")
        self.serve(self.server)

    def host(self, name: str) -> SimHost:
        return self.world._thread.aside(lambda: self.world.host(Identity(name, Role.GATEWAY)))

    def serve(self, host: SimHost) -> None:
        async def start() -> None:
            server = host.server()
            server.add_generic_rpc_handlers((One(self.handle),))
            await server.start()

        self.world.call(start())

    async def handle(self, request: bytes, _context: Any) -> bytes:
        self.received.append((request, self.world.loop.time()))
        if request.startswith(b"sleep"):
            try:
                await asyncio.sleep(float(request[5:]))
            except asyncio.CancelledError:
                self.cancelled.append(request)
                raise
        return request

    async def ask(self, request: bytes = b"hello", timeout_s: float = 5.0) -> str:
        """The status of one call."""
        try:
            method: Any = self.caller.channel("server").unary_unary(METHOD)
            await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    def status(self, request: bytes = b"hello", timeout_s: float = 5.0) -> str:
        return self.world.call(self.ask(request, timeout_s))

    def notes(self) -> list[str]:
        return [row[0] for row in self.world.rows("notes", "SELECT note FROM notes ORDER BY note")]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setitem(authorization.RULES, METHOD, Rule(None))
    made = Bench()
    yield made
    made.world.close()
    assert not made.world.loop.failures


def write(note: str) -> Callable[[Connection], None]:
    def transaction(connection: Connection) -> None:
        connection.execute(insert(NOTES).values(note=note))

    return transaction


async def nothing() -> None:
    """The bookkeeping that a lab would do after a crash."""


# The network ------------------------------------------------------------------------------------


def test_world_has_both_faces() -> None:
    """A simulated world is a world, and one that can be broken."""
    with paylab.Lab(world="simulated", seed=7) as lab:
        world: World = lab.world
        assert isinstance(world, SimWorld)
        faulty: FaultyWorld = world
        faulty.heal()
        assert lab.badge == "simulated, seed 7"


def test_a_message_takes_about_a_millisecond(bench: Bench) -> None:
    """A call takes a way there and a way back."""
    assert bench.status() == "OK"
    assert 0.0005 < bench.world.loop.time() < 0.01


def test_lost_request_never_arrives(bench: Bench) -> None:
    """The caller waits until its deadline; the server knows of nothing."""
    bench.world.lose(1.0, replies=False)
    assert bench.status(timeout_s=2) == "DEADLINE_EXCEEDED"
    assert bench.world.loop.time() == 2.0
    assert bench.received == []


def test_lost_reply_leaves_the_work_done(bench: Bench) -> None:
    """The server has done it and the caller does not know."""
    bench.world.lose(1.0, requests=False)
    assert bench.status() == "DEADLINE_EXCEEDED"
    assert len(bench.received) == 1
    bench.world.heal()
    assert bench.status() == "OK"


def test_duplicated_request_is_served_twice(bench: Bench) -> None:
    """The caller gets one answer."""
    bench.world.duplicate(1.0)
    assert bench.status() == "OK"
    bench.world.advance(1)
    assert [request for request, _ in bench.received] == [b"hello", b"hello"]


def test_reordering_lets_later_messages_overtake(bench: Bench) -> None:
    """What was sent first does not arrive first."""

    async def ask_all() -> None:
        await asyncio.gather(*(bench.ask(b"%d" % n) for n in range(20)))

    bench.world.reorder(0.5, 1.0)
    bench.world.call(ask_all())
    order = [int(request) for request, _ in bench.received]
    assert order != sorted(order)
    assert sorted(order) == list(range(20))


def test_delay_is_added_each_way(bench: Bench) -> None:
    """Two ways of a second each."""
    bench.world.delay("caller", "server", 1.0)
    assert bench.status() == "OK"
    assert 2.0 < bench.world.loop.time() < 2.1


@pytest.mark.parametrize(
    ("source", "target", "one_way", "arrives"),
    [("caller", "server", True, 0), ("server", "caller", True, 1), ("server", "caller", False, 0)],
)
def test_partitions(bench: Bench, source: str, target: str, *, one_way: bool, arrives: int) -> None:
    """One way, the other way, both ways; healing ends them all."""
    bench.world.partition(source, target, one_way=one_way)
    assert bench.status() == "DEADLINE_EXCEEDED"
    assert len(bench.received) == arrives
    bench.world.heal()
    assert bench.status() == "OK"


def test_slow_node(bench: Bench) -> None:
    """Everything to and from it takes longer, until it is set back."""
    bench.world.slow("server", 100.0)
    assert bench.status() == "OK"
    assert bench.world.loop.time() > 0.05
    bench.world.slow("server", 1.0)
    began_s = bench.world.loop.time()
    assert bench.status() == "OK"
    assert bench.world.loop.time() - began_s < 0.02


def test_skewed_clock(bench: Bench) -> None:
    """One node's clock is off; nobody else's is, and time passes as before."""
    bench.world.skew("server", -30.0)
    bench.world.advance(100)
    assert bench.server.now() == EPOCH_S + 70
    assert bench.caller.now() == EPOCH_S + 100
    bench.world.skew("server", 0.0)
    assert bench.server.now() == EPOCH_S + 100


# Pause ------------------------------------------------------------------------------------------


def test_paused_server_answers_late(bench: Bench) -> None:
    """While it is paused callers wait; a call whose deadline has not passed is answered when it resumes."""
    bench.world.pause("server")
    assert bench.status(timeout_s=2) == "DEADLINE_EXCEEDED"
    answer = bench.world.submit(bench.ask(timeout_s=10))
    bench.world.advance(3)
    assert bench.received == []
    bench.world.resume("server")
    assert answer.result() == "OK"


def test_paused_node_is_held_everywhere(bench: Bench) -> None:
    """Its timers, its disk and its channels wait with it; afterwards it goes on where it stood."""
    host, log = bench.host("node"), list[float]()

    async def work() -> None:
        store = host.store("notes")
        await store.create_tables(TABLES)
        for n in range(100):
            await host.sleep(1)
            await store.run(write(f"{n:02}"))
            log.append(host.now() - EPOCH_S)

    async def start() -> None:
        host.spawn(work())

    bench.world.call(start())
    bench.world.advance(3.5)
    bench.world.pause("node")
    bench.world.advance(10)
    assert len(log) == len(bench.notes()) == 3
    bench.world.resume("node")
    bench.world.advance(1.7)
    assert len(log) == 5
    assert log[3] > 13.5


# Crash ------------------------------------------------------------------------------------------


def test_calls_to_a_node_that_crashes_fail(bench: Bench) -> None:
    """Its connections break at once, and nobody answers until it is back."""
    answer = bench.world.submit(bench.ask(b"sleep4"))
    bench.world.advance(1)
    bench.world.call(bench.world.crash(bench.server))
    assert answer.result() == "UNAVAILABLE"
    assert bench.world.loop.time() < 1.1
    assert bench.status() == "UNAVAILABLE"
    bench.serve(bench.host("server"))
    assert bench.status() == "OK"


def test_calls_of_a_node_that_crashes_are_cancelled(bench: Bench) -> None:
    """The server learns it when the connection breaks."""

    async def start() -> None:
        bench.caller.spawn(bench.ask(b"sleep4"))

    bench.world.call(start())
    bench.world.advance(1)
    bench.world.call(bench.world.crash(bench.caller))
    bench.world.advance(0.1)
    assert bench.cancelled == [b"sleep4"]


def test_no_finally_of_a_dead_node_reaches_the_world(bench: Bench) -> None:
    """Neither disk nor network nor history hears of it, nor do its timers and tasks go on."""
    node, effects = bench.host("node"), list[str]()

    async def work() -> None:
        store = node.store("notes")
        await store.create_tables(TABLES)
        node.call_later(5, lambda: effects.append("timer"))
        try:
            await node.sleep(1000)
        finally:
            effects.append("finally")
            node.spawn(note(store))
            await store.run(write("from finally"))

    async def note(store: Any) -> None:
        effects.append("task")
        await store.run(write("from a task"))
        method: Any = node.channel("server").unary_unary(METHOD)
        await method(b"from a task")

    async def start() -> None:
        node.spawn(work())

    bench.world.call(start())
    bench.world.advance(1)
    bench.world.call(bench.world.crash(node))
    events = bench.history.total
    bench.world.advance(100)
    assert effects == []
    assert bench.notes() == []
    assert bench.received == []
    assert bench.history.total == events


def test_committed_stays_and_uncommitted_is_gone(bench: Bench) -> None:
    """What was durable before the crash is there after it, and what was on its way to the disk is not."""
    node = bench.host("node")

    async def work() -> None:
        store = node.store("notes")
        await store.create_tables(TABLES)
        await store.run(write("committed"))
        first, second = (asyncio.ensure_future(store.run(write(name))) for name in ("on disk", "in memory"))
        await asyncio.sleep(0)  # both are enqueued, none has been written
        await bench.world.crash(node)
        await asyncio.wait([first, second], timeout=1)

    bench.world.call(work())
    assert bench.notes() == ["committed"]


@pytest.mark.parametrize(
    ("point", "on_disk", "told"),
    [
        (CommitPoint.BEFORE, ["first"], ["first"]),
        (CommitPoint.UNANSWERED, ["first", "second"], ["first"]),
        (CommitPoint.AFTER, ["first", "second"], ["first", "second"]),
    ],
)
def test_crash_at_a_commit(bench: Bench, point: CommitPoint, on_disk: list[str], told: list[str]) -> None:
    """Before it nothing is kept; after it everything is, whether the node knew or not; reads do not count."""
    node, known, buried = bench.host("node"), list[str](), list[bool]()

    async def work() -> None:
        store = node.store("notes")
        await store.create_tables(TABLES)
        bench.world.crash_at_commit("node", point, bury, nth=2)
        for name in ("first", "second", "third"):
            await store.run(lambda connection: connection.execute(NOTES.select()).all())
            await store.run(write(name))
            known.append(name)
            await node.sleep(1)

    async def bury() -> None:
        buried.append(node.dead)

    async def start() -> None:
        node.spawn(work())

    bench.world.call(start())
    bench.world.advance(10)
    assert bench.notes() == on_disk
    assert known == told
    assert buried == [True]


def test_a_twin_survives_the_crash_of_whoever_woke_the_writer(bench: Bench) -> None:
    """Two nodes share a database; one dies while it commits for both, and the other gets its answer."""
    dying, living = bench.host("dying"), bench.host("living")

    async def work() -> list[str]:
        stores = [host.store("notes") for host in (dying, living)]
        await stores[1].create_tables(TABLES)
        lost = dying.spawn(stores[0].run(write("dying")))
        kept = living.spawn(stores[1].run(write("living")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await bench.world.crash(dying)
        await kept
        return [str(lost.done())]

    assert bench.world.call(work()) == ["False"]
    assert "living" in bench.notes()


# Choices and traces -----------------------------------------------------------------------------


def trace(choices: Choices, work: Callable[[Bench], Coroutine[Any, Any, Any]]) -> list[dict[str, Any]]:
    made = Bench(choices)
    made.world.lose(0.2)
    made.world.call(work(made))
    made.world.close()
    return [as_dict(event) for event in made.history]


async def ten_calls(bench: Bench) -> None:
    for n in range(10):
        await bench.ask(b"%d" % n, timeout_s=1)


def test_choices_are_saved_and_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A saved list repeats the run; a shortened one goes on from the seed, an edited one goes another way."""
    monkeypatch.setitem(authorization.RULES, METHOD, Rule(None))
    first = Choices(5)
    once = trace(first, ten_calls)
    first.save(tmp_path / "choices.json")
    assert trace(Choices.load(tmp_path / "choices.json"), ten_calls) == once
    recorded = first.as_dict()
    shorter = {name: values[: len(values) // 2] for name, values in recorded.items()}
    assert trace(Choices(5, shorter), ten_calls) == once
    assert trace(Choices(6), ten_calls) != once
    no_losses = {name: [0] * 100 if name.startswith("loss") else values for name, values in recorded.items()}
    assert sum(event["kind"] == "failed" for event in once) > 0
    assert sum(event["kind"] == "failed" for event in trace(Choices(5, no_losses), ten_calls)) == 0


@functools.cache
def run_in_a_process(seed: int, hash_seed: int, *more: str) -> str:
    script = Path(__file__).with_name("trace_of_a_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(seed), *more],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def test_same_seed_same_trace_in_every_process() -> None:
    """With losses, duplicates, a crash, a pause and a partition; and another seed gives another trace."""
    assert run_in_a_process(42, 1) == run_in_a_process(42, 2)
    assert run_in_a_process(43, 1) != run_in_a_process(42, 1)


def test_planted_iteration_over_a_set_is_seen() -> None:
    """The comparison above would notice that the order of a set had leaked into the run."""
    assert run_in_a_process(42, 1, "disorder") != run_in_a_process(42, 2, "disorder")


# Speed ------------------------------------------------------------------------------------------


async def floor(bench: Bench, calls: int) -> None:
    """The least that a call can cost: a future, a task and two timers."""
    loop, rng = bench.world.loop, bench.caller.rng

    async def answer(future: asyncio.Future[None]) -> None:
        loop.call_later(rng.random(), future.set_result, None)

    def arrive(future: asyncio.Future[None]) -> None:
        tasks.append(loop.create_task(answer(future)))

    for _ in range(calls):
        tasks: list[asyncio.Task[None]] = []
        future: asyncio.Future[None] = loop.create_future()
        loop.call_later(rng.random(), arrive, future)
        await future


async def bare_calls(bench: Bench, calls: int) -> None:
    """Calls through channel and server without interceptors."""
    server = SimServer(bench.server, [], message_bytes_max=1_000)
    server.add_generic_rpc_handlers((One(bench.handle),))
    await server.start()
    method = SimChannel(bench.caller, "server", []).unary_unary(METHOD)
    for _ in range(calls):
        await method(b"hello", timeout=5)


def test_a_call_costs_little_more_than_it_must(bench: Bench) -> None:
    """At most two and a half times the floor, measured in the same run."""

    def cost_s(work: Coroutine[Any, Any, None]) -> float:
        began_s = time.process_time()
        bench.world.call(work)
        return time.process_time() - began_s

    pairs = [(cost_s(floor(bench, 2_000)), cost_s(bare_calls(bench, 2_000))) for _ in range(5)]
    assert min(bare for _, bare in pairs) <= 2.5 * min(least for least, _ in pairs)


# The lab ----------------------------------------------------------------------------------------


def test_lab_has_the_same_face() -> None:
    """Pay, crash, restart, settle and check, and minutes pass in no time."""
    with paylab.Lab(world="simulated", seed=7) as lab:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        assert alice.pay(bob, "12.50 EUR", key="one").state == "COMMITTED"
        lab.crash("alpine-1")
        assert alice.pay(bob, "12.50 EUR").state == "COMMITTED"
        lab.restart("alpine-1")
        before_s = lab.world.now()
        lab.advance("5 min")
        assert lab.world.now() - before_s == pytest.approx(300)
        assert alice.pay(bob, "12.50 EUR", key="one").state == "COMMITTED"
        assert str(alice.balance()) == "75.00 EUR"
        assert lab.settle()
        assert lab.check().ok


def test_crash_of_the_coordinator_at_every_commit() -> None:
    """Wherever it dies, the payment ends the same for both banks once it is back."""
    for point in CommitPoint:
        with paylab.Lab(world="simulated", seed=3) as lab:
            alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
            bob = lab.client("bob", bank="boreal")
            alice.pay(bob, "1.00 EUR")
            world = lab.world
            assert isinstance(world, SimWorld)
            world.crash_at_commit("coordinator", point, lambda lab=lab: lab.network.crash("coordinator"))  # type: ignore[misc] # a default argument binds the loop's variable
            payment = alice.submit_pay(bob, "10.00 EUR")
            lab.advance("2 s")
            assert not lab.is_up("coordinator")
            lab.restart("coordinator")
            assert payment.result().state == "COMMITTED"
            assert lab.settle()
            assert str(bob.balance()) == "11.00 EUR"


@pytest.mark.parametrize(
    "arguments", [{"world": "imagined"}, {"world": "simulated", "data_dir": "somewhere"}]
)
def test_bad_worlds_are_refused(arguments: dict[str, Any]) -> None:
    """There are two, and one of them has no files."""
    with pytest.raises(LabError, match="BAD_ARGUMENT"):
        paylab.Lab(**arguments)
