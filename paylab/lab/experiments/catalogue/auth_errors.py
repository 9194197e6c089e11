"""How often honest users are turned away, and whether an attacker is ever let in ("errors reduced by 30 %").

A gateway that lets everybody in turns nobody away, so the two rates are only worth something side by side.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import grpc

from paylab.core.key_rotation import KeyTimes, rotate
from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S, STRICT, TYPE, check_claims
from paylab.errors import PaylabError
from paylab.lab.attacks import forging
from paylab.lab.clients import LabClient
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Measurements,
    Never,
    Parameters,
    Size,
)
from paylab.lab.experiments.statistics import Tally
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import seeded
from paylab.pb import payment_gateway_pb2 as gateway_pb
from paylab.pb import payment_gateway_pb2_grpc as gateway_pb_grpc

# One server's clock is early and the other's late by so much.
SKEW_S = 3.0
# Keys change so often, and an authentication server is away for so long in the middle of the run.
ROTATE_EVERY_S = 200.0
OUTAGE_S = 120.0
# A user asks for something on average every so many seconds, and one request in four begins a new session.
PAUSE_S = 15.0
NEW_SESSION = 0.25
# Who has no answer by then has been turned away.
PATIENCE_S = 2.0
ATTACK_EVERY_S = 20.0

BARE = {
    "token.check": partial(check_claims, rules=replace(STRICT, expiry_leeway_s=0.0, start_leeway_s=0.0)),
    "auth.rotation": partial(rotate, times=KeyTimes(published_ahead_s=0.0, kept_after_s=0.0)),
    "client.renew": lambda **_: False,
}


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Let users come and go while something is wrong, and an attacker try his luck all the time."""
    hardened, trouble, until_s = parameters["hardened"], parameters["trouble"], parameters["duration_s"]
    with Lab(
        banks=["alpine"],
        bank_servers=1,
        auth_servers=2 if hardened else 1,
        lease_s=30.0,
        replace=None if hardened else BARE,
        world="simulated",
        seed=seed,
        name=f"auth-errors {hardened} {trouble} {seed}",
    ) as lab:
        users = [lab.client(f"user-{n}") for n in range(parameters["users"])]
        work = [_use(user, until_s, seeded(seed, "user", n)) for n, user in enumerate(users)]
        everything = _together(_attack(lab, users[0], until_s), _TROUBLES[trouble](lab, until_s), *work)
        attacked, _, *honest = lab.submit(everything).result()
    turned_away = sum(failed for failed, _ in honest)
    return {
        "spurious_rejections": Tally(turned_away, sum(asked for _, asked in honest)),
        "attacks_accepted": Tally(*attacked),
    }


async def _together(*work: Any) -> list[Any]:
    return await asyncio.gather(*work)


async def _use(user: LabClient, until_s: float, rng: Random) -> tuple[int, int]:
    """Ask for something now and then; how often that failed, of how many times."""
    loop, failed, asked, distrusted = asyncio.get_running_loop(), 0, 0, False
    ends_at_s = loop.time() + until_s
    while True:
        await asyncio.sleep(rng.expovariate(1 / PAUSE_S))
        if loop.time() >= ends_at_s:
            return failed, asked
        if rng.random() < NEW_SESSION:
            user.log_out()
            distrusted = False
        asked += 1
        try:
            await user._client.payments(limit=1, deadline_s=PATIENCE_S)  # noqa: SLF001 - without blocking
            distrusted = False
        except PaylabError:
            failed += 1
            if distrusted:
                user.log_out()  # what a user does who is turned away again
            distrusted = not distrusted


async def _attack(lab: Lab, victim: LabClient, until_s: float) -> tuple[int, int]:
    """Try tokens that must not be accepted, in turn; how often one was, of how many."""
    stub = gateway_pb_grpc.PaymentGatewayStub(lab.network.client_host("attacker").channel("gateway"))
    accepted = tried = 0
    for _ in range(int(until_s / ATTACK_EVERY_S)):
        await asyncio.sleep(ATTACK_EVERY_S)
        for token in _bad_tokens(lab, victim):
            tried += 1
            try:
                metadata = (("authorization", f"Bearer {token}"),)
                await stub.ListPayments(gateway_pb.ListPaymentsRequest(), metadata=metadata)
            except grpc.aio.AioRpcError:
                continue
            accepted += 1
    return accepted, tried


def _bad_tokens(lab: Lab, victim: LabClient) -> list[str]:
    """One that has ended, one for somebody else, one of the attacker's key, one that is not signed."""
    say = partial(forging.claims, lab, victim.name, victim.account)
    ended = int(lab.world.now() - LEEWAY_S - 1)
    return [
        forging.signed(lab, say(exp=ended, iat=ended - ACCESS_LIFETIME_S)),
        forging.signed(lab, say(aud="elsewhere")),
        forging.forged(say()),
        forging.by_hand(say(), {"alg": "none", "typ": TYPE, "kid": forging.signing_key(lab)[0]}),
    ]


# What is wrong ------------------------------------------------------------------------------------


async def _skewed_clocks(lab: Lab, _until_s: float) -> None:
    for node, skew_s in zip(("auth-1", "auth-2"), (SKEW_S, -SKEW_S), strict=True):
        if node in lab.nodes:
            lab.network.break_world("skew", node, skew_s)


async def _rotating_keys(lab: Lab, until_s: float) -> None:
    for _ in range(int(until_s / ROTATE_EVERY_S)):
        await asyncio.sleep(ROTATE_EVERY_S)
        await lab.network.rotate_keys()


async def _crashing_server(lab: Lab, until_s: float) -> None:
    await asyncio.sleep((until_s - OUTAGE_S) / 2)
    await lab.network.crash("auth-1")
    await asyncio.sleep(OUTAGE_S)
    await lab.network.restart("auth-1")


_TROUBLES = {"clock skew": _skewed_clocks, "key rotation": _rotating_keys, "server crash": _crashing_server}


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Nobody is let in who should not be, ever; with every precaution nobody is turned away, either."""
    never = {"attacks_accepted": Never()}
    return never | {"spurious_rejections": Never()} if parameters["hardened"] else never


AUTH_ERRORS = Experiment(
    name="auth-errors",
    question="How often are honest users turned away, and attackers let in, when clocks, keys, servers fail?",
    expectation="attackers never; honest users never, given two servers, leeway, key overlap, early renewal",
    source="leeway: RFC 7519, 4.1.4; zero: J. A. Hanley, A. Lippman-Hand, JAMA 249, 1983",
    grid={"trouble": list(_TROUBLES), "hardened": [False, True]},
    trial=trial,
    expect=expect,
    full=Size(10, {"users": 10, "duration_s": 1_800.0}),
    quick=Size(4, {"users": 6, "duration_s": 420.0}),
    units={"spurious_rejections": "share of requests", "attacks_accepted": "share of attempts"},
)
