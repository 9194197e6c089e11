"""A node at several ports: every port is a door to the same node, and callers use all of them."""

import os

import psutil  # type: ignore[import-untyped] # its types are a package of their own
import pytest

from paylab import Lab
from paylab.errors import OutcomeUnknown
from paylab.lab.real_world import RealWorld
from paylab.nodes.many_ports import address_of, channel_options
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.payment_gateway import PaymentGateway


def doors(lab: Lab, node: str) -> list[int]:
    """The ports of a node's address."""
    assert isinstance(lab.world, RealWorld)
    addresses = lab.world.address(node).removeprefix("ipv4:").split(",")
    return [int(address.rpartition(":")[2]) for address in addresses]


def used(ports: list[int]) -> set[int]:
    """Those of the ports to which somebody is connected."""
    connections = psutil.Process(os.getpid()).net_connections("tcp")
    return {c.laddr.port for c in connections if c.status == psutil.CONN_ESTABLISHED} & set(ports)


def test_callers_use_every_port_and_a_crash_closes_them_all(cheap: PasswordCost) -> None:
    """Payments come in at all ports of the gateway; when it dies none answers; it comes back elsewhere."""
    with Lab(name="doors", password_cost=cheap) as lab:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        ports = doors(lab, "gateway")
        assert len(set(ports)) == PaymentGateway.ports > 1
        futures = [alice.submit_pay(bob, "0.10 EUR") for _ in range(20)]
        assert {future.result().state for future in futures} == {"COMMITTED"}
        assert used(ports) == set(ports)
        lab.crash("gateway")
        with pytest.raises(OutcomeUnknown):
            alice.pay(bob, "0.10 EUR", deadline_s=0.5)
        lab.restart("gateway")
        assert not used(ports)
        assert not set(doors(lab, "gateway")) & set(ports)
        assert alice.pay(bob, "0.10 EUR").state == "COMMITTED"


def test_an_address_says_how_to_use_it() -> None:
    """One port is an address like any other."""
    assert address_of([5]) == "127.0.0.1:5"
    assert channel_options(address_of([5])) == ()
    assert address_of([5, 6]) == "ipv4:127.0.0.1:5,127.0.0.1:6"
    assert channel_options(address_of([5, 6])) == (("grpc.lb_policy_name", "round_robin"),)
