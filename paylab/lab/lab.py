"""`Lab` boots a payment network and is the face that notebooks, tests and the command line use."""

import asyncio
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from paylab.core.authorization import Identity, Role
from paylab.core.balancing import POLICIES, Policy
from paylab.core.money import Money, parse_money
from paylab.core.tokens import ORIGINATOR
from paylab.errors import LabError
from paylab.lab import faults
from paylab.lab.checking import checks
from paylab.lab.checking.history import History
from paylab.lab.checking.history_checks import HistoryChecks
from paylab.lab.clients import LabClient
from paylab.lab.durations import seconds
from paylab.lab.logbook import Logbook
from paylab.lab.loop import LabFuture
from paylab.lab.network import Network
from paylab.lab.operator import Operator
from paylab.lab.processes.death import Death
from paylab.lab.real_world import RealWorld, World
from paylab.lab.server_table import ServerTable
from paylab.lab.simulation.choices import Choices
from paylab.lab.simulation.simulator import SimWorld
from paylab.nodes.client import PaymentClient, Receipt
from paylab.nodes.node import LEASE_S
from paylab.nodes.passwords import PasswordCost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import networkx as nx

    from paylab.core.coordinator import Coordinator
    from paylab.lab.drawing.timeline import Timeline
    from paylab.lab.workload import RunResult

T = TypeVar("T")

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
OPERATOR = Identity("lab", Role.OPERATOR)
# More servers of one kind would not fit a drawing, nor two processor cores.
SERVERS_MAX = 9
# The user in whose name files of payments are run.
RUNNER = "runner"

_OPEN: dict[str, "Lab"] = {}


class Lab:
    """A running payment network.

    `banks` are bank names, each with `bank_servers` servers over one ledger; `policy` chooses how both load
    balancers pick: a name, or a class of yours. A bank server has weight 1 unless `weights` says other.
    With `look_aside` the coordinator watches the list of bank servers and picks for itself. Servers renew
    their leases of `lease_s`, and `replace` fills slots (`paylab.slots()`) with other decisions. Files go to
    a fresh folder, or to `data_dir`, from which a later lab continues.
    Booting a second lab of the same `name` closes the first. With `world="simulated"` the same nodes run in
    virtual time, on disks in memory, and everything follows from `seed`. Raises LabError for a bad argument.

    `commit` is another commit protocol of the shape of `paylab.core.coordinator.Coordinator`.

    Nodes named in `processes` run as operating-system processes: `crash` kills them with SIGKILL, `pause`
    stops them with SIGSTOP, faults of the network do not reach what they send, and they keep no history.
    """

    def __init__(
        self,
        *,
        banks: Sequence[str] = ("alpine", "boreal"),
        bank_servers: int = 2,
        auth_servers: int = 2,
        policy: str | Callable[[], Policy] = "round_robin",
        weights: Mapping[str, int] | None = None,
        look_aside: bool = False,
        lease_s: float = LEASE_S,
        replace: Mapping[str, Any] | None = None,
        data_dir: str | Path | None = None,
        name: str = "lab",
        password_cost: PasswordCost | None = None,
        world: str = "real",
        seed: int = 0,
        choices: Choices | None = None,
        processes: Sequence[str] = (),
        commit: "Callable[..., Coordinator] | None" = None,
    ) -> None:
        """Boot every node and wait until all of them serve; `choices` repeat a simulated run."""
        _check_arguments(banks, bank_servers, auth_servers)
        if name in _OPEN:
            _OPEN[name].close()
        self.name = name
        self.history = History(
            world=world,
            seed=None if world == "real" else choices.seed if choices is not None else seed,
            banks=list(banks),
            continued=data_dir is not None and any(Path(data_dir).glob("bank-*.sqlite")),
        )
        self._checks = HistoryChecks(continued=self.history.about["continued"])
        self.history.listen(self._checks.see)
        self._arguments: dict[str, Any] = {
            "banks": tuple(banks),
            "bank_servers": bank_servers,
            "auth_servers": auth_servers,
            "policy": policy,
            "weights": weights,
            "look_aside": look_aside,
            "lease_s": lease_s,
            "replace": replace,
            "data_dir": data_dir,
            "name": name,
            "password_cost": password_cost,
            "world": world,
            "seed": seed,
            "processes": tuple(processes),
            "commit": commit,
        }
        self._clients: dict[str, LabClient] = {}
        self._world = open_world(
            world,
            name,
            data_dir=data_dir,
            seed=seed,
            choices=choices,
            history=self.history,
            processes=bool(processes),
        )
        self._secret = _lab_secret(Path(data_dir)) if data_dir else self._world.secret_bytes(32)
        self._closed = False
        try:
            self._network = self._world.call(
                Network.boot(
                    self._world,
                    self.history,
                    banks=banks,
                    bank_servers=bank_servers,
                    auth_servers=auth_servers,
                    lease_s=lease_s,
                    weights=_weights(weights or {}, banks, bank_servers),
                    look_aside=look_aside,
                    replacements={
                        "balancer.policy": _policy(policy),
                        **({"coordinator.core": commit} if commit else {}),
                        **(replace or {}),
                    },
                    password_cost=password_cost or self._world.password_cost,
                    secret=self.auth_secret,
                    processes=tuple(processes),
                )
            )
        except BaseException:
            self._world.close()
            raise
        _OPEN[name] = self

    # Users and payments -------------------------------------------------------------------------

    @property
    def banks(self) -> tuple[str, ...]:
        """The banks' names."""
        return tuple(self._arguments["banks"])

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes' names, those that are down included."""
        return tuple(self._network.nodes)

    def client(self, name: str, *, bank: str = "", balance: str | Money = "0.00 EUR") -> LabClient:
        """A user with an account "bank/name", opened with `balance`. Asking again gives the same user."""
        if name in self._clients:
            return self._clients[name]
        if not NAME.fullmatch(name):
            raise LabError("BAD_NAME", f"{name!r} is not a name of lower-case letters, digits and hyphens")
        bank = bank or self.banks[0]
        if bank not in self.banks:
            raise LabError("BAD_NAME", f"there is no bank {bank!r}; there are {', '.join(self.banks)}")
        opening = balance if isinstance(balance, Money) else parse_money(balance)
        account = f"{bank}/{name}"
        self._world.call(self._network.open_accounts(bank, [(name, opening, name)]))
        client = self._world.call(self._user(name, accounts=[account]))
        self._clients[name] = LabClient(self._world, client, account=account)
        return self._clients[name]

    def device(self, user: LabClient, name: str) -> LabClient:
        """The same user on another device, with a connection of its own: alice's "phone" is "alice-phone"."""
        client = self._world.call(self._device(user.name, f"{user.name}-{name}"))
        return LabClient(self._world, client, account=user.account)

    async def _device(self, user: str, node: str) -> PaymentClient:
        return self._user_client(user, node)

    async def _user(
        self, name: str, *, accounts: Sequence[str] = (), roles: Sequence[str] = ()
    ) -> PaymentClient:
        await self._network.register(name, self._password(name), accounts=accounts, roles=roles)
        return self._user_client(name)

    def _user_client(self, name: str, node: str = "") -> PaymentClient:
        host = self._network.client_host(node or name)
        return PaymentClient(host, username=name, password=self._password(name))

    def _password(self, name: str) -> str:
        return hmac.digest(self._secret, name.encode(), "sha256").hex()

    async def runner(self) -> PaymentClient:
        """The user who may pay from any account, as a bank's file channel does."""
        return await self._user(RUNNER, roles=[ORIGINATOR])

    def run(
        self,
        payments: str | Path,
        *,
        accounts: str | Path | None = None,
        opening_balance: str | Money | None = None,
        first: int | None = None,
        concurrency: int = 64,
        progress: bool = True,
    ) -> "RunResult":
        """Send every payment of a CSV file, each with its own key, and say what became of them.

        `accounts` is a CSV file of accounts; without it every payer gets `opening_balance`. Only the `first`
        so many rows are sent if that is given; `concurrency` payments are under way at any time.
        Raises BadInput, with file, row and column, before anything is sent.
        """
        from paylab.lab import workload  # noqa: PLC0415 - workload needs Lab

        return workload.run_file(
            self,
            payments,
            accounts=accounts,
            opening_balance=opening_balance,
            first=first,
            concurrency=concurrency,
            progress=progress,
        )

    # Balancing ----------------------------------------------------------------------------------

    def servers(self) -> ServerTable:
        """What both balancers believe about their servers: load, latency, health, ejections."""
        listed = {
            balancer: self._world.call(self._network.listed(balancer))
            for balancer in ("auth-lb", "bank-lb")
            if self.is_up(balancer)
        }
        return ServerTable(listed, self._arguments["lease_s"])

    def set_policy(self, balancer: str, policy: str | Callable[[], Policy]) -> None:
        """Let "auth-lb" or "bank-lb" pick by another policy from the next call on: a name, or your class.

        Raises LabError for a policy or a balancer that does not exist.
        """
        self._network.set_policy(balancer, _policy(policy))

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

    # Looking ------------------------------------------------------------------------------------

    def balances(self) -> dict[str, Money]:
        """Every customer account's posted balance, by "bank/account", from the ledgers."""
        return checks.balances(self._world, self.banks)

    def check(self) -> checks.Report:
        """Check the invariants, now. The report says what was checked, how much, and what was found."""
        history = None if self._arguments["processes"] else self._checks
        return checks.check(self._world, self.banks, history)

    def settle(self, *, timeout_s: float = 15.0) -> bool:
        """Wait until nothing is in doubt and every outbox is empty; whether that came true in time."""
        return self._world.call(self._settle(timeout_s), timeout_s=timeout_s + 30)

    async def _settle(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while True:
            facts = self._checks.picture.facts
            unsettled = await asyncio.to_thread(checks.unsettled, self._world, self.banks)
            # What was written a moment ago is told a moment later.
            await asyncio.sleep(0.01)
            late = loop.time() >= until_s
            if not unsettled and self._checks.picture.facts == facts:
                self._network.say_quiet()
                return True
            if late:
                return not unsettled
            await asyncio.sleep(0.04)

    @property
    def log(self) -> Logbook:
        """The transaction log: read it, verify it, follow it, save it, reconcile it, tamper with it."""
        return Logbook(self._world, self._network.operator, self.banks)

    def graph(self) -> "nx.DiGraph[str]":
        """The network as a graph: nodes with `role`, `layer`, `up`; an edge per pair with `calls`."""
        from paylab.lab.drawing import graphs  # noqa: PLC0415 - networkx takes long to import

        return graphs.network_graph(self)

    def timeline(self, receipt: Receipt | str, *, limit: int | None = None) -> "Timeline":
        """The space-time diagram of one payment; of its first `limit` events if there are very many."""
        from paylab.lab.drawing import facts, timeline  # noqa: PLC0415 - only for drawing

        payment = receipt.payment if isinstance(receipt, Receipt) else receipt
        events = facts.around_payment(self.history, payment)
        return timeline.timeline(
            events, nodes=self.nodes, badge=self._world.badge, limit=limit or timeline.LIMIT
        )

    def explain(self, receipt: Receipt | str) -> str:
        """A payment's journey in about ten lines of plain English, from its events."""
        from paylab.lab.drawing import facts, stories  # noqa: PLC0415 - only for telling

        payment = receipt.payment if isinstance(receipt, Receipt) else receipt
        return stories.tell(payment, facts.around_payment(self.history, payment))

    @property
    def operator(self) -> Operator:
        """What a person may do about payments in doubt: `in_doubt`, `resolve`, `retry_now`, `resolutions`."""
        return Operator(self._world, self._network.operator)

    def is_up(self, node: str) -> bool:
        """Whether a node runs."""
        return self._network.is_up(node)

    @property
    def badge(self) -> str:
        """What figures say about where they come from."""
        return self._world.badge

    @property
    def auth_secret(self) -> bytes:
        """What the authentication servers know and their store does not contain."""
        return hmac.digest(self._secret, b"\0auth", "sha256")

    @property
    def world(self) -> World:
        """The world that the nodes live in, for tools."""
        return self._world

    @property
    def network(self) -> Network:
        """The nodes, for tools; its methods run on the lab's loop."""
        return self._network

    # Life ---------------------------------------------------------------------------------------

    def submit(self, work: "Coroutine[Any, Any, T]") -> LabFuture[T]:
        """Run a coroutine on the lab's loop; the future can be awaited from any other."""
        return self._world.submit(work)

    def reset(self) -> None:
        """Start over: close this network and boot an empty one with the same arguments, in a fresh folder."""
        arguments = {**self._arguments, "data_dir": None}
        self.close()
        self.__init__(**arguments)  # type: ignore[misc]

    def close(self) -> None:
        """Stop every node. Raises LabError for whatever failed in the background or breaks an invariant."""
        if self._closed:
            return
        self._closed = True
        if _OPEN.get(self.name) is self:
            del _OPEN[self.name]
        try:
            failures = self._world.call(self._network.stop())
            report = self.check()
        finally:
            self.history.close()
            self._world.close()
        problems = [f"{type(failure).__name__}: {failure}" for failure in failures] + report.violations
        if problems:
            raise LabError("BROKEN", "; ".join(problems))

    def __enter__(self) -> Self:
        """Use it in a with block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; an error inside the block is not hidden by one of closing."""
        try:
            self.close()
        except LabError:
            if error is None:
                raise


def open_world(
    world: str,
    name: str,
    *,
    history: History,
    data_dir: str | Path | None = None,
    seed: int = 0,
    choices: Choices | None = None,
    processes: bool = False,
) -> World:
    """An empty world of that kind, whose nodes' events go to `history`. Raises LabError BAD_ARGUMENT."""
    if world == "real":
        folder = Path(data_dir) if data_dir else None
        return RealWorld(name, data_dir=folder, sink=history.add, processes=processes)
    if world != "simulated":
        raise LabError("BAD_ARGUMENT", f"world is real or simulated, not {world!r}")
    if data_dir is not None:
        raise LabError("BAD_ARGUMENT", "a simulated world keeps its files in memory: leave data_dir out")
    return SimWorld(name, seed=seed, sink=history.add, choices=choices)


def open_labs() -> tuple["Lab", ...]:
    """Every lab of this process that is not closed."""
    return tuple(_OPEN.values())


def _check_arguments(banks: Sequence[str], bank_servers: int, auth_servers: int) -> None:
    if isinstance(banks, str) or not banks or len(set(banks)) != len(banks):
        raise LabError("BAD_ARGUMENT", "banks is a list of different names")
    for bank in banks:
        if not NAME.fullmatch(bank):
            raise LabError("BAD_NAME", f"{bank!r} is not a name of lower-case letters, digits and hyphens")
    for what, count in (("bank_servers", bank_servers), ("auth_servers", auth_servers)):
        if not 1 <= count <= SERVERS_MAX:
            raise LabError("BAD_ARGUMENT", f"{what} is 1 to {SERVERS_MAX}, not {count}")


def _weights(weights: Mapping[str, int], banks: Sequence[str], bank_servers: int) -> Mapping[str, int]:
    names = [f"{bank}-{n}" for bank in banks for n in range(1, bank_servers + 1)]
    for name, weight in weights.items():
        if name not in names or weight < 1:
            raise LabError("BAD_ARGUMENT", f"{name!r} with weight {weight} is no bank server with 1 or more")
    return weights


def _policy(policy: str | Callable[[], Policy]) -> Callable[[], Policy]:
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise LabError("BAD_ARGUMENT", f"policy is one of {', '.join(POLICIES)}, not {policy!r}")
        return POLICIES[policy]
    if not callable(policy):
        raise LabError("BAD_ARGUMENT", f"policy is a name or a class with a pick, not {policy!r}")
    return policy


def _lab_secret(folder: Path) -> bytes:
    """The key from which users' passwords are derived, so that a second boot knows them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lab.key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()
