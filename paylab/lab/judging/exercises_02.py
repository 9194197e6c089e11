"""The exercises of chapter 02: which claims to believe, which keys to publish, and a hole to find."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from paylab.core.tokens import (
    AUDIENCE,
    ISSUER,
    LEEWAY_S,
    STRICT,
    Caller,
    access_claims,
    check_claims,
)
from paylab.errors import Unauthenticated
from paylab.lab.attacks import forging
from paylab.lab.judging.auth_networks import accepts, small_lab, turned_away
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.judging.rotation_exercise import (
    MOMENTS,
    decode_rotation,
    encode_rotation,
    moment,
    rotation_live,
)

NOW = 1_800_000_000.0
Claims = Mapping[str, Any]
# What is believed once a reader's rule has said yes.
ANYTHING = replace(
    STRICT, issuer=None, audience=None, required=(), expiry_leeway_s=math.inf, start_leeway_s=math.inf
)

# 02/claims --------------------------------------------------------------------------------------

# Within the leeway.
SKEW_S = 3.0
# Claims that differ from an honest token's, by what they are; a change to None leaves a claim out.
FORGERIES: dict[str, Callable[[float], Claims]] = {
    "an expired token": lambda now: {"exp": int(now) - 60, "iat": int(now) - 960},
    "a token for another audience": lambda _: {"aud": "not-paylab"},
    "a token of another issuer": lambda _: {"iss": "https://auth.elsewhere.test"},
    "a token without an end": lambda _: {"exp": None},
    "a token that begins next week": lambda now: {"nbf": int(now) + 604_800},
    "a token whose end is no number": lambda _: {"exp": float("nan")},
}


def changed(claims: Claims, changes: Claims) -> dict[str, Any]:
    """The claims with these changes; None leaves one out."""
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


def honest(now: float) -> dict[str, Any]:
    """What an authentication server says of alice."""
    return access_claims(
        subject="alice", accounts=["alpine/alice"], roles=[], token_id=f"{int(now)}", now=now
    )


def _claims_of(case: int) -> tuple[str, dict[str, Any], bool]:
    if case == 0:
        return "an honest token", honest(NOW), True
    name, forge = list(FORGERIES.items())[case - 1]
    return name, changed(honest(NOW), forge(NOW)), False


def _believed(mine: Solution, case: int) -> Finding:
    name, claims, expected = _claims_of(case)
    returned = mine(claims, NOW)
    so = "it is believed" if returned else "it is refused"
    must = "" if returned is expected else f", where it must be {'believed' if expected else 'refused'}"
    if not isinstance(returned, bool):
        so, must = "that is neither True nor False", ""
    return Finding(name, repr(returned), f"{so}{must}", passed=returned is expected)


def _claims_live(mine: Solution, seed: int) -> Finding:
    """The rule in a network: clocks differ by a little, and attackers try everything."""

    def check(claims: Claims, *, now: float) -> Caller:
        if mine(dict(claims), now) is not True:
            raise Unauthenticated("TOKEN_INVALID", "your rule refuses it")
        return check_claims(claims, now=now, rules=ANYTHING)

    case = f"a network whose authentication server's clock is {SKEW_S:g} s early, seed {seed}"
    with small_lab(seed, {"token.check": check}) as lab:
        alice = lab.client("alice", bank="alpine", balance="10.00 EUR")
        lab.network.break_world("skew", "auth-1", SKEW_S)
        if wrong := turned_away(alice):
            return Finding(case, mine.told(), f"alice, who has just logged in, is turned away: {wrong}")
        for name, forge in FORGERIES.items():
            now = lab.world.now()
            said = forging.claims(lab, alice.name, alice.account, **forge(now))
            if accepts(lab, forging.signed(lab, said)):
                return Finding(case, mine.told(), f"the gateway shows alice's payments to {name}")
    return Finding(case, mine.told(), "alice is let in, and nobody else", passed=True)


# 02/hole ----------------------------------------------------------------------------------------


def leaky_check(claims: Claims, *, now: float) -> Caller:
    """Looks at everything that RFC 8725 asks for, and lets somebody in."""
    for name in ("iss", "sub", "aud", "exp", "iat", "jti"):
        if name not in claims:
            raise Unauthenticated("TOKEN_INVALID", f"claim {name} is missing")
    if claims["iss"] != ISSUER:
        raise Unauthenticated("TOKEN_INVALID", "wrong issuer")
    if AUDIENCE not in claims["aud"]:
        raise Unauthenticated("TOKEN_INVALID", "wrong audience")
    if not now < claims["exp"] + LEEWAY_S:
        raise Unauthenticated("TOKEN_EXPIRED", "log in again")
    if now < max(claims["iat"], claims.get("nbf", 0)) - LEEWAY_S:
        raise Unauthenticated("TOKEN_INVALID", "not yet valid")
    return Caller(claims["sub"], tuple(claims["scope"].split()), tuple(claims["accounts"]), ())


def _forged(mine: Solution, said: Claims) -> Any:
    answer = mine(dict(said))
    return dict(answer) if isinstance(answer, Mapping) else answer


def _refused(check: Callable[..., Caller], claims: Claims) -> str:
    try:
        check(claims, now=NOW)
    except Unauthenticated as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a crash lets nobody in, either
        return f"{type(error).__name__}: {error}"
    return ""


def _is_bad(mine: Solution, _case: int) -> Finding:
    forged = _forged(mine, honest(NOW))
    case = "your claims, seen by check_claims"
    if not isinstance(forged, dict):
        return Finding(case, repr(forged), "claims are a dict")
    why = _refused(check_claims, forged)
    so = f"refused, {why}" if why else "believed: it is an honest token, and to let it in is no hole"
    return Finding(case, repr(forged), so, passed=bool(why))


def _gets_in(mine: Solution, _case: int) -> Finding:
    forged = _forged(mine, honest(NOW))
    why = _refused(leaky_check, forged)
    so = f"refused, {why}" if why else "let in"
    return Finding("your claims, seen by leaky_check", repr(forged), so, passed=not why)


def _hole_live(mine: Solution, seed: int) -> Finding:
    """A token for somebody else opens a gateway with the leaky rule, and none with the right one."""
    case = f"two gateways, one with leaky_check, seed {seed}"
    for slots, expected in (({"token.check": leaky_check}, True), (dict[str, Any](), False)):
        with small_lab(seed, slots) as lab:
            alice = lab.client("alice", bank="alpine")
            lab.advance(float(seed % 1000))
            said = forging.claims(lab, alice.name, alice.account)
            forged = _forged(mine, said)
            let_in = accepts(lab, forging.signed(lab, forged))
        if let_in is not expected:
            so = "it is refused by the leaky one" if expected else "the right one lets it in, too"
            return Finding(case, repr(forged), so)
    return Finding(case, repr(forged), "the leaky one lets it in, the right one does not", passed=True)


def _as_is(_arguments: tuple[Any, ...], answer: Any) -> Any:
    return answer if isinstance(answer, bool) else repr(answer)


def _saved(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved


def encode_claims(arguments: tuple[Any, ...], answer: Any) -> Any:
    """What was changed, added and left out; anything else as the text that stands for it."""
    if not isinstance(answer, Mapping):
        return repr(answer)
    said: Claims = arguments[0]
    new = {name: value for name, value in answer.items() if name not in said or said[name] != value}
    return {"changed": new, "left_out": sorted(name for name in said if name not in answer)}


def decode_claims(arguments: tuple[Any, ...], saved: Any) -> Any:
    """Undo `encode_claims`."""
    if isinstance(saved, str):
        return saved
    kept = {name: value for name, value in arguments[0].items() if name not in saved["left_out"]}
    return kept | saved["changed"]


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


EXERCISES = (
    Exercise(
        "02/claims",
        "Which claims to believe",
        "A token is believed when it is ours, for us, and of now, give or take five seconds.",
        _starter(
            "believe(claims, now)", "True if claims may be believed at the time now, in seconds; or False."
        ),
        (
            "Who said it (iss), for whom (aud), until when (exp), from when (iat, nbf if it is there)?",
            "A claim that is missing is not believed; a comparison with NaN is False, so ask for the good.",
            "Two clocks differ by a little: allow 5 s at both ends of a token's life.",
        ),
        (
            Check("tokens by hand", 5, facts(1 + len(FORGERIES)), _believed, unit="fact"),
            Check("in a network", 5, by_seed, _claims_live),
        ),
        _as_is,
        _saved,
    ),
    Exercise(
        "02/rotation",
        "Which key signs, and which are published",
        "A key is published before it signs and until the last token that it signed has ended.",
        _starter(
            "rotation(keys, now)",
            "keys: list of (kid, signs_from_s). Return (kid that signs, {kids to publish}).",
        ),
        (
            "The key that signs is the latest of those whose time has come.",
            "A key stops signing when the next one begins; its last token lives for another 900 s.",
            "A verifier must know a key before the first token that it signs: publish those to come, too.",
        ),
        (
            Check("moments by hand", 5, facts(len(MOMENTS)), moment, unit="fact"),
            Check("nobody is turned away", 5, by_seed, rotation_live),
        ),
        encode_rotation,
        decode_rotation,
    ),
    Exercise(
        "02/hole",
        "A verifier with a hole",
        "A hole is found by a token that the rule lets in although it was never meant for it.",
        _starter(
            "forge(claims)", "Return alice's claims, changed so that leaky_check believes what it must not."
        ),
        (
            "Read leaky_check line by line: which value passes it that should not?",
            "What does `in` mean when the right side is a text and not a list?",
            'A token for the shop "not-paylab" has an audience with "paylab" in it.',
        ),
        (
            Check("it must not be believed", 2, facts(1), _is_bad, unit="fact"),
            Check("the hole lets it in", 4, facts(1), _gets_in, unit="fact"),
            Check("in two networks", 4, by_seed, _hole_live),
        ),
        encode_claims,
        decode_claims,
    ),
)
