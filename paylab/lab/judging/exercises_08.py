"""The exercises of chapter 08: schedules that expose a planted bug, and two rules that faults test."""

from collections.abc import Sequence
from typing import Any

from paylab.core.messages import Outcome
from paylab.lab import faults
from paylab.lab.campaigns.drills import Drill, drill
from paylab.lab.faults import Fault, Timed
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.planted_bugs import planted

FAULTS_MAX = 4
SCHEDULE_MAX_S = 10.0
# The nodes of a drill that faults may name.
NODES = ("auth-lb", "auth-1", "gateway", "coordinator", "bank-lb", "alpine-1", "boreal-1", "logger", "queue")
USERS = ("alice", "bob")

# 08/in-doubt ------------------------------------------------------------------------------------

WORDS = ((Outcome.COMMITTED, True), (Outcome.ABORTED, False), (Outcome.UNDECIDED, None))
# The coordinator dies at its first decision and stays away until everybody is repaired: when the seed is
# odd just after the decision is on disk, so that it counts, when it is even just before, so that it does not.
SILENCE = {
    1: [faults.at(0, faults.crash_at_commit("coordinator", "unanswered"))],
    0: [faults.at(0, faults.crash_at_commit("coordinator", "before"))],
}


def _word(mine: Solution, case: int) -> Finding:
    outcome, expected = WORDS[case]
    returned = mine(outcome)
    right = returned is expected
    must = "" if right else f", where it must {DOES[expected]}"
    return Finding(
        f"in_doubt(Outcome.{outcome}): the coordinator answered {outcome}",
        repr(returned),
        f"the bank {_does(returned)}{must}",
        passed=right,
    )


DOES = {True: "commit", False: "abort", None: "wait on"}


def _does(returned: Any) -> str:
    if returned is True or returned is False or returned is None:
        return {True: "commits", False: "aborts", None: "waits on"}[returned]
    return "has no idea what to do (True, False or None is asked for)"


def _silence(mine: Solution, seed: int) -> Finding:
    found = drill(seed, schedule=SILENCE[seed % 2], replace={"bank.in_doubt": mine})
    when = "just after" if seed % 2 else "just before"
    return _of_drill(
        mine.told(),
        f"the coordinator dies {when} its first decision is on disk and stays away, seed {seed}",
        found,
    )


# 08/dedup ---------------------------------------------------------------------------------------

BATCHES: tuple[tuple[list[str], set[str], list[str]], ...] = (
    (["a"], set(), ["a"]),
    (["a"], {"a"}, []),
    (["b", "a"], set(), ["b", "a"]),
    (["a", "a"], set(), ["a"]),
    ([], {"a"}, []),
)
# The logger dies after the first entry is on disk, before it has said so, and comes back among later events.
LOST_ANSWER = [
    faults.at(0, faults.crash_at_commit("logger", "unanswered")),
    faults.at(2.5, faults.restart("logger")),
]


def _batch(mine: Solution, case: int) -> Finding:
    event_ids, known, expected = BATCHES[case]
    returned = mine(list(event_ids), set(known))
    right = returned == expected and isinstance(returned, list)
    return Finding(
        f"fresh({event_ids!r}, {known or 'set()'})",
        repr(returned),
        "the log takes in just that" if right else f"the log takes in {returned!r} instead of {expected}",
        passed=right,
    )


def _lost_answer(mine: Solution, seed: int) -> Finding:
    found = drill(seed, schedule=LOST_ANSWER, replace={"logger.fresh": mine})
    return _of_drill(
        mine.told(),
        f"the logger dies between writing an entry and saying so, and comes back, seed {seed}",
        found,
    )


def _of_drill(returned: str, case: str, found: Drill) -> Finding:
    so = "every check held" if found.ok else found.violations[0]
    return Finding(case, returned, so, found, passed=found.ok)


# Answers that are schedules ---------------------------------------------------------------------


def flaw(schedule: Any, *, users: Sequence[str] = USERS) -> str:
    """Why something is no schedule for a drill with these users; empty when it is one."""
    if not isinstance(schedule, list | tuple) or not all(isinstance(timed, Timed) for timed in schedule):
        return "a schedule is a list of at(seconds, fault)"
    if not 1 <= len(schedule) <= FAULTS_MAX:
        return f"a schedule has 1 to {FAULTS_MAX} faults, this one has {len(schedule)}"
    for timed in schedule:
        if timed.period_s or not 0 <= timed.at_s <= SCHEDULE_MAX_S:
            return f"{timed} is not at() between 0 and {SCHEDULE_MAX_S:g} seconds"
        if timed.fault.kind not in faults.KINDS:
            return f"there is no fault {timed.fault.kind!r}"
        for name in (argument for argument in timed.fault.arguments[:2] if isinstance(argument, str)):
            if name not in (*NODES, *users, "before", "unanswered", "after"):
                return f"{timed} names {name!r}; there are {', '.join(NODES)}"
    return ""


def _written(schedule: Any) -> str:
    if isinstance(schedule, list | tuple):
        return f"[{', '.join(map(str, schedule))}]"
    return repr(schedule)


def _is_schedule(mine: Solution, _case: int) -> Finding:
    schedule = mine()
    wrong = flaw(schedule)
    return Finding(
        "your schedule, before anything runs",
        _written(schedule),
        wrong or "it can be carried out",
        passed=not wrong,
    )


def _breaks(bug: str) -> Any:
    def run(mine: Solution, seed: int) -> Finding:
        schedule = mine()
        case = f"the network with the bug {bug}, seed {seed}"
        if wrong := flaw(schedule):
            return Finding(case, _written(schedule), wrong)
        found = drill(seed, schedule=schedule, replace=planted(bug))
        so = "every check held, so nobody would notice the bug" if found.ok else found.violations[0]
        return Finding(case, _written(schedule), so, found, passed=not found.ok)

    return run


def _stands(mine: Solution, seed: int) -> Finding:
    schedule = mine()
    case = f"the network without a bug, seed {seed}"
    if wrong := flaw(schedule):
        return Finding(case, _written(schedule), wrong)
    return _of_drill(_written(schedule), case, drill(seed, schedule=schedule))


def encode_schedule(_arguments: tuple[Any, ...], schedule: Any) -> Any:
    """A schedule as JSON; anything else as the text that stands for it."""
    if isinstance(schedule, list | tuple) and all(isinstance(timed, Timed) for timed in schedule):
        return [[t.at_s, t.fault.kind, list(t.fault.arguments), t.period_s] for t in schedule]
    return repr(schedule)


def decode_schedule(_arguments: tuple[Any, ...], saved: Any) -> Any:
    """Undo `encode_schedule`."""
    if isinstance(saved, str):
        return saved
    return [Timed(at_s, Fault(kind, tuple(arguments)), period_s) for at_s, kind, arguments, period_s in saved]


def _as_is(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """True, False and None as they are; anything else as the text that stands for it."""
    return answer if answer is None or isinstance(answer, bool) else repr(answer)


def _saved(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return saved


def encode_ids(arguments: tuple[Any, ...], answer: Any) -> Any:
    """A list of event ids as their places in the batch, which are shorter."""
    batch: Sequence[str] = arguments[0]
    if isinstance(answer, list) and all(event_id in batch for event_id in answer):
        return [batch.index(event_id) for event_id in answer]
    return repr(answer)


def decode_ids(arguments: tuple[Any, ...], saved: Any) -> Any:
    """Undo `encode_ids`."""
    batch: Sequence[str] = arguments[0]
    return saved if isinstance(saved, str) else [batch[place] for place in saved]


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


def _exposes(bug: str) -> tuple[Check, ...]:
    # A schedule that does no harm is worth little, so the second check weighs most.
    return (
        Check("is a schedule", 1, facts(1), _is_schedule, unit="fact"),
        Check("the bug shows", 7, by_seed, _breaks(bug), asked_once=True),
        Check("the real network stands it", 2, by_seed, _stands, asked_once=True),
    )


EXERCISES = (
    Exercise(
        "08/leave-in-doubt",
        "One fault that shows the bug",
        "A schedule finds a bug when a check breaks on every seed with the bug, and on none without it.",
        _starter("leave_in_doubt()", "Return a list of at(seconds, fault) that exposes abort-alone."),
        (
            "When does a bank act alone? When it has promised and hears nothing for more than three seconds.",
            "That is wrong only after a commit: the decision must be on disk, and a bank must not know it.",
            'crash_at_commit("coordinator", ...) kills it at a forced write; it is started again at the end.',
        ),
        _exposes("abort-alone"),
        encode_schedule,
        decode_schedule,
    ),
    Exercise(
        "08/in-doubt",
        "What a bank does that hears nothing",
        "A bank that has voted yes does what the coordinator says, and waits for as long as it says nothing.",
        _starter(
            "in_doubt(outcome)", "True commits, False aborts, None waits on; outcome None: nobody answered."
        ),
        (
            "Four things can come in: COMMITTED, ABORTED, UNDECIDED, and None when nobody answered.",
            "Silence is no answer: the coordinator may have decided either way before it fell silent.",
            "Only two of the four inputs may end the doubt.",
        ),
        (
            Check("the coordinator's word", 4, facts(len(WORDS)), _word, unit="fact"),
            Check("silence is no answer", 6, by_seed, _silence),
        ),
        _as_is,
        _saved,
    ),
    Exercise(
        "08/dedup",
        "What is new to the log",
        "The log takes in every event once, in the order in which it came, however often an outbox sends it.",
        _starter(
            "fresh(event_ids, known)", "Return the list of the ids that the log must append; it has known."
        ),
        (
            "An id may come twice in one batch, and may have come in an earlier one.",
            "A batch that is sent again may have grown in the meantime: look at every id by itself.",
            "dict.fromkeys(ids) drops repetitions and keeps the order, which a set does not.",
        ),
        (
            Check("batches by hand", 4, facts(len(BATCHES)), _batch, unit="fact"),
            Check("an answer is lost", 6, by_seed, _lost_answer),
        ),
        encode_ids,
        decode_ids,
    ),
    Exercise(
        "08/lose-the-ack",
        "Two faults that show the bug",
        "A bug that needs two faults is found by asking which two things must not be lost together.",
        _starter("lose_the_ack()", "Return a list of at(seconds, fault) that exposes ended-at-first-ack."),
        (
            "One bank has acknowledged, the other has not even heard: who still knows that it must be told?",
            "As long as the coordinator lives, it remembers in memory what it dropped from its log.",
            "Stop boreal-1 at the commit that posts the money (its second), then crash the coordinator.",
        ),
        _exposes("ended-at-first-ack"),
        encode_schedule,
        decode_schedule,
    ),
)
