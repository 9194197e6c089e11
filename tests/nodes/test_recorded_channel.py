"""What a caller records of its calls, in both worlds."""

import asyncio

import grpc
import pytest

from paylab import Lab
from paylab.errors import NotFound
from paylab.nodes.events import Event, Kind
from paylab.nodes.interceptors import BANK_KEY, DEADLINE
from paylab.pb import bank_pb2, bank_pb2_grpc, load_balancer_pb2, load_balancer_pb2_grpc

ANN = bank_pb2.GetAccountRequest(account="ann")
ALPINE = ((BANK_KEY, "alpine"),)


def of_the_last_call(lab: Lab, method: str) -> list[Event]:
    """What was recorded of the last call to a method, in Lamport's order."""
    last = [e.call for e in lab.history if e.kind is Kind.SENT and e.method.endswith(f"/{method}")][-1]
    return sorted((event for event in lab.history if event.call == last), key=lambda event: event.lamport)


def test_four_events_tell_of_a_call_and_clocks_order_them(lab: Lab) -> None:
    """Sent, received, answered, returned: each with a later clock than the one before."""
    lab.client("ann", bank="alpine", balance="5.00 EUR").balance()
    events = of_the_last_call(lab, "GetAccount")
    assert [event.kind for event in events] == [Kind.SENT, Kind.RECEIVED, Kind.ANSWERED, Kind.RETURNED]
    assert len({event.lamport for event in events}) == len(events)
    assert events[0].node == events[-1].node != events[1].node


def test_an_error_is_recorded_with_its_status(lab: Lab) -> None:
    """The caller has FAILED with the status' name, also when it learns the server's clock from trailers."""
    with pytest.raises(NotFound):
        lab.client("ann", bank="alpine").payment("there is none")
    events = of_the_last_call(lab, "GetPayment")
    assert [event.kind for event in events] == [Kind.SENT, Kind.RECEIVED, Kind.REFUSED, Kind.FAILED]
    assert events[-1].detail.startswith("NOT_FOUND: ")


def test_a_call_that_its_caller_gives_up_is_recorded_as_cancelled(lab: Lab) -> None:
    """Whoever waits may be cancelled."""

    async def ask() -> None:
        stub = bank_pb2_grpc.BankStub(lab.network.operator.channel("alpine-1"))
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.1):
                await stub.GetAccount(ANN, metadata=ALPINE)

    lab.pause("alpine-1")
    lab.world.call(ask())
    lab.resume("alpine-1")
    kinds = {event.kind: event for event in of_the_last_call(lab, "GetAccount")}
    assert kinds[Kind.FAILED].detail == "CANCELLED"


def test_a_call_made_for_a_caller_lasts_no_longer_than_the_caller_waits(lab: Lab) -> None:
    """The deadline of the inbound call beats the timeout of the outbound one."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        DEADLINE.set(began_s + 0.2)
        stub = bank_pb2_grpc.BankStub(lab.network.operator.channel("alpine-1"))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.GetAccount(ANN, metadata=ALPINE, timeout=5.0)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert loop.time() - began_s < 2.0

    lab.pause("alpine-1")
    lab.world.call(ask())
    lab.resume("alpine-1")


def test_a_stream_is_recorded_when_it_is_opened(lab: Lab) -> None:
    """Only that: what it says is not."""

    async def listen() -> None:
        stub = load_balancer_pb2_grpc.LoadBalancerStub(lab.network.operator.channel("bank-lb"))
        stream = stub.WatchServers(load_balancer_pb2.ListServersRequest(), timeout=5.0)
        assert (await anext(aiter(stream))).servers
        stream.cancel()

    before = len(lab.history)
    lab.world.call(listen())
    sent = [e for e in list(lab.history)[before:] if e.node == lab.network.operator.identity.node]
    assert [event.kind for event in sent if event.method.endswith("/WatchServers")] == [Kind.SENT]
