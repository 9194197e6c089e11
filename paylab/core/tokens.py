"""What a token must say to be believed, once its signature has been verified.

The claims are those of RFC 9068; time is an argument, because PyJWT would read the wall clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paylab.errors import PermissionDenied, Unauthenticated

ISSUER = "https://auth.paylab.test"
AUDIENCE = "paylab"
TYPE = "at+jwt"
ACCESS_LIFETIME_S = 900
REFRESH_LIFETIME_S = 86_400
# What a caller's clock may be off by (RFC 8725 leaves the figure to the application).
LEEWAY_S = 5.0
CUSTOMER_SCOPES = ("payments:write", "payments:read", "accounts:read")
# Submits payments for any account, as a bank's file channel does.
ORIGINATOR = "originator"
REQUIRED = ("iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope")


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


def check_claims(claims: Mapping[str, Any], *, now: float, leeway_s: float = LEEWAY_S) -> Caller:
    """Return the caller. Raises Unauthenticated: TOKEN_EXPIRED, or TOKEN_INVALID for anything else wrong."""
    missing = [name for name in REQUIRED if name not in claims]
    if missing:
        raise Unauthenticated("TOKEN_INVALID", f"claim {missing[0]} is missing")
    if claims["iss"] != ISSUER or claims["aud"] != AUDIENCE:
        raise Unauthenticated("TOKEN_INVALID", "wrong issuer or audience")
    expires_at_s, not_before_s = claims["exp"], [claims["iat"], claims.get("nbf", 0)]
    if not all(isinstance(time_s, int | float) for time_s in (expires_at_s, *not_before_s)):
        raise Unauthenticated("TOKEN_INVALID", "exp, iat and nbf must be numbers")
    if not now < expires_at_s + leeway_s:  # written so that NaN, which JSON can carry, has expired
        raise Unauthenticated("TOKEN_EXPIRED", "log in again")
    if now < max(not_before_s) - leeway_s:
        raise Unauthenticated("TOKEN_INVALID", "not yet valid")
    return Caller(
        str(claims["sub"]),
        tuple(str(claims["scope"]).split()),
        tuple(claims.get("accounts", ())),
        tuple(claims.get("roles", ())),
    )


def check_account(caller: Caller, account: str) -> None:
    """Raises PermissionDenied NOT_OWNER unless the caller may act on this account."""
    if account not in caller.accounts and ORIGINATOR not in caller.roles:
        raise PermissionDenied("NOT_OWNER", f"{caller.subject} does not own {account}")
