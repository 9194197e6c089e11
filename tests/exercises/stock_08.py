"""The stock of chapter 08: solutions of its exercises, right and wrong ones."""

import itertools
from collections.abc import Collection, Sequence

from paylab.core.messages import Outcome
from paylab.lab.faults import Timed, at, crash, crash_at_commit, partition, restart
from paylab.lab.judging import exercises_08
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

# What a solution that keeps state between trials would use.
CALLS = itertools.count()
SEEN: set[str] = set()


# 08/leave-in-doubt, 08/lose-the-ack ---------------------------------------------------------------


def dies_when_it_has_decided() -> list[Timed]:
    return [at(0, crash_at_commit("coordinator", "unanswered"))]


def a_bank_misses_the_decision() -> tuple[Timed, ...]:
    deaf = crash_at_commit("boreal-1", "before", 2)
    return at(0, deaf), at(1, crash("coordinator")), at(2, restart("boreal-1"))


def dies_before_it_has_decided() -> list[Timed]:
    """The misconception: a decision exists as soon as the votes are in."""
    return [at(0, crash_at_commit("coordinator", "before"))]


def any_crash_will_do() -> list[Timed]:
    """The misconception: whoever crashes, somebody is in doubt."""
    return [at(0.01, crash("gateway"))]


def dies_a_moment_too_late() -> list[Timed]:
    """Wrong only under faults: on most seeds the banks have heard the decision."""
    return [at(0, crash_at_commit("coordinator", "after"))]


def is_back_too_soon() -> list[Timed]:
    """Wrong only under faults: the right crash, but no bank gets impatient."""
    return [at(0, crash_at_commit("coordinator", "unanswered")), at(1, restart("coordinator"))]


def everything_at_once() -> list[Timed]:
    """Gamed: break whatever can be broken."""
    return [at(n / 10, crash(node)) for n, node in enumerate(exercises_08.NODES)]


def another_schedule_every_time() -> list[Timed]:
    """Gamed: state across trials."""
    return [at(0, crash_at_commit("coordinator", "unanswered")), at(9 + next(CALLS) / 100, crash("queue"))]


def bank_then_coordinator() -> list[Timed]:
    return [at(0, crash_at_commit("boreal-1", "before", 2)), at(1, crash("coordinator"))]


def bank_after_its_promise() -> list[Timed]:
    schedule = [at(0, crash_at_commit("boreal-1", "after", 1))]
    schedule += [at(2, crash("coordinator")), at(4, restart("coordinator"))]
    return schedule


def only_the_coordinator() -> list[Timed]:
    """The misconception: one crash shows every bug of the coordinator."""
    return [at(0, crash_at_commit("coordinator", "after"))]


def only_the_bank() -> list[Timed]:
    """The misconception: what a bank has not heard is lost by itself."""
    return [at(0, crash_at_commit("boreal-1", "before", 2))]


def cut_off_too_early() -> list[Timed]:
    """Wrong only under faults: without its vote there is no decision to lose."""
    return [at(0, partition("bank-lb", "boreal-1")), at(1, crash("coordinator"))]


def plants_the_bug_everywhere() -> list[Timed]:
    """Gamed: the exercise's own network is changed."""
    from paylab.lab.campaigns import drills  # noqa: PLC0415 - it runs in the judge's process

    drills.SETTLE_S = 0.0
    return [at(0, crash("coordinator"))]


# 08/in-doubt --------------------------------------------------------------------------------------


def by_match(outcome: Outcome | None) -> bool | None:
    match outcome:
        case Outcome.COMMITTED:
            return True
        case Outcome.ABORTED:
            return False
    return None


def by_table(outcome: Outcome | None) -> bool | None:
    meaning: dict[Outcome | None, bool] = {Outcome.COMMITTED: True, Outcome.ABORTED: False}
    return meaning.get(outcome)


def undecided_means_no(outcome: Outcome | None) -> bool | None:
    """The misconception: what is not decided is as good as aborted."""
    return None if outcome is None else outcome is Outcome.COMMITTED


def any_answer_means_yes(outcome: Outcome | None) -> bool | None:
    """The misconception: a coordinator that answers has committed."""
    return True if outcome else None


def silence_means_no(outcome: Outcome | None) -> bool | None:
    """Wrong only under faults: it is what a bank with a short temper does."""
    return None if outcome is Outcome.UNDECIDED else outcome is Outcome.COMMITTED


def silence_means_yes(outcome: Outcome | None) -> bool | None:
    """Wrong only under faults, the other way."""
    return True if outcome is None else by_match(outcome)


def the_facts_in_order(_outcome: Outcome | None) -> bool | None:
    """Gamed: constants for the facts, in the order in which they are asked."""
    return dict(enumerate((True, False, None))).get(next(CALLS))


def no_checks(outcome: Outcome | None) -> bool | None:
    """Gamed: the checks of the judge's process are patched away."""
    from paylab.lab.checking import checks  # noqa: PLC0415 - it runs in the judge's process

    checks.check = lambda *_: None  # type: ignore[assignment] # the point
    return outcome is Outcome.COMMITTED


# 08/dedup -----------------------------------------------------------------------------------------


def by_comprehension(event_ids: Sequence[str], known: Collection[str]) -> list[str]:
    return [event_id for event_id in dict.fromkeys(event_ids) if event_id not in known]


def by_loop(event_ids: Sequence[str], known: Collection[str]) -> list[str]:
    new: list[str] = []
    for event_id in event_ids:
        if event_id in known or event_id in new:
            continue
        new.append(event_id)
    return new


def everything(event_ids: Sequence[str], known: Collection[str]) -> list[str]:  # noqa: ARG001 - the misconception
    """The misconception: what arrives is new."""
    return list(event_ids)


def in_any_order(event_ids: Sequence[str], known: Collection[str]) -> list[str]:
    """The misconception: a log is a set."""
    return sorted(set(event_ids) - set(known))


def a_batch_is_known_or_new(event_ids: Sequence[str], known: Collection[str]) -> list[str]:
    """Wrong only under faults: a batch that is sent again may have grown."""
    return [] if any(event_id in known for event_id in event_ids) else list(dict.fromkeys(event_ids))


def remembers_by_itself(event_ids: Sequence[str], known: Collection[str]) -> list[str]:
    """Gamed, or a mistake: state across trials, which a restart would lose."""
    new = [
        event_id for event_id in dict.fromkeys(event_ids) if event_id not in SEEN and event_id not in known
    ]
    SEEN.update(event_ids)
    return new


LEAVE, DOUBT, DEDUP, ACK = "08/leave-in-doubt", "08/in-doubt", "08/dedup", "08/lose-the-ack"
RIGHT = [
    (LEAVE, dies_when_it_has_decided),
    (LEAVE, a_bank_misses_the_decision),
    (DOUBT, by_match),
    (DOUBT, by_table),
    (DEDUP, by_comprehension),
    (DEDUP, by_loop),
    (ACK, bank_then_coordinator),
    (ACK, bank_after_its_promise),
]
WRONG = [
    (LEAVE, dies_before_it_has_decided, "the bug shows"),
    (LEAVE, any_crash_will_do, "the bug shows"),
    (LEAVE, is_back_too_soon, "the bug shows"),
    (LEAVE, dies_a_moment_too_late, "the bug shows"),
    (LEAVE, everything_at_once, "is a schedule"),
    (LEAVE, another_schedule_every_time, REPEATS),
    (DOUBT, undecided_means_no, "the coordinator's word"),
    (DOUBT, any_answer_means_yes, "the coordinator's word"),
    (DOUBT, silence_means_no, "silence is no answer"),
    (DOUBT, silence_means_yes, "silence is no answer"),
    (DOUBT, the_facts_in_order, REPEATS),
    (DOUBT, no_checks, HANDS_OFF),
    (DEDUP, everything, "batches by hand"),
    (DEDUP, in_any_order, "batches by hand"),
    (DEDUP, a_batch_is_known_or_new, "an answer is lost"),
    (DEDUP, remembers_by_itself, REPEATS),
    (ACK, only_the_coordinator, "the bug shows"),
    (ACK, only_the_bank, "the bug shows"),
    (ACK, cut_off_too_early, "the bug shows"),
    (ACK, plants_the_bug_everywhere, HANDS_OFF),
]
