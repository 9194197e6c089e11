"""Every mutant is found by a campaign, made small, and told; what was found is recorded beside it."""

import functools
import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest

from paylab.errors import LabError
from paylab.lab.campaigns.cases import Case
from paylab.lab.campaigns.minimise import Minimal, minimise
from paylab.lab.campaigns.seed_runs import SeedResult, run_seed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
MUTANTS = importlib.import_module("mutants").MUTANTS

FOUND = json.loads((HERE / "found.json").read_text(encoding="utf-8"))
SEEDS_MAX = 500
PAYMENTS = 12
LOOK_FURTHER = 60
# Those that are also made small in every test run; `PAYLAB_ALL=1` does it for all.
MINIMISED = ["replay-differs"]

TXN, BANK, MONEY = r"P\d/\d", r"(alpine|boreal)-\d", r"\d+\.\d\d EUR"
FORGOT = f"the coordinator answered ABORTED about {TXN}: it forgot that it had committed"
KEPT_NO_RECORD = f"{BANK} said no to {TXN} and kept no record of it, so a late Prepare may get a yes"
OTHER_KEY = r"the gateway entered P\d under another key than its client had sent"
# The faulty step of each mutant: who did what wrong.
STEPS = {
    "decision-before-force": f"the coordinator told a bank to commit {TXN} before that was on its disk",
    "forgotten-decisions": FORGOT,
    "ended-at-first-ack": FORGOT,
    "one-phase-not-asked": f"the coordinator aborted {TXN} without asking its only bank, "
    "which may have posted",
    "abort-alone": f"{BANK} aborted {TXN} alone: the coordinator had not told it to",
    "vote-without-hold": f"{BANK} prepared {TXN} and did not set {MONEY} aside for it",
    "holds-kept": f"{BANK} kept the hold of {MONEY} of the aborted {TXN}",
    "replay-differs": r"the gateway answered DECLINED about a payment that was (COMMITTED|QUEUED)",
    "log-without-dedup": f"the logger took the event {TXN}/[A-Z]+ for a new one "
    "when it was sent a second time",
    "vote-before-force": f"{BANK} said yes to {TXN} before its promise was on disk",
    "credit-at-prepare": f"{BANK} posted the credit of {TXN} when it prepared it",
    "late-prepare-accepted": f"{BANK} (prepared|committed) {TXN}, which (alpine|boreal) had aborted",
    "tombstone-lost": KEPT_NO_RECORD,
    "no-forgotten": KEPT_NO_RECORD,
    "hold-twice": f"{BANK} prepared {TXN} a second time and set its money aside once more",
    "post-twice": f"{BANK} posted {TXN} a second time",
    "commit-alone": f"{BANK} committed {TXN} alone: the coordinator had not told it to",
    "holds-ignored": f"{BANK} (prepared|committed) {TXN} of {MONEY}, which it had to refuse: "
    rf"\w+ has {MONEY}, {MONEY} of it on hold",
    "any-epoch": f"the coordinator began {TXN} again after its restart",
    "ended-without-gateway": FORGOT,
    "first-yes": f"the coordinator committed {TXN} without the yes of (alpine|boreal)",
    "presumed-commit": f"the coordinator answered COMMITTED about {TXN}, which it never decided",
    "keys-ignored": OTHER_KEY,
    "key-saved-late": OTHER_KEY,
    "queue-told-late": r"the gateway told the queue of P\d before QUEUED was on its disk",
    "amount-not-bound": r"the gateway took another request under the key '[\w-]+' for the same",
    "two-attempts": f"the gateway opened {TXN} while the attempt before was not known to be aborted",
    "timeout-declined": rf"the gateway called P\d DECLINED when the coordinator had not aborted {TXN}",
    "queue-drops": r"the queue dropped P\d when its call failed, and never asked again",
}


def test_there_are_enough_and_each_has_a_seed() -> None:
    """At least fifteen mutants, each found within 500 seeds, with a step that is known to be wrong."""
    assert len(MUTANTS) >= 15
    assert set(FOUND) == set(MUTANTS) == set(STEPS)
    assert all(0 <= row["seed"] < SEEDS_MAX for row in FOUND.values())


def failing_run(name: str) -> SeedResult:
    """The run of the seed that found the mutant, or of one of the next: chance moves with every change."""
    for seed in [FOUND[name]["small_seed"], FOUND[name]["seed"], *range(LOOK_FURTHER)]:
        result = run_seed(seed, payments=PAYMENTS, replace=MUTANTS[name].replace)
        if result.violations:
            return result
    return pytest.fail(f"{name} was not found by {LOOK_FURTHER} seeds")


@functools.cache
def without_mutant(seed: int) -> SeedResult:
    """The run of a seed in a sound network; several mutants share it."""
    return run_seed(seed, payments=PAYMENTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_campaign_finds_the_mutant(name: str) -> None:
    """A run breaks an invariant, and without the mutant the same seed breaks none."""
    failing = failing_run(name)
    assert without_mutant(failing.seed).violations == ()


def small_run(name: str) -> Minimal:
    """The smallest run that is recorded; made anew if a change of the network has moved it."""
    row, mutant = FOUND[name], MUTANTS[name]
    try:
        return Minimal.of(Case.from_json(row["case"]), row["check"], mutant.replace)
    except LabError:
        return minimise(failing_run(name), replace=mutant.replace)


def check_told(name: str, small: Minimal) -> None:
    """Two payments and three faults at most are left, and fifteen lines say which step was wrong."""
    story = small.story().splitlines()
    assert small.payments <= 2
    assert small.faults <= 3
    assert len(story) <= 15
    assert re.fullmatch(f"What went wrong: {STEPS[name]}\\.", story[-2]), story[-2]
    assert story[-1].startswith(f"So this is broken: {small.check}: ")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_small_run_is_told(name: str) -> None:
    """Its story is short and names the node and the step of the mutant."""
    check_told(name, small_run(name))


@pytest.mark.parametrize("name", list(MUTANTS) if os.environ.get("PAYLAB_ALL") else MINIMISED)
def test_the_failing_run_becomes_small(name: str) -> None:
    """What is left of it fails again in the same way, and can be drawn."""
    small = minimise(failing_run(name), replace=MUTANTS[name].replace)
    check_told(name, small)
    assert small.replay().violations == small.result.violations
    assert small.timeline().shown
