"""What tests share: Hypothesis without a clock, cheap passwords, a lab a module, a plain gRPC client."""

import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from hypothesis import HealthCheck, settings

from paylab import Lab
from paylab.core.authorization import Identity, Role
from paylab.lab.real_world import RealWorld
from paylab.nodes.auth_server import PasswordCost

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


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The default network, for tests that leave it as they found it; closing it raises what went wrong."""
    with Lab(name=request.module.__name__, password_cost=CHEAP) as lab:
        yield lab


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Open a channel of grpc's own to a node; without an identity it shows no certificate."""
    channels: list[grpc.Channel] = []

    def open_channel(
        lab: Lab, node: str, identity: Identity | None, *, of: Lab | None = None
    ) -> grpc.Channel:
        """`of` is the lab whose authority issues the certificate."""
        world, issuer = lab.world, (of or lab).world
        assert isinstance(world, RealWorld)
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


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Poll until a condition holds; fail when it does not within a generous time."""

    def wait(condition: Callable[[], bool], what: str = "it did not happen in time") -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, what
            time.sleep(0.01)

    return wait
