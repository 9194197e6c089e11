"""A server that fails or hangs: how many calls notice, with and without health checks and ejection."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from paylab.core.balancing import Endpoint
from paylab.core.health import LAB_RULES, outliers
from paylab.errors import OutcomeUnknown
from paylab.lab import faults
from paylab.lab.experiments.experiments import (
    AtLeast,
    AtMost,
    Expectation,
    Experiment,
    Measurements,
    Parameters,
    Size,
)
from paylab.lab.experiments.statistics import Tally
from paylab.lab.lab import Lab
from paylab.lab.open_loop import Sample, open_loop
from paylab.lab.simulation.choices import seeded
from paylab.nodes.bank_server import BankServer
from paylab.nodes.interceptors import BANK_KEY
from paylab.nodes.load_balancer import LoadBalancer
from paylab.pb import bank_pb2, bank_pb2_grpc

LEASE_S = 3.0
CALL_DEADLINE_S = 1.0
RATE_PER_S = 25.0
# When the server begins to fail, and when it is well again.
BAD_FROM_S, BAD_UNTIL_S, ENDS_S = 1.0, 8.0, 12.0
LOOK_EVERY_S = 0.1
# Of two servers each gets every second call, so five to one of them take as long as ten.
FIVE_S = 2 * LAB_RULES.failures_in_a_row / RATE_PER_S
NEVER_OUT_S = BAD_UNTIL_S - BAD_FROM_S
SICK = "alpine-1"
SHARE = {"fails 100 %": 1.0, "fails 30 %": 0.3, "hangs": 0.0}
CHECKS, EJECTING, BOTH, NOTHING = "checks", "ejection", "both", "nothing"


class BlindBalancer(LoadBalancer):
    """Believes every server that has once registered."""

    def _check(self, endpoint: Endpoint) -> None:
        endpoint.lease_s, endpoint.lease_until_s = float("inf"), float("inf")


def sick_bank(rate: float, seed: int, ill: dict[str, bool]) -> type[BankServer]:
    """A bank server that refuses this share of reads while it is ill."""

    class SickBank(BankServer):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self._rng = seeded(seed, "sick")

        async def GetAccount(self, request: bank_pb2.GetAccountRequest, context: Any) -> bank_pb2.Account:  # noqa: N802 - the proto's name
            if self.name == SICK and ill["now"] and self._rng.random() < rate:
                await context.abort(grpc.StatusCode.INTERNAL, "the disk is broken")
            return await super().GetAccount(request, context)

    return SickBank


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Read accounts at a steady rate while one of two servers is ill, and watch the balancer's list."""
    fault, protection = parameters["fault"], parameters["protection"]
    ill = {"now": False}
    replace: dict[str, Any] = {
        "node.bank": sick_bank(SHARE[fault], seed, ill),
        "balancer.eject": outliers if protection in (EJECTING, BOTH) else _nobody,
    }
    if protection in (EJECTING, NOTHING):
        replace["node.balancer"] = BlindBalancer
    name = f"ejection {fault} {protection} {seed}"
    with Lab(
        banks=["alpine"],
        auth_servers=1,
        world=parameters["world"],
        seed=seed,
        name=name,
        lease_s=LEASE_S,
        replace=replace,
    ) as lab:
        lab.client("ann", balance="1.00 EUR")
        samples, out = lab.submit(_run(lab, fault, ill)).result(120)
    meanwhile = [sample for sample in samples if BAD_FROM_S <= sample.due_s < BAD_UNTIL_S]
    detected = [at_s for at_s in out if BAD_FROM_S <= at_s < BAD_UNTIL_S]
    after = [at_s for at_s in out if at_s >= BAD_UNTIL_S]
    return {
        "failures": Tally(sum(sample.error is not None for sample in meanwhile), len(meanwhile)),
        "time_to_detect": min(detected) - BAD_FROM_S if detected else NEVER_OUT_S,
        "time_to_return": max(after) - BAD_UNTIL_S if after else 0.0,
    }


def _nobody(_servers: Sequence[Any], _rules: Any) -> list[str]:
    return []


async def _run(lab: Lab, fault: str, ill: dict[str, bool]) -> tuple[list[Sample], list[float]]:
    """The calls, and the moments at which the sick server was seen to be left out."""
    loop, out = asyncio.get_running_loop(), list[float]()
    began_s = loop.time()

    async def fall_ill() -> None:
        await asyncio.sleep(BAD_FROM_S)
        ill["now"] = True
        if fault == "hangs":
            await faults.apply(lab.network, faults.pause(SICK))
        await asyncio.sleep(began_s + BAD_UNTIL_S - loop.time())
        ill["now"] = False
        if fault == "hangs":
            await faults.apply(lab.network, faults.resume(SICK))

    async def look() -> None:
        while loop.time() < began_s + ENDS_S:
            listed = await lab.network.listed("bank-lb")
            if any(info.server == SICK and not info.eligible for info in listed):
                out.append(loop.time() - began_s)
            await asyncio.sleep(LOOK_EVERY_S)

    stub = bank_pb2_grpc.BankStub(lab.network.operator.channel("bank-lb"))
    request = bank_pb2.GetAccountRequest(account="ann")

    async def ask(_n: int) -> None:
        try:
            await stub.GetAccount(request, metadata=((BANK_KEY, "alpine"),), timeout=CALL_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise OutcomeUnknown(error.code().name) from None

    watching = [asyncio.ensure_future(fall_ill()), asyncio.ensure_future(look())]
    samples = await open_loop(ask, rate_per_s=RATE_PER_S, duration_s=ENDS_S)
    await asyncio.gather(*watching)
    return samples, out


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Every fault has a defence that sees it, and one that does not."""
    fault, protection = parameters["fault"], parameters["protection"]
    checks, ejection = protection in (CHECKS, BOTH), protection in (EJECTING, BOTH)
    seen = LOOK_EVERY_S + 0.05
    if fault == "hangs":
        # A call is given up when the lease ends, if its own deadline has not come before.
        wanted: dict[str, Expectation] = {}
        if ejection:
            # Five in a row, every second call, each told when its deadline comes.
            wanted["time_to_detect"] = AtMost(CALL_DEADLINE_S + FIVE_S + seen)
        elif checks:
            wanted["time_to_detect"] = AtMost(LEASE_S + seen)
        else:
            wanted |= {"failures": AtLeast(0.4), "time_to_detect": AtLeast(NEVER_OUT_S)}
        return wanted
    if not ejection:
        half = SHARE[fault] / 2
        return {"failures": AtLeast(0.7 * half), "time_to_detect": AtLeast(NEVER_OUT_S)}
    if fault == "fails 100 %":
        return {
            "failures": AtMost(0.1),
            "time_to_detect": AtMost(FIVE_S + seen),
            "time_to_return": AtMost(LAB_RULES.max_s),
        }
    return {"failures": AtLeast(0.05)}


EJECTION = Experiment(
    name="ejection",
    question="One of two servers fails or hangs for 7 s: which calls fail, and how soon is it out?",
    expectation="health checks see a hang within the lease, and no failing server; ejection sees five "
    "failures in a row; a server that fails 30 % of its calls hides from both",
    source="Envoy, Outlier detection; gRPC proposals A17 and A50",
    grid={"fault": list(SHARE), "protection": [NOTHING, CHECKS, EJECTING, BOTH]},
    trial=trial,
    expect=expect,
    full=Size(40, {"world": "simulated"}),
    quick=Size(5, {"world": "simulated"}),
    units={"failures": "share of calls", "time_to_detect": "s", "time_to_return": "s"},
)
