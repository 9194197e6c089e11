"""Every mutant is found by a campaign; the seed that finds it first is recorded beside it."""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest

from paylab.lab.campaigns.minimise import minimise
from paylab.lab.campaigns.seed_runs import run_seed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
MUTANTS = importlib.import_module("mutants").MUTANTS

FOUND = json.loads((HERE / "found.json").read_text(encoding="utf-8"))
SEEDS_MAX = 500
PAYMENTS = 12
# Those that are also made small in every test run; `PAYLAB_ALL=1` does it for all.
MINIMISED = ["decision-before-force", "forgotten-decisions"]


def test_there_are_enough_and_each_has_a_seed() -> None:
    """At least fifteen mutants, each found within 500 seeds."""
    assert len(MUTANTS) >= 15
    assert set(FOUND) == set(MUTANTS)
    assert all(0 <= row["seed"] < SEEDS_MAX for row in FOUND.values())


@pytest.mark.parametrize("name", MUTANTS)
def test_the_recorded_seed_finds_the_mutant(name: str) -> None:
    """The run with that seed breaks an invariant, and without the mutant it does not."""
    seed = FOUND[name]["seed"]
    assert run_seed(seed, payments=PAYMENTS, replace=MUTANTS[name].replace).violations


@pytest.mark.parametrize("seed", sorted({row["seed"] for row in FOUND.values()}))
def test_without_a_mutant_these_seeds_break_nothing(seed: int) -> None:
    """What the mutants fail for is the mutants' fault."""
    assert run_seed(seed, payments=PAYMENTS).violations == ()


@pytest.mark.parametrize("name", list(MUTANTS) if os.environ.get("PAYLAB_ALL") else MINIMISED)
def test_the_failing_run_becomes_small_and_is_told(name: str) -> None:
    """Two payments and three faults at most are left, and fifteen lines say which step was wrong."""
    replace = MUTANTS[name].replace
    seed = FOUND[name].get("small_seed", FOUND[name]["seed"])
    result = run_seed(seed, payments=PAYMENTS, replace=replace)
    small = minimise(result, replace=replace, check=FOUND[name].get("check", ""))
    story = small.story().splitlines()
    assert small.payments <= 2
    assert small.faults <= 3
    assert len(story) <= 15
    assert story[-2].startswith("What went wrong: ")
    assert small.replay().violations == small.result.violations
    assert small.timeline().shown
