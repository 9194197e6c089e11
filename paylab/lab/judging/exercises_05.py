"""The exercises of chapter 05: what binds a key, what a gateway does with a key it has, where it doubles."""

import builtins
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.judging.exercises_08 import decode_schedule, encode_schedule, flaw
from paylab.lab.judging.key_drill import STATES, Saved, key_drill
from paylab.lab.judging.late_keys import SavesKeysLate, one_order
from paylab.lab.simulation.choices import seeded

# 05/fingerprint ---------------------------------------------------------------------------------

Request = tuple[str, str, int, str]
ORDER: Request = ("alpine/alice", "boreal/shop", 1250, "EUR")
# What may differ between two requests, one thing at a time; the first does not differ at all.
OTHERS: tuple[Request, ...] = (
    ORDER,
    ("alpine/alina", "boreal/shop", 1250, "EUR"),
    ("alpine/alice", "boreal/shoe", 1250, "EUR"),
    ("alpine/alice", "boreal/shop", 1251, "EUR"),
    ("alpine/alice", "boreal/shop", 1250, "CHF"),
    ("boreal/shop", "alpine/alice", 1250, "EUR"),
)
REQUESTS = 60
# A postcard carries that two fingerprints differ, not all of their letters.
SHOWN_CHARS = 12


def _named(request: Request) -> str:
    return f"fingerprint{request!r}"


def _pair(mine: Solution, case: int) -> Finding:
    """A request, and one that differs in one thing or in none."""
    other = OTHERS[case]
    ours, theirs = mine(*ORDER), mine(*other)
    case_told = f"{_named(ORDER)} and {_named(other)}"
    returned = f"{ours!r} and {theirs!r}"
    if not isinstance(ours, str):
        return Finding(case_told, returned, "a fingerprint is a text, so that a database can keep it")
    right = (ours == theirs) is (other == ORDER)
    wrong = "a retry would be refused" if other == ORDER else "another payment would get this one's receipt"
    return Finding(case_told, returned, "told apart as it must be" if right else wrong, passed=right)


def _alike(rng: random.Random) -> list[Request]:
    """Requests that read the same when fields are put together, with nothing or a hyphen between them."""
    word = [rng.choice("abcd") for _ in range(4)]
    digits = "".join(rng.choice("123") for _ in range(4))
    found = []
    for cut in (1, 2, 3):
        for join in ("", "-"):
            payer, bank = join.join(word[:cut]), join.join(word[cut:])
            found.append((f"alpine/{payer}", f"{bank}/shop", 1250, "EUR"))
        found.append(("alpine/alice", f"boreal/shop{digits[:cut]}", int(digits[cut:]), "EUR"))
    return found


def _drawn(rng: random.Random) -> Request:
    return f"alpine/{rng.randrange(1000)}", f"boreal/{rng.randrange(1000)}", rng.randrange(1, 1000), "EUR"


def _collisions(mine: Solution, seed: int) -> Finding:
    """Names and amounts that read the same when they are put next to each other."""
    rng = seeded(seed, "requests")
    drawn = [*_alike(rng), *(_drawn(rng) for _ in range(REQUESTS))]
    known: dict[Any, Request] = {}
    for request in drawn:
        found = mine(*request)
        other = known.setdefault(found, request)
        if other != request:
            so = "two different requests have the same fingerprint: where one field ends must show"
            return Finding(f"{_named(other)} and {_named(request)}", f"{found!r} both times", so)
    count = len(set(drawn))
    return Finding(f"{count} requests, seed {seed}", "", "no two had the same", passed=True)


@contextmanager
def _another_process(salt: int) -> Iterator[None]:
    """In every process `hash` of a text is another; this one cannot be started anew for each question."""
    original = builtins.hash
    builtins.hash = lambda thing: original((salt, thing))
    try:
        yield
    finally:
        builtins.hash = original


def _restarted(mine: Solution, case: int) -> Finding:
    request = OTHERS[case]
    with _another_process(1):
        before = mine(*request)
    with _another_process(2):
        after = mine(*request)
    right = before == after
    so = (
        "the gateway knows it again"
        if right
        else "after a restart the same request looks like another: hash() differs from process to process"
    )
    return Finding(
        f"{_named(request)}, before and after a restart", f"{before!r}, {after!r}", so, passed=right
    )


# 05/claim ---------------------------------------------------------------------------------------

BEGIN, JOIN, REPLAY, REFUSE = "BEGIN", "JOIN", "REPLAY", "REFUSE"
RULES: tuple[tuple[Saved | None, str], ...] = (
    (None, BEGIN),
    (Saved("f1", "COMMITTED"), REPLAY),
    (Saved("f1", "PREPARING"), JOIN),
    (Saved("f2", "COMMITTED"), REFUSE),
    (Saved("f2", "PREPARING"), REFUSE),
    (Saved("f1", "DECLINED"), REPLAY),
    (Saved("f1", "QUEUED"), JOIN),
    (Saved("f2", "DECLINED"), REFUSE),
)


def _rule(mine: Solution, case: int) -> Finding:
    saved, expected = RULES[case]
    returned = mine(saved, "f1")
    right = returned == expected
    told = "nothing is saved under the key" if saved is None else f"saved: {saved}"
    so = STATES[expected] if right else f"it must {expected}: {STATES[expected]}"
    return Finding(f"{told}; asked with fingerprint f1", repr(returned), so, passed=right)


def _many_clicks(mine: Solution, seed: int) -> Finding:
    found = key_drill(mine, seed)
    case = f"a gateway with many clicks and a queue, seed {seed}"
    return Finding(
        case, mine.told(), found or "each order had one payment, and heard the truth", passed=not found
    )


# 05/find-the-window -----------------------------------------------------------------------------


def _written(schedule: Any) -> str:
    if isinstance(schedule, list | tuple):
        return f"[{', '.join(map(str, schedule))}]"
    return repr(schedule)


def _is_schedule(mine: Solution, _case: int) -> Finding:
    schedule = mine()
    wrong = flaw(schedule, users=("alice", "shop"))
    case = "your schedule, before anything runs"
    return Finding(case, _written(schedule), wrong or "it can be carried out", passed=not wrong)


def _doubles(mine: Solution, seed: int) -> Finding:
    schedule = mine()
    case = f"the gateway that saves its keys late, seed {seed}"
    if wrong := flaw(schedule, users=("alice", "shop")):
        return Finding(case, _written(schedule), wrong)
    charges, found = one_order(seed, schedule=schedule, replace={"node.gateway": SavesKeysLate})
    right = charges > 1
    so = f"one order was charged {charges} times" if right else "one order was charged once, as it should be"
    return Finding(case, _written(schedule), so, found, passed=right)


def _stands(mine: Solution, seed: int) -> Finding:
    schedule = mine()
    case = f"the gateway that claims first, seed {seed}"
    if wrong := flaw(schedule, users=("alice", "shop")):
        return Finding(case, _written(schedule), wrong)
    charges, found = one_order(seed, schedule=schedule)
    wrongs = [*([] if charges == 1 else [f"one order was charged {charges} times"]), *found.violations]
    so = wrongs[0] if wrongs else "one order was charged once"
    return Finding(case, _written(schedule), so, found, passed=not wrongs)


# The table --------------------------------------------------------------------------------------


def _as_json(_arguments: tuple[Any, ...], answer: Any) -> Any:
    return answer if answer is None or isinstance(answer, str) else repr(answer)


def _short_text(_arguments: tuple[Any, ...], answer: Any) -> Any:
    if not isinstance(answer, str) or len(answer) <= SHOWN_CHARS:
        return answer if isinstance(answer, str) else repr(answer)
    return hashlib.sha256(answer.encode()).hexdigest()[:SHOWN_CHARS]


def _from_json(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


EXERCISES = (
    Exercise(
        "05/fingerprint",
        "What binds a key to its request",
        "A fingerprint is the same for the same request, in every process, and another for any other.",
        _starter(
            "fingerprint(payer, payee, amount_minor, currency)",
            "Return a text that stands for the request.",
        ),
        (
            "Everything that makes it another payment belongs in: whom, to whom, how much, of what.",
            "'a1' and '0' read like 'a' and '10' when they are put next to each other: separate the fields.",
            "json.dumps keeps fields apart, and hashlib.sha256(text.encode()).hexdigest() is short.",
        ),
        (
            Check("same and other", 4, facts(len(OTHERS)), _pair, unit="fact"),
            Check("no two share one", 3, by_seed, _collisions),
            Check("after a restart", 3, facts(len(OTHERS)), _restarted, unit="fact"),
        ),
        _short_text,
        _from_json,
    ),
    Exercise(
        "05/claim",
        "What a gateway does with a key",
        "One key is one payment: a repeated request joins it or hears its end, another one is refused.",
        _starter(
            "claim(saved, fingerprint)", "Return BEGIN, JOIN, REPLAY or REFUSE; saved is None: a new key."
        ),
        (
            "saved has .fingerprint and .state; JOIN tells the present state, REPLAY the saved end.",
            "Compare fingerprints first: another request must not even learn how the first one ended.",
            "PREPARING and QUEUED are still worked on; all others are ends, a decline too.",
        ),
        (
            Check("rules by hand", 5, facts(len(RULES)), _rule, unit="fact"),
            Check("many clicks and a queue", 5, by_seed, _many_clicks),
        ),
        _as_json,
        _from_json,
    ),
    Exercise(
        "05/find-the-window",
        "The window in which an order is charged twice",
        "A key that is saved after the work is missing in every moment between the work and the saving.",
        _starter(
            "the_window()", "Return a list of at(seconds, fault) after which one order is charged twice."
        ),
        (
            "Alice asks under her key until she has an answer. When does the gateway not know her again?",
            "It writes three times: payment, outcome, key. A crash must come before the last of them.",
            'crash_at_commit("gateway", "before", 2): the money has moved and nothing says so.',
        ),
        (
            Check("is a schedule", 1, facts(1), _is_schedule, unit="fact"),
            Check("charged twice", 7, by_seed, _doubles, asked_once=True),
            Check("the real gateway stands it", 2, by_seed, _stands, asked_once=True),
        ),
        encode_schedule,
        decode_schedule,
    ),
)
