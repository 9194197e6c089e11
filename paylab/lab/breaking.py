"""How a lab is broken and repaired: crashes, faults of the network, draining, other policies."""

from collections.abc import Callable, Mapping
from typing import Any

from paylab.core.balancing import Policy
from paylab.lab import faults
from paylab.lab.arguments import policy_maker
from paylab.lab.durations import seconds
from paylab.lab.loop import LabFuture
from paylab.lab.network import Network
from paylab.lab.processes.death import Death
from paylab.lab.real_world import World
from paylab.lab.server_table import ServerTable


class Breaking:
    """The part of `Lab` that interferes with its network."""

    _world: World
    _network: Network
    _arguments: Mapping[str, Any]

    # Balancing ----------------------------------------------------------------------------------

    def servers(self) -> ServerTable:
        """What both balancers believe about their servers: load, latency, health, ejections."""
        listed = {
            balancer: self._world.call(self._network.listed(balancer))
            for balancer in ("auth-lb", "bank-lb")
            if self._network.is_up(balancer)
        }
        return ServerTable(listed, self._arguments["lease_s"])

    def set_policy(self, balancer: str, policy: str | Callable[[], Policy]) -> None:
        """Let "auth-lb" or "bank-lb" pick by another policy from the next call on: a name, or your class.

        Raises LabError for a policy or a balancer that does not exist.
        """
        self._network.set_policy(balancer, policy_maker(policy))

    def drain(self, server: str, *, timeout_s: float = 30.0) -> None:
        """Take a server out without losing a call: it finishes what it has and is given no more.

        Raises LabError if it has not finished after `timeout_s`. `serve`, or a restart, brings it back.
        """
        self._world.call(self._network.drain(server, timeout_s=timeout_s), timeout_s=timeout_s + 10)

    def serve(self, server: str) -> None:
        """Let a server that was drained take calls again."""
        self._world.call(self._network.serve(server))

    # Breaking and repairing ---------------------------------------------------------------------

    def crash(self, node: str) -> None:
        """Kill a node: what it had only in memory is gone."""
        self._world.call(self._network.crash(node))

    def restart(self, node: str, *, death: Death | None = None) -> None:
        """Start a crashed node again, with a new certificate, from what its disk holds.

        A process can be told at which forced write to kill itself (`paylab.lab.processes.death.Death`).
        """
        self._world.call(self._network.restart(node, death=death))

    def inject(self, schedule: faults.Schedule) -> LabFuture[None]:
        """Start a schedule of faults (`paylab.lab.faults`); returns at once, cancel the future to stop."""
        return self._world.submit(faults.inject(self._network, schedule))

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Cut the link between two nodes, or only from `a` to `b`."""
        self._apply(faults.partition(a, b, one_way=one_way))

    def heal(self) -> None:
        """End every fault of the network."""
        self._apply(faults.heal())

    def lose(self, rate: float, *, requests: bool = True, replies: bool = True) -> None:
        """Lose this share of all messages until `heal`."""
        self._apply(faults.lose(rate, requests=requests, replies=replies))

    def pause(self, node: str) -> None:
        """Stop a node where it stands, as SIGSTOP does."""
        self._apply(faults.pause(node))

    def resume(self, node: str) -> None:
        """Let a paused node go on."""
        self._apply(faults.resume(node))

    def _apply(self, fault: faults.Fault) -> None:
        self._world.call(faults.apply(self._network, fault))

    def advance(self, duration: float | str) -> None:
        """Let time pass: seconds, or text such as "3 h", which a simulated world hardly takes."""
        self._world.advance(seconds(duration))
