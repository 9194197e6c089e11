"""Who gets in: certificates, tokens and roles, tried by a client that knows nothing of paylab."""

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from paylab import Lab
from paylab.core.authorization import RULES, Identity, Role, Rule
from paylab.lab.real_world import RealWorld
from paylab.nodes.interceptors import BANK_KEY, CALLER_KEY
from paylab.pb import (
    authentication_pb2,
    authentication_pb2_grpc,
    bank_pb2,
    bank_pb2_grpc,
    money_pb2,
    payment_gateway_pb2,
    payment_gateway_pb2_grpc,
)

Dial = Callable[..., grpc.Channel]
VISITOR = Identity("visitor", Role.CLIENT)
OPERATOR = Identity("lab", Role.OPERATOR)
# Whom a method's name tells to ask, and what that node serves besides health and reflection.
SERVED_BY = {
    "Authentication": "auth-1",
    "LoadBalancer": "bank-lb",
    "PaymentGateway": "gateway",
    "Bank": "alpine-1",
    "Coordinator": "coordinator",
    "TransactionLogger": "logger",
    "OfflineQueue": "queue",
    "ServerReflection": "coordinator",
}
COMMON = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def world() -> str:
    """A channel of grpc's own needs a real port."""
    return "real"


def service_of(node: str) -> str:
    if node.endswith("-lb"):
        return "LoadBalancer"
    if node.startswith("auth"):
        return "Authentication"
    found = {"gateway": "PaymentGateway", "logger": "TransactionLogger", "queue": "OfflineQueue"}
    return found.get(node) or ("Coordinator" if node == "coordinator" else "Bank")


def reason(error: Any) -> str:
    """What google.rpc.ErrorInfo says, read with grpcio-status."""
    status = rpc_status.from_call(error)
    if status is None:
        return ""
    info = error_details_pb2.ErrorInfo()
    return info.reason if status.details[0].Unpack(info) else ""


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value  # a sync stub's error is the call itself
    return error.code(), reason(error)


def token_of(lab: Lab, dial: Dial, name: str) -> str:
    """Register a user of our own and log in, through the balancer."""
    stub = authentication_pb2_grpc.AuthenticationStub(dial(lab, "auth-lb", Identity(name, Role.CLIENT)))
    stub.Register(
        authentication_pb2.RegisterRequest(username=name, password="open sesame"), timeout=TIMEOUT_S
    )
    answer = stub.Login(
        authentication_pb2.LoginRequest(username=name, password="open sesame"), timeout=TIMEOUT_S
    )
    return str(answer.access_token)


def pay_request(lab: Lab) -> payment_gateway_pb2.PayRequest:
    lab.client("ann", bank="alpine", balance="5.00 EUR")
    return payment_gateway_pb2.PayRequest(
        idempotency_key="k",
        payer="alpine/ann",
        payee="boreal/ben",
        money=money_pb2.Money(amount_minor=100, currency="EUR"),
    )


def test_every_node_tells_what_it_serves(lab: Lab, dial: Dial) -> None:
    """An operator's reflection client lists each node's services and finds their descriptors."""
    for node in lab.nodes:
        database = ProtoReflectionDescriptorDatabase(dial(lab, node, OPERATOR))
        service = f"paylab.v1.{service_of(node)}"
        assert set(database.get_services()) == COMMON | {service}
        pool = descriptor_pool.DescriptorPool(database)
        methods = pool.FindServiceByName(service).methods
        assert {f"/{service}/{method.name}" for method in methods} <= set(RULES)


def test_every_node_is_healthy(lab: Lab, dial: Dial) -> None:
    """Health answers SERVING for each node as a whole and for each of its services."""
    for node in lab.nodes:
        stub: Any = health_pb2_grpc.HealthStub(dial(lab, node, VISITOR))
        for service in ("", f"paylab.v1.{service_of(node)}"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, f"{node} {service}"


def test_a_call_can_be_made_from_reflection_alone(lab: Lab, dial: Dial) -> None:
    """Descriptors that came over the wire suffice to build a request and read the answer."""
    channel = dial(lab, "bank-lb", OPERATOR)
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("paylab.v1.LoadBalancer").methods_by_name["ListServers"]
    request = message_factory.GetMessageClass(method.input_type)()
    response: Any = message_factory.GetMessageClass(method.output_type)
    call: Any = channel.unary_unary(
        "/paylab.v1.LoadBalancer/ListServers",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    servers = [server.server for server in call(request, timeout=TIMEOUT_S).servers]
    assert servers == ["alpine-1", "alpine-2", "boreal-1", "boreal-2"]


@pytest.mark.parametrize("kind", ["none", "empty", "another scheme", "nonsense", "tampered", "truncated"])
def test_without_a_good_token_nobody_pays(lab: Lab, dial: Dial, kind: str) -> None:
    """The gateway answers UNAUTHENTICATED, with a reason, and saves nothing."""
    token = token_of(lab, dial, "mallory")
    head, body, signature = token.split(".")
    other = "A" if body[20] != "A" else "B"
    headers = {
        "none": (),
        "empty": (("authorization", "Bearer "),),
        "another scheme": (("authorization", f"Basic {token}"),),
        "nonsense": (("authorization", "Bearer nonsense"),),
        "tampered": (("authorization", f"Bearer {head}.{body[:20]}{other}{body[21:]}.{signature}"),),
        "truncated": (("authorization", f"Bearer {head}.{body}."),),
    }
    stub = payment_gateway_pb2_grpc.PaymentGatewayStub(dial(lab, "gateway", VISITOR))
    request = pay_request(lab)
    before = lab.world.rows("gateway", "SELECT count(*) FROM payments")
    answer = refusal(lambda: stub.Pay(request, metadata=headers[kind], timeout=TIMEOUT_S))
    assert answer == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert lab.world.rows("gateway", "SELECT count(*) FROM payments") == before


def test_a_token_opens_its_owners_accounts_only(lab: Lab, dial: Dial) -> None:
    """A good token of somebody else is PERMISSION_DENIED, NOT_OWNER."""
    header = (("authorization", f"Bearer {token_of(lab, dial, 'mallory')}"),)
    stub = payment_gateway_pb2_grpc.PaymentGatewayStub(dial(lab, "gateway", VISITOR))
    request = pay_request(lab)
    answer = refusal(lambda: stub.Pay(request, metadata=header, timeout=TIMEOUT_S))
    assert answer == (grpc.StatusCode.PERMISSION_DENIED, "NOT_OWNER")
    bank = bank_pb2_grpc.BankStub(dial(lab, "bank-lb", VISITOR))
    asked = bank_pb2.GetAccountRequest(account="ann")
    answer = refusal(
        lambda: bank.GetAccount(asked, metadata=(*header, (BANK_KEY, "alpine")), timeout=TIMEOUT_S)
    )
    assert answer == (grpc.StatusCode.PERMISSION_DENIED, "NOT_OWNER")


def test_only_an_operator_gives_accounts(lab: Lab, dial: Dial) -> None:
    """A client that registers itself with somebody's account is refused."""
    stub = authentication_pb2_grpc.AuthenticationStub(dial(lab, "auth-lb", VISITOR))
    for rights in ({"accounts": ["alpine/ann"]}, {"roles": ["originator"]}):
        request = authentication_pb2.RegisterRequest(username="eve", password="x", **rights)
        answer = refusal(partial(stub.Register, request, timeout=TIMEOUT_S))
        assert answer == (grpc.StatusCode.PERMISSION_DENIED, "ROLE")


def test_without_a_certificate_there_is_no_connection(lab: Lab, dial: Dial) -> None:
    """The handshake fails at every node, before anything is asked."""
    for node in lab.nodes:
        stub: Any = health_pb2_grpc.HealthStub(dial(lab, node, None))
        code, found = refusal(partial(stub.Check, health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S))
        assert (code, found) == (grpc.StatusCode.UNAVAILABLE, "")


def test_another_labs_certificate_is_worth_nothing(lab: Lab, dial: Dial) -> None:
    """It was issued by an authority that this lab does not trust, also for an operator."""
    with Lab(name="another", banks=["cedar"], bank_servers=1, auth_servers=1, world="real") as other:
        operator = Identity("lab", Role.OPERATOR)
        stub: Any = health_pb2_grpc.HealthStub(dial(lab, "gateway", operator, of=other))
        code, _ = refusal(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S))
        assert code is grpc.StatusCode.UNAVAILABLE


def refused(rule: Rule) -> list[Role]:
    """Roles that a method must turn away at once."""
    return [] if rule.peers is None or rule.scope else [role for role in Role if role not in rule.peers]


def drained(channel: grpc.Channel, method: str) -> Callable[..., list[Any]]:
    """A call of a stream that reads all of it."""
    call: Any = channel.stream_stream(method)
    return lambda request, **about: list(call(iter([request]), **about))


CLOSED = sorted(method for method, rule in RULES.items() if refused(rule))


@pytest.mark.parametrize("method", CLOSED)
def test_wrong_roles_are_turned_away(lab: Lab, dial: Dial, method: str) -> None:
    """Each role outside the table gets PERMISSION_DENIED, ROLE, from the server and through a balancer."""
    service = method.split("/")[1].rpartition(".")[2]
    nodes = [SERVED_BY[service]]
    if service in ("Bank", "Authentication"):
        nodes.append("bank-lb" if service == "Bank" else "auth-lb")
    for node in nodes:
        for role in refused(RULES[method]):
            channel = dial(lab, node, Identity("intruder", role))
            call: Any = channel.unary_unary(method)
            if RULES[method].streaming:
                call = drained(channel, method)
            # Nobody vouches for himself: the header counts from a balancer's certificate only.
            claimed = str(Identity("lab", Role.OPERATOR))
            metadata: tuple[tuple[str, str], ...] = ((CALLER_KEY, claimed), (BANK_KEY, "alpine"))
            if role is Role.BALANCER:
                metadata = ((BANK_KEY, "alpine"),)
            code, _ = refusal(lambda: call(b"", metadata=metadata, timeout=TIMEOUT_S))  # noqa: B023 - called at once
            assert code is grpc.StatusCode.PERMISSION_DENIED, f"{role} at {node}"


def test_a_method_that_nobody_knows_is_unimplemented(lab: Lab, dial: Dial) -> None:
    """Neither a node nor a balancer forwards what the table does not list."""
    for node in ("gateway", "bank-lb"):
        call: Any = dial(lab, node, Identity("lab", Role.OPERATOR)).unary_unary("/paylab.v1.Bank/EmptyVault")
        code, _ = refusal(lambda: call(b"", timeout=TIMEOUT_S))  # noqa: B023 - called at once
        assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("clock", ["abc", "-5", "", "9" * 5000, "1e9"])
def test_a_strange_clock_does_no_harm(lab: Lab, dial: Dial, clock: str) -> None:
    """Metadata is whatever a caller writes: a Lamport clock that is none is ignored."""
    stub: Any = health_pb2_grpc.HealthStub(dial(lab, "logger", VISITOR))
    answer = stub.Check(
        health_pb2.HealthCheckRequest(), metadata=(("paylab-lamport", clock),), timeout=TIMEOUT_S
    )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_restarted_node_shows_a_new_certificate(lab: Lab) -> None:
    """The old one may have been about to expire: no node keeps a certificate beyond its restart."""
    host: Any = lab.network.nodes["logger"].host
    before = host._credentials.certificate_pem
    lab.crash("logger")
    lab.restart("logger")
    renewed: Any = lab.network.nodes["logger"].host
    assert renewed._credentials.certificate_pem != before
    assert served_certificate(lab, "logger") in renewed._credentials.certificate_pem.decode()


def served_certificate(lab: Lab, node: str) -> str:
    """What a node shows to whoever connects, read by Python's own TLS."""
    assert isinstance(lab.world, RealWorld)
    host, _, port = lab.world.address(node).rpartition(",")[2].removeprefix("ipv4:").rpartition(":")
    return ssl.get_server_certificate((host, int(port))).strip()
