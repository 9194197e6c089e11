"""Makes a failing run small: drops faults, then payments, then choices while the same check still fails.

Amounts and moments of payments change where that makes others superfluous.

    small = minimise(result, replace=planted("decision-before-force"))
    small.story(); small.timeline(); small.replay()

Faults and payments are dropped by delta debugging: A. Zeller, R. Hildebrandt, Simplifying and Isolating
Failure-Inducing Input, IEEE TSE 28(2), 2002.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from paylab.errors import LabError
from paylab.lab.campaigns import minimal_story, orders
from paylab.lab.campaigns.cases import Case
from paylab.lab.campaigns.orders import Order
from paylab.lab.campaigns.seed_runs import SeedResult
from paylab.lab.checking.history import TAIL_EVENTS
from paylab.lab.faults import Fault, Timed
from paylab.lab.faulty_world import CommitPoint
from paylab.nodes.events import Event

if TYPE_CHECKING:
    from paylab.lab.drawing.stories import Story
    from paylab.lab.drawing.timeline import Timeline

T = TypeVar("T")

# A run of two payments takes about a third of a second.
TRIES_MAX = 300
# With fewer payments fewer faults may do, and the other way round.
ROUNDS_MAX = 3
# With more payments or faults than these there are too many ways to let one stand in for another.
STAND_INS_MAX = 6
SHIFTS_S = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
# Of several checks that fail, the one that says most is kept.
TELLING = (
    "both legs or none",
    "no key charged twice",
    "one payment for a key",
    "replays answer the same",
    "no overdraft",
    "outcomes agree with ledgers",
    "money is conserved",
    "balances are sums of postings",
    "receipts add up",
)


@dataclass(frozen=True)
class Minimal:
    """A smallest failing run: every fault, payment and choice that is left is needed."""

    case: Case
    check: str
    result: SeedResult
    tries: int
    replace: Mapping[str, Any] = field(repr=False)
    events: tuple[Event, ...] = field(repr=False)

    @classmethod
    def of(cls, case: Case, check: str, replace: Mapping[str, Any], *, tries: int = 0) -> Self:
        """Run a case that is small already. Raises LabError if `check` does not fail."""
        events: list[Event] = []
        result = case.run(replace, watch=events.append)
        if check not in result.broken:
            raise LabError("BAD_ARGUMENT", f"{check!r} does not fail in this case")
        return cls(case, check, result, tries, dict(replace), tuple(events[:TAIL_EVENTS]))

    @property
    def payments(self) -> int:
        """How many different payments are left."""
        return len(orders.keys_of(self.case.orders))

    @property
    def faults(self) -> int:
        """How many faults are left."""
        return len(self.case.schedule)

    def story(self) -> "Story":
        """What happened, in at most 15 lines, the faulty step named."""
        return minimal_story.tell(self.events, self._violations())

    def timeline(self) -> "Timeline":
        """The space-time diagram of the causal past of the violation."""
        from paylab.lab.drawing import timeline  # noqa: PLC0415 - only for drawing

        past = minimal_story.causal_past(self.events, self._violations())
        nodes = dict.fromkeys(event.node for event in self.events)
        badge = f"simulated, seed {self.case.seed}"
        return timeline.timeline(past, nodes=[node for node in nodes if node not in CLIENTS], badge=badge)

    def replay(self) -> SeedResult:
        """Run it once more. Raises LabError if it does not fail again in the same way."""
        again = self.case.run(self.replace)
        if again.violations != self.result.violations:
            raise LabError(
                "NOT_REPEATABLE", "the run came out differently: something in it is not from the seed"
            )
        return again

    def _violations(self) -> list[str]:
        return [line for line in self.result.violations if line.startswith(f"{self.check}:")]

    def __str__(self) -> str:
        """What is left, and the story."""
        payments = f"{self.payments} payment" + "s" * (self.payments != 1)
        faults = f"{self.faults} fault" + "s" * (self.faults != 1)
        head = f"{self.check}: {payments} and {faults} are enough"
        left = [str(one) for one in (*self.case.orders, *self.case.schedule)]
        return "\n".join([head, *left, "", str(self.story())])


CLIENTS = frozenset(orders.user_of(account) for account in orders.OPENING_MINOR)


def minimise(
    failing: SeedResult, *, replace: Mapping[str, Any] | None = None, check: str = "", tries: int = TRIES_MAX
) -> Minimal:
    """Make a failing run small while `check` fails; the most telling of its checks if none is named.

    At most about `tries` runs are made. Raises LabError for a run that does not fail, or not in `check`.
    """
    if failing.ok:
        raise LabError("BAD_ARGUMENT", "this run breaks no invariant")
    check = check or next((name for name in TELLING if name in failing.broken), failing.broken[0])
    if check not in failing.broken:
        raise LabError("BAD_ARGUMENT", f"{check!r} did not fail; {', '.join(failing.broken)} did")
    shrinker = _Shrinker(replace or {}, check, tries)
    case = shrinker.head_start(Case(failing.seed, failing.schedule, failing.orders))
    for _ in range(ROUNDS_MAX):
        before = case
        case = shrinker.changed_payments(shrinker.fewer_payments(shrinker.fewer_faults(case)))
        case = shrinker.fewer_choices(shrinker.earlier_commits(case))
        if case == before:
            break
    return Minimal.of(case, check, replace or {}, tries=shrinker.made)


class _Shrinker:
    """Tries smaller cases, as long as there are tries."""

    def __init__(self, replacements: Mapping[str, Any], check: str, tries: int) -> None:
        self._replacements = replacements
        self._check = check
        self._tries = tries
        self.made = 0

    def fails(self, case: Case) -> bool:
        """Whether a case still fails in the same check; False when the tries are used up."""
        if self.made >= self._tries:
            return False
        self.made += 1
        try:
            return self._check in case.run(self._replacements).broken
        except LabError:
            return False  # a network that does not even come up is another failure

    def head_start(self, case: Case) -> Case:
        """Try the payments alone that the violation is about, and chance at its calmest."""
        events: list[Event] = []
        self.made += 1
        result = case.run(self._replacements, watch=events.append)
        violations = [line for line in result.violations if line.startswith(f"{self._check}:")]
        keys = minimal_story.keys_of(events, violations)
        few = tuple(order for order in case.orders if order.key in keys)
        schedules = _schedules(case.schedule)
        tries = [Case(case.seed, schedule, few, {}) for schedule in schedules]
        tries += [Case(case.seed, schedule, few) for schedule in schedules]
        tries.append(Case(case.seed, case.schedule, case.orders, {}))
        return next((smaller for smaller in tries if smaller.orders and self.fails(smaller)), case)

    def fewer_faults(self, case: Case) -> Case:
        """Drop faults."""

        def with_faults(kept: Sequence[Timed]) -> Case:
            return Case(case.seed, tuple(kept), case.orders, case.choices)

        return with_faults(fewest(case.schedule, lambda kept: self.fails(with_faults(kept))))

    def fewer_payments(self, case: Case) -> Case:
        """Drop whole payments, then repeated requests."""
        found = case

        def fails(kept: Sequence[Order]) -> bool:
            nonlocal found
            for schedule in _schedules(case.schedule) if kept else ():
                smaller = Case(case.seed, schedule, tuple(kept), case.choices)
                if self.fails(smaller):
                    found = smaller
                    return True
            return False

        def of(keys: Sequence[str]) -> list[Order]:
            return [order for order in case.orders if order.key in keys]

        keys = fewest(orders.keys_of(case.orders), lambda kept: fails(of(kept)))
        fewest(of(keys), fails)
        return found

    def changed_payments(self, case: Case) -> Case:
        """Drop a payment or a fault for which another amount or another moment of a payment stands in."""
        for other in itertools.chain(_dearer(case), _moved(case)):
            if self.fails(other):
                return self.changed_payments(other)
        return case

    def earlier_commits(self, case: Case) -> Case:
        """Let nodes die at the first commit instead of a later one: less has to happen before."""
        for place, timed in enumerate(case.schedule):
            if timed.fault.kind == "crash_at_commit" and timed.fault.arguments[2] != 1:
                fault = Fault(timed.fault.kind, (*timed.fault.arguments[:2], 1))
                schedule = list(case.schedule)
                schedule[place] = Timed(timed.at_s, fault, timed.period_s)
                case = self._smaller(case, Case(case.seed, tuple(schedule), case.orders, case.choices))
        return case

    def _smaller(self, case: Case, other: Case) -> Case:
        return other if self.fails(other) else case

    def fewer_choices(self, case: Case) -> Case:
        """Let chance choose 0 wherever that does; keep the lanes where it may not."""

        def with_lanes(names: Sequence[str]) -> Case:
            kept = {name: recorded[name] for name in names}
            return Case(case.seed, case.schedule, case.orders, kept)

        if case.choices == {}:
            return case
        recorded = case.run(self._replacements).choices
        self.made += 1
        if self.fails(with_lanes([])):
            return with_lanes([])
        if not self.fails(with_lanes(list(recorded))):
            return case
        return with_lanes(fewest(list(recorded), lambda kept: self.fails(with_lanes(kept))))


def _dearer(case: Case) -> Iterator[Case]:
    """Without a payment, while another asks for all that its payer has, or for a cent more."""
    keys = orders.keys_of(case.orders)
    for dropped, key, too_much in itertools.product(keys, keys, (0, 1)):
        if dropped != key and len(keys) <= STAND_INS_MAX:
            left = [order for order in case.orders if order.key != dropped]
            dearer = [
                replace(order, amount_minor=orders.OPENING_MINOR[order.payer] + too_much)
                if order.key == key
                else order
                for order in left
            ]
            yield replace(case, orders=tuple(dearer))


def _moved(case: Case) -> Iterator[Case]:
    """Without a fault or payment, which may only have held another payment up that comes at another time."""
    keys = orders.keys_of(case.orders)
    for dropped, key, shift_s in itertools.product((*case.schedule, *keys), keys, SHIFTS_S):
        if dropped != key and max(len(case.schedule), len(keys)) <= STAND_INS_MAX:
            moved = [
                replace(order, at_s=max(0.0, round(order.at_s + shift_s, 3))) if order.key == key else order
                for order in case.orders
                if order.key != dropped
            ]
            left = tuple(timed for timed in case.schedule if timed is not dropped)
            yield replace(case, schedule=left, orders=tuple(moved))


def _schedules(schedule: tuple[Timed, ...]) -> list[tuple[Timed, ...]]:
    """The schedule, and others for fewer payments: a node comes to its third commit later then, or never."""
    others = [_dying_at(schedule, "", nth) for nth in (1, 2, 3)]
    return list(dict.fromkeys([schedule, *others, _dying_at(schedule, CommitPoint.BEFORE.value, 1)]))


def _dying_at(schedule: Sequence[Timed], point: str, nth: int) -> tuple[Timed, ...]:
    """The schedule with every death at a commit moved to the nth one, and to that point if one is given."""
    return tuple(
        replace(timed, fault=_death(timed.fault, point, nth))
        if timed.fault.kind == "crash_at_commit"
        else timed
        for timed in schedule
    )


def _death(fault: Fault, point: str, nth: int) -> Fault:
    node, was, _ = fault.arguments
    return Fault(fault.kind, (node, point or was, nth))


def fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of `items` that still fails and from which nothing can be dropped: ddmin on complements."""
    left, parts = list(items), 2
    if left and fails([]):
        return []
    while len(left) > 1:
        size = -(-len(left) // parts)
        for start in range(0, len(left), size):
            rest = left[:start] + left[start + size :]
            if rest and fails(rest):
                left, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(left), parts * 2)
    return left
