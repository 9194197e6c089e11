"""`Lab` boots a payment network and is the face that notebooks, tests and the command line use."""

import asyncio
import hmac
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from paylab.core.authorization import Identity, Role
from paylab.core.balancing import Policy
from paylab.core.money import Money, parse_money
from paylab.core.tokens import ORIGINATOR
from paylab.errors import LabError
from paylab.lab.arguments import NAME, check_arguments, checked_weights, lab_secret, policy_maker
from paylab.lab.breaking import Breaking
from paylab.lab.checking import checks
from paylab.lab.checking.history import History
from paylab.lab.checking.history_checks import HistoryChecks
from paylab.lab.clients import LabClient, Life
from paylab.lab.durations import seconds
from paylab.lab.logbook import Logbook
from paylab.lab.loop import LabFuture
from paylab.lab.network import Network
from paylab.lab.operator import Operator
from paylab.lab.real_world import World
from paylab.lab.simulation.choices import Choices
from paylab.lab.worlds import open_world
from paylab.nodes.client import PaymentClient, Receipt
from paylab.nodes.node import LEASE_S
from paylab.nodes.passwords import PasswordCost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import networkx as nx

    from paylab.core.coordinator import Coordinator
    from paylab.lab.drawing.timeline import Timeline
    from paylab.lab.drawing.traffic import TrafficGraph
    from paylab.lab.load import Load
    from paylab.lab.panels.ledger_table import LedgerTable
    from paylab.lab.panels.network_panel import NetworkPanel
    from paylab.lab.panels.timeline_panel import TimelinePanel
    from paylab.lab.panels.workload_panel import WorkloadPanel
    from paylab.lab.workload import RunResult

T = TypeVar("T")

OPERATOR = Identity("lab", Role.OPERATOR)
# The user in whose name files of payments are run.
RUNNER = "runner"

_OPEN: dict[str, "Lab"] = {}


class Lab(Breaking):
    """A running payment network.

    `banks` are bank names, each with `bank_servers` servers over one ledger; `policy` chooses how both load
    balancers pick: a name, or a class of yours. A bank server has weight 1 unless `weights` says other.
    Several `gateways` ("gateway", "gateway-2", …) stand over one store; clients turn to another if one fails.
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
        gateways: int = 1,
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
        check_arguments(banks, bank_servers, auth_servers, gateways)
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
            "gateways": gateways,
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
        self._loads: list[Load] = []
        self._world = open_world(
            world,
            name,
            data_dir=data_dir,
            seed=seed,
            choices=choices,
            history=self.history,
            processes=bool(processes),
        )
        self._secret = lab_secret(Path(data_dir)) if data_dir else self._world.secret_bytes(32)
        self._closed = False
        self._panel: NetworkPanel | None = None
        self._workload_panel: WorkloadPanel | None = None
        self._at_close: list[Callable[[], None]] = []
        self._at_check: list[Callable[[checks.Report], None]] = []
        try:
            self._network = self._world.call(
                Network.boot(
                    self._world,
                    self.history,
                    banks=banks,
                    bank_servers=bank_servers,
                    auth_servers=auth_servers,
                    gateways=gateways,
                    lease_s=lease_s,
                    weights=checked_weights(weights or {}, banks, bank_servers),
                    look_aside=look_aside,
                    replacements={
                        "balancer.policy": policy_maker(policy),
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
        self._clients[name] = LabClient(self._world, client, account=account, life=self._life(name, name))
        return self._clients[name]

    def device(self, user: LabClient, name: str) -> LabClient:
        """The same user on another device, with a connection of its own: alice's "phone" is "alice-phone"."""
        node = f"{user.name}-{name}"
        client = self._world.call(self._client_at(node, user.name))
        return LabClient(self._world, client, account=user.account, life=self._life(node, user.name))

    async def _user(
        self, name: str, *, accounts: Sequence[str] = (), roles: Sequence[str] = ()
    ) -> PaymentClient:
        await self._network.register(name, self._password(name), accounts=accounts, roles=roles)
        return await self._client_at(name, name)

    def _life(self, node: str, user: str) -> Life:
        return Life(self._network, node, partial(self._client_at, node, user))

    async def _client_at(self, node: str, user: str) -> PaymentClient:
        host = self._network.client_host(node)
        return PaymentClient(
            host, username=user, password=self._password(user), gateways=self._network.gateways
        )

    def _password(self, user: str) -> str:
        return hmac.digest(self._secret, user.encode(), "sha256").hex()

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

    def load(
        self,
        rate: float,
        duration: float | str = "10 s",
        *,
        concurrency: int = 200,
        deadline_s: float = 5.0,
        arrivals: str = "poisson",
        seed: int = 0,
        **mix: Any,
    ) -> "Load":
        """Start sending `rate` payments a second for `duration`, open loop, and return at once.

        Arrivals are "poisson" or "steady"; at most `concurrency` payments are under way, each with
        its own key and `deadline_s`. `mix` says what is paid: `inside_bank`, `without_funds`, `amounts`,
        `people` (`paylab.lab.load_mix.Mix`). `now()` has the figures so far, `result()` waits for the end.
        """
        from paylab.lab import load as loading  # noqa: PLC0415 - a load needs Lab
        from paylab.lab.load_mix import Mix  # noqa: PLC0415 - as above

        load = loading.Load(
            self,
            rate=rate,
            duration_s=seconds(duration),
            mix=Mix(**mix),
            concurrency=concurrency,
            deadline_s=deadline_s,
            arrivals=arrivals,
            seed=seed,
        )
        self._loads.append(load)
        if self._workload_panel is not None:
            self._workload_panel.follow(load)
        return load

    # Looking ------------------------------------------------------------------------------------

    def balances(self) -> dict[str, Money]:
        """Every customer account's posted balance, by "bank/account", from the ledgers."""
        return checks.balances(self._world, self.banks)

    def check(self) -> checks.Report:
        """Check the invariants, now. The report says what was checked, how much, and what was found."""
        history = None if self._arguments["processes"] else self._checks
        report = checks.check(self._world, self.banks, history)
        for callback in self._at_check:
            callback(report)
        return report

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

    def traffic(self, last: float | str = "1 h", *, paying: bool = False) -> "TrafficGraph":
        """The calls of the last while as a networkx graph: rates, latencies and failures of every edge.

        `paying` leaves only the calls that bring payments to the ledgers (`paylab.lab.drawing.traffic`).
        """
        from paylab.lab.drawing import traffic  # noqa: PLC0415 - networkx takes long to import

        return traffic.traffic_graph(self, last_s=seconds(last), paying=paying)

    def panel(self) -> "NetworkPanel":
        """The live network: watch payments travel, click nodes and edges to break them. One for each lab."""
        from paylab.lab.panels import network_panel  # noqa: PLC0415 - widgets come with the notebook extra

        if self._panel is None:
            self._panel = network_panel.NetworkPanel(self)
        return self._panel

    def workload_panel(self, **settings: Any) -> "WorkloadPanel":
        """Load by hand: rate, mix, policy and faults to set, live charts; `settings` are its first values.

        One for each lab; its `result` is the latest load that has ended.
        """
        from paylab.lab.panels import workload_panel  # noqa: PLC0415 - as above

        if self._workload_panel is None:
            self._workload_panel = workload_panel.WorkloadPanel(self)
        for name, value in settings.items():
            setattr(self._workload_panel, name, value)
        return self._workload_panel

    def ledger_table(self) -> "LedgerTable":
        """Every account with what is posted and held, live: search it, and choose one for its postings."""
        from paylab.lab.panels import ledger_table  # noqa: PLC0415 - as above

        return ledger_table.LedgerTable(self)

    def timeline(self, receipt: Receipt | str, *, limit: int | None = None) -> "Timeline":
        """The space-time diagram of one payment; of its first `limit` events if there are very many."""
        from paylab.lab.drawing import facts, timeline  # noqa: PLC0415 - only for drawing

        payment = receipt.payment if isinstance(receipt, Receipt) else receipt
        events = facts.around_payment(self.history, payment)
        return timeline.timeline(
            events, nodes=self.nodes, badge=self._world.badge, limit=limit or timeline.LIMIT
        )

    def timeline_panel(self, receipt: Receipt | str = "") -> "TimelinePanel":
        """The space-time diagram of everything that memory keeps, to scroll, filter and step through.

        With a `receipt` it begins with that payment alone.
        """
        from paylab.lab.panels import timeline_panel  # noqa: PLC0415 - widgets come with the notebook extra

        payment = receipt.payment if isinstance(receipt, Receipt) else receipt
        return timeline_panel.TimelinePanel(
            self.history,
            nodes=self.nodes,
            badge=self.badge,
            handlers={name: running.node for name, running in self._network.nodes.items()},
            payment=payment,
        )

    def explain(self, receipt: Receipt | str) -> str:
        """A payment's journey in about ten lines of plain English, from its events."""
        from paylab.lab.drawing import facts, stories  # noqa: PLC0415 - only for telling

        payment = receipt.payment if isinstance(receipt, Receipt) else receipt
        return stories.tell(payment, facts.around_payment(self.history, payment))

    @property
    def history_checks(self) -> HistoryChecks:
        """The invariants as the history has them so far, for tools; they change on the lab's loop."""
        return self._checks

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

    def at_close(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the lab closes, after everything has happened; for panels."""
        self._at_close.append(callback)

    def at_check(self, callback: Callable[[checks.Report], None]) -> None:
        """Have `callback` called with every report of `check`, in the thread that asked for it."""
        self._at_check.append(callback)

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
        for load in self._loads:
            load.abandon()
        try:
            failures = self._world.call(self._network.stop())
            report = self.check()
        finally:
            for callback in self._at_close:
                callback()
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


def open_labs() -> tuple["Lab", ...]:
    """Every lab of this process that is not closed."""
    return tuple(_OPEN.values())
