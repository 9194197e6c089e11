"""A small simulated network of nodes that are no part of the payment network, for exercises on calls."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from paylab.core.authorization import Role
from paylab.lab.checking.history import History
from paylab.lab.own_nodes import OwnNodes
from paylab.lab.simulation.sim_host import SimHost
from paylab.lab.simulation.simulator import SimWorld
from paylab.nodes.events import Event

if TYPE_CHECKING:  # only drawing needs it
    from paylab.lab.drawing.timeline import Timeline

SERVICE = "demo.Piggy"
EVENTS_SHOWN = 60
# What a method does: a text comes in, a text goes out.
Method = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class CallScene:
    """What happened in a drill, as a picture and in words."""

    story: str
    events: tuple[Event, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    badge: str

    @property
    def timeline(self) -> "Timeline":
        """The space-time diagram."""
        from paylab.lab.drawing.timeline import timeline  # noqa: PLC0415 - only for drawing

        return timeline(self.events, nodes=self.nodes, badge=self.badge, limit=EVENTS_SHOWN)


class CallNetwork:
    """Nodes that anybody may call, in virtual time. Everything but `call` runs on the world's loop."""

    def __init__(self, seed: int) -> None:
        """No node yet."""
        self.history = History(world="simulated", seed=seed, banks=[])
        self.world = SimWorld("calls", seed=seed, sink=self.history.add)
        self.call = self.world.call
        self.told: list[str] = []
        self._nodes = OwnNodes(self.world, self.history)
        self._names: dict[str, None] = {}

    def now(self) -> float:
        """Virtual time, seconds."""
        return self.world.now()

    async def node(self, name: str, **methods: Method) -> SimHost:
        """A node with these methods; a second one of the same name is its restart."""
        self._names[name] = None
        handlers = {method: _handler(answer) for method, answer in methods.items()}
        served = [grpc.method_handlers_generic_handler(SERVICE, handlers)]
        host = await self._nodes.boot(name, Role.BANK, lambda server: server.add_generic_rpc_handlers(served))
        assert isinstance(host, SimHost)
        return host

    def scene(self) -> CallScene:
        """All that has happened so far."""
        return CallScene("\n".join(self.told), tuple(self.history), tuple(self._names), self.world.badge)


async def ask(host: SimHost, target: str, method: str, text: str = "", *, timeout_s: float) -> str:
    """Call a node. Raises grpc.aio.AioRpcError."""
    call = host.channel(target).unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    answer: StringValue = await call(StringValue(value=text), timeout=timeout_s)
    return answer.value


@contextmanager
def call_network(seed: int) -> Iterator[CallNetwork]:
    """A network that is closed in the end."""
    network = CallNetwork(seed)
    try:
        yield network
    finally:
        network.world.close()


def drawn(rng: Any, kinds: Sequence[str]) -> list[str]:
    """The kinds in an order that chance decides."""
    return [str(kind) for kind in rng.sample(list(kinds), len(kinds))]


def _handler(answer: Method) -> Any:
    async def handle(request: StringValue, _context: Any) -> StringValue:
        return StringValue(value=await answer(request.value))

    return grpc.unary_unary_rpc_method_handler(handle, StringValue.FromString, StringValue.SerializeToString)
