"""The nodes of one lab: booted, found by name, crashed, restarted. All of it runs on the world's loop."""

import asyncio
import json
import signal
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from paylab.core.authorization import Identity, Role
from paylab.core.balancing import Policy
from paylab.core.money import Money
from paylab.errors import LabError
from paylab.lab.checking.history import History
from paylab.lab.faulty_world import CommitPoint
from paylab.lab.processes.death import Death
from paylab.lab.processes.node_process import NodeProcess
from paylab.lab.real_world import World
from paylab.lab.slots import filled
from paylab.nodes import wire
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.interceptors import BANK_KEY
from paylab.nodes.node import Node
from paylab.nodes.passwords import PasswordCost
from paylab.pb import (
    authentication_pb2,
    authentication_pb2_grpc,
    bank_pb2,
    bank_pb2_grpc,
    load_balancer_pb2,
    load_balancer_pb2_grpc,
)

OPERATOR = Identity("lab", Role.OPERATOR)
BALANCER_OF = {Role.AUTH: "auth-lb", Role.BANK: "bank-lb"}
# The order in which nodes end.
ENDS = (Role.GATEWAY, Role.QUEUE, Role.COORDINATOR, Role.BALANCER, Role.BANK, Role.AUTH, Role.LOGGER)
READY_TIMEOUT_S = 20.0
LOOK_AGAIN_S = 0.01
# Accounts in one OpenAccounts call: about 100 kB.
ACCOUNTS_PER_CALL = 2_000


# A process can be told nothing but signals; messages can be disturbed only where they are sent.
SIGNALS = {"pause": signal.SIGSTOP, "resume": signal.SIGCONT}


@dataclass(slots=True)
class Running:
    """A node, the host or process that it runs on, and how to make it again."""

    identity: Identity
    # It holds what the node must keep to itself.
    make: Callable[[Host], Node] = field(repr=False)
    host: Host | NodeProcess
    # What runs on the host; in a process it is out of reach.
    node: Node | None = None
    wanted: bool = True

    @property
    def up(self) -> bool:
        """Whether it runs; a process may have ended by itself."""
        return self.wanted and (not isinstance(self.host, NodeProcess) or self.host.alive)


class Network:
    """The running nodes by name, and the operator who looks after them."""

    def __init__(
        self,
        world: World,
        history: History,
        replacements: Mapping[str, Any],
        *,
        processes: Collection[str] = (),
    ) -> None:
        """Empty; `boot` fills it."""
        self._replacements = replacements
        self._decisions, self._kinds = filled(replacements)
        self._processes = processes
        self.nodes: dict[str, Running] = {}
        self._world = world
        self._history = history
        self.operator = self._host(OPERATOR)
        self._client_hosts: dict[str, Host] = {}
        self._dead_clients: dict[str, Host] = {}
        self._failures: list[BaseException] = []

    @classmethod
    async def boot(
        cls,
        world: World,
        history: History,
        *,
        banks: Sequence[str],
        bank_servers: int,
        auth_servers: int,
        lease_s: float,
        gateways: int = 1,
        replacements: Mapping[str, Any],
        password_cost: PasswordCost | None,
        secret: bytes,
        processes: Collection[str] = (),
        weights: Mapping[str, int] | None = None,
        look_aside: bool = False,
    ) -> "Network":
        """Start the balancers, then all else at once; return when every server is known to its balancer."""
        network = cls(world, history, replacements, processes=processes)
        kinds = network._kinds
        await network._start_all(
            [
                ("auth-lb", Role.BALANCER, partial(kinds["node.balancer"], serves=Role.AUTH, group="auth")),
                ("bank-lb", Role.BALANCER, partial(kinds["node.balancer"], serves=Role.BANK)),
            ]
        )
        coordinator = kinds["node.coordinator"]
        if look_aside:
            coordinator = partial(coordinator, look_aside=True)
        servers: list[tuple[str, Role, Callable[[Host], Node]]] = [
            (
                f"auth-{n}",
                Role.AUTH,
                partial(kinds["node.auth"], secret=secret, cost=password_cost, lease_s=lease_s),
            )
            for n in range(1, auth_servers + 1)
        ]
        names = ["gateway", *(f"gateway-{n}" for n in range(2, gateways + 1))]
        servers += [(name, Role.GATEWAY, kinds["node.gateway"]) for name in names]
        servers += [
            ("coordinator", Role.COORDINATOR, coordinator),
            ("logger", Role.LOGGER, kinds["node.logger"]),
            (
                "queue",
                Role.QUEUE,
                partial(kinds["node.queue"], gateways=names) if names[1:] else kinds["node.queue"],
            ),
        ]
        servers += [
            (
                name,
                Role.BANK,
                partial(kinds["node.bank"], bank=bank, lease_s=lease_s, weight=(weights or {}).get(name, 1)),
            )
            for bank in banks
            for name in (f"{bank}-{n}" for n in range(1, bank_servers + 1))
        ]
        await network._start_all(servers)
        if strangers := [name for name in processes if name not in network.nodes]:
            raise LabError("NO_SUCH_NODE", f"there is no node {strangers[0]!r} that could be a process")
        await network._ready("auth-lb", [name for name, role, _ in servers if role is Role.AUTH])
        await network._ready("bank-lb", [name for name, role, _ in servers if role is Role.BANK])
        return network

    def _host(self, identity: Identity) -> Host:
        host = self._world.host(identity)
        host.decisions = self._decisions
        return host

    async def _start_all(self, servers: Iterable[tuple[str, Role, Callable[[Host], Node]]]) -> None:
        fresh = []
        for name, role, make in servers:
            identity = Identity(name, role)
            process = name in self._processes
            host = self._world.process(identity) if process else self._host(identity)
            self.nodes[name] = Running(identity, make, host)
            fresh.append(self.nodes[name])
        await asyncio.gather(*(self._start(running) for running in fresh))

    async def _start(self, running: Running, *, death: Death | None = None) -> None:
        if isinstance(running.host, NodeProcess):
            await running.host.start(running.make, replacements=self._replacements, death=death)
        else:
            running.node = running.make(running.host)
            await running.node.start()

    async def _ready(self, balancer: str, servers: Iterable[str]) -> None:
        wanted = set(servers)
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                listed = await self.listed(balancer)
                if wanted <= {server.server for server in listed if server.eligible}:
                    return
                await self.operator.sleep(LOOK_AGAIN_S)

    @property
    def gateways(self) -> tuple[str, ...]:
        """The gateways, all over one store."""
        return tuple(name for name, each in self.nodes.items() if each.identity.role is Role.GATEWAY)

    # Breaking and repairing ---------------------------------------------------------------------

    def is_up(self, node: str) -> bool:
        """Whether a node runs. Raises LabError for a name that no node has."""
        return self._running(node).up

    async def crash(self, node: str) -> None:
        """Kill a node."""
        running = self._running(node)
        if not running.up:
            raise LabError("ALREADY_DOWN", f"{node} is down already")
        running.wanted = False
        running.host.recorder.record(Kind.CRASHED)
        if isinstance(running.host, NodeProcess):
            await running.host.crash()
        else:
            await self._world.crash(running.host)
        self._failures += running.host.failures

    async def restart(self, node: str, *, death: Death | None = None) -> None:
        """Start a node that is down; `death` makes a process kill itself at one of its writes."""
        running = self._running(node)
        process = isinstance(running.host, NodeProcess)
        if running.up:
            raise LabError("ALREADY_UP", f"{node} is up already")
        if death is not None and not process:
            raise LabError("BAD_ARGUMENT", f"{node} is no process that could kill itself")
        if running.wanted:  # it died by itself
            running.host.recorder.record(Kind.CRASHED)
            self._failures += running.host.failures
        before = running.host
        running.host = self._world.process(running.identity) if process else self._host(running.identity)
        if not isinstance(before, NodeProcess) and not isinstance(running.host, NodeProcess):
            running.host.decisions = before.decisions  # another policy may have been put in
        running.host.recorder.continue_from(before.recorder)
        running.host.recorder.record(Kind.RESTARTED)
        await self._start(running, death=death)
        running.wanted = True

    # Looking after balancers --------------------------------------------------------------------

    async def drain(self, node: str, *, timeout_s: float) -> None:
        """Take a server out: its balancer gives it no more calls, and it finishes those it has.

        Raises LabError when that takes longer than `timeout_s`.
        """
        running, server, balancer = self._server(node)
        await server.drain()
        try:
            async with asyncio.timeout(timeout_s):
                while (
                    any(
                        server.server == node and (server.eligible or server.in_flight)
                        for server in await self.listed(balancer)
                    )
                    or running.host.recorder.in_flight
                ):
                    await self.operator.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise LabError("TIMEOUT", f"{node} still has calls after {timeout_s:g} s") from None

    async def serve(self, node: str) -> None:
        """Let a server that was drained take calls again."""
        _, server, _ = self._server(node)
        await server.serve()

    def set_policy(self, balancer: str, policy: Callable[[], Policy]) -> None:
        """Let a balancer pick by another policy from the next call on, after a restart, too."""
        running = self._running(balancer)
        if running.identity.role is not Role.BALANCER:
            raise LabError("BAD_ARGUMENT", f"{balancer} is no balancer; there are auth-lb and bank-lb")
        if isinstance(running.host, NodeProcess):
            raise LabError("OTHER_PROCESS", f"{balancer} is a process, and keeps the policy it began with")
        running.host.decisions = replace(running.host.decisions, balancer_policy=policy)

    async def listed(self, balancer: str) -> Sequence[load_balancer_pb2.ServerInfo]:
        """What a balancer believes about its servers."""
        stub = load_balancer_pb2_grpc.LoadBalancerStub(self.operator.channel(balancer))
        return (await stub.ListServers(load_balancer_pb2.ListServersRequest())).servers

    def _server(self, node: str) -> tuple[Running, Node, str]:
        """A server that stands behind a balancer, what runs on it, and that balancer. Raises LabError."""
        running = self._running(node)
        balancer = BALANCER_OF.get(running.identity.role)
        if balancer is None:
            raise LabError("BAD_ARGUMENT", f"{node} stands behind no balancer, so it cannot be drained")
        if not running.up:
            raise LabError("ALREADY_DOWN", f"{node} is down")
        if running.node is None:
            raise LabError("OTHER_PROCESS", f"{node} is a process, and drains at no word of ours")
        return running, running.node, balancer

    def break_world(self, kind: str, *arguments: Any) -> None:
        """Make a fault of the world happen: one of `FaultyWorld`'s methods, arguments in its order.

        Raises LabError OTHER_PROCESS for what cannot be done to a process.
        """
        world: Any = self._world
        for process in [self.nodes[name] for name in self._processes if name in arguments]:
            if kind not in SIGNALS or not isinstance(process.host, NodeProcess):
                raise LabError("OTHER_PROCESS", f"{kind} cannot reach {process.identity.node}, a process")
            process.host.signal(SIGNALS[kind])
            return
        if kind == "crash_at_commit":
            node, point, nth = arguments
            world.crash_at_commit(node, CommitPoint(point), partial(self.crash, node), nth=nth)
        elif kind == "lose":
            rate, requests, replies = arguments
            world.lose(rate, requests=requests, replies=replies)
        elif kind == "partition":
            a, b, one_way = arguments
            world.partition(a, b, one_way=one_way)
        else:
            getattr(world, kind)(*arguments)

    def say_quiet(self) -> None:
        """Record that nothing is in doubt, open or unsent."""
        self.operator.recorder.record(Kind.STATE, detail="quiet", facts={"at": "quiet"})

    def _running(self, node: str) -> Running:
        if node not in self.nodes:
            raise LabError("NO_SUCH_NODE", f"there is no node {node!r}; there are {', '.join(self.nodes)}")
        return self.nodes[node]

    async def stop(self) -> list[BaseException]:
        """Stop every node; return what failed in the background."""
        wanted = [running for running in self.nodes.values() if running.wanted]
        # Those that call first, then those that are called: a balancer watches its servers until it ends.
        wanted.sort(key=lambda running: ENDS.index(running.identity.role))
        hosts = [running.host for running in wanted]
        for host in [*self._client_hosts.values(), self.operator, *hosts]:
            if isinstance(host, NodeProcess):
                await host.stop()
            else:
                await self._world.stop(host)
            self._failures += host.failures
        return self._failures

    # The operator's work ------------------------------------------------------------------------

    def client_host(self, name: str) -> Host:
        """The host of a user's client; after a crash, a new one."""
        if name not in self._client_hosts:
            self._client_hosts[name] = host = self._host(Identity(name, Role.CLIENT))
            if (before := self._dead_clients.pop(name, None)) is not None:
                host.recorder.continue_from(before.recorder)
                host.recorder.record(Kind.RESTARTED)
        return self._client_hosts[name]

    async def crash_client(self, name: str) -> None:
        """Kill a user's client. Raises LabError when it is dead already."""
        if name not in self._client_hosts:
            raise LabError("ALREADY_DOWN", f"{name} is down already")
        host = self._dead_clients[name] = self._client_hosts.pop(name)
        host.recorder.record(Kind.CRASHED)
        await self._world.crash(host)

    async def register(
        self, username: str, password: str, *, accounts: Sequence[str] = (), roles: Sequence[str] = ()
    ) -> None:
        """Create a user."""
        stub = authentication_pb2_grpc.AuthenticationStub(self.operator.channel("auth-lb"))
        await stub.Register(
            authentication_pb2.RegisterRequest(
                username=username, password=password, accounts=accounts, roles=roles
            )
        )

    async def rotate_keys(self) -> tuple[str, float]:
        """Make the next signing key now; returns its id and when it begins to sign."""
        stub = authentication_pb2_grpc.AuthenticationStub(self.operator.channel("auth-lb"))
        made = await stub.RotateKeys(authentication_pb2.RotateKeysRequest())
        return made.kid, made.signs_from_s

    async def published_keys(self) -> list[str]:
        """The ids of the keys that verify tokens now."""
        stub = authentication_pb2_grpc.AuthenticationStub(self.operator.channel("auth-lb"))
        published = await stub.GetJwks(authentication_pb2.GetJwksRequest())
        return [str(key["kid"]) for key in json.loads(published.jwks_json)["keys"]]

    async def unlock(self, username: str = "", *, peer: str = "") -> None:
        """Let a user or a peer who failed too often try again at once."""
        stub = authentication_pb2_grpc.AuthenticationStub(self.operator.channel("auth-lb"))
        await stub.Unlock(authentication_pb2.UnlockRequest(username=username, peer=peer))

    async def open_accounts(self, bank: str, accounts: Sequence[tuple[str, Money, str]]) -> int:
        """Open (name, opening balance, owner) accounts; those that exist stay as they are."""
        opened = 0
        for start in range(0, len(accounts), ACCOUNTS_PER_CALL):
            request = bank_pb2.OpenAccountsRequest(
                accounts=[
                    bank_pb2.NewAccount(account=name, opening_balance=wire.money_to_pb(opening), owner=owner)
                    for name, opening, owner in accounts[start : start + ACCOUNTS_PER_CALL]
                ]
            )
            response = await self._bank().OpenAccounts(request, metadata=((BANK_KEY, bank),))
            opened += response.opened
        return opened

    async def close_account(self, bank: str, account: str) -> None:
        """Close an account."""
        await self._bank().CloseAccount(
            bank_pb2.CloseAccountRequest(account=account), metadata=((BANK_KEY, bank),)
        )

    def _bank(self) -> "bank_pb2_grpc.BankAsyncStub":
        return bank_pb2_grpc.BankStub(self.operator.channel("bank-lb"))
