"""Experiments: a question, treatments to compare, trials that measure, and what theory says will come out.

    result = paylab.experiment("supermarket", quick=True)
    result.table; result.figure(); result.met

Every treatment of the grid is tried with the same seeds, so that two treatments meet the same chance and
their difference is their own. Everything follows from one seed, whatever runs the trials, in any order.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any, Protocol

import cloudpickle

from paylab.errors import LabError
from paylab.lab.experiments.experiment_results import Result
from paylab.lab.experiments.statistics import (
    Controlled,
    Interval,
    Tally,
    controlled_interval,
    mean_interval,
    simultaneous,
    tally_interval,
)
from paylab.lab.simulation.choices import seeded

Parameters = Mapping[str, Any]
Measurement = float | Tally | Controlled
Measurements = Mapping[str, Measurement]
Trial = Callable[[Parameters, int], Measurements]

# All intervals of an experiment hold the truth together with this confidence.
CONFIDENCE = 0.999
# A formula is itself computed in floating point and from sums that end somewhere.
FORMULA_ERROR = 1e-6


# What is expected ---------------------------------------------------------------------------------


class Expectation(Protocol):
    """What should come out, and when it did."""

    @property
    def value(self) -> float:
        """The expected value."""

    def met(self, interval: Interval) -> bool:
        """Whether what was measured agrees."""


@dataclass(frozen=True, slots=True)
class Formula:
    """Theory gives it: met when the interval holds it and its half-width is at most `precision` of it."""

    value: float
    precision: float = 0.02

    def met(self, interval: Interval) -> bool:
        """Agrees, and is precise enough to have disagreed."""
        slack, size = FORMULA_ERROR * abs(self.value), abs(self.value)
        holds = interval.low - slack <= self.value <= interval.high + slack
        return holds and interval.half_width <= self.precision * size


@dataclass(frozen=True, slots=True)
class Published:
    """Somebody measured the value: met when the whole interval lies within `tolerance` of it."""

    value: float
    tolerance: float = 0.05

    def met(self, interval: Interval) -> bool:
        """Lies near it, with all its uncertainty."""
        reach = self.tolerance * abs(self.value)
        return self.value - reach <= interval.low and interval.high <= self.value + reach


@dataclass(frozen=True, slots=True)
class Never:
    """It must not happen: met when nothing was counted. The interval ends at the bound that zero has."""

    value: float = 0.0

    def met(self, interval: Interval) -> bool:
        """Was not seen once."""
        return interval.measured == 0


@dataclass(frozen=True, slots=True)
class AtMost:
    """A bound that holds: met when the whole interval lies below it."""

    value: float

    def met(self, interval: Interval) -> bool:
        """Lies below, with all its uncertainty."""
        return interval.high <= self.value


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A bound that holds: met when the whole interval lies above it."""

    value: float

    def met(self, interval: Interval) -> bool:
        """Lies above, with all its uncertainty."""
        return interval.low >= self.value


# What an experiment is ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: trials a treatment, and settings that the trials read beside their parameters."""

    replications: int
    settings: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A question and all that is needed to answer it again.

    Every combination of the values in `grid` is a treatment. `trial(parameters, seed)` measures one once: a
    number, a Tally or a Controlled by name of the measure; its parameters are treatment and settings.
    `expect(parameters)` says what should come out, by name of the measure, and may leave measures out.
    `expectation` tells that in words, with `source`. `units` says what axes show.
    """

    name: str
    question: str
    expectation: str
    source: str
    grid: Mapping[str, Sequence[Any]]
    trial: Trial
    expect: Callable[[Parameters], Mapping[str, Expectation]]
    full: Size
    quick: Size
    units: Mapping[str, str] = field(default_factory=dict)
    # What the rows say in a sentence, for whoever reads the table.
    conclude: Callable[[Sequence[Mapping[str, Any]]], str] | None = None

    def treatments(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid, in order."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def catalogue() -> dict[str, Experiment]:
    """Every experiment that paylab brings along, by name."""
    from paylab.lab.experiments.catalogue import EXPERIMENTS  # noqa: PLC0415 - they are made of this module

    return {experiment.name: experiment for experiment in EXPERIMENTS}


def find(name: str) -> Experiment:
    """One of the catalogue. Raises LabError for a name that is not there."""
    known = catalogue()
    if name not in known:
        raise LabError("NO_SUCH_EXPERIMENT", f"{name!r} is no experiment; there are {', '.join(known)}")
    return known[name]


# Running one --------------------------------------------------------------------------------------


def experiment(
    which: str | Experiment,
    *,
    seed: int = 0,
    quick: bool = False,
    replications: int | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    **parameters: Any,
) -> Result:
    """Run an experiment, by name or one of your own, and say what came out beside what was expected.

    `quick` measures less and asks for less precision. `parameters` replace values of the grid or settings:
    `choices=[1, 2, 5]`. Trials run in `workers` processes, as many as there are cores unless you say; with
    `workers=1` here, or on any `executor`. Raises LabError for names that do not exist.
    """
    chosen = find(which) if isinstance(which, str) else which
    size = chosen.quick if quick else chosen.full
    grid, settings = _replaced(chosen, size, parameters)
    count = replications or size.replications
    chosen = replace(chosen, grid=grid)
    treatments = [{**treatment, **settings} for treatment in chosen.treatments()]
    seeds = [seeded(seed, chosen.name, n).getrandbits(32) for n in range(count)]

    started_at, began_s = datetime.now(UTC), time.monotonic()
    jobs = [(parameters, trial_seed) for parameters in treatments for trial_seed in seeds]
    measured = _run(chosen, jobs, workers=workers, executor=executor, progress=progress)
    by_treatment = [measured[start : start + count] for start in range(0, len(measured), count)]
    return Result(
        experiment=chosen,
        seed=seed,
        quick=quick,
        settings=settings,
        trial_seeds=tuple(seeds),
        confidence=CONFIDENCE,
        rows=_rows(chosen, treatments, by_treatment),
        trials=_trials(chosen, seeds, by_treatment),
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - began_s, 3),
    )


def _replaced(
    chosen: Experiment, size: Size, parameters: Parameters
) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
    grid, settings = dict(chosen.grid), dict(size.settings)
    for name, value in parameters.items():
        if name in grid:
            grid[name] = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        elif name in settings:
            settings[name] = value
        else:
            known = ", ".join([*grid, *settings])
            raise LabError("BAD_ARGUMENT", f"{chosen.name} has no parameter {name!r}; there are {known}")
    return grid, settings


def _run(
    chosen: Experiment,
    jobs: Sequence[tuple[Parameters, int]],
    *,
    workers: int | None,
    executor: Executor | None,
    progress: bool,
) -> list[Measurements]:
    """Carry every trial out; what they measured, in the order of `jobs`."""
    from tqdm.auto import tqdm  # noqa: PLC0415 - it looks for widgets, and every notebook imports this module

    workers = min(workers or os.cpu_count() or 1, len(jobs))
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(jobs), desc=chosen.name, unit=" trials", disable=not progress)
        )
        if executor is None and workers == 1:
            done = []
            for parameters, seed in jobs:
                done.append(chosen.trial(parameters, seed))
                bar.update()
            return done
        if executor is None:
            executor = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
        trial = cloudpickle.dumps(chosen.trial)  # it may have been written in a notebook cell
        futures: list[Future[Measurements]] = [executor.submit(_elsewhere, trial, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            for future in futures:
                future.cancel()
    return [future.result() for future in futures]


def _elsewhere(trial: bytes, parameters: Parameters, seed: int) -> Measurements:
    measure: Trial = cloudpickle.loads(trial)
    return measure(parameters, seed)


# From trials to rows ------------------------------------------------------------------------------


def _rows(
    chosen: Experiment, treatments: Sequence[Parameters], measured: Sequence[Sequence[Measurements]]
) -> list[dict[str, Any]]:
    expected = [chosen.expect(treatment) for treatment in treatments]
    confidence = simultaneous(CONFIDENCE, sum(map(len, expected)))
    rows = []
    for treatment, runs, wanted in zip(treatments, measured, expected, strict=True):
        for measure in runs[0]:
            values = [run[measure] for run in runs]
            found = interval(values, confidence=confidence)
            hope = wanted.get(measure)
            rows.append(
                {name: treatment[name] for name in chosen.grid}
                | {
                    "measure": measure,
                    "sample": _sample(values),
                    "measured": found.measured,
                    "low": found.low,
                    "high": found.high,
                    "expected": None if hope is None else hope.value,
                    "met": None if hope is None else hope.met(found),
                }
            )
    return rows


def interval(values: Sequence[Measurement], *, confidence: float) -> Interval:
    """The interval of what independent trials measured, which are all of one kind."""
    tallies = [value for value in values if isinstance(value, Tally)]
    if tallies:
        return tally_interval(tallies, confidence=confidence)
    controlled = [value for value in values if isinstance(value, Controlled)]
    if controlled:
        return controlled_interval(controlled, confidence=confidence)
    return mean_interval([value for value in values if isinstance(value, int | float)], confidence=confidence)


def _sample(values: Sequence[Measurement]) -> int:
    """How much was looked at: the chances of tallies, otherwise trials."""
    return sum(value.of if isinstance(value, Tally) else 1 for value in values)


def _trials(
    chosen: Experiment, seeds: Sequence[int], measured: Sequence[Sequence[Measurements]]
) -> list[dict[str, Any]]:
    """One row a trial and measure, for whoever wants to look closer."""
    return [
        {**treatment, "replication": n, "seed": seeds[n], "measure": measure, "value": _value(value)}
        for treatment, runs in zip(chosen.treatments(), measured, strict=True)
        for n, run in enumerate(runs)
        for measure, value in run.items()
    ]


def _value(measurement: Measurement) -> float:
    if isinstance(measurement, Tally):
        return measurement.events / measurement.of if measurement.of else math.nan
    return measurement.value if isinstance(measurement, Controlled) else measurement
