"""Payments at a steady rate while a bank server crashes, hangs or drains, or the balancer restarts."""

import os
from collections.abc import Callable, Iterator

import pytest

from paylab import Lab
from paylab.lab.load import Load
from paylab.nodes.node import LEASE_S
from paylab.nodes.passwords import PasswordCost

RATE_PER_S = {"real": float(os.environ.get("PAYLAB_TEST_RATE", "200")), "simulated": 50.0}
# Where a machine is too busy for the rate, payments wait until others end, each with its whole deadline.
# On a quiet one nothing waits: PAYLAB_TEST_CONCURRENCY=500.
CONCURRENCY = int(os.environ.get("PAYLAB_TEST_CONCURRENCY", "80"))
DEADLINE_S = 5.0
# What a reader is told: a server that hangs is out within its lease, any other at once; and a second's grace.
OUT_WITHIN_S = {"crash": 1.0, "hang": LEASE_S + 1.0, "drain": 1.0}

Trouble = Callable[[Lab, Load], None]


@pytest.fixture(scope="module")
def paying(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    with Lab(name="paying", password_cost=cheap, world=world) as lab:
        yield lab


def until_out(lab: Lab, load: Load) -> None:
    """Let time pass until the load has seen that the balancer leaves alpine-1 out, or for long."""
    for _ in range(250):
        if "alpine-1 out" in [what for _, what in load.marks]:
            return
        lab.advance("20 ms")


def crash(lab: Lab, load: Load) -> None:
    load.note("crash")
    lab.crash("alpine-1")
    until_out(lab, load)
    lab.advance("500 ms")
    lab.restart("alpine-1")


def hang(lab: Lab, load: Load) -> None:
    load.note("hang")
    lab.pause("alpine-1")
    lab.advance(LEASE_S + 0.5)
    lab.resume("alpine-1")


def drain(lab: Lab, load: Load) -> None:
    load.note("drain")
    lab.drain("alpine-1", timeout_s=DEADLINE_S)
    until_out(lab, load)
    lab.crash("alpine-1")
    lab.restart("alpine-1")


def restart_balancer(lab: Lab, _load: Load) -> None:
    lab.crash("bank-lb")
    lab.restart("bank-lb")


@pytest.mark.parametrize("trouble", [crash, hang, drain, restart_balancer])
def test_every_payment_ends_well(paying: Lab, world: str, trouble: Trouble) -> None:
    """COMMITTED, or QUEUED and then COMMITTED, in time each; the server is out in time; no cent is lost."""
    duration_s = LEASE_S + 1.5 if trouble is hang else 1.6
    load = paying.load(RATE_PER_S[world], duration_s, concurrency=CONCURRENCY, deadline_s=DEADLINE_S)
    paying.advance("500 ms")
    trouble(paying, load)
    result = load.result(120)
    assert len(result.paid) > RATE_PER_S[world] * duration_s / 2  # by chance a few more or less than planned
    assert set(result.answers) <= {"COMMITTED", "QUEUED"}
    assert set(result.states) == {"COMMITTED"}
    assert max(one.ended_s - one.sent_s for one in result.paid) < DEADLINE_S + 1.0
    if trouble is drain:
        assert set(result.answers) == {"COMMITTED"}
        assert max(one.attempts for one in result.paid) == 1
    if (bound_s := OUT_WITHIN_S.get(trouble.__name__)) is not None:
        at_s = {what: at_s for at_s, what in reversed(result.marks)}
        assert at_s["alpine-1 out"] - at_s[trouble.__name__] <= bound_s
        assert at_s["alpine-1 in"] > at_s["alpine-1 out"]
    assert paying.settle()
    assert paying.check().ok
