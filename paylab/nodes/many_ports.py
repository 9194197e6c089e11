"""A server at several ports, for a node that is asked for many small things at the same time.

grpc.aio takes one call after the other from a port, and each takes several turns of the loop: under load
calls wait longer at the door than inside, and the batches that make them cheap never form. Channels spread
their calls over all ports of a node.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import grpc

# Of several addresses a channel would use one only; with this, one for a call and another for the next.
_SPREAD = (("grpc.lb_policy_name", "round_robin"),)
_SEVERAL = "ipv4:"


class ManyPorts(grpc.aio.Server):
    """Several servers as one: they share handlers, and start and stop together."""

    def __init__(self, servers: Sequence[grpc.aio.Server]) -> None:
        """None of them is started."""
        self._servers = servers
        self.ports: list[int] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Have all servers ask these."""
        handlers = tuple(generic_rpc_handlers)
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Register nothing.

        Generated code registers each method twice. At every call grpc.aio begins to wait anew for a call to
        each of those that are registered in this way, which made half of what a call cost here.
        """

    def add_insecure_port(self, address: str) -> int:
        """Bind a port for each server: `ports` has all, the first is returned. Port 0 stands for any."""
        self.ports += (bound := [server.add_insecure_port(address) for server in self._servers])
        return bound[0]

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """The same with TLS."""
        self.ports += (bound := [s.add_secure_port(address, server_credentials) for s in self._servers])
        return bound[0]

    async def start(self) -> None:
        """Be reachable."""
        for server in self._servers:
            await server.start()

    async def stop(self, grace: float | None) -> None:
        """Take no calls any more; those under way get `grace` seconds, then they are cancelled."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's interface
        """Wait until all have stopped; whether that took too long."""
        return any(await asyncio.gather(*(server.wait_for_termination(timeout) for server in self._servers)))


def address_of(ports: Sequence[int]) -> str:
    """Where somebody is reached who listens at all of these ports of the loopback interface."""
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    return addresses if len(ports) == 1 else _SEVERAL + addresses


def channel_options(address: str) -> tuple[tuple[str, str], ...]:
    """What a channel to such an address needs."""
    return _SPREAD if address.startswith(_SEVERAL) else ()
