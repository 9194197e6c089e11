"""Refresh tokens: each is used once, its successor takes its place, and one that comes back betrays a thief.

All tokens that descend from one login are a family (RFC 9700, section 4.14.2). Whoever presents a used one
again is either a client whose answer was lost, or one of two who hold the same token. The client asks again
at once, and nobody has used the successor yet: it gets the same successor. In every other case the whole
family ends, since nobody can tell which of the two is the thief.
"""

from dataclasses import dataclass
from enum import StrEnum

REFRESH_LIFETIME_S = 86_400.0
# As long as a client keeps repeating a request whose answer was lost.
GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What is known of a presented token."""

    expires_at_s: float
    # When it was used; None while it is fresh.
    used_at_s: float | None = None
    successor_used: bool = False
    family_ended: bool = False


class Verdict(StrEnum):
    """What to do about a presented token."""

    # Use it up and give the next one.
    ROTATE = "rotate"
    # Give the same successor again.
    REPEAT = "repeat"
    # End the family.
    END_FAMILY = "end family"
    # It is no token of ours, or none any more.
    REFUSE = "refuse"


def judge(token: RefreshToken | None, *, now: float, grace_s: float = GRACE_S) -> Verdict:
    """What a presented refresh token deserves."""
    if token is None or token.family_ended or now >= token.expires_at_s:
        return Verdict.REFUSE
    if token.used_at_s is None:
        return Verdict.ROTATE
    if now < token.used_at_s + grace_s and not token.successor_used:
        return Verdict.REPEAT
    return Verdict.END_FAMILY
