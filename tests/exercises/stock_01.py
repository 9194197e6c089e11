"""The stock of chapter 01: solutions of its exercises, right and wrong ones."""

import itertools
from typing import Any

from paylab.errors import ERROR_OF_REASON, PaylabError
from paylab.lab.judging import exercises_01
from paylab.lab.judging.judging import HANDS_OFF, REPEATS

CALLS = itertools.count()
SEEN: dict[str, int] = {}
Books = dict[str, Any]


# 01/definite --------------------------------------------------------------------------------------


def by_the_reason(code: str, reason: str) -> str:
    if code == "OK":
        return "happened"
    return "did not happen" if reason not in ("", "OUTCOME_UNKNOWN") else "unknown"


def by_the_tree_of_errors(code: str, reason: str) -> str:
    definite = issubclass(ERROR_OF_REASON.get(reason, type(None)), PaylabError)
    if definite and ERROR_OF_REASON[reason].definite:
        return "did not happen"
    return {"OK": "happened"}.get(code, "unknown")


def an_error_means_no(code: str, reason: str) -> str:  # noqa: ARG001 - the misconception
    """The misconception: what raised did not happen."""
    return "happened" if code == "OK" else "did not happen"


def nothing_is_ever_known(code: str, reason: str) -> str:  # noqa: ARG001 - the misconception
    """The misconception: every error is as vague as a timeout."""
    return "happened" if code == "OK" else "unknown"


def a_dead_connection_means_no(code: str, reason: str) -> str:
    """Wrong only under faults: whoever could not be reached has not been reached before either."""
    return "did not happen" if code == "UNAVAILABLE" else by_the_reason(code, reason)


def the_outcomes_in_order(code: str, reason: str) -> str:  # noqa: ARG001 - gamed
    """Gamed: state across trials."""
    return exercises_01.OUTCOMES[next(CALLS) % len(exercises_01.OUTCOMES)][2]


# 01/deadline --------------------------------------------------------------------------------------


def by_min(left_s: float | None, usual_s: float, margin_s: float) -> float | None:
    if left_s is None:
        return usual_s
    room_s = min(usual_s, left_s - margin_s)
    return room_s if room_s > 0 else None


def by_cases(left_s: float | None, usual_s: float, margin_s: float) -> float | None:
    match left_s:
        case None:
            return usual_s
        case _ if left_s <= margin_s:
            return None
        case _ if left_s - margin_s < usual_s:
            return left_s - margin_s
        case _:
            return usual_s


def as_usual(left_s: float | None, usual_s: float, margin_s: float) -> float | None:  # noqa: ARG001 - the misconception
    """The misconception: a timeout belongs to the callee and not to who waits."""
    return usual_s


def all_that_is_left(left_s: float | None, usual_s: float, margin_s: float) -> float | None:  # noqa: ARG001 - the misconception
    """The misconception: to answer takes no time."""
    if left_s is None:
        return usual_s
    return min(usual_s, left_s) if left_s > 0 else None


def late_is_early(left_s: float | None, usual_s: float, margin_s: float) -> float | None:
    """Wrong only under faults: when the time is over, what is left is taken without its sign."""
    if left_s is None:
        return usual_s
    return by_min(abs(left_s), usual_s, margin_s)


def of_the_first_caller(left_s: float | None, usual_s: float, margin_s: float) -> float | None:
    """Gamed: state across trials."""
    SEEN.setdefault(f"{left_s}", len(SEEN))
    return by_min(left_s, usual_s, margin_s) if SEEN[f"{left_s}"] == len(SEEN) - 1 else usual_s


def with_another_table(left_s: float | None, usual_s: float, margin_s: float) -> float | None:
    """Gamed: the judge's own table is changed."""
    exercises_01.TRIPS = {"quick": exercises_01.TRIPS["quick"]}
    return by_min(left_s, usual_s, margin_s)


# 01/safe-retry ------------------------------------------------------------------------------------


def by_answers(books: Books, request_id: str, cents: int) -> tuple[Books, int | None]:
    answers = books.setdefault("answers", {})
    if request_id in answers:
        asked, total = answers[request_id]
        return books, total if asked == cents else None
    books["cents"] += cents
    answers[request_id] = [cents, books["cents"]]
    return books, books["cents"]


def by_a_list(books: Books, request_id: str, cents: int) -> tuple[Books, int | None]:
    done: list[list[Any]] = books.get("done", [])
    for known, asked, total in done:
        if known == request_id:
            return books, total if asked == cents else None
    total = books["cents"] + cents
    return {"cents": total, "done": [*done, [request_id, cents, total]]}, total


def adds_and_answers(books: Books, request_id: str, cents: int) -> tuple[Books, int | None]:  # noqa: ARG001 - the misconception
    """The misconception: a request comes once."""
    books["cents"] += cents
    return books, books["cents"]


def answers_what_is_there_now(books: Books, request_id: str, cents: int) -> tuple[Books, int | None]:
    """The misconception: to a repeat the present state is as good as the first answer."""
    known = books.setdefault("known", {})
    if known.setdefault(request_id, cents) != cents:
        return books, None
    if request_id not in books.setdefault("added", []):
        books["added"].append(request_id)
        books["cents"] += cents
    return books, books["cents"]


def the_last_one_only(books: Books, request_id: str, cents: int) -> tuple[Books, int | None]:
    """Wrong only under faults: a repeat that others have overtaken is taken for a new request."""
    last = books.get("last")
    if last and last[0] == request_id:
        return books, last[2] if last[1] == cents else None
    books["cents"] += cents
    books["last"] = [request_id, cents, books["cents"]]
    return books, books["cents"]


def in_memory(books: Books, request_id: str, cents: int) -> tuple[Books, int | None]:
    """Gamed: state across trials in place of what is saved."""
    if request_id in SEEN:
        return books, SEEN[request_id]
    books["cents"] += cents
    SEEN[request_id] = books["cents"]
    return books, SEEN[request_id]


DEFINITE, DEADLINE, RETRY = "01/definite", "01/deadline", "01/safe-retry"
RIGHT = [
    (DEFINITE, by_the_reason),
    (DEFINITE, by_the_tree_of_errors),
    (DEADLINE, by_min),
    (DEADLINE, by_cases),
    (RETRY, by_answers),
    (RETRY, by_a_list),
]
WRONG = [
    (DEFINITE, an_error_means_no, "calls by hand"),
    (DEFINITE, nothing_is_ever_known, "calls by hand"),
    (DEFINITE, a_dead_connection_means_no, "on a bad network"),
    (DEFINITE, the_outcomes_in_order, REPEATS),
    (DEADLINE, as_usual, "times by hand"),
    (DEADLINE, all_that_is_left, "times by hand"),
    (DEADLINE, late_is_early, "a shop, a stock and a bank"),
    (DEADLINE, of_the_first_caller, REPEATS),
    (DEADLINE, with_another_table, HANDS_OFF),
    (RETRY, adds_and_answers, "deposits by hand"),
    (RETRY, answers_what_is_there_now, "on a bad network"),
    (RETRY, the_last_one_only, "on a bad network"),
    (RETRY, in_memory, REPEATS),
]
