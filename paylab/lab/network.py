"""The nodes of one lab: booted, found by name, crashed, restarted. All of it runs on the world's loop."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from paylab.core.authorization import Identity, Role
from paylab.core.money import Money
from paylab.errors import LabError
from paylab.lab.history import History
from paylab.lab.real_world import World
from paylab.nodes import wire
from paylab.nodes.auth_server import AuthServer, PasswordCost
from paylab.nodes.bank_server import BankServer
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.load_balancer import BANK_KEY, LoadBalancer
from paylab.nodes.node import Node
from paylab.nodes.offline_queue import OfflineQueue
from paylab.nodes.payment_gateway import PaymentGateway
from paylab.nodes.transaction_logger import TransactionLogger
from paylab.pb import (
    authentication_pb2,
    authentication_pb2_grpc,
    bank_pb2,
    bank_pb2_grpc,
    load_balancer_pb2,
    load_balancer_pb2_grpc,
)

OPERATOR = Identity("lab", Role.OPERATOR)
READY_TIMEOUT_S = 20.0
# Accounts in one OpenAccounts call: about 100 kB.
ACCOUNTS_PER_CALL = 2_000


@dataclass(slots=True)
class Running:
    """A node, the host it runs on, and how to make it again."""

    identity: Identity
    make: Callable[[Host], Node]
    host: Host
    up: bool = True


class Network:
    """The running nodes by name, and the operator who looks after them."""

    def __init__(self, world: World, history: History) -> None:
        """Empty; `boot` fills it."""
        self.nodes: dict[str, Running] = {}
        self._world = world
        self._history = history
        self._operator = world.host(OPERATOR)
        self._client_hosts: dict[str, Host] = {}
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
        policy: str,
        password_cost: PasswordCost | None,
    ) -> "Network":
        """Start the balancers, then all else at once; return when every server is known to its balancer."""
        network = cls(world, history)
        await network._start_all(
            [
                (
                    "auth-lb",
                    Role.BALANCER,
                    lambda host: LoadBalancer(host, serves=Role.AUTH, group="auth", policy=policy),
                ),
                ("bank-lb", Role.BALANCER, lambda host: LoadBalancer(host, serves=Role.BANK, policy=policy)),
            ]
        )
        servers: list[tuple[str, Role, Callable[[Host], Node]]] = [
            (f"auth-{n}", Role.AUTH, lambda host: AuthServer(host, cost=password_cost))
            for n in range(1, auth_servers + 1)
        ]
        servers += [
            ("gateway", Role.GATEWAY, PaymentGateway),
            ("coordinator", Role.COORDINATOR, CoordinatorNode),
            ("logger", Role.LOGGER, TransactionLogger),
            ("queue", Role.QUEUE, OfflineQueue),
        ]
        servers += [
            (f"{bank}-{n}", Role.BANK, partial(BankServer, bank=bank))
            for bank in banks
            for n in range(1, bank_servers + 1)
        ]
        await network._start_all(servers)
        await network._ready("auth-lb", [name for name, role, _ in servers if role is Role.AUTH])
        await network._ready("bank-lb", [name for name, role, _ in servers if role is Role.BANK])
        return network

    async def _start_all(self, servers: Iterable[tuple[str, Role, Callable[[Host], Node]]]) -> None:
        started = []
        for name, role, make in servers:
            identity = Identity(name, role)
            self.nodes[name] = Running(identity, make, self._world.host(identity))
            started.append(make(self.nodes[name].host).start())
        await asyncio.gather(*started)

    async def _ready(self, balancer: str, servers: Iterable[str]) -> None:
        stub = load_balancer_pb2_grpc.LoadBalancerStub(self._operator.channel(balancer))
        wanted = set(servers)
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                listed = await stub.ListServers(load_balancer_pb2.ListServersRequest())
                if wanted <= {server.server for server in listed.servers if server.eligible}:
                    return
                await self._operator.sleep(0.01)

    # Breaking and repairing ---------------------------------------------------------------------

    def is_up(self, node: str) -> bool:
        """Whether a node runs. Raises LabError for a name that no node has."""
        return self._running(node).up

    async def crash(self, node: str) -> None:
        """Kill a node."""
        running = self._running(node)
        if not running.up:
            raise LabError("ALREADY_DOWN", f"{node} is down already")
        running.up = False
        running.host.recorder.record(Kind.CRASHED)
        await self._world.crash(running.host)
        self._failures += running.host.failures

    async def restart(self, node: str) -> None:
        """Start a node that is down."""
        running = self._running(node)
        if running.up:
            raise LabError("ALREADY_UP", f"{node} is up already")
        before = running.host.recorder
        running.host = self._world.host(running.identity)
        running.host.recorder.continue_from(before)
        running.host.recorder.record(Kind.RESTARTED)
        await running.make(running.host).start()
        running.up = True

    def _running(self, node: str) -> Running:
        if node not in self.nodes:
            raise LabError("NO_SUCH_NODE", f"there is no node {node!r}; there are {', '.join(self.nodes)}")
        return self.nodes[node]

    async def stop(self) -> list[BaseException]:
        """Stop every node; return what failed in the background."""
        hosts = [running.host for running in self.nodes.values() if running.up]
        # Those that call first, then those that are called.
        for host in [*self._client_hosts.values(), self._operator, *reversed(hosts)]:
            await self._world.stop(host)
            self._failures += host.failures
        return self._failures

    # The operator's work ------------------------------------------------------------------------

    def client_host(self, name: str) -> Host:
        """The host of a user's client."""
        if name not in self._client_hosts:
            self._client_hosts[name] = self._world.host(Identity(name, Role.CLIENT))
        return self._client_hosts[name]

    async def register(
        self, username: str, password: str, *, accounts: Sequence[str] = (), roles: Sequence[str] = ()
    ) -> None:
        """Create a user."""
        stub = authentication_pb2_grpc.AuthenticationStub(self._operator.channel("auth-lb"))
        await stub.Register(
            authentication_pb2.RegisterRequest(
                username=username, password=password, accounts=accounts, roles=roles
            )
        )

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
        return bank_pb2_grpc.BankStub(self._operator.channel("bank-lb"))
