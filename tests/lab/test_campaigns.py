"""A campaign's run follows from its seed, ends at rest, and finds what is planted."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paylab.errors import LabError
from paylab.lab.campaigns.campaigns import campaign, load_case, run_seed
from paylab.lab.campaigns.orders import Order
from paylab.lab.faults import at, crash, restart
from paylab.lab.planted_bugs import PLANTED, planted, planted_bugs

SMALL = 8


def simulate(*arguments: object, hash_seed: str = "0") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "paylab", "simulate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return done.returncode, done.stdout or done.stderr


def test_a_run_under_heavy_faults_ends_at_rest() -> None:
    """Every payment ends, nothing is queued or in doubt, and no invariant is broken."""
    result = run_seed(3, payments=SMALL)
    assert result.violations == ()
    assert result.committed + result.declined == result.payments == SMALL
    assert (result.queued, result.in_doubt) == (0, 0)
    assert result.schedule
    assert result.virtual_s > 0


def test_the_trace_follows_from_the_seed_in_every_process(tmp_path: Path) -> None:
    """Two processes with other hash seeds write the same history; the digest is that of the file."""
    file = tmp_path / "history.jsonl"
    status, first = simulate("--seed", 42, "--payments", SMALL, "--json", "--history", file, hash_seed="1")
    again_status, again = simulate("--seed", 42, "--payments", SMALL, "--json", hash_seed="2")
    assert (status, again_status) == (0, 0)
    figures, others = json.loads(first), json.loads(again)
    assert figures["trace_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert figures | {"wall_s": 0} == others | {"wall_s": 0}
    assert run_seed(43, payments=SMALL, trace=True).trace_sha256 != figures["trace_sha256"]
    names = "seed payments committed declined queued in_doubt violations events virtual_s wall_s trace_sha256"
    assert list(figures) == names.split()


def test_recorded_choices_repeat_a_run() -> None:
    """A run from its own choices is the same run, also when the seed's chance would be another."""
    first = run_seed(5, payments=SMALL, trace=True)
    again = run_seed(5, orders=first.orders, schedule=first.schedule, choices=first.choices, trace=True)
    assert again.trace_sha256 == first.trace_sha256


def test_a_campaign_runs_in_any_executor(tmp_path: Path) -> None:
    """Functions of a notebook fill slots there, and a failing seed is written so that it can be repeated."""

    def nobody_is_sure(_saved: object, _fingerprint: str) -> object:
        raise RuntimeError

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        found = campaign(
            range(40, 43),
            payments=SMALL,
            faults="light",
            replace={"gateway.same_request": nobody_is_sure},
            executor=executor,
            stop_at_first=True,
            out=tmp_path,
            progress=False,
        )
    assert not found.ok
    failing = found.failing[0]
    folder = tmp_path / f"seed-{failing.seed}"
    assert sorted(path.name for path in folder.iterdir()) == ["case.json", "history.jsonl", "result.json"]
    again = run_seed(**load_case(folder), replace={"gateway.same_request": nobody_is_sure})
    assert again.violations == failing.violations


def test_the_command_says_how_it_ended() -> None:
    """0 when every invariant holds, 1 when one is broken, 2 for bad input."""
    assert simulate("--seeds", 2, "--payments", 3, "--faults", "light", "--workers", 1)[0] == 0
    status, text = simulate("--seed", 0, "--payments", SMALL, "--faults", "none", "--bug", "replay-differs")
    assert (status, "BROKEN" in text) == (1, True)
    assert simulate("--seed", 1, "--bug", "no-such-bug")[0] == 2
    assert simulate("--seeds", 2, "--history", "file")[0] == 2
    assert simulate("--payments", 0)[0] == 2


def test_seeds_can_be_a_range_of_them() -> None:
    """So that a campaign goes on where another ended; what names no seed is refused."""
    status, text = simulate("--seeds", "7:9", "--payments", 2, "--faults", "none", "--workers", 1, "--json")
    assert (status, json.loads(text)["seeds"]) == (0, 2)
    for nothing in ("9:9", "-1", "x:3", "3:", "0"):
        assert simulate("--seeds", nothing)[0] == 2


class Impatient(concurrent.futures.Executor):
    """Somebody presses Ctrl-C while the eighth run is handed out."""

    def __init__(self) -> None:
        self.handed_out = 0

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> concurrent.futures.Future[Any]:
        self.handed_out += 1
        if self.handed_out == 8:
            raise KeyboardInterrupt
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(fn(*arguments, **named))
        return future


def test_an_interrupted_campaign_tells_what_it_saw() -> None:
    """The seeds that were run are counted; the others are not."""
    found = campaign(range(50), payments=2, faults="none", executor=Impatient(), progress=False)
    assert found.ok
    assert 1 <= found.seeds < 8


def test_planted_bugs_are_documented() -> None:
    """Each has a sentence, and an unknown name is refused with the names that exist."""
    assert len(PLANTED) >= 6
    assert all(bug.about.endswith(".") for bug in planted_bugs())
    with pytest.raises(LabError, match="decision-before-force"):
        planted("nothing")


def test_a_gateway_that_cannot_fetch_keys_calls_no_token_invalid() -> None:
    """A gateway that came back while nobody could vouch for tokens said that they were not valid.

    Its client took that for final, although the payment had been made before the crash.
    """
    asked = [
        Order(0.1, "alpine/ada", "boreal/cleo", 500, "k", 0.5),
        Order(1.2, "alpine/ada", "boreal/cleo", 500, "k"),
    ]
    schedule = [
        at(0.9, crash("auth-lb")),
        at(1.0, crash("gateway")),
        at(1.1, restart("gateway")),
        at(2.5, restart("auth-lb")),
    ]
    result = run_seed(8, orders=asked, schedule=schedule)
    assert result.violations == ()
    assert result.committed == 1
