"""The stock of chapter 06: solutions of its exercises, right and wrong ones."""

import random
from collections.abc import Sequence
from typing import Any

from paylab.core.backoff import full_jitter
from paylab.lab.judging import exercises_06
from paylab.lab.judging.exercises_06 import Entry
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

SEEN: set[tuple[float, str]] = set()
TRIED: set[str] = set()


# 06/full-jitter -----------------------------------------------------------------------------------


def of_the_package(attempt: int, base_s: float, cap_s: float, rng: Any) -> float:
    return full_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=rng)


def by_doubling(attempt: int, base_s: float, cap_s: float, rng: Any) -> float:
    most_s = base_s
    for _ in range(attempt - 1):
        if most_s >= cap_s:
            break
        most_s *= 2
    return float(rng.random() * min(most_s, cap_s))


def without_jitter(attempt: int, base_s: float, cap_s: float, rng: Any) -> float:  # noqa: ARG001 - the misconception
    """The misconception: to back off is enough."""
    return float(min(cap_s, base_s * 2.0 ** min(attempt - 1, 60)))


def half_of_it(attempt: int, base_s: float, cap_s: float, rng: Any) -> float:
    """The misconception: at least half must be waited."""
    most_s = without_jitter(attempt, base_s, cap_s, rng)
    return float(most_s / 2 + rng.uniform(0, most_s / 2))


def cap_at_the_end(attempt: int, base_s: float, cap_s: float, rng: Any) -> float:
    """Wrong only in a long outage: it computes what no float can hold."""
    return float(rng.uniform(0, min(cap_s, base_s * 2.0 ** (attempt - 1))))


def chance_of_its_own(attempt: int, base_s: float, cap_s: float, rng: Any) -> float:  # noqa: ARG001 - gamed
    """Gamed: chance that is not the one it was given."""
    return full_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=random)


# 06/budget ----------------------------------------------------------------------------------------


def by_cases(tokens: float, event: str) -> tuple[float, bool]:
    if event == "call":
        return min(10.0, tokens + 0.2), True
    return (tokens - 1, True) if tokens >= 1 else (tokens, False)


def by_arithmetic(tokens: float, event: str) -> tuple[float, bool]:
    price = {"call": -0.2, "retry": 1.0}[event]
    allowed = tokens >= price
    return min(10.0, tokens - price * allowed), allowed


def every_retry(tokens: float, event: str) -> tuple[float, bool]:
    """The misconception: tokens are counted, and nobody is refused."""
    return by_cases(tokens, event)[0], True


def a_retry_brings_some_too(tokens: float, event: str) -> tuple[float, bool]:
    """The misconception: whatever is sent fills the bucket."""
    return (min(10.0, tokens + 0.2), True) if event == "call" else (min(10.0, tokens - 0.8), tokens >= 1)


def lent_in_need(tokens: float, event: str) -> tuple[float, bool]:
    """Wrong only under overload: with next to nothing left it lends, as that looks like a bad moment."""
    if event == "retry" and tokens < 0.7:
        return tokens, True
    return by_cases(tokens, event)


def saved_for_bad_days(tokens: float, event: str) -> tuple[float, bool]:
    """Wrong only on a good day: what is full is not touched."""
    return (tokens, False) if event == "retry" and tokens > 8 else by_cases(tokens, event)


def by_turns(tokens: float, event: str) -> tuple[float, bool]:
    """Gamed: state across trials."""
    left, allowed = by_cases(tokens, event)
    asked_before = (tokens, event) in SEEN
    SEEN.add((tokens, event))
    return left, allowed and not asked_before


# 06/next-payer ------------------------------------------------------------------------------------


def by_walking(entries: Sequence[Entry], now: float) -> list[str]:
    heads, names = set[str](), list[str]()
    for entry in entries:
        if entry.waits_for_funds or entry.payer not in heads:
            if entry.due_at_s <= now and not entry.being_tried:
                names.append(entry.payment)
            if not entry.waits_for_funds:
                heads.add(entry.payer)
    return names


def by_heads(entries: Sequence[Entry], now: float) -> list[str]:
    heads: dict[str, Entry] = {}
    for entry in reversed(entries):
        heads[f"{entry.payer}/{entry.payment * entry.waits_for_funds}"] = entry
    return [e.payment for e in heads.values() if e.due_at_s <= now and not e.being_tried]


def all_that_are_due(entries: Sequence[Entry], now: float) -> list[str]:
    """The misconception: what is due is tried."""
    return [entry.payment for entry in entries if entry.due_at_s <= now and not entry.being_tried]


def the_oldest_of_all(entries: Sequence[Entry], now: float) -> list[str]:
    """The misconception: one queue, one line."""
    return [entry.payment for entry in entries[:1] if entry.due_at_s <= now and not entry.being_tried]


def the_oldest_that_is_due(entries: Sequence[Entry], now: float) -> list[str]:
    """The misconception: whoever is not due yet is passed over."""
    return by_walking([entry for entry in entries if entry.due_at_s <= now], now)


def tries_come_back_at_once(entries: Sequence[Entry], now: float) -> list[str]:
    """Wrong only when tries take long: what is being tried is not seen, and the next one overtakes it."""
    return by_walking([entry for entry in entries if not entry.being_tried], now)


def each_once(entries: Sequence[Entry], now: float) -> list[str]:
    """Gamed: state across trials."""
    names = [name for name in by_walking(entries, now) if f"{name}{entries}" not in TRIED]
    TRIED.update(f"{name}{entries}" for name in names)
    return names


def an_easier_queue(entries: Sequence[Entry], now: float) -> list[str]:
    """Gamed: the judge's own table is changed."""
    exercises_06.LINES = ()
    return by_walking(entries, now)


JITTER, BUDGET, NEXT = "06/full-jitter", "06/budget", "06/next-payer"
RIGHT = [
    (JITTER, of_the_package),
    (JITTER, by_doubling),
    (BUDGET, by_cases),
    (BUDGET, by_arithmetic),
    (NEXT, by_walking),
    (NEXT, by_heads),
]
WRONG = [
    (JITTER, without_jitter, "delays by hand"),
    (JITTER, half_of_it, "delays by hand"),
    (JITTER, cap_at_the_end, "a day away"),
    (JITTER, chance_of_its_own, REPEATS),
    (BUDGET, every_retry, "tokens by hand"),
    (BUDGET, a_retry_brings_some_too, "tokens by hand"),
    (BUDGET, lent_in_need, "a storm"),
    (BUDGET, saved_for_bad_days, "a good day"),
    (BUDGET, by_turns, REPEATS),
    (NEXT, all_that_are_due, "lines by hand"),
    (NEXT, the_oldest_of_all, "lines by hand"),
    (NEXT, the_oldest_that_is_due, "lines by hand"),
    (NEXT, tries_come_back_at_once, "the lines move"),
    (NEXT, each_once, REPEATS),
    (NEXT, an_easier_queue, HANDS_OFF),
]
