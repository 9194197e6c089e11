"""What an attack is, and the matrix: every attack against the network as it is, and against the weakened one.

An attack that is refused because it was written wrongly proves nothing. So each names the one defence that
stops it, and must succeed where that defence is switched off.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from paylab.errors import LabError
from paylab.lab.attacks.target import Attempt, Target
from paylab.lab.attacks.weakenings import weakened
from paylab.lab.lab import Lab
from paylab.nodes.passwords import PasswordCost

# Longer than all attacks take, on any machine: a bank that is away would hide what they do.
LEASE_S = 600.0
CHEAP = PasswordCost(time_cost=1, memory_kib=8, parallelism=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack: what it is and what stops it, what counts as success, and the defence to switch off."""

    name: str
    about: str
    success: str
    # The documented status of the refusal.
    status: str
    weaken: str
    run: Callable[[Target], Attempt]


ATTACKS: dict[str, Attack] = {}


def attack(*, weaken: str, status: str, success: str) -> Callable[[Callable[[Target], Attempt]], Attack]:
    """Enter a function into the matrix; its docstring says what the attack is and what stops it."""

    def enter(run: Callable[[Target], Attempt]) -> Attack:
        name = run.__name__.replace("_", "-")
        about = " ".join((inspect.getdoc(run) or "").split())
        made = Attack(name=name, about=about, success=success, status=status, weaken=weaken, run=run)
        ATTACKS[name] = made
        return made

    return enter


@dataclass(frozen=True, slots=True)
class Row:
    """What came of an attack, in the network as it is and in the weakened one."""

    attack: Attack
    attempt: Attempt
    when_weakened: Attempt

    @property
    def refused(self) -> bool:
        """Whether it did not succeed, and was answered as documented."""
        return not self.attempt.succeeded and self.attempt.status == self.attack.status

    @property
    def ok(self) -> bool:
        """Whether its defence stops it, and nothing else does."""
        return self.refused and self.when_weakened.succeeded

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {
            "name": self.attack.name,
            "refused": self.refused,
            "status": self.attempt.status,
            "reason": self.attempt.reason,
            "accepted_when_weakened": self.when_weakened.succeeded,
            "weakened": self.attack.weaken,
            "status_when_weakened": self.when_weakened.status,
        }


class Matrix:
    """The rows, which print themselves."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Keep them in order."""
        self.rows = tuple(rows)

    def __iter__(self) -> Iterator[Row]:
        """In order."""
        return iter(self.rows)

    def __len__(self) -> int:
        """How many attacks."""
        return len(self.rows)

    @property
    def ok(self) -> bool:
        """Whether every attack is refused as documented, and succeeds where its defence is off."""
        return all(row.ok for row in self.rows)

    def __repr__(self) -> str:
        """A line a row."""
        lines = [f"{'attack':<34}{'answer':<44}{'without':<26}so"]
        for row in self.rows:
            verdict = "refused" if row.refused else "NOT REFUSED"
            weak = "succeeds" if row.when_weakened.succeeded else f"FAILS: {row.when_weakened.status}"
            lines.append(
                f"{row.attack.name:<34}{verdict} {row.attempt.answer:<36}{row.attack.weaken:<26}{weak}"
            )
        refused = sum(row.refused for row in self.rows)
        return "\n".join([*lines, f"{refused} of {len(self.rows)} attacks refused as documented"])

    def _repr_html_(self) -> str:
        left = "style='text-align:left;vertical-align:top'"
        heads = ("attack", "answer", "success would be", "without this defence", "it")
        head = "".join(f"<th {left}>{text}</th>" for text in heads)
        body = ""
        for row in self.rows:
            cells = (
                f"<code title='{escape(row.attack.about, quote=True)}'>{escape(row.attack.name)}</code>",
                f"{'refused' if row.refused else '<b>NOT REFUSED</b>'}<br>{escape(row.attempt.answer)}",
                escape(row.attack.success),
                f"<code>{escape(row.attack.weaken)}</code>",
                "succeeds" if row.when_weakened.succeeded else "<b>fails</b>",
            )
            body += "<tr>" + "".join(f"<td {left}>{cell}</td>" for cell in cells) + "</tr>"
        return f"<table><tr>{head}</tr>{body}</table>"


@contextmanager
def target(weaken: str | None = None, *, name: str = "attacked") -> Iterator[Target]:
    """A small network to attack, with one defence off if `weaken` names it."""
    lab = Lab(
        bank_servers=1,
        auth_servers=1,
        password_cost=CHEAP,
        lease_s=LEASE_S,
        replace=weakened(weaken) if weaken else None,
        name=name,
    )
    under_attack = Target(lab)
    try:
        yield under_attack
    finally:
        under_attack.close()
        try:
            lab.close()
        except LabError:
            if weaken is None:
                raise  # what an attacker broke in a weakened network is what he came for


def attempt(name: str, *, weaken: str | None = None) -> Attempt:
    """Try one attack on a network of its own."""
    with target(weaken) as under_attack:
        return find(name).run(under_attack)


def find(name: str) -> Attack:
    """An attack by name. Raises LabError."""
    if name not in ATTACKS:
        raise LabError("NO_SUCH_ATTACK", f"{name!r} is no attack; there are {', '.join(ATTACKS)}")
    return ATTACKS[name]


def attacks(names: Iterable[str] | None = None, *, progress: Callable[[str], None] | None = None) -> Matrix:
    """Try attacks, all of them unless `names` says which: first as it is, then without each one's defence."""
    chosen = [find(name) for name in names] if names is not None else list(ATTACKS.values())
    say = progress or (lambda _: None)
    with target() as strong:
        found = {}
        for each in chosen:
            say(each.name)
            found[each.name] = each.run(strong)
    by_weakening = defaultdict(list)
    for each in chosen:
        by_weakening[each.weaken].append(each)
    weak = {}
    for weaken, group in by_weakening.items():
        with target(weaken) as weaker:
            for each in group:
                say(f"{each.name} without {weaken}")
                weak[each.name] = each.run(weaker)
    return Matrix(Row(each, found[each.name], weak[each.name]) for each in chosen)
