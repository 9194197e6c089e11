"""Nodes of your own in a lab's world, beside the payment network or without one: served, cut off, drawn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc

from paylab.core.authorization import Identity, Role, Rule, rule_of
from paylab.lab.checking.history import History
from paylab.lab.real_world import World
from paylab.lab.simulation.simulator import SimWorld
from paylab.nodes.events import Kind
from paylab.nodes.host import Host

if TYPE_CHECKING:  # only drawing needs it
    from paylab.lab.drawing.timeline import Timeline


class OwnNodes:
    """Nodes that anybody with a certificate may call; a second one of the same name is its restart."""

    def __init__(self, world: World, history: History) -> None:
        """No node yet; of a lab these are `lab.world` and `lab.history`."""
        self._world, self.history = world, history
        self.call = world.call
        self._hosts: dict[str, Host] = {}

    def client(self, name: str) -> Host:
        """A host that serves nothing."""
        return self._world.call(self.boot(name, Role.CLIENT))

    def serve(self, name: str, servicer: Any, add_to_server: Callable[[Any, grpc.aio.Server], None]) -> Host:
        """A host that serves `servicer`; the last argument is what the compiler wrote for its service."""
        return self._world.call(self.boot(name, Role.BANK, lambda server: add_to_server(servicer, server)))

    async def boot(self, name: str, role: Role, add: Callable[[grpc.aio.Server], None] | None = None) -> Host:
        """The same on the world's loop: make a host, open its methods to everybody, serve."""
        before = self._hosts.get(name)
        if before is not None:
            await self._world.crash(before)
        host = self._hosts[name] = self._world.host(Identity(name, role))
        if before is not None:
            host.recorder.continue_from(before.recorder)
        host.decisions = replace(host.decisions, access_rule=lambda method: rule_of(method) or Rule(None))
        if add is not None:
            server = host.server()
            add(server)
            await server.start()
        return host

    @contextmanager
    def cut(self, sender: str, receiver: str) -> Iterator[None]:
        """Lose what one node sends to another, while the block lasts; then the whole network heals."""
        world: Any = self._world  # every world of a lab can be broken
        world.partition(sender, receiver, one_way=True)
        try:
            yield
        finally:
            world.heal()

    def timeline(self, since_s: float = 0.0) -> "Timeline":
        """The calls to these nodes that began at or after a moment of the world's clock."""
        from paylab.lab.drawing.timeline import timeline  # noqa: PLC0415 - only for drawing

        events = [event for event in list(self.history) if event.call]
        begun = {
            e.call for e in events if e.kind is Kind.SENT and e.at_s >= since_s and e.peer in self._hosts
        }
        mine = [event for event in events if event.call in begun]
        # Clients stand to the left of all nodes.
        servers = [name for name, host in self._hosts.items() if host.identity.role is not Role.CLIENT]
        return timeline(mine, nodes=servers, badge=self._world.badge)


@contextmanager
def own_world(seed: int = 0) -> Iterator[OwnNodes]:
    """Nodes in a simulated world of their own, which ends with the block."""
    history = History(world="simulated", seed=seed, banks=[])
    world = SimWorld("own nodes", seed=seed, sink=history.add)
    try:
        yield OwnNodes(world, history)
    finally:
        world.close()
