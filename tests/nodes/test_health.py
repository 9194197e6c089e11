"""Health: crashed, hung, draining and failing servers get no calls; full ones let callers wait."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from itertools import pairwise
from typing import Any

import grpc
import pytest

from paylab import Lab
from paylab.core.balancing import POLICIES
from paylab.core.health import Limits
from paylab.errors import LabError, Overloaded
from paylab.nodes import wire
from paylab.nodes.bank_server import BankServer
from paylab.nodes.events import Event, Kind
from paylab.nodes.interceptors import ACCOUNT_KEY, BANK_KEY
from paylab.nodes.load_balancer import LoadBalancer
from paylab.nodes.passwords import PasswordCost
from paylab.pb import bank_pb2, bank_pb2_grpc, payment_gateway_pb2, payment_gateway_pb2_grpc
from paylab.pb import load_balancer_pb2 as pb

Eventually = Callable[..., None]
LEASE_S = 1.5


class Trouble:
    """What the test's bank servers do at the moment."""

    failing: str = ""
    takes_s = 0.0


class TroubledBank(BankServer, payment_gateway_pb2_grpc.PaymentGatewayServicer):
    """Fails, or takes its time, when the test says so; and streams what no bank streams."""

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        payment_gateway_pb2_grpc.add_PaymentGatewayServicer_to_server(self, server)
        return super().add_to(server)

    async def GetAccount(self, request: bank_pb2.GetAccountRequest, context: Any) -> bank_pb2.Account:  # noqa: N802 - the proto's name
        if Trouble.failing == self.name:
            await context.abort(grpc.StatusCode.INTERNAL, "the disk is broken")
        if Trouble.takes_s:
            await self.host.sleep(Trouble.takes_s)
        return await super().GetAccount(request, context)

    async def WatchPayment(  # noqa: N802 - the proto's name
        self, request: payment_gateway_pb2.GetPaymentRequest, context: Any
    ) -> AsyncIterator[payment_gateway_pb2.Receipt]:
        for n in range(3):
            yield payment_gateway_pb2.Receipt(payment=f"{request.payment}-{n}")
        context.set_trailing_metadata((("how-it-was", "fine"),))
        if request.payment == "bad":
            await context.abort(grpc.StatusCode.DATA_LOSS, "half of it", (("how-it-was", "bad"),))


class TightBalancer(LoadBalancer):
    """Full with one call, and one more may wait."""

    def __init__(self, host: Any, **named: Any) -> None:
        super().__init__(host, limits=Limits(calls_max=1, waiting_max=1), **named)


@pytest.fixture(scope="module")
def troubled(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    with Lab(
        name="troubled",
        replace={"node.bank": TroubledBank},
        lease_s=LEASE_S,
        password_cost=cheap,
        world=world,
    ) as lab:
        lab.client("ann", bank="alpine", balance="1.00 EUR")
        yield lab


@pytest.fixture
def lab(troubled: Lab, eventually: Eventually) -> Iterator[Lab]:
    """Every test finds all servers up, and leaves them so."""
    eventually(lambda: all(info.eligible for info in troubled.servers()))
    yield troubled
    Trouble.failing, Trouble.takes_s = "", 0.0


async def ask(lab: Lab, *, timeout_s: float = 10.0, bank: str = "alpine") -> str:
    """Read Ann's account through the balancer; "OK" or the code of the error."""
    stub = bank_pb2_grpc.BankStub(lab.network.operator.channel("bank-lb"))
    metadata = ((BANK_KEY, bank), (ACCOUNT_KEY, "alpine/ann"))
    try:
        await stub.GetAccount(bank_pb2.GetAccountRequest(account="ann"), metadata=metadata, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def flow(
    lab: Lab, meanwhile: Callable[[], Coroutine[Any, Any, None]], *, gap_s: float = 0.01
) -> Counter[str]:
    """Ask at a steady rate while something happens; how the calls ended."""
    happening, calls = asyncio.ensure_future(meanwhile()), []
    while not happening.done():
        calls.append(asyncio.ensure_future(ask(lab)))
        await asyncio.sleep(gap_s)
    await happening
    return Counter(await asyncio.gather(*calls))


def out(lab: Lab, server: str) -> Callable[[], bool]:
    return lambda: not lab.servers()[server].eligible


# Out and in again ---------------------------------------------------------------------------------


def test_a_crash_is_seen_by_the_health_check(lab: Lab, eventually: Eventually) -> None:
    """Long before the lease ends, and without a call that had to fail for it."""
    lab.crash("alpine-1")
    eventually(out(lab, "alpine-1"))
    info = lab.servers()["alpine-1"]
    assert info.health == pb.HEALTH_UNREACHABLE
    assert info.lease_left_s > 0
    lab.restart("alpine-1")
    eventually(lambda: lab.servers()["alpine-1"].eligible)


def test_a_renewal_that_gets_lost_does_not_end_a_lease() -> None:
    """Leases are renewed at half of their time; a lost renewal is missed in time to register anew."""
    lease_s = 16.0
    with Lab(name="renewals", world="simulated", lease_s=lease_s) as lab:
        reports: list[Event] = []
        lab.history.listen(lambda event: reports.append(event) if event.node == "alpine-1" else None)
        lab.advance(2 * lease_s)
        renewed = [event.at_s for event in reports if event.kind is Kind.RETURNED]
        gaps_s = [later - earlier for earlier, later in pairwise(renewed)]
        assert gaps_s == pytest.approx([lease_s / 2] * len(gaps_s), abs=0.1)
        lab.advance(renewed[-1] + lease_s / 2 - 0.1 - lab.world.now())
        lab.partition("alpine-1", "bank-lb")
        lab.advance(1.0)
        lab.heal()
        left_s = []
        for _ in range(round(lease_s)):
            left_s.append(lab.servers()["alpine-1"].lease_left_s)
            lab.advance(1.0)
        assert any(event.kind is Kind.FAILED for event in reports)
        assert 0 < min(left_s) < lease_s / 4


def test_a_hung_server_is_out_within_its_lease_and_its_calls_go_elsewhere(lab: Lab) -> None:
    """It accepts calls and answers none; whoever waits for it is served by its twin when the lease ends."""
    lab.pause("alpine-1")
    began_s = lab.world.now()
    ends = [lab.submit(ask(lab)) for _ in range(4)]
    assert [end.result() for end in ends] == ["OK"] * 4
    assert lab.world.now() - began_s < LEASE_S + 1.0
    assert out(lab, "alpine-1")()
    assert "silent" in str(lab.servers())
    lab.resume("alpine-1")


def test_draining_drops_nothing(lab: Lab, eventually: Eventually) -> None:
    """Calls flow while it drains, and all of them succeed; then it has nothing, and gets nothing."""
    Trouble.takes_s = 0.05

    async def drain() -> None:
        await asyncio.sleep(0.2)
        await lab.network.drain("alpine-1", timeout_s=10)
        before = {info.server: info for info in await lab.network.listed("bank-lb")}["alpine-1"]
        assert (before.eligible, before.in_flight) == (False, 0)
        await asyncio.sleep(0.2)
        after = {info.server: info for info in await lab.network.listed("bank-lb")}["alpine-1"]
        assert (after.forwarded, after.health) == (before.forwarded, pb.HEALTH_NOT_SERVING)

    ends = lab.submit(flow(lab, drain)).result()
    assert set(ends) == {"OK"}
    assert ends["OK"] > 10
    lab.serve("alpine-1")
    eventually(lambda: lab.servers()["alpine-1"].eligible)


def test_only_servers_behind_a_balancer_drain(lab: Lab) -> None:
    """And only those that are up."""
    with pytest.raises(LabError, match="behind no balancer"):
        lab.drain("gateway")
    with pytest.raises(LabError, match="there is no node"):
        lab.drain("alpine-7")


def test_a_drain_that_takes_too_long_is_told(lab: Lab) -> None:
    """The server goes on with what it has."""
    Trouble.takes_s = 1.0
    ends = [lab.submit(ask(lab)) for _ in range(4)]
    lab.advance(0.3)
    with pytest.raises(LabError, match="still has calls"):
        lab.drain("alpine-1", timeout_s=0.1)
    assert [end.result() for end in ends] == ["OK"] * 4
    lab.serve("alpine-1")


def test_a_server_that_fails_is_ejected_and_comes_back(lab: Lab, eventually: Eventually) -> None:
    """Five failures in a row, and its twin has all calls; later it is tried, and ejected again."""
    Trouble.failing = "alpine-1"
    ends = Counter(lab.submit(ask(lab)).result() for _ in range(20))
    assert ends == {"INTERNAL": 5, "OK": 15}
    info = lab.servers()["alpine-1"]
    assert (info.ejections, info.eligible) == (1, False)
    assert 0 < info.ejected_for_s <= 2.0
    assert "ejected for" in str(lab.servers())
    eventually(lambda: lab.servers()["alpine-1"].eligible)
    ends = Counter(lab.submit(ask(lab)).result() for _ in range(20))
    assert ends["INTERNAL"] == 5
    Trouble.failing = ""
    assert lab.servers()["alpine-1"].ejections == 2
    eventually(lambda: lab.servers()["alpine-1"].eligible)


# Policies in use ----------------------------------------------------------------------------------


def test_a_change_of_policy_drops_no_call(lab: Lab) -> None:
    """All policies, one after the other, while calls flow."""

    async def change() -> None:
        for policy in POLICIES.values():
            lab.network.set_policy("bank-lb", policy)
            await asyncio.sleep(0.1)

    ends = lab.submit(flow(lab, change)).result()
    assert set(ends) == {"OK"}
    assert ends["OK"] > 2 * len(POLICIES)
    lab.set_policy("bank-lb", "round_robin")


def test_the_same_account_goes_to_the_same_server(lab: Lab) -> None:
    """Under ring hash; the account travels in metadata, since the balancer reads no message."""
    lab.set_policy("bank-lb", "ring_hash")
    before = [lab.servers()[name].forwarded for name in ("alpine-1", "alpine-2")]
    assert [lab.submit(ask(lab)).result() for _ in range(8)] == ["OK"] * 8
    after = [lab.servers()[name].forwarded for name in ("alpine-1", "alpine-2")]
    assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 8]
    lab.set_policy("bank-lb", "round_robin")


def test_a_policy_of_ones_own_goes_into_the_balancer(lab: Lab) -> None:
    """A class of a few lines; it stays through a restart of the balancer."""

    class Last:
        def pick(self, endpoints: Any, call: Any) -> Any:  # noqa: ARG002 - as every policy is asked
            return endpoints[-1]

    lab.set_policy("bank-lb", Last)
    lab.crash("bank-lb")
    lab.restart("bank-lb")
    lab.advance(LEASE_S)
    for _ in range(4):
        assert lab.submit(ask(lab)).result() == "OK"
    assert (lab.servers()["alpine-1"].forwarded, lab.servers()["alpine-2"].forwarded) == (0, 4)
    lab.set_policy("bank-lb", "round_robin")


@pytest.mark.parametrize("policy", ["fastest", 7])
def test_what_is_no_policy_is_refused(lab: Lab, policy: Any) -> None:
    """Before anything changes; and a bank server has no policy."""
    with pytest.raises(LabError, match="policy is"):
        lab.set_policy("bank-lb", policy)
    with pytest.raises(LabError, match="no balancer"):
        lab.set_policy("alpine-1", "p2c")


# Full ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tight(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    with Lab(
        name="tight",
        replace={"node.bank": TroubledBank, "node.balancer": TightBalancer},
        weights={"alpine-1": 3},
        policy="weighted_round_robin",
        password_cost=cheap,
        world=world,
    ) as lab:
        lab.client("ann", bank="alpine", balance="1.00 EUR")
        yield lab


def test_calls_wait_for_room_and_the_rest_are_told_when_to_come_again(tight: Lab) -> None:
    """Two servers with a call each, one call waits, the others hear OVERLOADED with a delay at once."""
    Trouble.takes_s = 0.5

    async def attempt() -> str | Overloaded:
        stub = bank_pb2_grpc.BankStub(tight.network.operator.channel("bank-lb"))
        try:
            await stub.GetAccount(bank_pb2.GetAccountRequest(account="ann"), metadata=((BANK_KEY, "alpine"),))
        except grpc.aio.AioRpcError as error:
            found = wire.status_to_error(error)
            return found if isinstance(found, Overloaded) else str(found)
        return "OK"

    async def crowd() -> list[str | Overloaded]:
        return list(await asyncio.gather(*(attempt() for _ in range(6))))

    ends = tight.submit(crowd()).result()
    refused = [end for end in ends if isinstance(end, Overloaded)]
    assert (len(refused), ends.count("OK")) == (3, 3)
    assert all(0.01 <= end.pushback_s <= 5.0 for end in refused)
    Trouble.takes_s = 0.0
    assert tight.submit(ask(tight)).result() == "OK"


def test_who_waits_when_the_last_server_goes_is_told(tight: Lab, eventually: Eventually) -> None:
    """Not at its deadline, but when nobody is left."""
    Trouble.takes_s = 3.0
    ends = [tight.submit(ask(tight, timeout_s=20.0)) for _ in range(3)]
    tight.advance(0.3)
    for name in ("alpine-1", "alpine-2"):
        tight.crash(name)
    assert [end.result() for end in ends] == ["UNAVAILABLE"] * 3
    Trouble.takes_s = 0.0
    for name in ("alpine-1", "alpine-2"):
        tight.restart(name)
    eventually(lambda: all(info.eligible for info in tight.servers()))


def test_weights_are_kept_on_the_network(tight: Lab, eventually: Eventually) -> None:
    """Three calls in four go to the server of weight 3."""
    eventually(lambda: all(info.eligible for info in tight.servers()))
    before = {info.server: info.forwarded for info in tight.servers()}
    for _ in range(12):
        assert tight.submit(ask(tight)).result() == "OK"
    got = {info.server: info.forwarded - before[info.server] for info in tight.servers()}
    assert (got["alpine-1"], got["alpine-2"]) == (9, 3)


@pytest.mark.parametrize("weights", [{"gateway": 2}, {"alpine-1": 0}])
def test_what_has_no_weight_is_refused(weights: dict[str, int]) -> None:
    """Before anything boots."""
    with pytest.raises(LabError, match="is no bank server"):
        Lab(weights=weights, name="weighty")


# Streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("payment", "code"), [("good", "OK"), ("bad", "DATA_LOSS")])
def test_a_stream_passes_as_it_is(lab: Lab, payment: str, code: str) -> None:
    """Messages in order, then status, details and trailing metadata of the server behind."""

    async def watch() -> tuple[list[str], str, str, Any]:
        client = lab.client("ann")._client
        await client._logged_in()
        stub: Any = payment_gateway_pb2_grpc.PaymentGatewayStub(
            lab.network.client_host("ann").channel("bank-lb")
        )
        call = stub.WatchPayment(
            payment_gateway_pb2.GetPaymentRequest(payment=payment),
            metadata=(*client._metadata(), (BANK_KEY, "alpine")),
        )
        got: list[str] = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for receipt in call:
                got += [receipt.payment]
        trailing = dict(await call.trailing_metadata() or ())
        return got, (await call.code()).name, await call.details(), trailing.get("how-it-was")

    heard = lab.submit(watch()).result()
    assert heard == (
        [f"{payment}-{n}" for n in range(3)],
        code,
        "half of it" if code != "OK" else "",
        "bad" if code != "OK" else "fine",
    )
    assert all(info.in_flight == 0 for info in lab.servers() if info.group == "alpine")


def test_a_stream_of_a_bank_that_is_not_there_is_unavailable(lab: Lab) -> None:
    """At once."""

    async def watch() -> str:
        client = lab.client("ann")._client
        await client._logged_in()
        stub: Any = payment_gateway_pb2_grpc.PaymentGatewayStub(
            lab.network.client_host("ann").channel("bank-lb")
        )
        call = stub.WatchPayment(
            payment_gateway_pb2.GetPaymentRequest(payment="x"),
            metadata=(*client._metadata(), (BANK_KEY, "nowhere")),
        )
        return str((await call.code()).name)

    assert lab.submit(watch()).result() == "UNAVAILABLE"
