"""The exercises of chapter 02: which claims to believe, which keys to publish, and a hole to find."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc

from paylab.core.key_rotation import TIMES, Rotation, SigningKey, rotate
from paylab.core.tokens import (
    ACCESS_LIFETIME_S,
    AUDIENCE,
    ISSUER,
    LEEWAY_S,
    STRICT,
    Caller,
    access_claims,
    check_claims,
)
from paylab.errors import PaylabError, Unauthenticated
from paylab.lab.attacks import forging
from paylab.lab.clients import LabClient
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.lab import Lab
from paylab.pb import payment_gateway_pb2, payment_gateway_pb2_grpc

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
    with _lab(seed, {"token.check": check}) as lab:
        alice = lab.client("alice", bank="alpine", balance="10.00 EUR")
        lab.network.break_world("skew", "auth-1", SKEW_S)
        if wrong := _turned_away(alice):
            return Finding(case, mine.told(), f"alice, who has just logged in, is turned away: {wrong}")
        for name, forge in FORGERIES.items():
            now = lab.world.now()
            said = forging.claims(lab, alice.name, alice.account, **forge(now))
            if accepts(lab, forging.signed(lab, said)):
                return Finding(case, mine.told(), f"the gateway shows alice's payments to {name}")
    return Finding(case, mine.told(), "alice is let in, and nobody else", passed=True)


def _lab(seed: int, slots: Mapping[str, Any]) -> Lab:
    return Lab(
        banks=["alpine"],
        bank_servers=1,
        auth_servers=1,
        lease_s=600.0,
        world="simulated",
        seed=seed,
        replace=slots,
        name=f"exercise 02 {seed}",
    )


def _turned_away(client: LabClient) -> str:
    """Why a user cannot see his payments; empty if he can."""
    try:
        client.payments(limit=1)
    except PaylabError as error:
        return str(error)
    return ""


def accepts(lab: Lab, token: str) -> bool:
    """Whether the gateway answers whoever holds this token."""

    async def ask() -> bool:
        channel = lab.network.client_host("mallory").channel("gateway")
        stub = payment_gateway_pb2_grpc.PaymentGatewayStub(channel)
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            await stub.ListPayments(payment_gateway_pb2.ListPaymentsRequest(limit=1), metadata=metadata)
        except grpc.aio.AioRpcError:
            return False
        return True

    return lab.world.call(ask())


# 02/rotation ------------------------------------------------------------------------------------

# Keys as (kid, signs from), the moment, and what is right then; which keys are published before their time
# is left to the network.
KEYS = [("old", 0.0), ("new", 10_000.0)]
MOMENTS: tuple[tuple[list[tuple[str, float]], float, str, set[str] | None], ...] = (
    ([("only", 0.0)], 5_000.0, "only", {"only"}),
    (KEYS, 9_990.0, "old", None),
    (KEYS, 10_000.0, "new", {"old", "new"}),
    (KEYS, 10_000.0 + ACCESS_LIFETIME_S - 1, "new", {"old", "new"}),
    (KEYS, 10_000.0 + ACCESS_LIFETIME_S + 60, "new", {"new"}),
    ([*KEYS, ("newest", 20_000.0)], 20_500.0, "newest", {"new", "newest"}),
)


def _moment(mine: Solution, case: int) -> Finding:
    keys, now, signs, published = MOMENTS[case]
    returned = mine(list(keys), now)
    where = f"keys {keys!r} at {now:g} s"
    if not _is_rotation(returned):
        return Finding(where, repr(returned), "that is not a pair of a key id and a set of key ids")
    right = returned[0] == signs and published in (None, set(returned[1]))
    so = f"{returned[0]} signs, {sorted(returned[1])} are published"
    must = "" if right else f", where {signs} must sign{_and_published(published)}"
    return Finding(where, repr(returned), so + must, passed=right)


def _and_published(kids: set[str] | None) -> str:
    return f" and {sorted(kids)} be published" if kids else ""


def _is_rotation(returned: Any) -> bool:
    return (
        isinstance(returned, tuple)
        and len(returned) == 2  # noqa: PLR2004 - a pair
        and isinstance(returned[0], str)
        and isinstance(returned[1], set | frozenset | list | tuple)
    )


def _rotation_live(mine: Solution, seed: int) -> Finding:
    """The rule in a network whose gateway is cut off from the authentication servers at the change."""

    def rule(keys: Sequence[SigningKey], *, now: float, asked: bool = False) -> Rotation:
        ours = rotate(keys, now=now, asked=asked)
        if not keys:
            return ours
        signs, published = mine([(key.kid, key.signs_from_s) for key in keys], now)
        return Rotation(signs, tuple(published), ours.make_from_s)

    case = f"a network whose gateway hears of no key while the keys change, seed {seed}"
    with _lab(seed, {"auth.rotation": rule, "client.renew": lambda **_: False}) as lab:
        alice, bob = (lab.client(name, bank="alpine") for name in ("alice", "bob"))
        steps: tuple[tuple[str, Callable[[], object]], ...] = (
            ("before the change", lambda: None),
            ("when the new key is made", lambda: _rotate(lab)),
            ("shortly before it signs", lambda: lab.advance(TIMES.published_ahead_s - 20 - seed % 10)),
            ("when it signs and the gateway is cut off", lambda: _cut_off(lab, alice)),
            ("long after", lambda: _heal(lab)),
        )
        for when, step in steps:
            step()
            for user in (alice, bob):  # bob keeps the token that the old key has signed
                if wrong := _turned_away(user):
                    return Finding(case, mine.told(), f"{user.name} is turned away {when}: {wrong}")
    return Finding(case, mine.told(), "nobody was turned away", passed=True)


def _rotate(lab: Lab) -> None:
    lab.world.call(lab.network.rotate_keys())


def _cut_off(lab: Lab, alice: LabClient) -> None:
    lab.partition("gateway", "auth-lb")
    lab.advance(60)
    alice.log_out()


def _heal(lab: Lab) -> None:
    lab.heal()
    lab.advance(ACCESS_LIFETIME_S - 200)


def encode_rotation(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """A pair as a list; anything else as the text that stands for it."""
    return [answer[0], sorted(map(str, answer[1]))] if _is_rotation(answer) else repr(answer)


def decode_rotation(_arguments: tuple[Any, ...], saved: Any) -> Any:
    """Undo `encode_rotation`."""
    return saved if isinstance(saved, str) else (saved[0], set(saved[1]))


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
        with _lab(seed, slots) as lab:
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
            Check("moments by hand", 5, facts(len(MOMENTS)), _moment, unit="fact"),
            Check("nobody is turned away", 5, by_seed, _rotation_live),
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
