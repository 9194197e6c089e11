"""Networks with one defence off, by name: each fills one slot with what somebody careless would write.

Lab(replace=weakened("token.audience"))
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from paylab.core.authorization import RULES, Identity, Rule, parse_identity
from paylab.core.refresh import RefreshToken, Verdict, judge
from paylab.core.tokens import CUSTOMER_SCOPES, ORIGINATOR, STRICT, Caller, check_claims, check_header
from paylab.core.transport import Transport
from paylab.errors import LabError, Unauthenticated
from paylab.lab.attacks import weak_keys
from paylab.lab.pki import Authority
from paylab.nodes.auth_server import AuthServer
from paylab.nodes.load_balancer import LoadBalancer
from paylab.nodes.payment_gateway import PaymentGateway
from paylab.pb import payment_gateway_pb2 as gateway_pb

HUGE_BYTES = 64 * 1024 * 1024
ANYBODY = Caller("anybody", CUSTOMER_SCOPES, (), (ORIGINATOR,))
# What only stands behind the handshake must not be reached without one; the other nodes keep theirs.
OPEN_NODE = "gateway"


@dataclass(frozen=True, slots=True)
class Weakening:
    """A defence that is off: its name, what goes wrong without it, and the slots that are filled."""

    name: str
    about: str
    replace: Mapping[str, Any]


def _claims(**rules: Any) -> dict[str, Any]:
    return {"token.check": partial(check_claims, rules=replace(STRICT, **rules))}


def nan_is_later(claims: Mapping[str, Any], *, now: float) -> Caller:
    """Refuse what has expired, asked the wrong way round: no number is smaller than NaN, nor larger."""
    expires_at_s = claims["exp"]
    expired = isinstance(expires_at_s, float) and math.isnan(expires_at_s)
    return check_claims({**claims, "exp": math.inf} if expired else claims, now=now)


def any_scope(rule: Rule, caller: Caller | None) -> Caller:  # noqa: ARG001 - the slot's shape
    """A token is a token."""
    if caller is None:
        raise Unauthenticated("TOKEN_INVALID", "a token is needed")
    return caller


def a_default_user(rule: Rule, caller: Caller | None) -> Caller:  # noqa: ARG001 - the slot's shape
    """Without a token the caller is whoever was convenient in the tests."""
    return caller or ANYBODY


def everybody_is_believed(holder: Identity | None, vouched: str | None) -> Identity | None:
    """Take anybody's word for who is calling."""
    return holder if vouched is None else parse_identity(vouched)


def open_to_all(method: str) -> Rule | None:
    """What needs no token is open to every certificate."""
    rule = RULES.get(method)
    return rule if rule is None or rule.scope else replace(rule, peers=None)


def used_is_good(token: RefreshToken | None, *, now: float) -> Verdict:
    """A refresh token is good until it expires, however often it comes."""
    return Verdict.REPEAT if token is not None and token.used_at_s is not None else judge(token, now=now)


@cache
def another_authority() -> Authority:
    """An authority that is not the lab's."""
    return Authority()


def _handshake(server: Identity, **changes: Any) -> Transport:
    return replace(Transport(), **changes) if server.node == OPEN_NODE else Transport()


def trusts_another_authority(server: Identity) -> Transport:
    """The gateway trusts one authority too many."""
    return _handshake(server, also_trusted_pem=another_authority().ca_pem)


class HastyAuthServer(AuthServer):
    """Looks at no password when there is no such user."""

    async def _matches(self, user: Any, password: str) -> bool:
        return user is not None and await super()._matches(user, password)


class TalkativeAuthServer(AuthServer):
    """Says what was wrong."""

    async def _matches(self, user: Any, password: str) -> bool:
        matches = await super()._matches(user, password)
        if user is None:
            raise Unauthenticated("TOKEN_INVALID", "there is no such user")
        return matches


class ForgetfulGateway(PaymentGateway):
    """Takes every request for a new one."""

    async def Pay(  # noqa: N802 - gRPC's name
        self, request: gateway_pb.PayRequest, context: Any
    ) -> gateway_pb.Receipt:
        """Pay under a new key."""
        request.idempotency_key = self.host.new_id()
        return await super().Pay(request, context)


class OpenGateway(PaymentGateway):
    """Shows payments to whoever knows their id."""

    async def _own_payment(self, payment: str) -> Any:
        return await self._existing(payment)


class TrustingBalancer(LoadBalancer):
    """Enters servers under whatever name they give."""

    def speaks_for(self, peer: Identity, server: str) -> bool:  # noqa: ARG002 - that is the hole
        """Every server speaks for every other."""
        return True


WEAKENINGS = {
    weakening.name: weakening
    for weakening in (
        Weakening(
            "token.signature", "Tokens are decoded, not verified.", {"token.key": weak_keys.never_verified}
        ),
        Weakening(
            "token.none",
            "A token may say that it is not signed.",
            {"token.key": weak_keys.none_is_an_algorithm},
        ),
        Weakening(
            "token.algorithm",
            "The token, not the key, says which algorithm verifies it.",
            {"token.key": weak_keys.token_chooses_algorithm},
        ),
        Weakening(
            "token.unknown-kid",
            "A token whose key is not known is not verified.",
            {"token.key": weak_keys.unknown_is_fine},
        ),
        Weakening(
            "token.kid-path",
            "Keys are read from files that `kid` names.",
            {"token.key": weak_keys.kid_is_a_path},
        ),
        Weakening(
            "token.kid-query", "`kid` is pasted into a query.", {"token.key": weak_keys.kid_in_a_query}
        ),
        Weakening(
            "token.jwk", "A token may bring its key along.", {"token.key": weak_keys.jwk_in_the_header}
        ),
        Weakening("token.jku", "A token may say where its key is.", {"token.key": weak_keys.jku_is_followed}),
        Weakening(
            "token.x5u", "A token may say where its certificate is.", {"token.key": weak_keys.x5u_is_followed}
        ),
        Weakening(
            "token.environment",
            "Another environment's keys are trusted, too.",
            {"token.key": weak_keys.one_key_for_all},
        ),
        Weakening(
            "token.typ",
            "Nobody looks at what kind of token it is.",
            {"token.header": partial(check_header, rules=replace(STRICT, typ=None))},
        ),
        Weakening("token.expiry", "Nobody looks at exp.", _claims(expiry_leeway_s=math.inf)),
        Weakening("token.start", "Nobody looks at nbf and iat.", _claims(start_leeway_s=math.inf)),
        Weakening("token.required", "What a token does not say is not missed.", _claims(required=())),
        Weakening("token.nan", "exp is compared the wrong way round.", {"token.check": nan_is_later}),
        Weakening("token.issuer", "Nobody looks at iss.", _claims(issuer=None)),
        Weakening("token.audience", "Nobody looks at aud.", _claims(audience=None)),
        Weakening(
            "token.revocation", "Nobody asks which tokens were revoked.", {"token.revoked": lambda *_: False}
        ),
        Weakening(
            "token.refetch",
            "Every unknown key id makes the gateway ask for keys.",
            {"token.refetch": lambda **_: True},
        ),
        Weakening(
            "access.token", "Who has no token is let in as a default user.", {"access.scope": a_default_user}
        ),
        Weakening("access.scope", "Every token opens everything.", {"access.scope": any_scope}),
        Weakening("access.account", "Nobody asks whose account it is.", {"access.account": lambda *_: None}),
        Weakening(
            "access.payment", "Payments are shown to whoever knows their id.", {"node.gateway": OpenGateway}
        ),
        Weakening(
            "access.rule", "Every certificate may call what needs no token.", {"access.rule": open_to_all}
        ),
        Weakening(
            "access.peer", "Anybody may say on whose behalf he calls.", {"access.peer": everybody_is_believed}
        ),
        Weakening(
            "access.server",
            "A server may register under another's name.",
            {"node.balancer": TrustingBalancer},
        ),
        Weakening(
            "auth.rights", "Users give themselves accounts and roles.", {"auth.rights": lambda _: True}
        ),
        Weakening("auth.username", "A name may hold anything.", {"auth.username": lambda _: True}),
        Weakening(
            "auth.lockout",
            "Passwords may be guessed as fast as one can.",
            {"auth.lockout": lambda *_, **__: 0.0},
        ),
        Weakening("auth.decoy", "An unknown user costs no work.", {"node.auth": HastyAuthServer}),
        Weakening(
            "auth.answer", "The answer says that a user does not exist.", {"node.auth": TalkativeAuthServer}
        ),
        Weakening("auth.refresh", "A used refresh token is still good.", {"auth.refresh": used_is_good}),
        Weakening("gateway.key", "Every request is a new one.", {"node.gateway": ForgetfulGateway}),
        Weakening(
            "tls.certificates",
            "The gateway asks nobody for a certificate.",
            {"server.transport": partial(_handshake, client_certificates=False)},
        ),
        Weakening(
            "tls.authority",
            "The gateway trusts another authority, too.",
            {"server.transport": trusts_another_authority},
        ),
        Weakening(
            "limit.metadata",
            "Metadata may have any size.",
            {"server.transport": partial(_handshake, metadata_bytes_max=HUGE_BYTES)},
        ),
        Weakening(
            "limit.message",
            "Messages may have any size.",
            {"server.transport": partial(_handshake, message_bytes_max=HUGE_BYTES)},
        ),
    )
}


def weakened(name: str) -> Mapping[str, Any]:
    """The replacements that switch one defence off, for `Lab(replace=…)`. Raises LabError."""
    if name not in WEAKENINGS:
        raise LabError("NO_SUCH_DEFENCE", f"{name!r} is no defence; there are {', '.join(WEAKENINGS)}")
    return WEAKENINGS[name].replace
