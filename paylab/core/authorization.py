"""Who may call what: one table for every method of every node; what is not in it is refused.

Peers are named by the role in their certificate. A method with a scope also needs a token that has it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from paylab.core.tokens import Caller
from paylab.errors import PermissionDenied, Unauthenticated

# The domain under which certificates name their holder: <node>.<role>.paylab
IDENTITY_DOMAIN = "paylab"


class Role(StrEnum):
    """What the holder of a certificate is."""

    CLIENT = "client"
    OPERATOR = "operator"
    AUTH = "auth"
    BALANCER = "balancer"
    GATEWAY = "gateway"
    COORDINATOR = "coordinator"
    BANK = "bank"
    LOGGER = "logger"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who holds a certificate: a node's name and its role."""

    node: str
    role: Role

    def __str__(self) -> str:
        """Write it as the certificate does."""
        return f"{self.node}.{self.role}.{IDENTITY_DOMAIN}"


@lru_cache(maxsize=1024)  # every call asks, and a network has few names
def parse_identity(name: str) -> Identity | None:
    """Read `<node>.<role>.paylab`; None when it is not one."""
    node, _, rest = name.partition(".")
    role, _, domain = rest.partition(".")
    if not node or domain != IDENTITY_DOMAIN or role not in tuple(Role):
        return None
    return Identity(node, Role(role))


def group_of(server: str) -> str:
    """Whose calls a server answers, by its name: "alpine-1" is one of alpine's."""
    return server.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method asks of its caller."""

    # Roles that may call it with their certificate alone; None means every valid certificate.
    peers: frozenset[Role] | None = frozenset()
    # Scope of the token that anybody else needs; empty when a token does not help.
    scope: str = ""
    # Whether a balancer may send it again to another server when the first one's answer is not known.
    repeatable: bool = False
    # Whether it answers with a stream, for the raw proxy.
    streaming: bool = False


def _peers(*roles: Role, repeatable: bool = False, streaming: bool = False) -> Rule:
    return Rule(frozenset(roles), repeatable=repeatable, streaming=streaming)


_ANYBODY = Rule(None, repeatable=True)
_STREAM_FOR_ANYBODY = Rule(None, streaming=True)
# Reflection tells what a node serves inside. Customers have the protos of what they may call.
_STREAM_FOR_STAFF = Rule(frozenset(Role) - {Role.CLIENT}, streaming=True)

RULES: dict[str, Rule] = {
    "/paylab.v1.Authentication/Register": _peers(Role.CLIENT, Role.OPERATOR, repeatable=True),
    "/paylab.v1.Authentication/Login": _peers(Role.CLIENT, Role.OPERATOR, repeatable=True),
    "/paylab.v1.Authentication/Refresh": _peers(Role.CLIENT, Role.OPERATOR),
    "/paylab.v1.Authentication/GetJwks": _ANYBODY,
    "/paylab.v1.Authentication/Revoke": _peers(Role.CLIENT, Role.OPERATOR, repeatable=True),
    "/paylab.v1.Authentication/RotateKeys": _peers(Role.OPERATOR),
    "/paylab.v1.Authentication/Unlock": _peers(Role.OPERATOR, repeatable=True),
    "/paylab.v1.LoadBalancer/Register": _peers(Role.AUTH, Role.BANK),
    "/paylab.v1.LoadBalancer/ReportLoad": _peers(Role.AUTH, Role.BANK),
    "/paylab.v1.LoadBalancer/ListServers": _ANYBODY,
    "/paylab.v1.LoadBalancer/WatchServers": _STREAM_FOR_ANYBODY,
    "/paylab.v1.PaymentGateway/Pay": Rule(scope="payments:write"),
    "/paylab.v1.PaymentGateway/GetPayment": Rule(scope="payments:read"),
    "/paylab.v1.PaymentGateway/ListPayments": Rule(scope="payments:read"),
    "/paylab.v1.PaymentGateway/WatchPayment": Rule(scope="payments:read", streaming=True),
    "/paylab.v1.PaymentGateway/Redrive": _peers(Role.QUEUE, Role.OPERATOR),
    "/paylab.v1.PaymentGateway/GiveUp": _peers(Role.QUEUE, Role.OPERATOR),
    "/paylab.v1.PaymentGateway/CancelPayment": Rule(frozenset({Role.OPERATOR}), scope="payments:write"),
    "/paylab.v1.PaymentGateway/Requeue": _peers(Role.OPERATOR),
    "/paylab.v1.Bank/OpenAccounts": _peers(Role.OPERATOR, repeatable=True),
    "/paylab.v1.Bank/CloseAccount": _peers(Role.OPERATOR, repeatable=True),
    "/paylab.v1.Bank/GetAccount": Rule(frozenset({Role.OPERATOR}), scope="accounts:read", repeatable=True),
    "/paylab.v1.Bank/GetStatement": Rule(frozenset({Role.OPERATOR}), scope="accounts:read", repeatable=True),
    "/paylab.v1.Bank/Prepare": _peers(Role.COORDINATOR, repeatable=True),
    "/paylab.v1.Bank/Decide": _peers(Role.COORDINATOR, repeatable=True),
    "/paylab.v1.Bank/Inquire": _peers(Role.COORDINATOR, repeatable=True),
    "/paylab.v1.Coordinator/Commit": _peers(Role.GATEWAY),
    "/paylab.v1.Coordinator/GetDecision": _peers(Role.BANK, Role.OPERATOR),
    "/paylab.v1.Coordinator/Acknowledge": _peers(Role.GATEWAY),
    "/paylab.v1.Coordinator/GetEpoch": _peers(Role.GATEWAY, Role.OPERATOR),
    "/paylab.v1.Coordinator/ListInDoubt": _peers(Role.OPERATOR),
    "/paylab.v1.Coordinator/Resolve": _peers(Role.OPERATOR),
    "/paylab.v1.Coordinator/RetryNow": _peers(Role.OPERATOR),
    "/paylab.v1.Coordinator/ListResolutions": _peers(Role.OPERATOR),
    "/paylab.v1.TransactionLogger/Append": _peers(Role.GATEWAY),
    "/paylab.v1.TransactionLogger/Read": _peers(Role.OPERATOR),
    "/paylab.v1.TransactionLogger/Follow": _peers(Role.OPERATOR, streaming=True),
    "/paylab.v1.TransactionLogger/Verify": _peers(Role.OPERATOR),
    "/paylab.v1.OfflineQueue/Enqueue": _peers(Role.GATEWAY),
    "/paylab.v1.OfflineQueue/List": _peers(Role.OPERATOR),
    "/paylab.v1.OfflineQueue/RetryNow": _peers(Role.OPERATOR),
    "/paylab.v1.OfflineQueue/ListDeadLetters": _peers(Role.OPERATOR),
    "/grpc.health.v1.Health/Check": _ANYBODY,
    "/grpc.health.v1.Health/List": _ANYBODY,
    "/grpc.health.v1.Health/Watch": _STREAM_FOR_ANYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _STREAM_FOR_STAFF,
}


def needs_token(rule: Rule | None, identity: Identity | None) -> bool:
    """Whether this caller needs a token for this method.

    Raises PermissionDenied: there is no rule, no identity, or a certificate of the wrong role and no
    token that could help.
    """
    if rule is None:
        raise PermissionDenied("ROLE", "no rule allows this method")
    if identity is None:
        raise PermissionDenied("ROLE", "the certificate names nobody that paylab knows")
    if rule.peers is None or identity.role in rule.peers:
        return False
    if not rule.scope:
        raise PermissionDenied("ROLE", f"{identity.role} may not call this")
    return True


def check_scope(rule: Rule, caller: Caller | None) -> Caller:
    """The caller, if the token allows this.

    Raises Unauthenticated without a caller, PermissionDenied SCOPE when the token lacks the scope.
    """
    if caller is None:
        raise Unauthenticated("TOKEN_INVALID", "a token is needed")
    if rule.scope not in caller.scopes:
        raise PermissionDenied("SCOPE", f"the token lacks {rule.scope}")
    return caller


def rule_of(method: str) -> Rule | None:
    """The rule of a method; None when the table does not have it."""
    return RULES.get(method)


def seen_through(holder: Identity | None, vouched: str | None) -> Identity | None:
    """Whose call it is: the certificate holder's, or that of whom a balancer vouches for in metadata.

    A word in metadata is worth as much as who says it: only balancers, which applied this table to their own
    caller, are believed.
    """
    if vouched is not None and holder is not None and holder.role is Role.BALANCER:
        return parse_identity(vouched)
    return holder


def may_give_rights(role: Role) -> bool:
    """Whether the holder of such a certificate may give users accounts and roles."""
    return role is Role.OPERATOR


# A name is written into logs and tokens, so it has no spaces, quotes or control characters, and an end.
USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def is_username(name: str) -> bool:
    """Whether a user may be called that."""
    return USERNAME.fullmatch(name) is not None
