"""What tests share: Hypothesis without a clock, cheap passwords, a lab a module, a plain gRPC client."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast

import grpc
import pytest
from hypothesis import HealthCheck, settings

from paylab import Lab
from paylab.core.authorization import Identity, Role
from paylab.core.balancing import Endpoint
from paylab.lab.lab import open_labs
from paylab.lab.real_world import RealWorld
from paylab.nodes.load_balancer import LoadBalancer
from paylab.nodes.passwords import PasswordCost

# A busy machine is no bug: examples have no deadline of their own.
settings.register_profile("paylab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("paylab")

CHEAP = PasswordCost(time_cost=1, memory_kib=8, parallelism=1)
PATIENCE_S = 30.0

Dial = Callable[..., grpc.Channel]
Eventually = Callable[..., None]


@pytest.fixture(scope="session")
def cheap() -> PasswordCost:
    """A password cost that protects nothing and takes no time."""
    return CHEAP


@pytest.fixture(scope="module", params=["real", "simulated"])
def world(request: pytest.FixtureRequest) -> str:
    """Whatever is said of a node's behaviour holds in both worlds; a module may narrow this."""
    return str(request.param)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, world: str) -> Iterator[Lab]:
    """The default network, for tests that leave it as they found it; closing it raises what went wrong."""
    with Lab(name=request.module.__name__, password_cost=CHEAP, world=world) as lab:
        yield lab


class BlockingChannel:
    """A channel of the simulated world, for stubs that block."""

    readers = count(1)

    def __init__(self, lab: Lab, node: str, identity: Identity) -> None:
        self._lab = lab
        self._channel = lab.world.call(self._open(node, identity))

    async def _open(self, node: str, identity: Identity) -> grpc.aio.Channel:
        # A name of its own, since another host of a node's name would be that node's restart; but the
        # certificate that was asked for.
        host: Any = self._lab.world.host(Identity(f"reader-{next(self.readers)}", identity.role))
        names = [identity.node.encode(), str(identity).encode()]
        host.credentials["x509_subject_alternative_name"] = names
        channel: grpc.aio.Channel = host.channel(node)
        return channel

    def unary_unary(self, method: str, *codecs: Any, **named: Any) -> Callable[..., Any]:
        async def ask(request: Any, **about: Any) -> Any:
            return await self._channel.unary_unary(method, *codecs, **named)(request, **about)

        return lambda request, **about: self._lab.world.call(ask(request, **about))

    def unary_stream(self, method: str, *_codecs: Any, **_named: Any) -> Callable[..., Any]:
        return lambda *_, **__: pytest.fail(f"{method} is a stream")


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Open a channel of grpc's own to a node; without an identity it shows no certificate."""
    channels: list[grpc.Channel] = []

    def open_channel(
        lab: Lab, node: str, identity: Identity | None, *, of: Lab | None = None
    ) -> grpc.Channel:
        """`of` is the lab whose authority issues the certificate."""
        world, issuer = lab.world, (of or lab).world
        if not isinstance(world, RealWorld):
            assert identity is not None
            return cast("grpc.Channel", BlockingChannel(lab, node, identity))
        assert isinstance(issuer, RealWorld)
        trusted = world.credentials(Identity("reader", Role.CLIENT)).ca_pem
        mine = issuer.credentials(identity) if identity else None
        credentials = grpc.ssl_channel_credentials(
            trusted, mine.key_pem if mine else None, mine.certificate_pem if mine else None
        )
        options = (("grpc.ssl_target_name_override", node),)
        channels.append(grpc.secure_channel(world.address(node), credentials, options))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close()


class UnwatchfulBalancer(LoadBalancer):
    """Learns of a crash only from a call that fails, so that there is one to tell of."""

    def _check(self, endpoint: Endpoint) -> None:
        pass


@pytest.fixture(scope="session")
def unwatchful() -> type[LoadBalancer]:
    """For the slot "node.balancer"."""
    return UnwatchfulBalancer


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Let time pass in every open lab until a condition holds; fail when it never does."""

    def wait(condition: Callable[[], bool], what: str = "it did not happen in time") -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, what
            for lab in open_labs():
                lab.advance(0.01)

    return wait
