"""When which key signs and which are published: a new one before it signs, an old one until its tokens end.

made         signs from                      the next signs from        withdrawn
 |  published ahead  |   signs tokens               |   verifies only      |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """How long a key does what."""

    signs_for_s: float = 86_400.0
    # Longer than verifiers keep what was published, so that all of them know a key when it begins to sign.
    published_ahead_s: float = 120.0
    # A token that was signed at the last moment, by a server whose clock is late, is still verified.
    kept_after_s: float = ACCESS_LIFETIME_S + 2 * LEEWAY_S


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key as the rule sees it: its id, and when it begins to sign."""

    kid: str
    signs_from_s: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """What to do now."""

    # The key that signs; empty when there is none.
    signs: str
    # The keys that verify.
    published: tuple[str, ...]
    # When the next key must begin to sign, if it must be made now.
    make_from_s: float | None = None


TIMES = KeyTimes()


def rotate(
    keys: Sequence[SigningKey], *, now: float, asked: bool = False, times: KeyTimes = TIMES
) -> Rotation:
    """Which key signs now, which are published, and whether the next one is due, or `asked` for."""
    if not keys:
        return Rotation("", (), now)
    ordered = sorted(keys, key=lambda key: (key.signs_from_s, key.kid))
    begun = [key for key in ordered if key.signs_from_s <= now] or ordered[:1]
    withdrawn = {
        key.kid for key, following in pairwise(ordered) if now >= following.signs_from_s + times.kept_after_s
    }
    soonest_s, due_s = now + times.published_ahead_s, ordered[-1].signs_from_s + times.signs_for_s
    make_from_s = soonest_s if asked or soonest_s >= due_s else None
    return Rotation(
        signs=begun[-1].kid,
        published=tuple(key.kid for key in ordered if key.kid not in withdrawn),
        make_from_s=make_from_s,
    )
