"""Nodes of one's own in either world: served, called, cut off, restarted, drawn."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from paylab.core.authorization import Role
from paylab.lab.checking.history import History
from paylab.lab.own_nodes import OwnNodes
from paylab.lab.worlds import open_world

METHOD = "/demo.Echo/Say"


@pytest.fixture(params=["simulated", "real"])
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[OwnNodes, Any, list[str]]]:
    history = History(world=request.param, seed=7, banks=[])
    world = open_world(request.param, "own", seed=7, history=history)
    try:
        yield OwnNodes(world, history), world, []
    finally:
        world.close()


def serve(nodes: OwnNodes, heard: list[str]) -> None:
    async def say(request: StringValue, _context: Any) -> StringValue:
        heard.append(request.value)
        return StringValue(value=request.value.upper())

    handler = grpc.unary_unary_rpc_method_handler(say, StringValue.FromString, StringValue.SerializeToString)
    served = [grpc.method_handlers_generic_handler("demo.Echo", {"Say": handler})]
    nodes.serve("echo", None, lambda _, server: server.add_generic_rpc_handlers(served))


def say(world: Any, phone: Any, text: str, *, timeout_s: float) -> str:
    async def calling() -> str:
        call = phone.channel("echo").unary_unary(
            METHOD,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        try:
            answer: StringValue = await call(StringValue(value=text), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return answer.value

    return str(world.call(calling()))


def test_a_call_and_a_cut_each_way(nodes: tuple[OwnNodes, Any, list[str]]) -> None:
    """What is cut on the way there is not heard; what is cut on the way back is; both look alike."""
    mine, world, heard = nodes
    serve(mine, heard)
    phone = mine.client("phone")
    assert say(world, phone, "one", timeout_s=20.0) == "ONE"
    with mine.cut("phone", "echo"):
        assert say(world, phone, "two", timeout_s=0.5) == "DEADLINE_EXCEEDED"
    with mine.cut("echo", "phone"):
        assert say(world, phone, "three", timeout_s=0.5) == "DEADLINE_EXCEEDED"
    assert say(world, phone, "four", timeout_s=20.0) == "FOUR"
    assert heard == ["one", "three", "four"]


def test_the_timeline_tells_calls_from_a_moment_on(nodes: tuple[OwnNodes, Any, list[str]]) -> None:
    """Earlier calls are left out, whole."""
    mine, world, heard = nodes
    serve(mine, heard)
    phone = mine.client("phone")
    say(world, phone, "one", timeout_s=20.0)
    world.advance(0.01)
    since_s = world.now()
    say(world, phone, "two", timeout_s=20.0)
    assert mine.timeline(since_s).total == 4
    assert mine.timeline().total == 8


def test_a_second_node_of_a_name_is_its_restart(nodes: tuple[OwnNodes, Any, list[str]]) -> None:
    """The first one is gone, and the history goes on with the next number."""
    mine, world, heard = nodes
    serve(mine, heard)
    phone = mine.client("phone")
    say(world, phone, "one", timeout_s=20.0)
    again: list[str] = []
    serve(mine, again)
    assert say(world, phone, "two", timeout_s=20.0) == "TWO"
    assert (heard, again) == (["one"], ["two"])
    numbers = [event.seq for event in mine.history if event.node == "echo"]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_client_serves_nothing(nodes: tuple[OwnNodes, Any, list[str]]) -> None:
    """It has the role of a client."""
    mine, _, _ = nodes
    assert mine.client("phone").identity.role is Role.CLIENT
