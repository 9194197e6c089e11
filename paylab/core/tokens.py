"""What a token must say to be believed, once its signature has been verified.

The claims are those of RFC 9068, the rules those of RFC 8725; time is an argument, because PyJWT would read
the wall clock.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paylab.errors import PermissionDenied, Unauthenticated

ISSUER = "https://auth.paylab.test"
AUDIENCE = "paylab"
TYPE = "at+jwt"
ACCESS_LIFETIME_S = 900
# What a caller's clock may be off by (RFC 8725 leaves the figure to the application).
LEEWAY_S = 5.0
CUSTOMER_SCOPES = ("payments:write", "payments:read", "accounts:read")
# Submits payments for any account, as a bank's file channel does.
ORIGINATOR = "originator"
REQUIRED = ("iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What is asked of a token; None asks nothing. Whoever wants it weaker passes other rules."""

    typ: str | None = TYPE
    issuer: str | None = ISSUER
    audience: str | None = AUDIENCE
    required: tuple[str, ...] = REQUIRED
    # How far this clock and the issuer's may be apart; infinite for one that never looks at the time.
    expiry_leeway_s: float = LEEWAY_S
    start_leeway_s: float = LEEWAY_S


STRICT = TokenRules()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, from a verified token."""

    subject: str
    scopes: tuple[str, ...]
    accounts: tuple[str, ...]
    roles: tuple[str, ...]


def access_claims(
    *, subject: str, accounts: Sequence[str], roles: Sequence[str], token_id: str, now: float
) -> dict[str, Any]:
    """The claims of a new access token."""
    return {
        "iss": ISSUER,
        "sub": subject,
        "aud": AUDIENCE,
        "exp": int(now) + ACCESS_LIFETIME_S,
        "iat": int(now),
        "jti": token_id,
        "client_id": subject,
        "scope": " ".join(CUSTOMER_SCOPES),
        "accounts": list(accounts),
        "roles": list(roles),
    }


def check_header(header: Mapping[str, Any], *, rules: TokenRules = STRICT) -> None:
    """Raise Unauthenticated TOKEN_INVALID for a token of another kind (RFC 8725, section 3.11).

    A header says what a token claims to be. It never says how, or with whose key, it is verified.
    """
    if rules.typ is not None and header.get("typ") != rules.typ:
        raise Unauthenticated("TOKEN_INVALID", f"an access token has typ {rules.typ}")


def find_key(header: Mapping[str, Any], keys: Mapping[str, Any]) -> Any | None:
    """The published key that verifies a token, None when there is none (RFC 8725, sections 3.1 and 3.10).

    A `kid` is looked up and nothing else; `jwk`, `jku` and `x5u` are whatever the sender wrote. The key, not
    the header, knows its algorithm.
    """
    key_id = header.get("kid")
    return keys.get(key_id) if isinstance(key_id, str) else None


def check_claims(claims: Mapping[str, Any], *, now: float, rules: TokenRules = STRICT) -> Caller:
    """Return the caller. Raises Unauthenticated: TOKEN_EXPIRED, or TOKEN_INVALID for anything else wrong."""
    for name in rules.required:
        if name not in claims:
            raise Unauthenticated("TOKEN_INVALID", f"claim {name} is missing")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise Unauthenticated("TOKEN_INVALID", "wrong issuer")
    if rules.audience is not None and claims.get("aud") != rules.audience:
        raise Unauthenticated("TOKEN_INVALID", "wrong audience")
    times_s = claims.get("exp", math.inf), claims.get("iat", 0), claims.get("nbf", 0)
    if not all(isinstance(time_s, int | float) for time_s in times_s):
        raise Unauthenticated("TOKEN_INVALID", "exp, iat and nbf must be numbers")
    expires_at_s, *not_before_s = times_s
    if not now < expires_at_s + rules.expiry_leeway_s:  # so that NaN, which JSON can carry, has expired
        raise Unauthenticated("TOKEN_EXPIRED", "log in again")
    if not all(time_s - rules.start_leeway_s <= now for time_s in not_before_s):
        raise Unauthenticated("TOKEN_INVALID", "not yet valid")
    return Caller(
        str(claims.get("sub", "")),
        tuple(str(claims.get("scope", "")).split()),
        tuple(claims.get("accounts", ())),
        tuple(claims.get("roles", ())),
    )


# A client renews its token in the last fifth of its life, so that an outage of some minutes costs nothing.
RENEW_AHEAD_S = ACCESS_LIFETIME_S / 5


def renew_ahead(*, now: float, expires_at_s: float) -> bool:
    """Whether a client should ask for its next token although the present one is still good."""
    return now >= expires_at_s - RENEW_AHEAD_S


def check_account(caller: Caller, account: str) -> None:
    """Raises PermissionDenied NOT_OWNER unless the caller may act on this account."""
    if account not in caller.accounts and ORIGINATOR not in caller.roles:
        raise PermissionDenied("NOT_OWNER", f"{caller.subject} does not own {account}")
