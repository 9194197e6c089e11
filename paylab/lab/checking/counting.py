"""What an atomic commitment costs: messages and forced writes, counted from a history, beside the theory.

    counting.count(lab.history, receipt.payment)      one payment
    counting.table(world="simulated")                 N = 1 … 5 banks, commit and abort, beside the theory

Source of the formulas: C. Mohan, B. Lindsay, R. Obermarck, Transaction Management in the R* Distributed
Database Management System, ACM TODS 11(4), 1986.
"""

import asyncio
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from paylab.core.authorization import Identity, Role
from paylab.core.coordinator import Timing
from paylab.core.messages import Commit, Leg, Outcome, Txn
from paylab.core.money import Money
from paylab.lab.checking import checks
from paylab.lab.checking.history import History, is_gateway
from paylab.lab.network import Network
from paylab.lab.real_world import World
from paylab.lab.worlds import open_world
from paylab.nodes import wire
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.events import Event, Kind
from paylab.nodes.host import Host
from paylab.pb import bank_pb2, coordinator_pb2, coordinator_pb2_grpc

CONVENTION = (
    "Counted are messages between coordinator and banks, in items (a call that carries ten Prepares is ten), "
    "acknowledgements included, hops through balancers not; and the writes that coordinator and banks force. "
    "What gateway and coordinator say to each other comes on top, whatever the protocol. One bank alone "
    "commits or aborts in one phase. Aborts have one no-vote, and are not acknowledged. Others count "
    "otherwise: J. Gray and L. Lamport (Consensus on Transaction Commit, 2006) leave acknowledgements out "
    "and let one bank begin, which makes 3N-1 messages of a commit's 4N."
)
BANKS_MAX = 5
PRICE_MINOR, CURRENCY = 100, "EUR"
OPENING_MINOR = 1_000_000
# On a busy machine a slow answer must not be taken for a lost one.
PATIENCE = Timing(vote_deadline_s=30.0, resend_first_s=20.0, resend_cap_s=20.0)
ATTEMPT_S = 50.0
SETTLE_S = 30.0
# Whatever is still said after everything is settled is heard within this time.
LAST_WORDS_S = 0.2


@dataclass(frozen=True, slots=True)
class Count:
    """How often each kind of message was sent about one payment, and how many writes were forced."""

    prepares: int = 0
    votes: int = 0
    decisions: int = 0
    acknowledgements: int = 0
    # Of banks in doubt, and about one-phase transactions; with their answers.
    questions: int = 0
    forced_writes: int = 0

    @property
    def messages(self) -> int:
        """All of them."""
        return self.prepares + self.votes + self.decisions + self.acknowledgements + self.questions

    def __str__(self) -> str:
        """In one line."""
        return f"{self.messages} messages, {self.forced_writes} forced writes"


def count(history: History, payment: str) -> Count:
    """What a payment cost, all its attempts, from the events that memory keeps of it."""
    totals = dict.fromkeys(Count.__dataclass_fields__, 0)
    for event in history:
        if payment not in event.payments:
            continue
        if event.kind is Kind.FORCED_WRITE:
            totals["forced_writes"] += _is_of_protocol(event, payment)
        elif (found := _ITEMS.get((event.kind, type(event.detail)))) is not None:
            what, payments_of = found
            totals[what] += payments_of(event).count(payment)
    return Count(**totals)


def _is_of_protocol(event: Event, payment: str) -> bool:
    """Whether a forced write is the coordinator's or a bank's: those name the transaction.

    The gateway forces its own rows: they keep keys, not the protocol.
    """
    txn = str(event.detail).rpartition(" ")[2]
    return not is_gateway(event.node) and txn.rpartition("/")[0] == payment


def _payments(name: str) -> Callable[[Event], list[str]]:
    return lambda event: [item.txn.payment for item in getattr(event.detail, name)]


# A request where it is sent, an answer where it is given; a balancer in between sees bytes only.
_ITEMS: dict[tuple[Kind, type], tuple[str, Callable[[Event], list[str]]]] = {
    (Kind.SENT, bank_pb2.PrepareRequest): ("prepares", _payments("items")),
    (Kind.ANSWERED, bank_pb2.PrepareResponse): ("votes", _payments("votes")),
    (Kind.SENT, bank_pb2.DecideRequest): ("decisions", _payments("items")),
    (Kind.ANSWERED, bank_pb2.DecideResponse): ("acknowledgements", _payments("acks")),
    (Kind.SENT, bank_pb2.InquireRequest): ("questions", lambda e: [txn.payment for txn in e.detail.txns]),
    (Kind.ANSWERED, bank_pb2.InquireResponse): ("questions", _payments("votes")),
    (Kind.SENT, coordinator_pb2.GetDecisionRequest): (
        "questions",
        lambda e: [txn.payment for txn in e.detail.txns],
    ),
    # An answer has an outcome for each question and names none; the call's event has their payments.
    (Kind.ANSWERED, coordinator_pb2.GetDecisionResponse): ("questions", lambda e: list(e.payments)),
}


def theory(banks: int, *, commit: bool) -> tuple[int, int]:
    """Messages and forced writes of presumed abort over so many banks; an abort has one no-vote."""
    if banks == 1:
        return 2, 1
    return (4 * banks, 2 * banks + 1) if commit else (3 * banks - 1, banks - 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One payment: what it cost and what it should cost."""

    banks: int
    outcome: str
    counted: Count
    messages: int
    forced_writes: int

    @property
    def ok(self) -> bool:
        """Whether both figures are those of the theory."""
        return (self.counted.messages, self.counted.forced_writes) == (self.messages, self.forced_writes)


@dataclass(frozen=True, slots=True)
class Table:
    """The counted table; in a notebook it draws itself."""

    badge: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every figure is that of the theory."""
        return all(row.ok for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The table as JSON types."""
        rows = [
            asdict(row.counted)
            | {"banks": row.banks, "outcome": row.outcome, "ok": row.ok}
            | {"messages": row.counted.messages, "messages_in_theory": row.messages}
            | {"forced_writes_in_theory": row.forced_writes}
            for row in self.rows
        ]
        return {"ok": self.ok, "world": self.badge, "convention": CONVENTION, "rows": rows}

    def __str__(self) -> str:
        """A line for each payment, then the convention."""
        lines = [f"{'banks':>5}  {'outcome':<9} {'messages':>8} {'theory':>7} {'forced':>7} {'theory':>7}"]
        lines += [
            f"{row.banks:>5}  {row.outcome:<9} {row.counted.messages:>8} {row.messages:>7}"
            f" {row.counted.forced_writes:>7} {row.forced_writes:>7}{'' if row.ok else '  differs'}"
            for row in self.rows
        ]
        return "\n".join([*lines, *textwrap.wrap(f"({self.badge}) {CONVENTION}", 100)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = (
            '<tr><th rowspan="2">banks N</th><th rowspan="2">outcome</th><th colspan="2">messages</th>'
            '<th colspan="2">forced writes</th><th rowspan="2"></th></tr>'
            "<tr><th>counted</th><th>theory</th><th>counted</th><th>theory</th></tr>"
        )
        body = "".join(
            f"<tr><td>{row.banks}</td><td>{row.outcome.lower()}</td><td><b>{row.counted.messages}</b></td>"
            f"<td>{_formula(row)[0]} = {row.messages}</td><td><b>{row.counted.forced_writes}</b></td>"
            f"<td>{_formula(row)[1]} = {row.forced_writes}</td><td>{'✔' if row.ok else '✘ differs'}</td></tr>"
            for row in self.rows
        )
        note = f"<p style='max-width:46em'><small>{escape(self.badge)}. {escape(CONVENTION)}</small></p>"
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{note}"


def _formula(row: Row) -> tuple[str, str]:
    if row.banks == 1:
        return "one phase", "one phase"
    return ("4N", "2N+1") if row.outcome == Outcome.COMMITTED else ("3N-1", "N-1")


# Measuring ------------------------------------------------------------------------------------------


class PatientCoordinator(CoordinatorNode):
    """Waits for answers, so that each message is counted once."""

    def __init__(self, host: Host) -> None:
        """Take nothing for lost."""
        super().__init__(host, timing=PATIENCE)


def table(
    *,
    world: str = "simulated",
    banks: int = BANKS_MAX,
    seed: int = 0,
    replace: Mapping[str, Any] | None = None,
) -> Table:
    """Boot a network, commit and abort over 1 … `banks` banks, and count from its history.

    `replace` fills slots, to see what another protocol costs. Raises LabError.
    """
    history = History(world=world)
    names = [f"bank{n}" for n in range(1, banks + 1)]
    with closing(open_world(world, "counting", seed=seed, history=history)) as opened:
        outcomes = opened.call(_measure(opened, history, names, replace or {}))
        rows = []
        for payment, (among, outcome) in outcomes.items():
            commit = outcome is Outcome.COMMITTED
            rows.append(Row(among, outcome.value, count(history, payment), *theory(among, commit=commit)))
        return Table(opened.badge, tuple(rows))


async def _measure(
    world: World, history: History, banks: Sequence[str], replace: Mapping[str, Any]
) -> dict[str, tuple[int, Outcome]]:
    """Carry every payment out, alone; return by payment over how many banks it went, and how it ended."""
    network = await Network.boot(
        world,
        history,
        banks=banks,
        bank_servers=1,
        auth_servers=1,
        lease_s=3.0,
        replacements={"node.coordinator": PatientCoordinator, **replace},
        password_cost=world.password_cost,
        secret=world.secret_bytes(32),
    )
    gateway = world.host(Identity("counter", Role.GATEWAY))
    try:
        for bank in banks:
            accounts = [("payer", Money(OPENING_MINOR, CURRENCY), ""), ("payee", Money(0, CURRENCY), "")]
            await network.open_accounts(bank, accounts)
        outcomes: dict[str, tuple[int, Outcome]] = {}
        for among in range(1, len(banks) + 1):
            for payee in ("payee", "nobody"):
                payment = f"{among}-{payee}"
                outcomes[payment] = among, await _pay(gateway, payment, banks[:among], payee)
                await _settle(world, banks)
        return outcomes
    finally:
        await world.stop(gateway)
        await network.stop()


async def _pay(gateway: Host, payment: str, banks: Sequence[str], payee: str) -> Outcome:
    """Ask the coordinator, as a gateway does, to pay the other banks from the first."""
    payees = [*((bank, "payee") for bank in banks[1:-1]), (banks[-1], payee)]
    legs = (
        Leg(banks[0], "payer", Money(-PRICE_MINOR * len(payees), CURRENCY)),
        *(Leg(bank, account, Money(PRICE_MINOR, CURRENCY)) for bank, account in payees),
    )
    coordinator = coordinator_pb2_grpc.CoordinatorStub(gateway.channel("coordinator"))
    epoch = (await coordinator.GetEpoch(coordinator_pb2.GetEpochRequest())).epoch
    commit = Commit(Txn(payment, 1), legs, gateway.now() + ATTEMPT_S, epoch)
    request = coordinator_pb2.CommitRequest(items=[wire.commit_to_pb(commit)])
    response = await coordinator.Commit(request, timeout=ATTEMPT_S)
    answer = wire.answer_from_pb(response.answers[0])
    if answer.outcome is Outcome.COMMITTED:
        saved = coordinator_pb2.AcknowledgeRequest(txns=[wire.txn_to_pb(commit.txn)])
        await coordinator.Acknowledge(saved)
    return answer.outcome


async def _settle(world: World, banks: Sequence[str]) -> None:
    """Wait until every bank has heard and every commit is acknowledged; a broken protocol may never be."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while await asyncio.to_thread(checks.unsettled, world, banks):  # noqa: ASYNC110 - disks tell nobody
                await asyncio.sleep(0.01)
    await asyncio.sleep(LAST_WORDS_S)
