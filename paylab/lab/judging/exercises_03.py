"""The exercises of chapter 03: turns by weight, two choices, and when a server is ejected."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from statistics import fmean
from typing import Any

from paylab.core.balancing import Call, Endpoint
from paylab.core.health import OutlierDetector, OutlierRules, Seen
from paylab.lab.experiments.queueing import EventHeap, Farm, exponential, poisson
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.simulation.choices import seeded

# 03/weighted-turns ------------------------------------------------------------------------------

WEIGHTS = (
    {"a": 1, "b": 1},
    {"a": 5, "b": 1, "c": 1},
    {"a": 1, "b": 2, "c": 3},
    {"a": 2},
    {"alpine-1": 3, "alpine-2": 2, "alpine-3": 2},
)


def _turns(mine: Solution, weights: dict[str, int], count: int) -> Any:
    return mine(dict(weights), count)


def _share(mine: Solution, case: int) -> Finding:
    weights = WEIGHTS[case]
    total = 2 * sum(weights.values())
    returned = _turns(mine, weights, total)
    wanted = {server: 2 * weight for server, weight in weights.items()}
    right = isinstance(returned, list) and Counter(returned) == wanted
    return Finding(
        f"turns({weights}, {total})",
        repr(returned),
        "each got twice its weight" if right else f"in two rounds each must get {wanted}",
        passed=right,
    )


def _spread(mine: Solution, case: int) -> Finding:
    """Nobody is a whole turn ahead of its share, at any moment."""
    weights = WEIGHTS[case]
    total = sum(weights.values())
    returned = _turns(mine, weights, 2 * total)
    for n in range(1, len(returned) + 1):
        for server, weight in weights.items():
            got = returned[:n].count(server)
            if got - n * weight / total >= 1:
                so = f"of the first {n} turns {server} got {got}, where its share is {n * weight / total:.1f}"
                return Finding(f"turns({weights}, {2 * total})", repr(returned), so)
    return Finding(f"turns({weights}, {2 * total})", repr(returned), "nobody was ahead", passed=True)


def _leaves(mine: Solution, seed: int) -> Finding:
    """Servers come and go; the turns are those of whoever is there."""
    rng = seeded(seed, "weights")
    names = [f"s{n}" for n in range(6)]
    for _ in range(6):
        there = sorted(rng.sample(names, rng.randint(1, 5)))
        weights = {server: rng.randint(1, 4) for server in there}
        finding = _spread_of(mine, weights)
        if not finding.passed:
            return finding
    return Finding(f"servers come and go, seed {seed}", mine.told(), "every round was right", passed=True)


def _spread_of(mine: Solution, weights: dict[str, int]) -> Finding:
    total = sum(weights.values())
    returned = _turns(mine, weights, total)
    right = isinstance(returned, list) and Counter(returned) == weights
    so = "each got its weight" if right else f"those who are there must get {weights}"
    return Finding(f"turns({weights}, {total}), after others have left", repr(returned), so, passed=right)


# 03/two-choices ---------------------------------------------------------------------------------

BINS = 1_000
# Of as many balls as bins, this share of the bins is hit: tanh(1), the fluid limit of two choices.
HIT = 0.7616
HIT_WITHIN = 0.04
# Ten servers, one of them hung, 60 % busy: by chance every tenth call waits for it.
HUNG_SPEED = 0.001
HUNG_JOBS_S = 60.0
# With two choices it gets a call when it is drawn twice, 4 of 360, and a few before its load shows.
HUNG_MOST = 14


# Drawn with replacement the busier of two comes up twice in a quarter of all cases, else never.
DUE_LEAST = 125
PAIRS = (([4, 0], 1), ([0, 4], 0), ([2, 3], 0), ([7, 6], 1))


def _pair(mine: Solution, case: int) -> Finding:
    """Two servers, both drawn by so much chance that only the load can decide."""
    loads, wanted = PAIRS[case]
    rng = random.Random(case)  # noqa: S311 - which server is picked is no secret
    picked = Counter(mine(list(loads), rng) for _ in range(200))
    right = set(picked) <= {0, 1} and picked[wanted] >= DUE_LEAST
    so = f"server {wanted} was picked {picked[wanted]} times of 200" + (
        "" if right else ", where 150 are due"
    )
    return Finding(
        f"two_choices({loads}, rng), 200 times", str(dict(sorted(picked.items(), key=str))), so, passed=right
    )


def _theory(mine: Solution, seed: int) -> Finding:
    """As many balls as bins; how many bins are hit tells how many were looked at."""
    loads, rng = [0] * BINS, seeded(seed, "balls")
    for _ in range(BINS):
        loads[mine(list(loads), rng)] += 1
    hit = sum(load > 0 for load in loads) / BINS
    right = abs(hit - HIT) <= HIT_WITHIN
    so = f"{hit:.3f} of {BINS} bins were hit by {BINS} balls; theory of two choices says {HIT:.3f}"
    return Finding(
        f"{BINS} balls into {BINS} bins, seed {seed}",
        f"a bin each, {max(loads)} at most in one",
        so,
        passed=right,
    )


class _ByIndex:
    """A policy that asks a solution for the place of the next server."""

    def __init__(self, mine: Solution) -> None:
        self._mine = mine

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Ask for one by what is in flight at each."""
        place: int = self._mine([endpoint.in_flight for endpoint in endpoints], call.rng)
        return endpoints[place]


def _hung(mine: Solution, seed: int) -> Finding:
    """One of ten servers accepts and never answers: hardly anybody may wait for it."""
    heap = EventHeap()
    service = exponential(1.0, rng=seeded(seed, "service"))
    speeds = [1.0] * 9 + [HUNG_SPEED]
    farm = Farm(heap, _ByIndex(mine), servers=10, service=service, speeds=speeds, rng=seeded(seed, "choices"))
    poisson(heap, 6.0, farm.arrive, rng=seeded(seed, "arrivals"))
    heap.run(HUNG_JOBS_S)
    stuck = farm.endpoints[-1].in_flight
    right = stuck <= HUNG_MOST
    so = f"{stuck} of {len(farm.times_s)} calls wait for the server that hangs" + (
        "" if right else f", where {HUNG_MOST} at most are due"
    )
    return Finding(
        f"one of ten servers hangs, seed {seed}", f"a mean of {fmean(farm.times_s):.1f} s", so, passed=right
    )


# 03/eject ---------------------------------------------------------------------------------------

RULES = OutlierRules(ejected_percent_max=50.0, failures_in_a_row=5, base_s=2.0, interval_s=2.0)
SEEN: tuple[tuple[list[tuple[int, bool]], list[str]], ...] = (
    ([(0, False), (0, False)], []),
    ([(5, False), (0, False)], ["s0"]),
    ([(4, False), (9, False)], ["s1"]),
    ([(0, True), (7, False), (0, False), (0, False)], ["s1"]),
)
FULL: tuple[tuple[list[tuple[int, bool]], list[str]], ...] = (
    ([(5, False), (5, False)], ["s0"]),
    ([(9, False)], []),
    ([(0, True), (5, False)], []),
    ([(5, False), (0, False), (6, False), (7, False)], ["s0", "s2"]),
)


# Calls to servers in turn, of which this share fails anyway; with nobody ejected 225 would fail.
OUTAGE_S, USUAL_FAILURES, FAILURES_MOST, OUT_MOST = 10.0, 0.02, 90, 2


def _about(facts: Sequence[tuple[int, bool]]) -> list[Seen]:
    return [Seen(f"s{n}", failures, ejected=out) for n, (failures, out) in enumerate(facts)]


def _rule(table: Sequence[tuple[list[tuple[int, bool]], list[str]]]) -> Any:
    def run(mine: Solution, case: int) -> Finding:
        about, wanted = table[case]
        returned = mine(_about(about), RULES)
        right = isinstance(returned, list) and sorted(returned) == wanted
        told = ", ".join(
            f"s{n}: {failures} failures in a row" + (", ejected" * out)
            for n, (failures, out) in enumerate(about)
        )
        so = "just those" if right else f"of {len(about)} servers at most half may be out: {wanted} is due"
        return Finding(f"eject({told})", repr(returned), so, passed=right)

    return run


def _calls(seed: int, sick: int) -> Iterator[tuple[str, bool, float]]:
    """Ten seconds of calls to four servers in turn, of which some fail from the second second on."""
    rng = seeded(seed, "calls")
    for n in count():
        now = n / 50
        if now > OUTAGE_S:
            return
        server = n % 4
        failed = now > 1 and (server < sick or rng.random() < USUAL_FAILURES)
        yield f"s{server}", failed, now


def _outage(mine: Solution, seed: int) -> Finding:
    """Two servers fail for good, or all four: the failing are out most of the time, never too many."""
    for sick, everybody in ((2, False), (4, True)):
        detector = OutlierDetector(replace(RULES), lambda servers, rules: mine(list(servers), rules))
        for n in range(4):
            detector.join(f"s{n}")
        failures, most = 0, 0
        for server, failed, now in _calls(seed, sick):
            if detector.ejected(server, now=now):
                continue  # it is not picked
            failures += failed
            detector.count(server, failed=failed, now=now)
            most = max(most, sum(detector.ejected(f"s{n}", now=now) for n in range(4)))
        case = f"{sick} of 4 servers fail all their calls, seed {seed}"
        if most > OUT_MOST:
            return Finding(case, mine.told(), f"{most} servers were out at once")
        if not everybody and failures > FAILURES_MOST:
            return Finding(case, mine.told(), f"{failures} calls failed, where {FAILURES_MOST} are due")
    return Finding(
        f"servers fail, seed {seed}", "", "those who failed were out, and half stayed in", passed=True
    )


# The table --------------------------------------------------------------------------------------


def _as_json(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """Names and places as they are; anything else as the text that stands for it."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    if isinstance(answer, list) and all(isinstance(name, str) for name in answer):
        return answer
    return repr(answer)


def _from_json(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


EXERCISES = (
    Exercise(
        "03/weighted-turns",
        "Smooth weighted round robin",
        "In every round each server gets as many turns as its weight says, spread as evenly as they can be.",
        _starter("turns(weights, count)", "Return a list of `count` names; weights is {name: weight}."),
        (
            "Give every server a credit that grows by its weight at every turn.",
            "Whoever has the most credit has the turn, and pays for it with the sum of all weights.",
            "Of weights 5, 1, 1 the turns are a a b a c a a.",
        ),
        (
            Check("shares", 4, facts(len(WEIGHTS)), _share, unit="fact"),
            Check("spread", 3, facts(len(WEIGHTS)), _spread, unit="fact"),
            Check("servers come and go", 3, by_seed, _leaves),
        ),
        _as_json,
        _from_json,
    ),
    Exercise(
        "03/two-choices",
        "The power of two choices",
        "Of two servers that chance draws, the one with fewer calls under way gets the next.",
        _starter("two_choices(in_flight, rng)", "Return the place of a server; in_flight has its calls."),
        (
            "rng.randrange(len(in_flight)) draws a place.",
            "Draw two, and compare what is in flight there.",
            "Looking at all of them is another policy: with many callers all would run to the same server.",
        ),
        (
            Check("the less busy of two", 3, facts(len(PAIRS)), _pair, unit="fact"),
            Check("theory", 4, by_seed, _theory),
            Check("a server hangs", 3, by_seed, _hung),
        ),
        _as_json,
        _from_json,
    ),
    Exercise(
        "03/eject",
        "An ejection rule",
        "A server is ejected after five failures in a row, unless too many would be out then.",
        _starter(
            "eject(servers, rules)",
            "Return the names to eject; a server has `server`, `failures_in_a_row`, `ejected`.",
        ),
        (
            "rules.failures_in_a_row says how many are too many; who is out already is not ejected again.",
            "rules.ejected_percent_max is the share of all servers that may be out, those included that are.",
            "Count the room that is left before you pick, and cut the list to it.",
        ),
        (
            Check("five in a row", 4, facts(len(SEEN)), _rule(SEEN), unit="fact"),
            Check("at most half", 3, facts(len(FULL)), _rule(FULL), unit="fact"),
            Check("servers fail", 3, by_seed, _outage),
        ),
        _as_json,
        _from_json,
    ),
)
