"""The exercises of chapter 06: full jitter, a retry budget, and which queued payments may be tried now."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paylab.lab.experiments.catalogue.backoff import BASE_S, CAP_S, LATENCY_S, SPREAD_S, Row, Writer
from paylab.lab.experiments.overload import LENGTH_S, RATE, overload
from paylab.lab.experiments.queueing import EventHeap
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.simulation.choices import seeded

# 06/full-jitter ---------------------------------------------------------------------------------

# attempt, base and cap in seconds, and the most that may be waited.
DELAYS = (
    (1, 0.5, 60.0, 0.5),
    (2, 0.5, 60.0, 1.0),
    (5, 0.5, 60.0, 8.0),
    (9, 0.5, 60.0, 60.0),
    (3, 1.0, 2.0, 2.0),
)
DRAWS = 400
# Of so many draws from [0, most] the smallest, the largest and the mean lie within these shares of it.
SMALLEST, LARGEST, MEAN = 0.05, 0.95, (0.42, 0.58)
# A day away: with a mean of 30 s there are about 2,880 tries, and 5 % more or fewer is four deviations.
DAY_S, TRIES_DUE, TRIES_WITHIN = 86_400.0, 2_890, 145
# The article's simulator needed 797 calls and 4.9 s for full jitter, ten times as long without jitter.
WRITERS, CALLS_MOST, TIME_MOST_S = 100, 900, 7.5


def _delays(mine: Solution, case: int) -> Finding:
    attempt, base_s, cap_s, most_s = DELAYS[case]
    rng = seeded("delays", case)
    drawn = [mine(attempt, base_s, cap_s, rng) for _ in range(DRAWS)]
    about = f"{DRAWS} delays before attempt {attempt + 1}, base {base_s:g} s, cap {cap_s:g} s"
    if not all(isinstance(delay_s, int | float) and 0 <= delay_s <= most_s for delay_s in drawn):
        wrong = next(d for d in drawn if not isinstance(d, int | float) or not 0 <= d <= most_s)
        return Finding(about, repr(wrong), f"a delay lies between 0 and {most_s:g} s")
    mean = sum(drawn) / DRAWS / most_s
    spread = min(drawn) <= SMALLEST * most_s and max(drawn) >= LARGEST * most_s
    right = spread and MEAN[0] <= mean <= MEAN[1]
    so = "they are spread evenly" if right else f"they must be spread evenly from 0 to {most_s:g} s"
    told = f"from {min(drawn):.2f} to {max(drawn):.2f} s, {mean * most_s:.2f} s in the mean"
    return Finding(about, told, so, passed=right)


class _Writes(Writer):
    """A client that backs off as the solution says."""

    def _answered(self, written: bool) -> None:  # noqa: FBT001 - the row's answer
        if not written:
            self._failures += 1
            mine: Any = self._strategy
            self._heap.after(mine(self._failures, 2 * BASE_S, CAP_S, self._rng), self._ask)


def _hundred(mine: Solution, seed: int) -> Finding:
    """A hundred clients that all failed at the same moment write one row."""
    heap, row, net, rng = EventHeap(), Row(), seeded(seed, "network"), seeded(seed, "jitter")
    for _ in range(WRITERS):
        strategy: Any = mine
        _Writes(
            heap,
            row,
            transit_s=lambda: abs(net.normalvariate(LATENCY_S, SPREAD_S)),
            strategy=strategy,
            rng=rng,
        )
    heap.run(10 * TIME_MOST_S)
    told = f"{row.calls} calls in {heap.now_s:.1f} s, {row.version} of {WRITERS} have written"
    right = row.version == WRITERS and row.calls <= CALLS_MOST
    so = "they came apart" if right else f"with full jitter all have written after {CALLS_MOST} calls at most"
    return Finding(f"{WRITERS} clients write one row at once, seed {seed}", told, so, passed=right)


def _day_away(mine: Solution, seed: int) -> Finding:
    """A bank is away for a day, and the queue tries on."""
    rng, at_s, attempt, latest = seeded(seed, "day"), 0.0, 0, 0.0
    while at_s < DAY_S and attempt < 2 * TRIES_DUE:
        attempt += 1
        latest = mine(attempt, 0.5, 60.0, rng)
        at_s += latest
    right = abs(attempt - TRIES_DUE) <= TRIES_WITHIN
    so = f"{attempt} tries in {at_s / 3600:.1f} h" + (
        "" if right else f", where about {TRIES_DUE} in a day are due"
    )
    case = f"a bank is away for a day, base 0.5 s, cap 60 s, seed {seed}"
    return Finding(case, f"{latest!r} after attempt {attempt}", so, passed=right)


# 06/budget --------------------------------------------------------------------------------------

RATIO, TOKENS_MAX = 0.2, 10.0
# Tokens that are there, what happens, and what must come back: tokens, and whether it may be sent.
SPENT = (
    (5.0, "call", 5.2, True),
    (10.0, "call", 10.0, True),
    (0.0, "call", 0.2, True),
    (3.0, "retry", 2.0, True),
    (1.0, "retry", 0.0, True),
    (0.8, "retry", 0.8, False),
)
RETRIED_MOST, RECOVERED = 0.25, 0.9
# Two per cent are lost on a good day; without any retry that many calls would fail.
GOOD_DAY_S, ANSWERED_LEAST = 8.0, 0.985


def _spent(mine: Solution, case: int) -> Finding:
    tokens, event, left, allowed = SPENT[case]
    returned = mine(tokens, event)
    right = (
        isinstance(returned, tuple | list)
        and len(returned) == 2  # noqa: PLR2004 - a pair
        and abs(returned[0] - left) < 1e-9  # noqa: PLR2004 - rounding
        and returned[1] is allowed
    )
    so = "it is right" if right else f"due is ({left:g}, {allowed})"
    return Finding(f"budget({tokens:g}, {event!r})", repr(returned), so, passed=bool(right))


class _Budget:
    """Asks the solution, and keeps its tokens for it."""

    def __init__(self, mine: Solution) -> None:
        self._mine, self._tokens = mine, TOKENS_MAX

    def sent(self) -> None:
        """A first try."""
        self._tokens, _ = self._mine(self._tokens, "call")

    def allows(self, *, now: float) -> bool:  # noqa: ARG002 - this budget knows no time
        """A retry."""
        self._tokens, allowed = self._mine(self._tokens, "retry")
        return bool(allowed)


def _storm(mine: Solution, seed: int) -> Finding:
    """A server is away for three seconds under load, and must come back."""
    seen = overload(lambda: _Budget(mine), seed=seed)
    retried = sum(seen.retries) / sum(seen.first_tries)
    recovered = seen.goodput(LENGTH_S - 10, LENGTH_S)
    case = f"{RATE:g} calls a second, and the server is away for 3 s, seed {seed}"
    told = f"{100 * retried:.0f} % more calls by retries, {100 * recovered:.0f} % answered in the last 10 s"
    if recovered < RECOVERED:
        return Finding(
            case, told, "the retries keep the server busy with work that nobody waits for any more"
        )
    if retried > RETRIED_MOST:
        return Finding(case, told, "retries may add a fifth to the calls, and what was saved before")
    return Finding(case, told, "it recovered", passed=True)


def _good_day(mine: Solution, seed: int) -> Finding:
    """When little goes wrong, what is lost is tried again."""
    seen = overload(lambda: _Budget(mine), seed=seed)
    retries = sum(seen.retries[: int(GOOD_DAY_S)])
    lost = sum(seen.first_tries[: int(GOOD_DAY_S) - 1]) * 0.005
    right = retries >= max(1.0, lost)
    so = (
        "what was lost was tried again"
        if right
        else "of two lost calls in a hundred hardly one was tried again"
    )
    return Finding(f"two calls in a hundred are lost, seed {seed}", f"{retries} retries", so, passed=right)


# 06/next-payer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A queued payment. While it is tried it stays in the queue."""

    payment: str
    payer: str
    due_at_s: float
    # It waits for funds and not for a bank: it has given up its place in its payer's line.
    waits_for_funds: bool = False
    being_tried: bool = False


NOW_S = 100.0


def _line(*entries: tuple[str, float] | tuple[str, float, bool]) -> list[Entry]:
    return [
        Entry(f"p{n}", str(who), float(due), bool(rest)) for n, (who, due, *rest) in enumerate(entries, 1)
    ]


LINES: tuple[tuple[list[Entry], list[str]], ...] = (
    (_line(("alice", 90)), ["p1"]),
    (_line(("alice", 110)), []),
    (_line(("alice", 90), ("alice", 90)), ["p1"]),
    (_line(("alice", 90), ("bob", 80), ("carol", 101)), ["p1", "p2"]),
    (_line(("alice", 110), ("alice", 90)), []),
    (_line(("alice", 110, True), ("alice", 90)), ["p2"]),
    (_line(("alice", 90, True), ("alice", 90), ("alice", 90)), ["p1", "p2"]),
)
QUEUE_S, TICK_S, BACK_S, FUNDS_S = 90.0, 0.5, 15.0, 30.0
PAYERS, EACH = ("alice", "bob", "carol"), 5


def _who_may(mine: Solution, case: int) -> Finding:
    entries, expected = LINES[case]
    returned = mine(list(entries), NOW_S)
    right = isinstance(returned, list) and sorted(map(str, returned)) == expected
    told = ", ".join(
        f"{e.payment} of {e.payer} due at {e.due_at_s:g}" + " (waits for funds)" * e.waits_for_funds
        for e in entries
    )
    so = "just those" if right else f"due is {expected}: of each payer the oldest, and only if it is due"
    return Finding(f"at {NOW_S:g} s there are {told}", repr(returned), so, passed=right)


class _Queue:
    """A queue that asks the solution twice a second; tries take a while, and fail while the bank is away."""

    def __init__(self, mine: Solution, seed: int) -> None:
        self._mine, self._rng = mine, seeded(seed, "queue")
        self.entries: list[Entry] = []
        self.settled: list[str] = []
        self._ends: dict[str, float] = {}
        for n in range(EACH * len(PAYERS)):
            short = self._rng.random() < 0.2  # noqa: PLR2004 - every fifth
            self.entries.append(Entry(f"p{n + 1}", PAYERS[n % len(PAYERS)], self._rng.random(), short))

    def run(self) -> str:
        """Until all is settled or time is over; what went wrong, empty if nothing."""
        for tick in range(int(QUEUE_S / TICK_S)):
            now = tick * TICK_S
            self._end_tries(now)
            for name in self._mine(list(self.entries), now):
                fault = self._begin(str(name), now)
                if fault:
                    return fault
            if not self.entries:
                return ""
        return f"{len(self.entries)} payments still wait {QUEUE_S - BACK_S:g} s after the bank came back"

    def _begin(self, name: str, now: float) -> str:
        found = [n for n, entry in enumerate(self.entries) if entry.payment == name]
        if not found:
            return f"{name} is not in the queue"
        entry = self.entries[found[0]]
        if entry.being_tried:
            return f"{name} was tried a second time while its first try was under way"
        if entry.due_at_s > now:
            return f"{name} was tried at {now:g} s, and is due at {entry.due_at_s:.1f} s"
        before = [e for e in self.entries[: found[0]] if e.payer == entry.payer and not e.waits_for_funds]
        if before and not entry.waits_for_funds:
            how = " is being tried" if before[0].being_tried else ""
            return f"{name} overtook {before[0].payment} of the same payer, which{how or ' still waits'}"
        self.entries[found[0]] = Entry(
            name, entry.payer, entry.due_at_s, entry.waits_for_funds, being_tried=True
        )
        self._ends[name] = now + self._rng.uniform(0.5, 3.0)
        return ""

    def _end_tries(self, now: float) -> None:
        for name in [name for name, end_s in self._ends.items() if end_s <= now]:
            del self._ends[name]
            place = next(n for n, entry in enumerate(self.entries) if entry.payment == name)
            entry = self.entries[place]
            if now >= (FUNDS_S if entry.waits_for_funds else BACK_S):
                self.settled.append(name)
                del self.entries[place]
            else:
                due_at_s = now + self._rng.uniform(0.0, 6.0)
                self.entries[place] = Entry(name, entry.payer, due_at_s, entry.waits_for_funds)


def _lines_move(mine: Solution, seed: int) -> Finding:
    """Fifteen payments of three payers; tries take up to three seconds, and the bank comes back after 15."""
    queue = _Queue(mine, seed)
    fault = queue.run()
    case = f"{EACH * len(PAYERS)} payments, tries that take a while, a bank that comes back, seed {seed}"
    return Finding(
        case, f"settled: {', '.join(queue.settled) or 'none'}", fault or "all in order", passed=not fault
    )


# The table --------------------------------------------------------------------------------------


def _plain(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """Numbers, pairs and lists of names as they are; anything else as the text that stands for it."""
    if answer is None or isinstance(answer, str | int | float):
        return answer
    if isinstance(answer, list | tuple) and all(isinstance(each, str | int | float) for each in answer):
        return list(answer)
    return repr(answer)


def _same(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


def _some(seeds: Sequence[int]) -> Sequence[int]:
    """A storm asks thousands of questions, so the first two seeds are enough."""
    return seeds[:2]


EXERCISES = (
    Exercise(
        "06/full-jitter",
        "Full jitter",
        "A delay is drawn evenly from nothing up to the base, doubled for every attempt, or up to the cap.",
        _starter(
            "delay_s(attempt, base_s, cap_s, rng)", "Seconds to wait after this attempt; the first is 1."
        ),
        (
            "Compute the most that may be waited first: base_s, doubled for every attempt after the first.",
            "rng.uniform(0, most) draws evenly; take rng, and no other chance.",
            "2.0 ** 2000 is more than a float can hold: what is above the cap need not be computed.",
        ),
        (
            Check("delays by hand", 4, facts(len(DELAYS)), _delays, unit="fact"),
            Check("a hundred at once", 3, by_seed, _hundred),
            Check("a day away", 3, by_seed, _day_away),
        ),
        _plain,
        _same,
    ),
    Exercise(
        "06/budget",
        "A retry budget",
        "Retries add a fifth to the calls at most, and the few that were saved up before.",
        _starter("budget(tokens, event)", 'Return (tokens, allowed) after a "call" or a wish for a "retry".'),
        (
            "A call is always allowed and brings 0.2 tokens, but there are never more than 10.",
            "A retry is allowed if there is a whole token, and takes it.",
            "A retry that is not allowed takes nothing.",
        ),
        (
            Check("tokens by hand", 4, facts(len(SPENT)), _spent, unit="fact"),
            Check("a good day", 3, _some, _good_day),
            Check("a storm", 3, _some, _storm),
        ),
        _plain,
        _same,
    ),
    Exercise(
        "06/next-payer",
        "Who may be tried now",
        "Of each payer the oldest payment in line may be tried, if it is due and is not being tried already.",
        _starter(
            "may_try(entries, now)",
            "Return payments; an entry has payment, payer, due_at_s, waits_for_funds, being_tried.",
        ),
        (
            "The entries are in the order in which they came: walk through, and note whose head you met.",
            "A head that is not due, or is being tried, holds up its own payer, and nobody else.",
            "What waits for funds stands in no line: it holds nobody up, and nobody holds it up.",
        ),
        (
            Check("lines by hand", 5, facts(len(LINES)), _who_may, unit="fact"),
            Check("the lines move", 5, by_seed, _lines_move),
        ),
        _plain,
        _same,
    ),
)
