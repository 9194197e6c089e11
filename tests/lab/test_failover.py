"""Payments at a steady rate while a bank server crashes, hangs or drains, or the balancer restarts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from paylab import Lab, Receipt
from paylab.lab import faults
from paylab.lab.open_loop import Sample, open_loop
from paylab.nodes.node import LEASE_S
from paylab.nodes.passwords import PasswordCost

# What this test's machine must carry beside others; virtual time carries anything.
RATE_PER_S = {"real": 20.0, "simulated": 50.0}
DEADLINE_S = 5.0
RUNS = count(1)

Trouble = Callable[[Lab], Awaitable[None]]


@pytest.fixture(scope="module")
def paying(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    with Lab(name="paying", password_cost=cheap, world=world) as lab:
        yield lab


async def pay_through(lab: Lab, world: str, trouble: Trouble, *, duration_s: float) -> list[Sample]:
    """Let eight people pay each other across banks, each payment with its own key and a deadline of 5 s."""
    run, people = next(RUNS), [lab.client(f"p{n}", bank=("alpine", "boreal")[n % 2]) for n in range(8)]

    def pay(n: int) -> Awaitable[Receipt]:
        payer, payee = people[n % 8], people[(n + 1 + 2 * (n % 3)) % 8]
        return payer._paying(payee, "0.01 EUR", f"{run}-{n}", DEADLINE_S)

    happening = asyncio.ensure_future(trouble(lab))
    samples = await open_loop(pay, rate_per_s=RATE_PER_S[world], duration_s=duration_s)
    await happening
    return samples


async def crash(lab: Lab) -> None:
    await asyncio.sleep(0.5)
    await lab.network.crash("alpine-1")
    await asyncio.sleep(1.0)
    await lab.network.restart("alpine-1")


async def until_out(lab: Lab, *, bound_s: float) -> None:
    """Wait until alpine-1 is picked no more; it may take the bound and a second."""
    async with asyncio.timeout(bound_s + 1.0):
        while next(i for i in await lab.network.listed("bank-lb") if i.server == "alpine-1").eligible:  # noqa: ASYNC110 - what a balancer believes can only be asked
            await asyncio.sleep(0.05)


async def hang(lab: Lab) -> None:
    await asyncio.sleep(0.5)
    await faults.apply(lab.network, faults.pause("alpine-1"))
    await until_out(lab, bound_s=LEASE_S)
    await faults.apply(lab.network, faults.resume("alpine-1"))


async def drain(lab: Lab) -> None:
    await asyncio.sleep(0.5)
    await lab.network.drain("alpine-1", timeout_s=DEADLINE_S)
    await until_out(lab, bound_s=0.0)
    await lab.network.crash("alpine-1")
    await lab.network.restart("alpine-1")


async def restart_balancer(lab: Lab) -> None:
    await asyncio.sleep(0.5)
    await lab.network.crash("bank-lb")
    await lab.network.restart("bank-lb")


@pytest.mark.parametrize("trouble", [crash, hang, drain, restart_balancer])
def test_every_payment_ends_well(paying: Lab, world: str, trouble: Trouble) -> None:
    """COMMITTED, or QUEUED and then COMMITTED, within five seconds each; and no cent is lost or made."""
    for n in range(8):
        paying.client(f"p{n}", bank=("alpine", "boreal")[n % 2], balance="1000.00 EUR")
    duration_s = 4.5 if trouble is hang else 2.0
    samples = paying.submit(pay_through(paying, world, trouble, duration_s=duration_s)).result(120)
    assert len(samples) >= RATE_PER_S[world] * duration_s - 1
    assert [sample.error for sample in samples if sample.error] == []
    states = {sample.result.state for sample in samples}
    assert states <= {"COMMITTED", "QUEUED"}
    if trouble is drain:
        assert states == {"COMMITTED"}
        assert max(sample.result.attempts for sample in samples) == 1
    assert max(sample.latency_s for sample in samples) < DEADLINE_S + 1.0
    for n, sample in enumerate(samples):
        if sample.result.state == "QUEUED":  # the queue drives it to its end
            *_, last = paying.client(f"p{n % 8}").watch(sample.result.payment)
            assert last.state == "COMMITTED"
    assert paying.settle()
    assert paying.check().ok
