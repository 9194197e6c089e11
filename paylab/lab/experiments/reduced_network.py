"""Gateway, coordinator and two banks on a bare event heap, for experiments with a hundred thousand payments.

The decisions are those of `core/`: keys, attempts, coordinator and participants are the very functions that
the nodes call. Reduced is what stands around them: every message takes the same time, a write takes none,
whatever a bank or the gateway has written is on disk, and a crash loses the coordinator's memory and what is
on its way to whoever crashed. It is a model of the network, not the network.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from paylab.core import idempotency
from paylab.core.decisions import DEFAULT
from paylab.core.effects import Append, CommitRecord, Effect, EndRecord, Reply, SavedRecord, Send, SetTimer
from paylab.core.ledger import Account
from paylab.core.messages import Ack, Answer, Commit, Decide, Outcome, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import State as BankState
from paylab.core.participant import Transaction
from paylab.core.payment import Payment, State
from paylab.lab.experiments.queueing import EventHeap

# Every message takes so long.
TRANSIT_S = 0.01
LIFETIME_S = 20.0
# Whoever has no answer from the coordinator by then asks once more.
ASK_AGAIN_S = 0.5
REDRIVE_S = 2.0
# A bank asks about a promise that is as old as this.
SWEEP_S = 1.0
RICH_MINOR = 10**12
BANKS = {"alpine": "buyer", "boreal": "shop"}
PAYER, PAYEE = "alpine/buyer", "boreal/shop"

Told = Callable[[Payment], None]


@dataclass(slots=True)
class Life:
    """A node's number of lives: what was sent to or started in an earlier one comes to nothing."""

    number: int = 1


@dataclass(slots=True)
class Bank:
    """A ledger, and the rules of a participant over it."""

    name: str
    accounts: dict[str, Account]
    rows: dict[Txn, Transaction] = field(default_factory=dict)
    life: Life = field(default_factory=Life)
    # How often each payment was posted here, and what is set aside for payments that never came to an end.
    posted: Counter[str] = field(default_factory=Counter)
    held: set[str] = field(default_factory=set)


class ReducedNetwork:
    """The network. `network.pay(...)` asks it for a payment; `network.crash(...)` breaks one of its nodes."""

    def __init__(self, heap: EventHeap, *, independent: bool = False) -> None:
        """With `independent` the gateway calls the banks one after the other instead of a coordinator."""
        self.heap = heap
        # Banks out of reach: whatever is sent to them is lost.
        self.down: set[str] = set()
        self.queue: Callable[[Payment], object] = partial(heap.after, REDRIVE_S, self.redrive)
        self.banks = {
            bank: Bank(bank, {name: Account(name, "EUR", RICH_MINOR)}) for bank, name in BANKS.items()
        }
        self.gateway = Gateway(self, IndependentCalls(self) if independent else CommitProtocol(self))
        self.coordinator = CoordinatorNode(self)

    def send(self, life: Life, receive: Callable[..., object], *message: Any) -> None:
        """Deliver a message unless its receiver dies before it comes."""
        self.heap.after(TRANSIT_S, if_alive, life, life.number, receive, message)

    def crash(self, node: str) -> None:
        """Kill a node; it is back at once, with what it had on disk. A bank has everything there."""
        if node == "gateway":
            self.gateway.life.number += 1
            self.gateway.resume()
        elif node == "coordinator":
            self.coordinator.boot()
        else:
            self.banks[node].life.number += 1

    def redrive(self, payment: Payment) -> None:
        """Try a queued payment again."""
        self.gateway.redrive(payment.payment, _nothing)

    def half_payments(self) -> int:
        """Payments that one bank has posted and the other has not."""
        alpine, boreal = (bank.posted for bank in self.banks.values())
        return sum(1 for payment in alpine.keys() | boreal.keys() if alpine[payment] != boreal[payment])

    def orphan_holds(self) -> int:
        """Holds of the payer's money that nobody will take or release."""
        prepared = [
            txn.payment for txn, row in self.banks["alpine"].rows.items() if row.state is BankState.PREPARED
        ]
        return len(self.banks["alpine"].held) + len(prepared)


def _nothing(_payment: Payment) -> None:
    """Nobody waits."""


def if_alive(life: Life, number: int, receive: Callable[..., object], message: tuple[Any, ...]) -> None:
    """Deliver a message to a node, or let its timer fire, if it still lives its life of that number."""
    if life.number == number:
        receive(*message)


# The gateway -------------------------------------------------------------------------------------


class Gateway:
    """Keys and payments, on disk; how the money moves is the business of `mover`."""

    def __init__(self, network: ReducedNetwork, mover: "CommitProtocol | IndependentCalls") -> None:
        """Nothing is claimed."""
        self.network = network
        self.life = Life()
        self.payments: dict[str, Payment] = {}
        self.mover = mover
        self._by_key: dict[tuple[str, str], str] = {}
        # Those whose attempt is open, in order.
        self._open: dict[str, None] = {}
        # Who waits for which payment; lost in a crash.
        self._waiting: dict[str, list[Told]] = {}

    def pay(self, caller: str, key: str, money: Money, told: Told) -> None:
        """Claim the key, or join what is there; `told` hears the payment once no attempt is open."""
        fingerprint = idempotency.fingerprint(payer=PAYER, payee=PAYEE, money=money)
        known = self._by_key.get((caller, key))
        if known is not None:
            payment = idempotency.same_request(self.payments[known], fingerprint)
            if payment.state is not State.PREPARING or not self.mover.resumes:
                told(payment)
            else:
                self._waiting.setdefault(known, []).append(told)
            return
        payment = Payment(f"p{len(self.payments)}", caller, key, fingerprint, PAYER, PAYEE, money)
        payment = DEFAULT.gateway_open_attempt(payment, **self.mover.fresh())
        self._by_key[caller, key] = payment.payment
        self.put(payment)
        self._waiting[payment.payment] = [told]
        self.mover.begin(payment)

    def redrive(self, name: str, told: Told) -> None:
        """Open the next attempt of a queued payment."""
        payment = self.payments[name]
        if payment.state is State.QUEUED:
            payment = DEFAULT.gateway_open_attempt(payment, **self.mover.fresh())
            self.put(payment)
            self.mover.begin(payment)
        if payment.state is State.PREPARING:
            self._waiting.setdefault(name, []).append(told)
        else:
            told(payment)

    def put(self, payment: Payment) -> None:
        """Write a payment's new state, and tell whoever waits for it."""
        self.payments[payment.payment] = payment
        if payment.state is State.PREPARING:
            self._open[payment.payment] = None
        else:
            self._open.pop(payment.payment, None)
            for told in self._waiting.pop(payment.payment, []):
                told(payment)

    def resume(self) -> None:
        """After a crash: nobody waits any more, and what is open is driven on, if that is known how."""
        self._waiting.clear()
        if self.mover.resumes:
            for payment in list(self._open):
                self.mover.begin(self.payments[payment])


class CommitProtocol:
    """Two-phase commit by the coordinator: ask, and ask again, until it says what became of the attempt."""

    resumes = True

    def __init__(self, network: ReducedNetwork) -> None:
        """The coordinator's epoch is not known yet."""
        self._network = network
        self._epoch = 1

    def fresh(self) -> dict[str, Any]:
        """Expiry and epoch of an attempt that is opened now."""
        return {"expires_at_s": self._network.heap.now_s + LIFETIME_S, "epoch": self._epoch}

    def begin(self, payment: Payment) -> None:
        """Drive the open attempt of a payment."""
        network, life = self._network, self._network.gateway.life
        if network.gateway.payments[payment.payment] != payment:
            return
        commit = Commit(payment.txn, payment.legs, payment.expires_at_s, payment.epoch)
        network.send(network.coordinator.life, network.coordinator.commit, commit)
        network.heap.after(ASK_AGAIN_S, if_alive, life, life.number, self.begin, (payment,))

    def answered(self, answer: Answer, epoch: int) -> None:
        """The coordinator has spoken."""
        gateway = self._network.gateway
        self._epoch = max(self._epoch, epoch)
        payment = gateway.payments[answer.txn.payment]
        following = DEFAULT.gateway_conclude(payment, answer, **self.fresh())
        if following == payment:
            return
        gateway.put(following)
        if following.state is State.COMMITTED:
            self._network.send(self._network.coordinator.life, self._network.coordinator.saved, following.txn)
        elif following.state is State.PREPARING:
            self.begin(following)
        elif following.state is State.QUEUED:
            self._network.queue(following)


class IndependentCalls:
    """Hold, credit, capture: three calls in a row, as if nothing could happen between them.

    After a crash the gateway does not know how far it had come, so it leaves such a payment as it is.
    """

    resumes = False

    def __init__(self, network: ReducedNetwork) -> None:
        """The payer's bank is called first and last."""
        self._network = network

    def fresh(self) -> dict[str, Any]:
        """Attempts have no meaning here."""
        return {"expires_at_s": 0.0, "epoch": 0}

    def begin(self, payment: Payment) -> None:
        """Make the first call; each answer makes the next."""
        self._call(payment, iter((self._hold, self._credit, self._capture)))

    def _call(self, payment: Payment, steps: Iterator[Callable[[str], None]]) -> None:
        network, step = self._network, next(steps, None)
        if step is None:
            network.gateway.put(replace(payment, state=State.COMMITTED))
            return
        # The answer is for whoever called: a gateway that has crashed since waits for none.
        life = network.gateway.life
        answer = partial(
            network.heap.after, TRANSIT_S, if_alive, life, life.number, self._call, (payment, steps)
        )
        bank = network.banks["boreal" if step == self._credit else "alpine"]
        network.send(bank.life, _do_and_answer, step, payment.payment, answer)

    def _hold(self, payment: str) -> None:
        self._network.banks["alpine"].held.add(payment)

    def _credit(self, payment: str) -> None:
        self._network.banks["boreal"].posted[payment] += 1

    def _capture(self, payment: str) -> None:
        self._network.banks["alpine"].held.discard(payment)
        self._network.banks["alpine"].posted[payment] += 1


def _do_and_answer(step: Callable[[str], None], payment: str, answer: Callable[[], None]) -> None:
    step(payment)
    answer()


# Coordinator and banks ---------------------------------------------------------------------------


class CoordinatorNode:
    """Performs what the coordinator's core asks for; its log is what a crash leaves."""

    def __init__(self, network: ReducedNetwork) -> None:
        """Boot for the first time."""
        self.life = Life(0)
        self._network = network
        self._log: dict[str, CommitRecord] = {}
        self.boot()

    def boot(self) -> None:
        """Start anew from the log, in the next epoch."""
        self.life.number += 1
        self._core = DEFAULT.coordinator_core(epoch=self.life.number)
        self._perform(self._core.recover(list(self._log.values())))

    def commit(self, request: Commit) -> None:
        """The gateway asks for an attempt, perhaps again."""
        self._perform(self._core.commit(request, now=self._network.heap.now_s))

    def saved(self, txn: Txn) -> None:
        """The gateway has saved the outcome."""
        self._perform(self._core.saved(txn))

    def hear(self, bank: str, word: Vote | Ack | Txn) -> None:
        """A bank votes, acknowledges, or asks what became of a transaction."""
        if isinstance(word, Vote):
            self._perform(self._core.vote(bank, word))
        elif isinstance(word, Ack):
            self._perform(self._core.acknowledge(bank, word))
        else:
            outcome = self._core.decision(word, now=self._network.heap.now_s)
            if outcome is not Outcome.UNDECIDED:
                self._send(bank, Decide(word, commit=outcome is Outcome.COMMITTED))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(CommitRecord() as record):
                    self._log[record.txn.payment] = record
                case Append(SavedRecord(txn)):
                    self._log[txn.payment] = replace(self._log[txn.payment], saved=True)
                case Append(EndRecord(txn)):
                    self._log.pop(txn.payment, None)
                case Send(bank, message):
                    assert isinstance(message, Prepare | Decide), "two banks are never inquired of"
                    self._send(bank, message)
                case Reply(answer):
                    gateway = self._network.gateway
                    assert isinstance(gateway.mover, CommitProtocol)
                    self._network.send(gateway.life, gateway.mover.answered, answer, self.life.number)
                case SetTimer():
                    self._network.heap.after(
                        effect.delay_s, if_alive, self.life, self.life.number, self._fire, (effect,)
                    )

    def _fire(self, timer: SetTimer) -> None:
        self._perform(self._core.timer(timer.kind, timer.txn, timer.tries))

    def _send(self, bank: str, message: Prepare | Decide) -> None:
        if bank in self._network.down:
            return
        node = self._network.banks[bank]
        self._network.send(node.life, receive, self._network, node, message)


def receive(network: ReducedNetwork, bank: Bank, message: Prepare | Decide) -> None:
    """A bank carries a message out and answers."""
    row = bank.rows.get(message.txn)
    answer: Vote | Ack
    if isinstance(message, Prepare):
        answer, change = DEFAULT.bank_prepare(row, bank.accounts, message, vote=DEFAULT.bank_vote)
    else:
        ack, change = DEFAULT.bank_decide(row, bank.accounts, message)
        assert ack.ok, f"{bank.name} was told what contradicts its row: {ack}"
        answer = ack
    bank.accounts.update({account.account: account for account in change.accounts})
    if change.transaction is not None:
        bank.rows[change.transaction.txn] = change.transaction
        bank.posted[message.txn.payment] += bool(change.lines)
        if change.transaction.state is BankState.PREPARED:
            network.heap.after(SWEEP_S, _wonder, network, bank, message.txn)
    network.send(network.coordinator.life, network.coordinator.hear, bank.name, answer)


def _wonder(network: ReducedNetwork, bank: Bank, txn: Txn) -> None:
    """Ask what became of a promise that nobody has taken up."""
    if bank.rows[txn].state is BankState.PREPARED:
        network.send(network.coordinator.life, network.coordinator.hear, bank.name, txn)
        network.heap.after(SWEEP_S, _wonder, network, bank, txn)
