"""Attacks with tokens: forged, borrowed, expired, or meant for something else. Each wants alice's money."""

import json
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from paylab.core.authorization import Identity, Role
from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S, TYPE
from paylab.lab.attacks import forging
from paylab.lab.attacks.attack import attack
from paylab.lab.attacks.target import Attempt, Target
from paylab.nodes.events import Kind
from paylab.pb import authentication_pb2, authentication_pb2_grpc, payment_gateway_pb2_grpc

PAID = "alice pays mallory"
REFUSED = "UNAUTHENTICATED"
# So many invented key ids must not make the gateway ask more often than so.
INVENTED, FETCHES_MAX = 20, 3


@attack(weaken="access.token", status=REFUSED, success=PAID)
def no_token(target: Target) -> Attempt:
    """Pay without any token. The table of rules asks for one (RFC 6750, section 3.1)."""
    return target.steal(None)


@attack(weaken="token.none", status=REFUSED, success=PAID)
def alg_none(target: Target) -> Attempt:
    """A token that says it is not signed. The key knows its algorithm (RFC 8725, 3.1; CVE-2015-9235)."""
    kid, _ = forging.signing_key(target.lab)
    return target.steal(forging.by_hand(target.claims(), {"alg": "none", "typ": TYPE, "kid": kid}))


@attack(weaken="token.algorithm", status=REFUSED, success=PAID)
def hs256_with_public_key(target: Target) -> Attempt:
    """An HMAC whose secret is the public key. The key knows its algorithm (RFC 8725, 3.1; CVE-2016-10555)."""
    kid, private = forging.signing_key(target.lab)
    header = {"alg": "HS256", "typ": TYPE, "kid": kid}
    return target.steal(forging.by_hand(target.claims(), header, key=private.public_key().public_bytes_raw()))


@attack(weaken="token.signature", status=REFUSED, success=PAID)
def tampered_payload(target: Target) -> Attempt:
    """Mallory's own token with alice's account in it. The signature does not fit (RFC 7515, section 5.2)."""
    head, body, signature = target.token_of(target.mallory).split(".")
    changed = forging.decoded(body).replace(b"boreal/mallory", b"alpine/alice")
    return target.steal(f"{head}.{forging.encoded(changed)}.{signature}")


@attack(weaken="token.signature", status=REFUSED, success=PAID)
def tampered_signature(target: Target) -> Attempt:
    """A token of alice's with another signature, by one who saw only half of it (RFC 7515, section 5.2)."""
    head, body, signature = forging.signed(target.lab, target.claims()).split(".")
    return target.steal(f"{head}.{body}.{'A' * len(signature)}")


@attack(weaken="token.expiry", status=REFUSED, success=PAID)
def expired(target: Target) -> Attempt:
    """A token of alice's from an old log. It has ended (RFC 7519, section 4.1.4)."""
    ended = int(target.world.now() - LEEWAY_S - 1)
    said = target.claims(exp=ended, iat=ended - ACCESS_LIFETIME_S)
    return target.steal(forging.signed(target.lab, said))


@attack(weaken="token.start", status=REFUSED, success=PAID)
def not_yet_valid(target: Target) -> Attempt:
    """A token for next week, which alice's bank keeps in a drawer. It has not begun (RFC 7519, 4.1.5)."""
    said = target.claims(nbf=int(target.world.now()) + 600)
    return target.steal(forging.signed(target.lab, said))


@attack(weaken="token.required", status=REFUSED, success=PAID)
def missing_exp(target: Target) -> Attempt:
    """A token without an end would live for ever. Its claims are required (RFC 9068, section 2.2)."""
    return target.steal(forging.signed(target.lab, target.claims(exp=None)))


@attack(weaken="token.nan", status=REFUSED, success=PAID)
def exp_is_not_a_number(target: Target) -> Attempt:
    """An end of NaN, which Python's JSON reads and no comparison refuses unless asked the right way."""
    return target.steal(forging.signed(target.lab, target.claims(exp=float("nan"))))


@attack(weaken="token.issuer", status=REFUSED, success=PAID)
def wrong_issuer(target: Target) -> Attempt:
    """A token of another issuer that happens to share the key (RFC 8725, section 3.8)."""
    said = target.claims(iss="https://auth.elsewhere.test")
    return target.steal(forging.signed(target.lab, said))


@attack(weaken="token.audience", status=REFUSED, success=PAID)
def wrong_audience(target: Target) -> Attempt:
    """A token that alice gave to a shop, for the shop (RFC 8725, section 3.9)."""
    return target.steal(forging.signed(target.lab, target.claims(aud="shop")))


@attack(weaken="token.typ", status=REFUSED, success=PAID)
def id_token_as_access_token(target: Target) -> Attempt:
    """A token that says who alice is, used as one that says what she may do (RFC 8725, section 3.11)."""
    return target.steal(forging.signed(target.lab, target.claims(), typ="JWT"))


@attack(weaken="token.unknown-kid", status=REFUSED, success=PAID)
def unknown_kid(target: Target) -> Attempt:
    """A token of the attacker's key, which nobody has published (RFC 8725, section 3.10)."""
    return target.steal(forging.forged(target.claims(), kid="nobody-knows"))


@attack(weaken="token.kid-path", status=REFUSED, success=PAID)
def kid_is_a_path(target: Target) -> Attempt:
    """A key id that names a file with known contents, here an empty one (RFC 8725, section 3.10)."""
    header = {"alg": "HS256", "typ": TYPE, "kid": "../" * 20 + "dev/null"}
    return target.steal(forging.by_hand(target.claims(), header, key=b""))


@attack(weaken="token.kid-query", status=REFUSED, success=PAID)
def kid_is_sql(target: Target) -> Attempt:
    """A key id that ends a query and adds the attacker's key to its result (RFC 8725, section 3.10)."""
    kid = f"' UNION SELECT '{forging.attackers_jwk()['x']}"
    return target.steal(forging.forged(target.claims(), kid=kid))


@attack(weaken="token.jwk", status=REFUSED, success=PAID)
def embedded_jwk(target: Target) -> Attempt:
    """A token that brings the key along that verifies it (RFC 8725, section 3.10; CVE-2018-0114)."""
    return target.steal(forging.forged(target.claims(), jwk=forging.attackers_jwk()))


@attack(weaken="token.jku", status=REFUSED, success=PAID)
def jku_of_the_attacker(target: Target) -> Attempt:
    """A token that says where its keys are published: at the attacker's. Nobody looks (RFC 8725, 3.10)."""
    document = json.dumps({"keys": [forging.attackers_jwk()]}).encode()
    return target.steal(forging.forged(target.claims(), jku=forging.data_url(document)))


@attack(weaken="token.x5u", status=REFUSED, success=PAID)
def x5u_of_the_attacker(target: Target) -> Attempt:
    """A token that says where its certificate is: at the attacker's, who signed it (RFC 8725, 3.10)."""
    return target.steal(forging.forged(target.claims(), x5u=forging.data_url(_self_signed())))


@attack(weaken="token.environment", status=REFUSED, success=PAID)
def key_of_another_environment(target: Target) -> Attempt:
    """A token that the test environment signed, where everybody is an administrator (RFC 8725, 3.8)."""
    return target.steal(forging.forged(target.claims()))


@attack(weaken="access.scope", status="PERMISSION_DENIED", success=PAID)
def token_of_another_scope(target: Target) -> Attempt:
    """A token that alice gave to an app which may only read (RFC 6750, section 3.1)."""
    return target.steal(forging.signed(target.lab, target.claims(scope="payments:read")))


@attack(weaken="token.revocation", status=REFUSED, success=PAID)
def revoked_token(target: Target) -> Attempt:
    """A token that alice ended when her telephone was stolen (RFC 7009). The gateway has heard of it."""
    token = forging.signed(target.lab, target.claims(jti=target.new_name("stolen")))
    target.ask(
        authentication_pb2_grpc.AuthenticationStub,
        "Revoke",
        authentication_pb2.RevokeRequest(token=token),
        node="auth-lb",
        identity=Identity("alice", Role.CLIENT),
    )
    # What it knows is half a minute old at most; a gateway that has just started asks at once.
    target.lab.crash("gateway")
    target.lab.restart("gateway")
    return target.steal(token)


@attack(weaken="token.refetch", status=REFUSED, success="every invented key id costs a fetch of keys")
def flood_of_unknown_kids(target: Target) -> Attempt:
    """Many invented key ids, so that the gateway keeps the authentication servers busy: an amplifier."""
    before = _fetches(target)
    channel = target.channel("gateway", target.credentials(Identity("mallory", Role.CLIENT)))
    method = payment_gateway_pb2_grpc.PaymentGatewayStub(channel).Pay
    request = target.pay_request()
    for n in range(INVENTED):
        answer = target.call(method, request, token=forging.forged(target.claims(), kid=f"invented-{n}"))
    return answer.attempt(succeeded=_fetches(target) - before > FETCHES_MAX)


def _fetches(target: Target) -> int:
    return sum(
        event.node == "gateway" and event.kind is Kind.SENT and event.method.endswith("/GetJwks")
        for event in target.lab.history
    )


def _self_signed() -> bytes:
    """A certificate that the attacker made for his own key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "auth.paylab.test")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(forging.ATTACKERS_KEY.public_key())
        .serial_number(1)
        .not_valid_before(today)
        .not_valid_after(today + timedelta(days=1))
        .sign(forging.ATTACKERS_KEY, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
