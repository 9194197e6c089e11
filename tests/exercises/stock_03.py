"""The stock of chapter 03: solutions of its exercises, right and wrong ones."""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from paylab.core.health import OutlierRules, Seen, outliers
from paylab.lab.judging import exercises_03
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

CALLS = itertools.count()
KNOWN: dict[str, int] = {}


# 03/weighted-turns --------------------------------------------------------------------------------


def by_credit(weights: Mapping[str, int], count: int) -> list[str]:
    credit, turns = dict.fromkeys(weights, 0), []
    for _ in range(count):
        for server, weight in weights.items():
            credit[server] += weight
        best = max(credit, key=lambda server: credit[server])
        credit[best] -= sum(weights.values())
        turns.append(best)
    return turns


def by_deadline(weights: Mapping[str, int], count: int) -> list[str]:
    """Turn k of a server is due by k / weight of a round; it may not come before its share has begun."""
    total, got, turns = sum(weights.values()), dict.fromkeys(weights, 0), list[str]()
    for n in range(1, count + 1):
        ready = [s for s in weights if got[s] < n * weights[s] / total]
        heap = [((got[s] + 1) / weights[s], s) for s in ready]
        best = heapq.nsmallest(1, heap)[0][1]
        got[best] += 1
        turns.append(best)
    return turns


def weights_do_not_matter(weights: Mapping[str, int], count: int) -> list[str]:
    """The misconception: turns are turns."""
    return list(itertools.islice(itertools.cycle(weights), count))


def one_after_the_other(weights: Mapping[str, int], count: int) -> list[str]:
    """The misconception: a heavy server has all its turns at once."""
    row = [server for server, weight in weights.items() for _ in range(weight)]
    return list(itertools.islice(itertools.cycle(row), count))


def who_was_there_stays(weights: Mapping[str, int], count: int) -> list[str]:
    """Wrong only under faults: a server that has left with a number gets turns all the same."""
    known = {server: weight for server, weight in weights.items() if not server.startswith("s5")}
    return by_credit(known or weights, count)


def the_answers_in_order(_weights: Mapping[str, int], _count: int) -> list[str]:
    """Gamed: state across trials."""
    return [["a", "b", "a", "b"], list("aabacaaaabacaa")][next(CALLS) % 2]


# 03/two-choices -----------------------------------------------------------------------------------


def two_places(in_flight: Sequence[int], rng: Any) -> int:
    first, second = rng.randrange(len(in_flight)), rng.randrange(len(in_flight))
    return int(second if in_flight[second] < in_flight[first] else first)


def by_min(in_flight: Sequence[int], rng: Any) -> int:
    return min((int(rng.random() * len(in_flight)) for _ in range(2)), key=lambda place: in_flight[place])


def chance(in_flight: Sequence[int], rng: Any) -> int:
    """The misconception: chance spreads well enough."""
    return int(rng.randrange(len(in_flight)))


def the_busier(in_flight: Sequence[int], rng: Any) -> int:
    """The misconception: many calls under way mean a fast server."""
    return int(max((rng.randrange(len(in_flight)) for _ in range(2)), key=lambda place: in_flight[place]))


def the_least_of_all(in_flight: Sequence[int], rng: Any) -> int:  # noqa: ARG001 - the misconception
    """The misconception: more to look at is always better."""
    return min(range(len(in_flight)), key=lambda place: in_flight[place])


def hung_means_idle(in_flight: Sequence[int], rng: Any) -> int:
    """Wrong only under faults: a server whose calls pile up is taken for one that has none."""
    places = [rng.randrange(len(in_flight)) for _ in range(2)]
    return int(min(places, key=lambda place: in_flight[place] if in_flight[place] < 8 else -1))


def in_step(in_flight: Sequence[int], rng: Any) -> int:  # noqa: ARG001 - state instead of chance
    """Gamed: state across trials in place of chance."""
    return next(CALLS) % len(in_flight)


# 03/eject -----------------------------------------------------------------------------------------


def of_the_package(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    return outliers(servers, rules)


def by_loop(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    out = sum(seen.ejected for seen in servers)
    names: list[str] = []
    for seen in servers:
        full = 100 * (out + len(names) + 1) > rules.ejected_percent_max * len(servers)
        if seen.failures_in_a_row >= rules.failures_in_a_row and not seen.ejected and not full:
            names.append(seen.server)
    return names


def at_the_first_failure(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """The misconception: a failure is a failure."""
    room = int(len(servers) * rules.ejected_percent_max / 100) - sum(s.ejected for s in servers)
    return [s.server for s in servers if s.failures_in_a_row and not s.ejected][:room]


def all_who_fail(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """The misconception: whoever fails must go, and if it is everybody."""
    return [s.server for s in servers if s.failures_in_a_row >= rules.failures_in_a_row and not s.ejected]


def one_at_a_time(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """The misconception: one server out is enough."""
    return [] if any(s.ejected for s in servers) else all_who_fail(servers, rules)[:1]


def forgets_who_is_out(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """Wrong only under faults: of three in a row it counts the room anew every time."""
    room = int(len(servers) * rules.ejected_percent_max / 100)
    if len(servers) == 2:
        room -= sum(s.ejected for s in servers)
    return all_who_fail(servers, rules)[: max(0, room)]


def nobody_later(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """Gamed: each server is ejected once in its life, by a memory of its own."""
    found = [name for name in outliers(servers, rules) if KNOWN.get(name, 0) < 3]
    for name in found:
        KNOWN[name] = KNOWN.get(name, 0) + 1
    return found


def softer_rules(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """Gamed: the judge's own table is changed."""
    exercises_03.SEEN = ()
    return outliers(servers, rules)


TURNS, TWO, EJECT = "03/weighted-turns", "03/two-choices", "03/eject"
RIGHT = [
    (TURNS, by_credit),
    (TURNS, by_deadline),
    (TWO, two_places),
    (TWO, by_min),
    (EJECT, of_the_package),
    (EJECT, by_loop),
]
WRONG = [
    (TURNS, weights_do_not_matter, "shares"),
    (TURNS, one_after_the_other, "spread"),
    (TURNS, who_was_there_stays, "servers come and go"),
    (TURNS, the_answers_in_order, REPEATS),
    (TWO, chance, "the less busy of two"),
    (TWO, the_busier, "the less busy of two"),
    (TWO, the_least_of_all, "theory"),
    (TWO, hung_means_idle, "a server hangs"),
    (TWO, in_step, REPEATS),
    (EJECT, at_the_first_failure, "five in a row"),
    (EJECT, all_who_fail, "at most half"),
    (EJECT, one_at_a_time, "five in a row"),
    (EJECT, forgets_who_is_out, "servers fail"),
    (EJECT, nobody_later, REPEATS),
    (EJECT, softer_rules, HANDS_OFF),
]
