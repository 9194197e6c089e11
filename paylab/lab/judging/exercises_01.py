"""The exercises of chapter 01: what is known after a call, its deadline, a method that may be called twice.

Each is judged by facts and by drills in a simulated network of two or three nodes.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

import grpc

from paylab.errors import ERROR_OF_REASON, OutcomeUnknown, Overloaded
from paylab.lab.judging.call_drills import CallNetwork, ask, call_network, drawn
from paylab.lab.judging.exercises import Check, Exercise, Finding, Solution, by_seed, facts
from paylab.lab.simulation.choices import seeded
from paylab.nodes.interceptors import DEADLINE
from paylab.nodes.wire import status_to_error

# 01/definite ------------------------------------------------------------------------------------

HAPPENED, NOT, UNKNOWN = "happened", "did not happen", "unknown"
OUTCOMES = (
    ("OK", "", HAPPENED),
    ("INVALID_ARGUMENT", "INVALID_AMOUNT", NOT),
    ("PERMISSION_DENIED", "ROLE", NOT),
    ("RESOURCE_EXHAUSTED", "OVERLOADED", NOT),
    ("DEADLINE_EXCEEDED", "", UNKNOWN),
    ("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", UNKNOWN),
    ("CANCELLED", "", UNKNOWN),
    # The answer may have been too large for the caller, and then the work was done.
    ("RESOURCE_EXHAUSTED", "", UNKNOWN),
)
PATIENCE_S, SLOW_S = 1.0, 5.0
TROUBLES = ("none", "refused", "request lost", "reply lost", "too slow", "dies after it", "nobody there")


def _classified(mine: Solution, case: int) -> Finding:
    code, reason, expected = OUTCOMES[case]
    returned = mine(code, reason)
    right = returned == expected
    so = "it is right" if right else f"what is known is: {expected}"
    return Finding(f"status {code}, reason {reason or 'none'}", repr(returned), so, passed=right)


def _bad_network(mine: Solution, seed: int) -> Finding:
    """Seven calls in a row, one for each kind of trouble; what is said of them is held against the truth."""
    with call_network(seed) as network:
        for trouble in drawn(seeded(seed, "troubles"), TROUBLES):
            code, reason, added = network.call(_troubled(network, trouble))
            returned = mine(code, reason)
            network.told.append(f"{trouble}: {code} {reason}".rstrip())
            definite = code == "OK" or ERROR_OF_REASON.get(reason, OutcomeUnknown).definite
            expected = (HAPPENED if added else NOT) if definite else UNKNOWN
            if returned != expected:
                truth = "was done" if added else "was not done"
                so = f"the work {truth}; " + (
                    "the answer said so" if definite else "the caller could not know, and must say unknown"
                )
                return Finding(
                    _trouble_case(trouble, code, reason, seed), repr(returned), so, network.scene()
                )
    return Finding(f"seven calls on a bad network, seed {seed}", "", "nothing false was said", passed=True)


def _trouble_case(trouble: str, code: str, reason: str, seed: int) -> str:
    return f"trouble: {trouble}; status {code}, reason {reason or 'none'}, seed {seed}"


async def _troubled(network: CallNetwork, trouble: str) -> tuple[str, str, bool]:
    """One call: its status, its reason, and whether the work was done."""
    done: list[str] = []

    async def add(text: str) -> str:
        if trouble == "refused":
            raise Overloaded
        done.append(text)
        if trouble == "dies after it":
            network.world.loop.call_soon(piggy.die)
        await asyncio.sleep(SLOW_S if trouble in ("too slow", "dies after it") else 0.0)
        return "thanks"

    phone, piggy = await network.node("phone"), await network.node("piggy", Add=add)
    if trouble == "request lost":
        network.world.network.cut("phone", "piggy")
    elif trouble == "reply lost":
        network.world.network.cut("piggy", "phone")
    elif trouble == "nobody there":
        piggy.die()
    code, reason = "OK", ""
    try:
        await ask(phone, "piggy", "Add", "5", timeout_s=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        known = status_to_error(error).reason
        code, reason = error.code().name, known if known in ERROR_OF_REASON else ""
    network.world.network.heal()
    await asyncio.sleep(SLOW_S)
    piggy.die()
    return code, reason, bool(done)


# 01/deadline ------------------------------------------------------------------------------------

# Time left, what the callee is usually given, what we need to answer; and what it must get.
TIMES: tuple[tuple[float | None, float, float, float | None], ...] = (
    (5.0, 2.0, 0.1, 2.0),
    (1.0, 2.0, 0.1, 0.9),
    (None, 2.0, 0.1, 2.0),
    (0.5, 0.4, 0.2, 0.3),
    (0.05, 2.0, 0.1, None),
)
USUAL_S, MARGIN_S = 2.0, 0.1
# The caller's patience, and how long the stock, the shop's own work after it, and the bank take.
TRIPS = {
    "quick": (3.0, 0.2, 0.0, 0.2),
    "slow bank": (1.0, 0.3, 0.0, 4.0),
    "slow stock": (1.0, 1.6, 0.0, 0.5),
    "busy shop": (1.0, 0.2, 1.5, 4.0),
}
# A message takes a few milliseconds.
TRANSIT_S = 0.03


def _times(mine: Solution, case: int) -> Finding:
    left_s, usual_s, margin_s, expected = TIMES[case]
    returned = mine(left_s, usual_s, margin_s)
    number = isinstance(returned, int | float) and not isinstance(returned, bool)
    right = returned is None if expected is None else number and abs(returned - expected) < 1e-9  # noqa: PLR2004 - rounding
    so = "it is right" if right else f"due is {expected}" + (": do not begin" if expected is None else " s")
    return Finding(f"next_timeout_s({left_s}, {usual_s}, {margin_s})", repr(returned), so, passed=bool(right))


def _trips(mine: Solution, seed: int) -> Finding:
    """A shop asks a stock and then a bank, for a phone that waits so long and no longer."""
    for trip in drawn(seeded(seed, "trips"), tuple(TRIPS)):
        with call_network(seed) as network:
            patience_s, stock_s, own_s, bank_s = TRIPS[trip]
            heard, wasted_s = network.call(_trip(network, mine, TRIPS[trip]))
            takes = ", ".join(
                f"{who} {s:g} s" for who, s in (("stock", stock_s), ("shop", own_s), ("bank", bank_s))
            )
            case = f"the phone waits {patience_s:g} s; it takes: {takes}"
            so = _trip_fault(
                heard, wasted_s, enough=sum(TRIPS[trip][1:]) < patience_s, busy=own_s > patience_s
            )
            if so:
                return Finding(f"{case}, seed {seed}", mine.told(), so, network.scene())
    return Finding(f"{len(TRIPS)} trips, seed {seed}", mine.told(), "everybody heard in time", passed=True)


def _trip_fault(heard: str, wasted_s: float, *, enough: bool, busy: bool) -> str:
    if wasted_s > TRANSIT_S:
        return f"a bank or a stock worked until {wasted_s:.1f} s after the phone had gone"
    if enough and heard != "OK":
        return f"there was time enough, and the phone heard {heard}"
    if heard == "DEADLINE_EXCEEDED" and not busy:
        return "the phone heard nothing at all: the shop kept no time to answer"
    return ""


async def _trip(
    network: CallNetwork, mine: Solution, trip: tuple[float, float, float, float]
) -> tuple[str, float]:
    """What the phone heard, and how long somebody went on after it had gone."""
    patience_s, stock_s, own_s, bank_s = trip
    gone_s = network.now() + patience_s
    last_s = [0.0]

    def takes(seconds: float) -> Any:
        async def answer(_: str) -> str:
            try:
                await asyncio.sleep(seconds)
            finally:
                last_s.append(network.now())
            return "yes"

        return answer

    async def buy(_: str) -> str:
        deadline = DEADLINE.get()
        # The work is the shop's own, so nobody ends it but its own timeouts.
        return await asyncio.shield(shop.spawn(work(deadline)))

    async def work(deadline: float | None) -> str:
        assert deadline is not None
        for target in ("stock", "bank"):
            timeout_s = mine(deadline - asyncio.get_running_loop().time(), USUAL_S, MARGIN_S)
            if timeout_s is None:
                raise OutcomeUnknown("OUTCOME_UNKNOWN", "no time left")
            try:
                await ask(shop, target, "Do", timeout_s=max(0.0, float(timeout_s)))
            except grpc.aio.AioRpcError as error:
                raise OutcomeUnknown("OUTCOME_UNKNOWN", f"{target}: {error.code().name}") from None
            await asyncio.sleep(own_s)
        return "sold"

    phone, shop = await network.node("phone"), await network.node("shop", Buy=buy)
    for name, seconds in (("stock", stock_s), ("bank", bank_s)):
        await network.node(name, Do=takes(seconds))
    heard = "OK"
    try:
        await ask(phone, "shop", "Buy", timeout_s=patience_s)
    except grpc.aio.AioRpcError as error:
        heard = status_to_error(error).reason
    await asyncio.sleep(3 * USUAL_S)
    return heard, max(last_s) - gone_s


# 01/safe-retry ----------------------------------------------------------------------------------

# Calls in a row on fresh books: id, cents, and the answer that is due; None refuses.
DEPOSITS: tuple[tuple[tuple[str, int, int | None], ...], ...] = (
    (("a", 5, 5),),
    (("a", 5, 5), ("b", 7, 12)),
    (("a", 5, 5), ("a", 5, 5)),
    (("a", 5, 5), ("a", 9, None), ("b", 1, 6)),
)
LOSS, DUPLICATES, LATE, LATE_S = 0.25, 0.3, 0.4, 3.0
DEPOSITS_EACH, RETRY_S, TRIES_MAX = 5, 0.5, 60
CRASH_AT_S = 4.0


def _deposits(mine: Solution, case: int) -> Finding:
    books: Any = {"cents": 0}
    told: list[str] = []
    for request_id, cents, expected in DEPOSITS[case]:
        text = json.dumps(books)
        returned = mine(json.loads(text), request_id, cents)
        told.append(f"add({request_id!r}, {cents})")
        if not _is_pair(returned):
            return Finding(", ".join(told), repr(returned), "it must return a pair: (books, total)")
        books, answer = returned
        if answer != expected:
            due = "None: the id belongs to another request" if expected is None else str(expected)
            return Finding(", ".join(told), f"({books}, {answer})", f"the last answer must be {due}")
    total = sum({name: cents for name, cents, due in DEPOSITS[case] if due is not None}.values())
    right = books.get("cents") == total
    so = "the books are right" if right else f"there must be {total} cents in the books"
    return Finding(", ".join(told), repr(books), so, passed=right)


def _is_pair(returned: Any) -> bool:
    return isinstance(returned, tuple | list) and len(returned) == 2 and isinstance(returned[0], dict)  # noqa: PLR2004 - a pair


def _deposits_under_faults(mine: Solution, seed: int) -> Finding:
    """Two phones pay in on a network that loses, doubles and delays, and the piggy bank dies once."""
    with call_network(seed) as network:
        paid_in, books, answers = network.call(_pay_in(network, mine))
        case = f"two phones ask until they are answered, the bank dies once, seed {seed}"
        so = ""
        for name, given in answers.items():
            if len(set(given)) > 1:
                so = so or f"{name} was answered {' and then '.join(dict.fromkeys(given))}"
        if books.get("cents") != paid_in:
            so = f"{paid_in} cents were paid in, and there are {books.get('cents')} in the books"
        if so:
            return Finding(case, mine.told(), so, network.scene())
    return Finding(case, mine.told(), "each deposit counted once, and was answered alike", passed=True)


async def _pay_in(network: CallNetwork, mine: Solution) -> tuple[int, dict[str, Any], dict[str, list[str]]]:
    """What was paid in, what the books say, and every answer by request."""
    disk, answers = ['{"cents": 0}'], dict[str, list[str]]()

    async def add(text: str) -> str:
        request_id, cents = json.loads(text)
        returned = mine(json.loads(disk[0]), request_id, cents)
        if not _is_pair(returned):
            raise TypeError("it must return a pair: (books, total)")
        disk[0] = json.dumps(returned[0])
        answers.setdefault(request_id, []).append(str(returned[1]))
        return str(returned[1])

    async def pay_in(name: str) -> int:
        phone, rng = await network.node(name), seeded(network.world.seed, name)
        total = 0
        for number in range(DEPOSITS_EACH):
            cents = rng.randint(1, 9)
            total += cents
            for _ in range(TRIES_MAX):
                with suppress(grpc.aio.AioRpcError):
                    request = json.dumps([f"{name}-{number}", cents])
                    await ask(phone, "piggy", "Add", request, timeout_s=RETRY_S)
                    break
                await asyncio.sleep(RETRY_S * rng.random())
        return total

    piggy = await network.node("piggy", Add=add)
    network.world.lose(LOSS)
    network.world.duplicate(DUPLICATES)
    network.world.reorder(LATE, LATE_S)
    phones = asyncio.gather(pay_in("alice"), pay_in("bob"))
    await asyncio.sleep(CRASH_AT_S)
    piggy.die()
    await asyncio.sleep(RETRY_S)
    await network.node("piggy", Add=add)
    paid_in = sum(await phones)
    await asyncio.sleep(2 * LATE_S)
    return paid_in, json.loads(disk[0]), answers


# The table --------------------------------------------------------------------------------------


def _plain(_arguments: tuple[Any, ...], answer: Any) -> Any:
    """Texts, numbers and pairs as they are; anything else as the text that stands for it."""
    if answer is None or isinstance(answer, str | int | float):
        return answer
    if _is_pair(answer):
        return [answer[0], answer[1]]
    return repr(answer)


def _back(_arguments: tuple[Any, ...], saved: Any) -> Any:
    return tuple(saved) if isinstance(saved, list) else saved


def _starter(signature: str, task: str) -> str:
    return f'def {signature}:\n    """{task}"""\n    raise NotImplementedError'


EXERCISES = (
    Exercise(
        "01/definite",
        "What is known after a call",
        "A call did not happen only if the server itself gave a reason for refusing it.",
        _starter("outcome(code, reason)", "Return 'happened', 'did not happen' or 'unknown'."),
        (
            "`code` is the status of gRPC, `reason` what the server wrote beside it, empty if nothing.",
            "A status without a reason comes from the transport: what does it know of the server's work?",
            "One reason says by itself that nothing is known: OUTCOME_UNKNOWN.",
        ),
        (
            Check("calls by hand", 5, facts(len(OUTCOMES)), _classified, unit="fact"),
            Check("on a bad network", 5, by_seed, _bad_network),
        ),
        _plain,
        _back,
    ),
    Exercise(
        "01/deadline",
        "How long the next call may take",
        "Whoever is called hands on what is left of its time, less what it needs to answer.",
        _starter(
            "next_timeout_s(left_s, usual_s, margin_s)",
            "Return seconds for the next call, or None: do not begin. left_s may be None.",
        ),
        (
            "Never give more than what is usual, and never more than what is left less the margin.",
            "left_s is None when the caller set no deadline.",
            "When nothing is left the call must not begin at all: what it does would help nobody.",
        ),
        (
            Check("times by hand", 5, facts(len(TIMES)), _times, unit="fact"),
            Check("a shop, a stock and a bank", 5, by_seed, _trips),
        ),
        _plain,
        _back,
    ),
    Exercise(
        "01/safe-retry",
        "A method that may be called twice",
        "The same request is carried out once and answered alike, however often and however late it comes.",
        _starter(
            "add(books, request_id, cents)",
            "Return (books, total): what is saved and what is answered; total None refuses.",
        ),
        (
            "`books` is a dict with `cents`; put whatever else you need into it, it is saved as JSON.",
            "Keep every answer under its id: a repeat may come after others, from another phone.",
            "To notice that an id is used for another request, keep what was asked beside the answer.",
        ),
        (
            Check("deposits by hand", 5, facts(len(DEPOSITS)), _deposits, unit="fact"),
            Check("on a bad network", 5, by_seed, _deposits_under_faults),
        ),
        _plain,
        _back,
    ),
)
