"""Every mutant is found by a campaign; the seed that finds it first is recorded beside it."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest

from paylab.lab.campaigns.minimise import minimise
from paylab.lab.campaigns.seed_runs import SeedResult, run_seed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
MUTANTS = importlib.import_module("mutants").MUTANTS

FOUND = json.loads((HERE / "found.json").read_text(encoding="utf-8"))
SEEDS_MAX = 500
PAYMENTS = 12
LOOK_FURTHER = 60
# Those that are also made small in every test run; `PAYLAB_ALL=1` does it for all.
MINIMISED = ["decision-before-force", "forgotten-decisions"]


def test_there_are_enough_and_each_has_a_seed() -> None:
    """At least fifteen mutants, each found within 500 seeds."""
    assert len(MUTANTS) >= 15
    assert set(FOUND) == set(MUTANTS)
    assert all(0 <= row["seed"] < SEEDS_MAX for row in FOUND.values())


def failing_run(name: str) -> SeedResult:
    """The run of the seed that found the mutant, or of one of the next: chance moves with every change."""
    known = FOUND[name].get("small_seed", FOUND[name]["seed"])
    for seed in [known, FOUND[name]["seed"], *range(LOOK_FURTHER)]:
        result = run_seed(seed, payments=PAYMENTS, replace=MUTANTS[name].replace)
        if result.violations:
            return result
    return pytest.fail(f"{name} was not found by {LOOK_FURTHER} seeds")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_campaign_finds_the_mutant(name: str) -> None:
    """A run breaks an invariant, and without the mutant the same seed breaks none."""
    failing = failing_run(name)
    assert run_seed(failing.seed, payments=PAYMENTS).violations == ()


@pytest.mark.parametrize("name", list(MUTANTS) if os.environ.get("PAYLAB_ALL") else MINIMISED)
def test_the_failing_run_becomes_small_and_is_told(name: str) -> None:
    """Two payments and three faults at most are left, and fifteen lines say which step was wrong."""
    small = minimise(failing_run(name), replace=MUTANTS[name].replace)
    story = small.story().splitlines()
    assert small.payments <= 2
    assert small.faults <= 3
    assert len(story) <= 15
    assert story[-2].startswith("What went wrong: ")
    assert small.replay().violations == small.result.violations
    assert small.timeline().shown
