"""Attacks before any call is looked at: on the handshake, with sizes, and by asking what there is.

On the gateway's handshake, success is that it speaks with a stranger at all. The table of rules would still
stop him behind it: two defences, and each is tested without the other.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from paylab.core.authorization import Identity, Role
from paylab.core.transport import MESSAGE_BYTES_MAX, METADATA_BYTES_MAX
from paylab.lab.attacks.attack import attack
from paylab.lab.attacks.target import MALLORY, TIMEOUT_S, Attempt, Target
from paylab.lab.attacks.weakenings import another_authority
from paylab.nodes.host import Credentials
from paylab.pb import payment_gateway_pb2, payment_gateway_pb2_grpc

# The connection fails before anybody can answer.
NO_CONNECTION = "UNAVAILABLE"
TOO_LARGE = "RESOURCE_EXHAUSTED"
SPOKEN_TO = "the gateway speaks with a stranger"


def _shake_hands(target: Target, mine: Credentials | None) -> Attempt:
    stub: Any = health_pb2_grpc.HealthStub(target.channel("gateway", mine))
    answer = target.call(stub.Check, health_pb2.HealthCheckRequest())
    return answer.attempt(succeeded=answer.status != NO_CONNECTION)


@attack(weaken="tls.certificates", status=NO_CONNECTION, success=SPOKEN_TO)
def no_certificate(target: Target) -> Attempt:
    """Connect without a certificate. The server demands one (RFC 8446, section 4.3.2)."""
    return _shake_hands(target, None)


@attack(weaken="tls.authority", status=NO_CONNECTION, success=SPOKEN_TO)
def certificate_of_another_authority(target: Target) -> Attempt:
    """Connect with an operator's certificate that one's own authority has issued (RFC 5280, section 6)."""
    mine = another_authority().issue(Identity("lab", Role.OPERATOR))
    return _shake_hands(target, mine)


@attack(weaken="tls.certificates", status=NO_CONNECTION, success=SPOKEN_TO)
def expired_certificate(target: Target) -> Attempt:
    """Connect with the certificate of an operator who left last year (RFC 5280, section 4.1.2.5)."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return _shake_hands(
        target, target.world.credentials(Identity("lab", Role.OPERATOR), expired_at=yesterday)
    )


@attack(weaken="limit.metadata", status=TOO_LARGE, success="the gateway reads it")
def oversized_metadata(target: Target) -> Attempt:
    """Metadata of many kilobytes, to fill a server's memory before it knows who calls (CWE-770)."""
    stub: Any = health_pb2_grpc.HealthStub(target.channel("gateway", target.credentials(MALLORY)))
    padding = (("padding", "x" * (4 * METADATA_BYTES_MAX)),)
    answer = target.call(stub.Check, health_pb2.HealthCheckRequest(), metadata=padding)
    return answer.attempt(succeeded=answer.status != TOO_LARGE)


@attack(weaken="limit.message", status=TOO_LARGE, success="the gateway reads it")
def oversized_message(target: Target) -> Attempt:
    """A message of many megabytes, for the same purpose (CWE-770)."""
    channel = target.channel("gateway", target.credentials(MALLORY))
    request = payment_gateway_pb2.PayRequest(idempotency_key="x" * (MESSAGE_BYTES_MAX + 1))
    answer = target.call(payment_gateway_pb2_grpc.PaymentGatewayStub(channel).Pay, request)
    return answer.attempt(succeeded=answer.status != TOO_LARGE)


@attack(weaken="access.rule", status="PERMISSION_DENIED", success="mallory sees what the coordinator serves")
def reflection_by_a_customer(target: Target) -> Attempt:
    """Ask an inner node for its services: ROLE. Reflection is for operators and nodes (OWASP API9)."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(
        target.channel("coordinator", target.credentials(MALLORY))
    )
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    try:
        answers = list(stub.ServerReflectionInfo(iter([question]), timeout=TIMEOUT_S))
    except grpc.RpcError as error:
        refused: Any = error
        return Attempt(succeeded=False, status=refused.code().name)
    return Attempt(bool(answers[0].list_services_response.service), "OK")
