"""Exercises: what a reader writes, by which checks it is judged, and what the judge may say about it.

An exercise lives in the module `exercises_NN.py` of its chapter. Its checks are made of cases; a case is
judged by calling what the reader wrote, alone (a unit fact) or inside a simulated network (a drill).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from paylab.errors import LabError

if TYPE_CHECKING:  # only drawing needs it
    from paylab.lab.drawing.timeline import Timeline

# A case is a number (a seed, or which fact); it must fit into JSON.
Case = int
HINTS_MAX = 3
# Chapters that have exercises.
CHAPTERS = ("01", "02", "03", "04", "05", "06", "07", "08")
# The seeds of a notebook. A teacher judges with others.
SEEDS = (1, 2, 3)


class Scene(Protocol):
    """What happened in a case, as a picture and in words: a drill, or the way to a state."""

    @property
    def timeline(self) -> "Timeline":
        """The space-time diagram."""

    @property
    def story(self) -> str:
        """The same in words, a line a step."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One judged case: what was asked, what came back, what happened then, and whether that is right."""

    case: str
    returned: str
    so: str
    passed: bool = field(default=False, kw_only=True)
    drill: Scene | None = None


# What a check calls: the reader's function, or whatever else was handed in.
Solution = Any


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is judged. `cases` are in order, the smallest first; `run` judges one of them."""

    name: str
    weight: int
    # From the seeds, which a check of unit facts does not need.
    cases: Callable[[Sequence[int]], Sequence[Case]]
    run: Callable[[Solution, Case], Finding]
    # What a case is called in a report: "seed", "fact", or "space" for what is explored.
    unit: str = "seed"
    # The solution is asked once, without arguments, before anything runs: so it alone is asked a second time.
    asked_once: bool = False


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise. `encode` and `decode` turn an answer into JSON and back, given the call's arguments."""

    id: str
    title: str
    rule: str
    # What the notebook's cell holds before anybody has written anything.
    starter: str
    hints: tuple[str, ...]
    checks: tuple[Check, ...]
    encode: Callable[[tuple[Any, ...], Any], Any]
    decode: Callable[[tuple[Any, ...], Any], Any]

    def check(self, name: str) -> Check:
        """One of its checks. Raises LabError."""
        for check in self.checks:
            if check.name == name:
                return check
        raise LabError("NO_SUCH_CHECK", f"{self.id} has no check {name!r}")


class Exercises:
    """A table of exercises, which prints itself."""

    def __init__(self, exercises: Sequence[Exercise]) -> None:
        """Keep them in order."""
        self._exercises = {exercise.id: exercise for exercise in exercises}

    def __iter__(self) -> Iterator[Exercise]:
        """In order."""
        return iter(self._exercises.values())

    def __repr__(self) -> str:
        """Two lines an exercise."""
        return "\n".join(f"{exercise.id}  {exercise.title}\n    {exercise.rule}" for exercise in self)

    def _repr_html_(self) -> str:
        left = "style='text-align:left;vertical-align:top'"
        rows = "".join(
            f"<tr><td {left}><code>{escape(exercise.id)}</code></td>"
            f"<td {left}><b>{escape(exercise.title)}</b><br>{escape(exercise.rule)}</td></tr>"
            for exercise in self
        )
        return f"<table>{rows}</table>"


def exercises() -> Exercises:
    """Every exercise of every chapter."""
    return Exercises([exercise for chapter in CHAPTERS for exercise in _of_chapter(chapter)])


def find(name: str) -> Exercise:
    """The exercise of that id, such as "08/in-doubt". Raises LabError."""
    found = {exercise.id: exercise for exercise in exercises()}
    if name not in found:
        raise LabError("NO_SUCH_EXERCISE", f"{name!r} is no exercise; there are {', '.join(found)}")
    return found[name]


def by_seed(seeds: Sequence[int]) -> Sequence[Case]:
    """A case for every seed."""
    return seeds


def facts(count: int) -> Callable[[Sequence[int]], Sequence[Case]]:
    """So many cases, whatever the seeds are."""
    return lambda _: range(count)


def _of_chapter(chapter: str) -> tuple[Exercise, ...]:
    found: tuple[Exercise, ...] = import_module(f"paylab.lab.judging.exercises_{chapter}").EXERCISES
    return found
