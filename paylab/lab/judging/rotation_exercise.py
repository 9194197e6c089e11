"""How the exercise on key rotation is judged: moments by hand, and a network at the worst moment."""

from collections.abc import Callable, Sequence
from typing import Any

from paylab.core.key_rotation import TIMES, Rotation, SigningKey, rotate
from paylab.core.tokens import ACCESS_LIFETIME_S
from paylab.lab.clients import LabClient
from paylab.lab.judging.auth_networks import small_lab, turned_away
from paylab.lab.judging.exercises import Finding, Solution
from paylab.lab.lab import Lab

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


def moment(mine: Solution, case: int) -> Finding:
    """Judge what a rule says at one moment."""
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


def rotation_live(mine: Solution, seed: int) -> Finding:
    """The rule in a network whose gateway is cut off from the authentication servers at the change."""

    def rule(keys: Sequence[SigningKey], *, now: float, asked: bool = False) -> Rotation:
        ours = rotate(keys, now=now, asked=asked)
        if not keys:
            return ours
        signs, published = mine([(key.kid, key.signs_from_s) for key in keys], now)
        return Rotation(signs, tuple(published), ours.make_from_s)

    case = f"a network whose gateway hears of no key while the keys change, seed {seed}"
    with small_lab(seed, {"auth.rotation": rule, "client.renew": lambda **_: False}) as lab:
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
                if wrong := turned_away(user):
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
