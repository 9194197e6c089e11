"""Gateway, coordinator and two banks in memory: a network whose every message and crash a test chooses.

The protocol cores are the real ones, or what a test puts into their place. Around them stands the least that
a node does: durable rows, a bag of messages that may be lost, doubled, delayed and reordered, and crashes
that leave only what was forced.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from paylab.core import payment as gateway_rules
from paylab.core.decisions import DEFAULT, Decisions
from paylab.core.effects import Append, CommitRecord, Effect, EndRecord, Reply, SavedRecord, Send, SetTimer
from paylab.core.ledger import CLEARING, Account
from paylab.core.messages import Ack, Commit, Decide, Inquire, Outcome, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, State, Transaction
from paylab.core.payment import Payment
from paylab.core.payment import State as PaymentState

ACROSS, INSIDE = ("alpine/alice", "boreal/bob"), ("alpine/alice", "alpine/shop")
OPENING_MINOR = {"alpine": {"alice": 100, "shop": 0}, "boreal": {"bob": 0}}
LIFETIME_S = 15.0


@dataclass
class Disk:
    """A bank's rows."""

    rows: dict[Txn, Transaction] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    lines: tuple[tuple[Txn, str, int], ...] = ()

    def copy(self) -> "Disk":
        return Disk(dict(self.rows), dict(self.accounts), self.lines)


class BankNode:
    """A bank server: the rules over rows, of which a crash keeps what was forced and all before it."""

    def __init__(self, network: "ModelNetwork", name: str) -> None:
        self.network = network
        self.name = name
        self.disk = Disk(accounts={n: Account(n, "EUR", minor) for n, minor in OPENING_MINOR[name].items()})
        self.forced = self.disk.copy()

    def receive(self, message: Prepare | Decide | Inquire) -> None:
        row = self.disk.rows.get(message.txn)
        rules, accounts = self.network.rules, self.disk.accounts
        answer: Vote | Ack
        change: Change
        match message:
            case Prepare():
                for earlier in rules.bank_superseded(list(self.disk.rows.values()), message):
                    self._write(rules.bank_decide(self.disk.rows[earlier.txn], accounts, earlier)[1])
                answer, change = rules.bank_prepare(row, accounts, message, vote=rules.bank_vote)
            case Decide():
                ack, change = rules.bank_decide(row, accounts, message)
                if not ack.ok:
                    self.network.refused.append((self.name, ack))
                answer = ack
            case Inquire():
                answer, change = rules.bank_inquire(row, message)
        self._write(change)
        self.network.post("coordinator", (self.name, answer))

    def _write(self, change: Change) -> None:
        if change.transaction is not None:
            self.disk.rows[change.transaction.txn] = change.transaction
        self.disk.accounts.update({account.account: account for account in change.accounts})
        if change.transaction is not None:
            txn = change.transaction.txn
            self.disk.lines += tuple((txn, line.account, line.money.amount_minor) for line in change.lines)
        if change.forced:
            self.forced = self.disk.copy()

    def crash(self) -> None:
        self.disk = self.forced.copy()

    def ask(self) -> None:
        """Ask about whatever is prepared, as the sweep does."""
        for row in self.disk.rows.values():
            if row.state is State.PREPARED:
                self.network.post("coordinator", (self.name, row.txn))


class CoordinatorNode:
    """Performs effects in order; keeps its epoch and its commit records."""

    def __init__(self, network: "ModelNetwork") -> None:
        self.network = network
        self.epoch = 0
        self.log: dict[str, CommitRecord] = {}
        # Dropped lazily: a crash brings back what is here.
        self.ending: list[str] = []
        self.timers: list[SetTimer] = []
        self.boot()

    def boot(self) -> None:
        self.epoch += 1
        self.core = self.network.rules.coordinator_core(epoch=self.epoch)
        self.timers = []
        self.perform(self.core.recover(list(self.log.values())))

    def crash(self) -> None:
        self.ending = []
        self.boot()

    def receive(self, message: Any, *, survive: int | None = None) -> None:
        """Handle one message; with `survive`, crash after so many effects."""
        match message:
            case Commit():
                effects = self.core.commit(message, now=self.network.now)
            case (bank, Vote() as vote):
                effects = self.core.vote(bank, vote)
            case (bank, Ack() as ack):
                effects = self.core.acknowledge(bank, ack)
            case (bank, Txn() as txn):
                outcome = self.core.decision(txn, now=self.network.now)
                self.network.heard(txn, outcome)
                if outcome is not Outcome.UNDECIDED:
                    self.network.post(bank, Decide(txn, commit=outcome is Outcome.COMMITTED))
                return
            case ("saved", txn, done):
                self.perform(self.core.saved(txn), survive=survive)
                if survive is None:
                    self.network.post("gateway", done)
                return
        self.perform(effects, survive=survive)

    def fire(self, timer: SetTimer) -> None:
        self.perform(self.core.timer(timer.kind, timer.txn, timer.tries))

    def perform(self, effects: list[Effect], *, survive: int | None = None) -> None:  # noqa: C901 - a case an effect
        for effect in effects if survive is None else effects[:survive]:
            if isinstance(effect, Append) and isinstance(effect.record, EndRecord):
                self.network.ended.add(effect.record.txn)
            match effect:
                case Append(CommitRecord() as record):
                    self.log[record.txn.payment] = record
                case Append(SavedRecord(txn)):
                    self.log[txn.payment] = replace(self.log[txn.payment], saved=True)
                case Append(EndRecord(txn), forced=True):
                    del self.log[txn.payment]
                case Append(EndRecord(txn)):
                    self.ending.append(txn.payment)
                case Send(bank, message):
                    self.network.post(bank, message)
                case Reply(answer):
                    decided = answer.txn
                    if answer.outcome is Outcome.COMMITTED:
                        decided = Txn(answer.txn.payment, answer.committed_attempt)
                    self.network.heard(decided, answer.outcome)
                    self.network.post("gateway", (answer, self.epoch))
                case SetTimer():
                    self.timers.append(effect)
        if survive is not None:
            self.crash()

    def write_lazily(self) -> None:
        for payment in self.ending:
            self.log.pop(payment, None)
        self.ending = []


class GatewayNode:
    """Rows of payments by compare-and-set, and an outbox to the coordinator; a crash forgets the epoch."""

    def __init__(self, network: "ModelNetwork", payments: list[Payment]) -> None:
        self.network = network
        self.known_epoch = 0
        self.rows = {each.payment: each for each in payments}
        self.outbox: set[Txn] = set()
        # What drivers believed when they asked; an answer is judged against it, then compared and set.
        self.asked: list[Payment] = []

    def open(self, payment: str) -> None:
        row = self.rows[payment]
        if row.state in (PaymentState.CREATED, PaymentState.QUEUED):
            self._replace(row, self.network.rules.gateway_open_attempt(row, **self._fresh()))

    def ask(self, payment: str) -> None:
        """Drive: ask about the open attempt, perhaps once more."""
        row = self.rows[payment]
        if row.state is PaymentState.PREPARING:
            self.ask_about(row)

    def ask_about(self, row: Payment) -> None:
        self.asked.append(row)
        self.network.post("coordinator", Commit(row.txn, row.legs, row.expires_at_s, row.epoch))

    def receive(self, message: Any) -> None:
        if isinstance(message, Txn):
            self.outbox.discard(message)
            return
        answer, epoch = message
        self.known_epoch = max(self.known_epoch, epoch)
        for believed in [each for each in self.asked if each.payment == answer.txn.payment]:
            following = self.network.rules.gateway_conclude(believed, answer, **self._fresh())
            if following != believed:
                self._replace(believed, following)

    def tell_saved(self) -> None:
        for txn in sorted(self.outbox, key=str):
            self.network.post("coordinator", ("saved", txn, txn))

    def crash(self) -> None:
        self.known_epoch = 0
        self.asked = []

    def _fresh(self) -> Any:
        return {"expires_at_s": self.network.now + LIFETIME_S, "epoch": self.known_epoch}

    def _replace(self, before: Payment, after: Payment) -> None:
        row = self.rows[before.payment]
        if (row.state, row.attempt) != (before.state, before.attempt):
            return
        self.rows[before.payment] = after
        if after.state is PaymentState.COMMITTED:
            self.outbox.add(after.txn)


class ModelNetwork:
    """All of them, the bag of messages between them, and what must hold at every moment."""

    def __init__(self, *payments: tuple[str, str, int], rules: Decisions = DEFAULT) -> None:
        self.now = 0.0
        self.rules = rules
        self.bag: list[tuple[str, Any]] = []
        self.refused: list[tuple[str, Ack]] = []
        self.outcomes: dict[Txn, Outcome] = {}
        # Banks and gateway have said that they know, so the coordinator may forget.
        self.ended: set[Txn] = set()
        self.banks = {name: BankNode(self, name) for name in OPENING_MINOR}
        self.coordinator = CoordinatorNode(self)
        self.gateway = GatewayNode(
            self,
            [
                Payment(f"p{n}", "alice", f"k{n}", "", payer, payee, Money(minor, "EUR"))
                for n, (payer, payee, minor) in enumerate(payments, 1)
            ],
        )

    def post(self, to: str, message: Any) -> None:
        self.bag.append((to, message))

    def deliver(self, index: int, *, keep: bool = False) -> None:
        to, message = self.bag[index] if keep else self.bag.pop(index)
        nodes: dict[str, Any] = {"coordinator": self.coordinator, "gateway": self.gateway, **self.banks}
        nodes[to].receive(message)

    def find(self, kind: type, to: str | None = None) -> int:
        """Where in the bag the first message of this kind is."""

        def of_kind(message: Any) -> bool:
            return isinstance(message, kind) or (
                isinstance(message, tuple) and any(isinstance(part, kind) for part in message)
            )

        return next(n for n, (at, message) in enumerate(self.bag) if of_kind(message) and to in (None, at))

    def heard(self, txn: Txn, outcome: Outcome) -> None:
        """Nobody who still has to learn it is told both COMMITTED and ABORTED of one transaction."""
        if outcome is not Outcome.UNDECIDED and txn not in self.ended:
            assert self.outcomes.setdefault(txn, outcome) is outcome, f"{txn} is called both"

    def act(self, what: int, which: int) -> None:
        """One thing that chance may do."""
        actions = list(self._actions(which))
        actions[what % len(actions)]()
        self.check()

    def _actions(self, which: int) -> Iterator[Callable[[], None]]:
        names = sorted(self.gateway.rows)
        name = names[which % len(names)]
        bank = self.banks[sorted(self.banks)[which % 2]]
        # Only what would do something is offered, and mostly deliveries, or nothing would ever get far.
        if self.bag:
            index = which % len(self.bag)
            to, message = self.bag[index]
            yield from [lambda: self.deliver(index)] * 4
            yield from [lambda: self.deliver(0)] * 3
            yield from [lambda: self.deliver(index, keep=True)] * 2
            yield lambda: _drop(self.bag.pop(index))
            if to == "coordinator":
                yield lambda: self._deliver_and_crash(index, message, which % 3)
        if self.coordinator.timers:
            n = which % len(self.coordinator.timers)
            yield from [lambda: self.coordinator.fire(self.coordinator.timers.pop(n))] * 2
        row = self.gateway.rows[name]
        if row.state in (PaymentState.CREATED, PaymentState.QUEUED):
            yield from [lambda: self.gateway.open(name)] * 2
        if row.state is PaymentState.PREPARING:
            yield from [lambda: self.gateway.ask(name)] * 2
        if self.gateway.asked:
            old = self.gateway.asked[which % len(self.gateway.asked)]
            yield lambda: self.gateway.ask_about(old)
        if self.gateway.outbox:
            yield self.gateway.tell_saved
        if self.coordinator.ending:
            yield self.coordinator.write_lazily
        if any(each.state is State.PREPARED for each in bank.disk.rows.values()):
            yield bank.ask
        yield bank.crash
        yield self.coordinator.crash
        yield self.gateway.crash
        yield lambda: self.wait(which % 20)

    def _deliver_and_crash(self, index: int, message: Any, survive: int) -> None:
        self.bag.pop(index)
        self.coordinator.receive(message, survive=survive)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.coordinator.core.forget(now=self.now)

    def quiet(self) -> None:
        """No more mishaps: everything arrives, timers fire, and the gateway and the banks go on asking."""
        for _ in range(40):
            while self.bag:
                self.deliver(0)
            self.check()
            for bank in self.banks.values():
                bank.ask()
            for name in self.gateway.rows:
                self.gateway.open(name)
                self.gateway.ask(name)
            self.gateway.tell_saved()
            timers, self.coordinator.timers = self.coordinator.timers, []
            for timer in timers:
                self.coordinator.fire(timer)
            self.coordinator.write_lazily()
            self.now += 1.0
            if self._settled():
                break

    def _settled(self) -> bool:
        return (
            not self.coordinator.log
            and not self.gateway.outbox
            and all(row.state in gateway_rules.TERMINAL for row in self.gateway.rows.values())
            and not any(s is State.PREPARED for states in self.states().values() for s in states.values())
        )

    def states(self) -> dict[Txn, dict[str, State]]:
        found: dict[Txn, dict[str, State]] = {}
        for name, bank in self.banks.items():
            for txn, row in bank.disk.rows.items():
                found.setdefault(txn, {})[name] = row.state
        return found

    def check(self) -> None:
        """What holds at every moment."""
        assert not self.refused, "a bank was told what contradicts its row"
        for name, bank in self.banks.items():
            assert all(account.available_minor >= 0 for account in bank.disk.accounts.values())
            sums: Counter[str] = Counter(OPENING_MINOR[name])
            for _, account, minor in bank.disk.lines:
                sums[account] += minor
            assert all(account.posted_minor == sums[n] for n, account in bank.disk.accounts.items())
            assert sum(sums.values()) == sum(OPENING_MINOR[name].values())
        for states in self.states().values():
            assert set(states.values()) != {State.COMMITTED, State.ABORTED}, "one leg and not the other"

    def check_end(self) -> None:
        """What holds when all is quiet."""
        self.check()
        assert self._settled(), "something is in doubt for ever"
        committed: Counter[str] = Counter()
        for txn, states in self.states().items():
            if State.COMMITTED in states.values():
                row = self.gateway.rows[txn.payment]
                assert set(states) == {leg.bank for leg in row.legs}, "both legs or none"
                committed[txn.payment] += 1
        balances = {f"{bank}/{n}": m for bank, opened in OPENING_MINOR.items() for n, m in opened.items()}
        for name, row in self.gateway.rows.items():
            assert committed[name] == (row.state is PaymentState.COMMITTED), f"{name} is {row.state}"
            if row.state is PaymentState.COMMITTED:
                balances[row.payer] -= row.money.amount_minor
                balances[row.payee] += row.money.amount_minor
        for bank, node in self.banks.items():
            for n, account in node.disk.accounts.items():
                assert account.posted_minor == balances[f"{bank}/{n}"]
                assert account.held_minor == 0
        clearing = [m for node in self.banks.values() for _, a, m in node.disk.lines if a == CLEARING]
        assert sum(clearing) == 0


def _drop(_lost: object) -> None:
    """A lost message."""
