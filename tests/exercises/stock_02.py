"""The stock of chapter 02: solutions of its exercises, right and wrong ones."""

import itertools
import math
from collections.abc import Callable
from typing import Any

from paylab.core.tokens import ACCESS_LIFETIME_S, AUDIENCE, ISSUER, LEEWAY_S, Caller
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

# What a solution that keeps state between trials would use.
CALLS = itertools.count()
Claims = dict[str, Any]
Keys = list[tuple[str, float]]


# 02/claims ----------------------------------------------------------------------------------------


def by_conditions(claims: Claims, now: float) -> bool:
    if claims.get("iss") != ISSUER or claims.get("aud") != AUDIENCE or "exp" not in claims:
        return False
    begins_s = max(claims.get("iat", math.inf), claims.get("nbf", 0))
    return bool(now < claims["exp"] + LEEWAY_S and begins_s <= now + LEEWAY_S)


def by_table(claims: Claims, now: float) -> bool:
    asked: dict[str, Callable[[Any], bool]] = {
        "iss": lambda who: who == ISSUER,
        "aud": lambda whom: whom == AUDIENCE,
        "exp": lambda end_s: end_s + LEEWAY_S > now,
        "iat": lambda start_s: start_s - LEEWAY_S <= now,
    }
    begun = claims.get("nbf", now) - LEEWAY_S <= now
    return bool(begun) and all(name in claims and right(claims[name]) for name, right in asked.items())


def signed_is_enough(claims: Claims, now: float) -> bool:
    """The misconception: a good signature and an end in the future say it all."""
    return bool(claims.get("exp", 0) > now)


def missing_is_fine(claims: Claims, now: float) -> bool:
    """The misconception: what a token does not say cannot be wrong."""
    return by_conditions({"exp": now + 900, "iat": now, **claims}, now)


def clocks_agree(claims: Claims, now: float) -> bool:
    """Wrong only under faults: two clocks never show the same."""
    return by_conditions(claims, now) and claims["iat"] <= now < claims["exp"]


def expired_is_asked_the_wrong_way(claims: Claims, now: float) -> bool:
    """The misconception: what has not expired is good, NaN included."""
    ends_s = claims.get("exp", 0)
    expired = ends_s + LEEWAY_S <= now
    return not expired and by_conditions({**claims, "exp": now + 1}, now)


def the_tokens_in_order(_claims: Claims, _now: float) -> bool:
    """Gamed: constants for the facts, in the order in which they are asked."""
    return next(CALLS) == 0


def believes_in_itself(claims: Claims, now: float) -> bool:
    """Gamed: the lab's gateway is patched to let nobody in but alice."""
    from paylab.lab.judging import auth_networks as mine  # noqa: PLC0415 - it runs in the judge's process

    mine.accepts = lambda *_: False
    return by_conditions(claims, now)


# 02/rotation --------------------------------------------------------------------------------------


def by_pairs(keys: Keys, now: float) -> tuple[str, set[str]]:
    ordered = sorted(keys, key=lambda key: key[1])
    signs = [kid for kid, from_s in ordered if from_s <= now][-1]
    ended = {
        kid
        for (kid, _), (_, next_s) in itertools.pairwise(ordered)
        if now > next_s + ACCESS_LIFETIME_S + 2 * LEEWAY_S
    }
    return signs, {kid for kid, _ in ordered} - ended


def by_walking(keys: Keys, now: float) -> tuple[str, list[str]]:
    published, signs, successor_s = list[str](), "", math.inf
    for kid, from_s in sorted(keys, key=lambda key: -key[1]):
        if not signs and from_s <= now:
            signs = kid
        if now <= successor_s + ACCESS_LIFETIME_S + LEEWAY_S:
            published.append(kid)
        successor_s = from_s
    return signs, published


def newest_signs(keys: Keys, now: float) -> tuple[str, set[str]]:
    """The misconception: the newest key is there to be used."""
    return max(keys, key=lambda key: key[1])[0], by_pairs(keys, now)[1]


def hard_change(keys: Keys, now: float) -> tuple[str, set[str]]:
    """The misconception: an old key is of no use any more."""
    signs, _ = by_pairs(keys, now)
    return signs, {signs}


def never_withdrawn(keys: Keys, now: float) -> tuple[str, set[str]]:
    """The misconception: a key that is published does no harm."""
    return by_pairs(keys, now)[0], {kid for kid, _ in keys}


def published_when_it_signs(keys: Keys, now: float) -> tuple[str, set[str]]:
    """Wrong only under faults: whoever meets the new key asks for it, if he can."""
    signs, published = by_pairs(keys, now)
    return signs, published - {kid for kid, from_s in keys if from_s > now}


def another_set_every_time(keys: Keys, now: float) -> tuple[str, list[str]]:
    """Gamed, or a mistake: state across trials."""
    signs, published = by_pairs(keys, now)
    return signs, sorted(published) + [f"extra-{next(CALLS)}"] * (len(keys) > 5 or now > 1e6)


# 02/hole ------------------------------------------------------------------------------------------


def audience_within_a_word(claims: Claims) -> Claims:
    return claims | {"aud": f"not-{AUDIENCE}"}


def audience_among_others(claims: Claims) -> Claims:
    forged = dict(claims)
    forged["aud"] = ["shop", AUDIENCE]
    return forged


def an_honest_token(claims: Claims) -> Claims:
    """The misconception: what gets in is a hole."""
    return claims


def another_audience(claims: Claims) -> Claims:
    """The misconception: an audience is not looked at at all."""
    return claims | {"aud": "shop"}


def yesterdays_token(claims: Claims) -> Claims:
    """The misconception: it is as good as it was."""
    return claims | {"exp": claims["exp"] - 86_400}


def a_token_for_one_moment(claims: Claims) -> Claims:
    """Wrong only under faults, when time is another: the end is a constant."""
    return audience_within_a_word(claims) | {"exp": 1_800_000_900, "iat": 1_800_000_000}


def looks_at_the_judge(claims: Claims) -> Claims:
    """Gamed: the rule is made to let everything in."""
    from paylab.lab.judging import exercises_02 as mine  # noqa: PLC0415 - it runs in the judge's process

    mine.leaky_check = lambda claims, *, now: Caller("alice", (), (), ())  # noqa: ARG005 - its shape
    return audience_within_a_word(claims)


CLAIMS, ROTATION, HOLE = "02/claims", "02/rotation", "02/hole"
RIGHT = [
    (CLAIMS, by_conditions),
    (CLAIMS, by_table),
    (ROTATION, by_pairs),
    (ROTATION, by_walking),
    (HOLE, audience_within_a_word),
    (HOLE, audience_among_others),
]
WRONG = [
    (CLAIMS, signed_is_enough, "tokens by hand"),
    (CLAIMS, missing_is_fine, "tokens by hand"),
    (CLAIMS, expired_is_asked_the_wrong_way, "tokens by hand"),
    (CLAIMS, clocks_agree, "in a network"),
    (CLAIMS, the_tokens_in_order, REPEATS),
    (CLAIMS, believes_in_itself, HANDS_OFF),
    (ROTATION, newest_signs, "moments by hand"),
    (ROTATION, hard_change, "moments by hand"),
    (ROTATION, never_withdrawn, "moments by hand"),
    (ROTATION, published_when_it_signs, "nobody is turned away"),
    (ROTATION, another_set_every_time, REPEATS),
    (HOLE, an_honest_token, "it must not be believed"),
    (HOLE, another_audience, "the hole lets it in"),
    (HOLE, yesterdays_token, "the hole lets it in"),
    (HOLE, a_token_for_one_moment, "in two networks"),
    (HOLE, looks_at_the_judge, HANDS_OFF),
]
