"""What every server node has in common: its life, health and reflection."""

from collections.abc import Sequence
from typing import Any, ClassVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paylab.core.authorization import Role
from paylab.nodes.host import Host
from paylab.pb import load_balancer_pb2, load_balancer_pb2_grpc

LEASE_S = 3.0


class Node:
    """A gRPC server on a host. A subclass says what it serves, and what it does at boot."""

    role: ClassVar[Role]
    # At how many ports it listens.
    ports: ClassVar[int] = 1

    def __init__(self, host: Host) -> None:
        """Touch nothing yet; the world is touched in `start`."""
        self.host = host
        self.health = health.aio.HealthServicer()
        self._services: list[str] = []

    @property
    def name(self) -> str:
        """The node's name."""
        return self.host.identity.node

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Add the node's servicers; return the full names of their services."""
        raise NotImplementedError

    async def boot(self) -> None:
        """Recover from disk, before anybody can call."""

    async def run(self) -> None:
        """Begin the node's own work, once it can be called."""

    async def start(self) -> None:
        """Recover, then serve."""
        await self.boot()
        server = self.host.server(ports=self.ports)
        self._services = [*self.add_to(server), health.SERVICE_NAME, reflection.SERVICE_NAME]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        reflection.enable_server_reflection(self._services, server)
        await self.serve()
        await server.start()
        await self.run()

    async def serve(self) -> None:
        """Say that we take calls."""
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Say that we take no more; whatever arrives all the same is served."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _say(self, status: Any) -> None:
        for service in ("", *self._services):
            await self.health.set(service, status)


async def keep_registered(host: Host, *, balancer: str, group: str, lease_s: float, weight: int = 1) -> None:
    """Keep a server known to its balancer: register, then report load when half of the lease is over.

    A report that gets lost is missed after a quarter of the lease, which leaves time to register anew.
    """
    server, registered = host.identity.node, False
    while True:
        stub = load_balancer_pb2_grpc.LoadBalancerStub(host.channel(balancer))
        try:
            if registered:
                report = load_balancer_pb2.ReportLoadRequest(server=server, in_flight=host.recorder.in_flight)
                registered = (await stub.ReportLoad(report, timeout=lease_s / 4)).known
            if not registered:
                await stub.Register(
                    load_balancer_pb2.RegisterServerRequest(
                        server=server, group=group, lease_s=lease_s, weight=weight
                    ),
                    timeout=lease_s / 4,
                )
                registered = True
        except grpc.aio.AioRpcError:
            registered = False  # the balancer is away; it has forgotten us when it comes back
        await host.sleep(lease_s / (2 if registered else 16))
