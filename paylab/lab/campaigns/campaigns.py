"""Campaigns: many seeds, each with its own payments and faults, in as many processes as there are cores.

    campaign(range(1000), payments=50, faults="heavy")

A seed whose run breaks an invariant is written to a folder with everything that repeats it.
"""

import concurrent.futures
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import cloudpickle
from tqdm.auto import tqdm

from paylab.errors import LabError
from paylab.lab.campaigns.cases import Case
from paylab.lab.campaigns.seed_runs import SeedResult, run_seed

__all__ = ["Campaign", "SeedResult", "campaign", "load_case", "run_seed", "save_case"]

PAYMENTS_DEFAULT = 50
# So many runs wait for a free process; more would only lengthen the way to the first violation.
WAITING_PER_WORKER = 2


@dataclass(frozen=True, slots=True)
class Campaign:
    """What the runs of a campaign did together. `failing` are those that broke an invariant."""

    seeds: int
    payments: int
    committed: int
    declined: int
    queued: int
    in_doubt: int
    violations: int
    events: int
    virtual_s: float
    wall_s: float
    failing: tuple[SeedResult, ...] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every invariant held in every run."""
        return not self.failing

    @property
    def broken(self) -> dict[str, int]:
        """The checks that failed, and in how many runs."""
        return dict(Counter(name for result in self.failing for name in result.broken).most_common())

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        figures = {name: getattr(self, name) for name in self.__slots__ if name != "failing"}
        return figures | {"failing_seeds": [result.seed for result in self.failing], "broken": self.broken}

    def __str__(self) -> str:
        """A few lines for a terminal."""
        counted = f"{self.seeds:,} seeds, {self.payments:,} payments: {self.committed:,} committed"
        lines = [
            f"{counted}, {self.declined:,} declined, {self.queued:,} queued, {self.in_doubt:,} in doubt",
            f"{self.events:,} events in {self.virtual_s:,.0f} virtual seconds, {self.wall_s:,.1f} s of ours",
        ]
        lines += [f"BROKEN  {name} in {count} run{'s' * (count > 1)}" for name, count in self.broken.items()]
        if self.failing:
            lines.append(f"the first failing seed is {self.failing[0].seed}: {self.failing[0].violations[0]}")
        else:
            lines.append("every invariant holds in every run")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def campaign(
    seeds: Iterable[int],
    *,
    payments: int = PAYMENTS_DEFAULT,
    faults: str = "heavy",
    replace: Mapping[str, Any] | None = None,
    executor: concurrent.futures.Executor | None = None,
    workers: int | None = None,
    stop_at_first: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
) -> Campaign:
    """Run every seed, in `workers` processes or in the `executor` that is given.

    `replace` fills slots; it may hold functions and classes of a notebook. Failing runs are written into
    folders below `out`. Interrupted, it tells of the seeds that were run. Raises LabError for a bad argument.
    """
    wanted, began_s = list(seeds), time.perf_counter()
    if not wanted:
        raise LabError("BAD_ARGUMENT", "a campaign needs a seed at least")
    # Classes of a notebook are sent by value.
    sent = cloudpickle.dumps(dict(replace or {}))
    mine = executor is None
    if executor is None:
        executor = _processes(min(len(wanted), workers or os.cpu_count() or 1))
    results: list[SeedResult] = []
    try:
        with tqdm(total=len(wanted), unit=" seeds", disable=not progress) as bar:
            for result in _results(executor, wanted, payments, faults, sent):
                results.append(result)
                bar.update()
                if not result.ok and stop_at_first:
                    break
    except KeyboardInterrupt:
        if not results:
            raise  # whatever has been run is told, also when somebody does not want to wait for the rest
    finally:
        if mine:
            executor.shutdown(cancel_futures=True)
    results.sort(key=lambda result: result.seed)
    failing = tuple(result for result in results if not result.ok)
    for result in failing if out is not None else ():
        save_case(result, Path(out or ".") / f"seed-{result.seed}", replace=replace)
    return _sum(results, failing, wall_s=time.perf_counter() - began_s)


def _processes(workers: int) -> concurrent.futures.Executor:
    """Processes that are spawned: a fork would take threads' locks with it."""
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _results(
    executor: concurrent.futures.Executor, seeds: Sequence[int], payments: int, faults: str, replace: bytes
) -> Iterator[SeedResult]:
    """Results as they come; only a few runs are handed out ahead."""
    rest, ahead = iter(seeds), WAITING_PER_WORKER * (os.cpu_count() or 1)
    running: dict[concurrent.futures.Future[SeedResult], None] = {}
    while True:
        while len(running) < ahead and (seed := next(rest, None)) is not None:
            running[executor.submit(_run, seed, payments, faults, replace)] = None
        if not running:
            return
        done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in [future for future in running if future in done]:
            del running[future]
            yield future.result()


def _run(seed: int, payments: int, faults: str, replace: bytes) -> SeedResult:
    """In a worker: one seed; what repeats a run comes back only from one that fails."""
    result = run_seed(seed, payments=payments, faults=faults, replace=cloudpickle.loads(replace))
    return result.without_recipe() if result.ok else result


def _sum(results: Sequence[SeedResult], failing: tuple[SeedResult, ...], *, wall_s: float) -> Campaign:
    return Campaign(
        seeds=len(results),
        payments=sum(result.payments for result in results),
        committed=sum(result.committed for result in results),
        declined=sum(result.declined for result in results),
        queued=sum(result.queued for result in results),
        in_doubt=sum(result.in_doubt for result in results),
        violations=sum(len(result.violations) for result in results),
        events=sum(result.events for result in results),
        virtual_s=round(sum(result.virtual_s for result in results), 3),
        wall_s=round(wall_s, 3),
        failing=failing,
    )


# A failing run on disk -------------------------------------------------------------------------------


def save_case(result: SeedResult, folder: Path, *, replace: Mapping[str, Any] | None = None) -> Path:
    """Write seed, orders, schedule, choices and history of a run into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    case = Case(result.seed, result.schedule, result.orders, result.choices).to_json()
    (folder / "case.json").write_text(json.dumps(case) + "\n", encoding="utf-8")
    run_seed(
        result.seed,
        orders=result.orders,
        schedule=result.schedule,
        replace=replace,
        history=folder / "history.jsonl",
    )
    return folder


def load_case(folder: str | Path) -> dict[str, Any]:
    """What `save_case` wrote, as the arguments of `run_seed`: `run_seed(**load_case("out/seed-7"))`."""
    case = Case.from_json(json.loads((Path(folder) / "case.json").read_text(encoding="utf-8")))
    return {name: getattr(case, name) for name in case.__slots__}
