"""Balancers: calls are spread, registrations are checked, leases end, a dead server is stepped around."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import grpc
import pytest

from paylab import Lab
from paylab.core.authorization import Identity, Role
from paylab.nodes.interceptors import BANK_KEY
from paylab.nodes.passwords import PasswordCost
from paylab.pb import bank_pb2, bank_pb2_grpc, load_balancer_pb2_grpc
from paylab.pb import load_balancer_pb2 as pb

Dial = Callable[..., grpc.Channel]
Eventually = Callable[..., None]
OPERATOR = Identity("lab", Role.OPERATOR)
TIMEOUT_S = 20.0
NAMES = count(1)


@pytest.fixture(scope="module")
def loaded(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    """A network that balances by least load; its servers report rarely, so that a test can speak for them."""
    with Lab(
        name="least-load",
        policy="least_load",
        auth_servers=1,
        lease_s=300.0,
        password_cost=cheap,
        world=world,
    ) as lab:
        lab.client("ann", bank="alpine", balance="1.00 EUR")
        yield lab


def ask(lab: Lab, dial: Dial, bank: str = "alpine") -> bank_pb2.Account:
    stub = bank_pb2_grpc.BankStub(dial(lab, "bank-lb", OPERATOR))
    request = bank_pb2.GetAccountRequest(account="ann")
    account: bank_pb2.Account = stub.GetAccount(request, metadata=((BANK_KEY, bank),), timeout=TIMEOUT_S)
    return account


def balancer(lab: Lab, dial: Dial, identity: Identity = OPERATOR) -> Any:
    return load_balancer_pb2_grpc.LoadBalancerStub(dial(lab, "bank-lb", identity))


def servers(lab: Lab, dial: Dial, group: str = "") -> dict[str, pb.ServerInfo]:
    request = pb.ListServersRequest(group=group)
    return {
        found.server: found for found in balancer(lab, dial).ListServers(request, timeout=TIMEOUT_S).servers
    }


def test_round_robin_spreads_evenly(lab: Lab, dial: Dial, eventually: Eventually) -> None:
    """Of twenty calls each twin gets ten, and the other bank none."""
    lab.client("ann", bank="alpine", balance="1.00 EUR")
    # A twin that another test has crashed is left alone for a moment.
    eventually(lambda: all(found.eligible for found in servers(lab, dial, "alpine").values()))
    before = servers(lab, dial)
    for _ in range(20):
        ask(lab, dial)
    got = {name: found.forwarded - before[name].forwarded for name, found in servers(lab, dial).items()}
    assert got == {"alpine-1": 10, "alpine-2": 10, "boreal-1": 0, "boreal-2": 0}


def test_least_load_picks_the_idle_twin(loaded: Lab, dial: Dial) -> None:
    """A server that reports much work is left alone until it reports less."""
    report = balancer(loaded, dial, Identity("alpine-1", Role.BANK)).ReportLoad
    before = servers(loaded, dial)
    assert report(pb.ReportLoadRequest(server="alpine-1", in_flight=50), timeout=TIMEOUT_S).known
    for _ in range(5):
        ask(loaded, dial)
    after = servers(loaded, dial)
    assert after["alpine-1"].reported_load == 50
    assert after["alpine-1"].forwarded == before["alpine-1"].forwarded
    assert after["alpine-2"].forwarded == before["alpine-2"].forwarded + 5
    report(pb.ReportLoadRequest(server="alpine-1", in_flight=0), timeout=TIMEOUT_S)
    for _ in range(4):
        ask(loaded, dial)
    assert servers(loaded, dial)["alpine-1"].forwarded == after["alpine-1"].forwarded + 2


def test_an_unknown_bank_is_unavailable(lab: Lab, dial: Dial) -> None:
    """Nobody serves it, so the call fails at once and without ErrorInfo."""
    for bank in ("nowhere", ""):
        with pytest.raises(grpc.RpcError) as caught:
            ask(lab, dial, bank)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == f"no server of {bank!r} is up"


@pytest.mark.parametrize(
    "identity",
    [
        Identity("auth-1", Role.AUTH),  # a server of the other balancer
        Identity("alpine-1", Role.BANK),  # somebody else's name
        Identity("boreal-7", Role.BANK),  # another bank's server, under its own name
        Identity("mallory", Role.CLIENT),
        OPERATOR,
    ],
)
def test_only_the_server_itself_registers(lab: Lab, dial: Dial, identity: Identity) -> None:
    """Its certificate must bear its name, that of its bank, and the role that this balancer serves."""
    for server in ("alpine-7", identity.node):
        request = pb.RegisterServerRequest(server=server, group="alpine", lease_s=60)
        before = servers(lab, dial).keys()
        if server == "alpine-1" and identity.role is Role.BANK:
            continue  # that one may
        with pytest.raises(grpc.RpcError) as caught:
            balancer(lab, dial, identity).Register(request, timeout=TIMEOUT_S)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert servers(lab, dial).keys() == before


def test_nobody_reports_for_another(lab: Lab, dial: Dial) -> None:
    """Such a report changes nothing, and the server is told to register."""
    report = balancer(lab, dial, Identity("boreal-1", Role.BANK)).ReportLoad
    answer = report(pb.ReportLoadRequest(server="alpine-1", in_flight=999), timeout=TIMEOUT_S)
    assert not answer.known
    assert servers(lab, dial)["alpine-1"].reported_load != 999


def test_a_lease_ends(lab: Lab, dial: Dial, eventually: Eventually) -> None:
    """A server that does not renew it is picked no more, and renewing brings it back."""
    name = f"ghost-{next(NAMES)}"
    stub = balancer(lab, dial, Identity(name, Role.BANK))
    stub.Register(pb.RegisterServerRequest(server=name, group="ghost", lease_s=0.3), timeout=TIMEOUT_S)
    assert servers(lab, dial, "ghost")[name].lease_left_s <= 0.3
    eventually(lambda: not servers(lab, dial, "ghost")[name].eligible)
    with pytest.raises(grpc.RpcError, match="no server of 'ghost' is up"):
        ask(lab, dial, "ghost")
    assert stub.ReportLoad(pb.ReportLoadRequest(server=name), timeout=TIMEOUT_S).known
    assert servers(lab, dial, "ghost")[name].lease_left_s > 0


def test_a_dead_twin_is_stepped_around(lab: Lab, dial: Dial) -> None:
    """While its lease still runs, a call that may be repeated goes to the other one and nobody notices."""
    lab.client("ann", bank="alpine", balance="1.00 EUR")
    lab.crash("alpine-1")
    for _ in range(6):
        assert ask(lab, dial).posted.amount_minor == 100
    lab.restart("alpine-1")


def test_a_balancer_that_comes_back_learns_its_servers_again(
    lab: Lab, dial: Dial, eventually: Eventually
) -> None:
    """Everything it knew was in memory; the servers register again by themselves."""
    lab.client("ann", bank="alpine", balance="1.00 EUR")
    lab.crash("bank-lb")
    lab.restart("bank-lb")
    everybody = {"alpine-1", "alpine-2", "boreal-1", "boreal-2"}
    eventually(lambda: everybody <= {n for n, found in servers(lab, dial).items() if found.eligible})
    assert ask(lab, dial).posted.amount_minor == 100


def test_errors_pass_through_a_balancer_as_they_are(lab: Lab, dial: Dial) -> None:
    """Code, message and ErrorInfo are those of the server behind it."""
    stub = bank_pb2_grpc.BankStub(dial(lab, "bank-lb", OPERATOR))
    request = bank_pb2.GetAccountRequest(account="nobody-at-all")
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetAccount(request, metadata=((BANK_KEY, "alpine"),), timeout=TIMEOUT_S)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "NOT_FOUND: alpine keeps no account 'nobody-at-all'"
    assert "grpc-status-details-bin" in dict(error.trailing_metadata())
