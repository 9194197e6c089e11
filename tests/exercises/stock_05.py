"""The stock of chapter 05: solutions of its exercises, right and wrong ones."""

import hashlib
import itertools
import json

from paylab.core.payment import AT_REST
from paylab.lab.faults import Timed, at, crash, crash_at_commit, delay, heal, partition, restart
from paylab.lab.judging import exercises_05, key_drill
from paylab.lab.judging.judging import HANDS_OFF, REPEATS
from paylab.lab.judging.key_drill import Saved

CALLS = itertools.count()


# 05/fingerprint -----------------------------------------------------------------------------------


def digest_of_json(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    text = json.dumps([payer, payee, amount_minor, currency])
    return hashlib.sha256(text.encode()).hexdigest()


def written_with_bars(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    """No digest is needed, as long as nothing can be read in two ways."""
    return f"{payer}|{payee}|{amount_minor} {currency}"


def who_pays_whom(payer: str, payee: str, amount_minor: int, currency: str) -> str:  # noqa: ARG001 - the misconception
    """The misconception: the same two people with the same key mean the same payment."""
    return digest_of_json(payer, payee, 0, "")


def how_much(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    """The misconception: the order of payer and payee does not matter."""
    return digest_of_json(min(payer, payee), max(payer, payee), amount_minor, currency)


def put_together(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    """The misconception: a digest keeps apart what was put together before."""
    return hashlib.sha256(f"{payer}{payee}{amount_minor}{currency}".encode()).hexdigest()


def too_short(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    """The misconception: any digest will do."""
    return digest_of_json(payer, payee, amount_minor, currency)[:2]


def of_this_process(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    """Wrong only under faults: until the next restart."""
    return f"{hash((payer, payee, amount_minor, currency)):x}"


def new_every_time(payer: str, payee: str, amount_minor: int, currency: str) -> str:
    """Gamed: state across trials makes every request another one."""
    return f"{payer} {payee} {amount_minor} {currency} {next(CALLS) // 2}"


def a_number(payer: str, payee: str, amount_minor: int, currency: str) -> int:
    return int(digest_of_json(payer, payee, amount_minor, currency), 16)


# 05/claim -----------------------------------------------------------------------------------------


def by_questions(saved: Saved | None, fingerprint: str) -> str:
    if saved is None:
        return "BEGIN"
    if saved.fingerprint != fingerprint:
        return "REFUSE"
    return "JOIN" if saved.state in ("CREATED", "PREPARING", "QUEUED") else "REPLAY"


def by_table(saved: Saved | None, fingerprint: str) -> str:
    same = None if saved is None else saved.fingerprint == fingerprint
    ended = None if saved is None else saved.state in [str(state) for state in AT_REST]
    table = {(None, None): "BEGIN", (True, False): "JOIN", (True, True): "REPLAY"}
    return table.get((same, ended), "REFUSE")


def only_success_counts(saved: Saved | None, fingerprint: str) -> str:
    """The misconception: a decline is a failure, and failures may be tried again under the same key."""
    if saved is not None and saved.state == "DECLINED" and saved.fingerprint == fingerprint:
        return "BEGIN"
    return by_questions(saved, fingerprint)


def the_key_says_it_all(saved: Saved | None, fingerprint: str) -> str:
    """The misconception: a key is enough to know a request."""
    return by_questions(saved, saved.fingerprint if saved else fingerprint)


def the_first_must_be_dead(saved: Saved | None, fingerprint: str) -> str:
    """The misconception: who asks again has seen the first one fail."""
    begun = saved is not None and saved.state == "PREPARING" and saved.fingerprint == fingerprint
    return "BEGIN" if begun else by_questions(saved, fingerprint)


def refused_while_under_way(saved: Saved | None, fingerprint: str) -> str:
    """The misconception: a second request is a conflict."""
    return "REFUSE" if saved is not None and saved.state == "PREPARING" else by_questions(saved, fingerprint)


def what_was_given_up_may_come_again(saved: Saved | None, fingerprint: str) -> str:
    """Wrong only under faults: a queued payment that was cancelled is another try's chance."""
    ended = saved is not None and saved.state in ("CANCELLED", "DEAD_LETTER")
    return "BEGIN" if ended else by_questions(saved, fingerprint)


def the_answers_in_order(_saved: Saved | None, _fingerprint: str) -> str:
    """Gamed: state across trials."""
    return [expected for _, expected in exercises_05.RULES][next(CALLS) % len(exercises_05.RULES)]


def softer_rules(saved: Saved | None, fingerprint: str) -> str:
    """Gamed: what may become of a payment is changed under the judge."""
    key_drill.NEXT = {"PREPARING": ["COMMITTED"]}
    return by_questions(saved, fingerprint)


# 05/find-the-window -------------------------------------------------------------------------------


def before_the_outcome_is_saved() -> list[Timed]:
    return [at(0, crash_at_commit("gateway", "before", 2))]


def while_a_bank_is_slow() -> list[Timed]:
    """No crash at all: the second request comes while the first is under way."""
    return [at(0, delay("coordinator", "bank-lb", 2.0)), at(9.0, heal())]


def any_crash() -> list[Timed]:
    """The misconception: a gateway that crashes charges twice."""
    return [at(0, crash("gateway")), at(1.0, restart("gateway"))]


def before_anything_is_saved() -> list[Timed]:
    """The misconception: what is not saved was done all the same."""
    return [at(0, crash_at_commit("gateway", "before", 1))]


def the_answer_is_lost() -> list[Timed]:
    """The misconception: this gateway does not recognise any request that comes again."""
    return [at(0, partition("gateway", "alice", one_way=True)), at(6.0, heal())]


def by_the_clock() -> list[Timed]:
    """Wrong only under faults: the right moment on another day."""
    return [at(0.02, crash("gateway"))]


def everything_at_once() -> list[Timed]:
    """Gamed: break whatever can be broken."""
    return [
        at(n / 10, crash(node)) for n, node in enumerate(("gateway", "logger", "queue", "bank-lb", "auth-1"))
    ]


def another_one_every_time() -> list[Timed]:
    """Gamed: state across trials."""
    return before_the_outcome_is_saved() if next(CALLS) % 2 else while_a_bank_is_slow()


PRINT, CLAIM, WINDOW = "05/fingerprint", "05/claim", "05/find-the-window"
RIGHT = [
    (PRINT, digest_of_json),
    (PRINT, written_with_bars),
    (CLAIM, by_questions),
    (CLAIM, by_table),
    (WINDOW, before_the_outcome_is_saved),
    (WINDOW, while_a_bank_is_slow),
]
WRONG = [
    (PRINT, who_pays_whom, "same and other"),
    (PRINT, how_much, "same and other"),
    (PRINT, a_number, "same and other"),
    (PRINT, put_together, "no two share one"),
    (PRINT, too_short, "no two share one"),
    (PRINT, of_this_process, "after a restart"),
    (PRINT, new_every_time, REPEATS),
    (CLAIM, only_success_counts, "rules by hand"),
    (CLAIM, the_key_says_it_all, "rules by hand"),
    (CLAIM, the_first_must_be_dead, "rules by hand"),
    (CLAIM, refused_while_under_way, "rules by hand"),
    (CLAIM, what_was_given_up_may_come_again, "many clicks and a queue"),
    (CLAIM, the_answers_in_order, REPEATS),
    (CLAIM, softer_rules, HANDS_OFF),
    (WINDOW, any_crash, "charged twice"),
    (WINDOW, before_anything_is_saved, "charged twice"),
    (WINDOW, the_answer_is_lost, "charged twice"),
    (WINDOW, by_the_clock, "charged twice"),
    (WINDOW, everything_at_once, "is a schedule"),
    (WINDOW, another_one_every_time, REPEATS),
]
