"""Tokens that end before their time, in bounded memory.

A revoked id is kept until its token would have expired anyway. Should there be more than `REVOKED_MAX` of
them, those that expire first are dropped, and every token that expires no later than those is refused: the
honest ones among them log in again, and none that was revoked comes back.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# About 1 MB, and far more than a network of this size revokes in a token's lifetime.
REVOKED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Revocations:
    """What a verifier must know: ids, and the end up to which everything is refused."""

    token_ids: frozenset[str] = frozenset()
    refused_until_s: float = 0.0


def bounded(revoked: Iterable[tuple[str, float]], *, now: float, limit: int = REVOKED_MAX) -> Revocations:
    """The revocations among (id, expiry) that still matter, at most `limit` of them by id."""
    alive = sorted(
        ((expires_at_s, token_id) for token_id, expires_at_s in revoked if expires_at_s > now), reverse=True
    )
    dropped = alive[limit:]
    return Revocations(
        frozenset(token_id for _, token_id in alive[:limit]), dropped[0][0] if dropped else 0.0
    )


def is_revoked(claims: Mapping[str, Any], revocations: Revocations) -> bool:
    """Whether a token was ended before its time."""
    return (
        claims.get("jti") in revocations.token_ids
        or claims.get("exp", math.inf) <= revocations.refused_until_s
    )
