"""A bank server: one of several stateless twins over its bank's ledger database.

The rules are `paylab.core.participant` and `paylab.core.ledger`; here rows are read, the rules applied
and rows written, for a whole batch of transactions in one write transaction.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import grpc
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
    update,
)

from paylab.core import ledger, participant
from paylab.core.authorization import Role
from paylab.core.ledger import Account
from paylab.core.messages import Ack, Decide, Inquire, Leg, Outcome, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, State, Transaction
from paylab.core.tokens import check_account
from paylab.errors import NotFound
from paylab.nodes import wire
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.interceptors import current_caller, current_peer
from paylab.nodes.node import Node, keep_registered
from paylab.pb import bank_pb2 as pb
from paylab.pb import bank_pb2_grpc as pb_grpc
from paylab.pb import coordinator_pb2, coordinator_pb2_grpc

TABLES = MetaData()
ACCOUNTS = Table(
    "accounts",
    TABLES,
    Column("account", String, primary_key=True),
    Column("currency", String, nullable=False),
    Column("posted_minor", BigInteger, nullable=False),
    Column("held_minor", BigInteger, nullable=False),
    Column("owner", String, nullable=False),
    Column("closed", Boolean, nullable=False),
)
TRANSACTIONS = Table(
    "transactions",
    TABLES,
    Column("txn", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("legs", String, nullable=False),  # JSON: [[account, amount_minor, currency], …]
    Column("reason", String, nullable=False),
    Column("since_s", Float, nullable=False),
    Index("transactions_by_state", "state"),
)
POSTINGS = Table(
    "postings",
    TABLES,
    Column("posting", Integer, primary_key=True, autoincrement=True),
    Column("txn", String, nullable=False),
    Column("account", String, nullable=False, index=True),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String, nullable=False),
    Column("at_s", Float, nullable=False),
)
OPENING = "opening"
# A transaction that is prepared for longer than this makes its bank ask for the decision.
IN_DOUBT_AFTER_S = 3.0
SWEEP_EVERY_S = 1.0
SWEEP_MAX = 100

Item = TypeVar("Item", Prepare, Decide, Inquire)
Answer = TypeVar("Answer", Vote, Ack)
Rule = Callable[["_Books[Any, Any]", Item], tuple[Answer, Change]]


class BankServer(Node, pb_grpc.BankServicer):
    """Serves one bank; whatever it knows is in the ledger, so its twin can finish what it began."""

    role = Role.BANK

    def __init__(self, host: Host, *, bank: str, balancer: str = "bank-lb") -> None:
        """Register with `balancer` once running."""
        super().__init__(host)
        self.bank = bank
        self._balancer = balancer
        self._store = host.store(f"bank-{bank}")

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve Bank."""
        pb_grpc.add_BankServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        return ["paylab.v1.Bank"]

    async def boot(self) -> None:
        """Create the tables."""
        await self._store.create_tables(TABLES)

    async def run(self) -> None:
        """Make ourselves known, and ask about whatever is in doubt."""
        self.host.spawn(keep_registered(self.host, balancer=self._balancer, group=self.bank), daemon=True)
        self.host.spawn(self._sweep(), daemon=True)

    # Two-phase commit ---------------------------------------------------------------------------

    async def Prepare(self, request: pb.PrepareRequest, context: Any) -> pb.PrepareResponse:
        """Vote on each transaction; the votes leave after the promises are durable."""
        items = [wire.prepare_from_pb(item) for item in request.items]
        votes = await self._apply(
            items, lambda books, item: participant.prepare(books.rows.get(item.txn), books.accounts, item)
        )
        return pb.PrepareResponse(votes=[wire.vote_to_pb(vote) for vote in votes])

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        """Carry out each decision; the acknowledgements leave after that is durable."""
        acks = await self._decide([wire.decide_from_pb(item) for item in request.items])
        return pb.DecideResponse(acks=[wire.ack_to_pb(ack) for ack in acks])

    async def Inquire(self, request: pb.InquireRequest, context: Any) -> pb.InquireResponse:
        """Say what became of one-phase transactions."""
        items = [Inquire(wire.txn_from_pb(txn)) for txn in request.txns]
        votes = await self._apply(
            items, lambda books, item: participant.inquire(books.rows.get(item.txn), item)
        )
        return pb.InquireResponse(votes=[wire.vote_to_pb(vote) for vote in votes])

    async def _decide(self, items: Sequence[Decide]) -> list[Ack]:
        acks = await self._apply(
            items, lambda books, item: participant.decide(books.rows.get(item.txn), books.accounts, item)
        )
        for ack in acks:
            if not ack.ok:
                self.host.recorder.record(
                    Kind.STATE, payments=(ack.txn.payment,), detail=f"refused a decision: {ack.refusal}"
                )
        return acks

    async def _apply(self, items: Sequence[Item], rule: "Rule[Item, Answer]") -> list[Answer]:
        """Apply a rule to each item in one write transaction, and record what it changed."""
        now = self.host.now()
        answers, changes = await self._store.run(
            lambda connection: _Books[Item, Answer](connection, items).apply(items, rule, now=now)
        )
        for change in changes:
            row = change.transaction
            if row is not None:
                if change.forced:
                    self._store.forced(f"{row.state} {row.txn}", row.txn.payment)
                self.host.recorder.record(
                    Kind.STATE,
                    payments=(row.txn.payment,),
                    detail=f"{row.txn} is {row.state} {row.reason}".rstrip(),
                )
        return answers

    async def _sweep(self) -> None:
        """Ask the coordinator about everything that has been prepared for long, our twins' too."""
        while True:
            await self.host.sleep(SWEEP_EVERY_S)
            before_s = self.host.now() - IN_DOUBT_AFTER_S
            query = (
                select(TRANSACTIONS.c.txn)
                .where((TRANSACTIONS.c.state == State.PREPARED) & (TRANSACTIONS.c.since_s < before_s))
                .order_by(TRANSACTIONS.c.txn)
                .limit(SWEEP_MAX)
            )
            rows = await self._store.run(lambda connection, query=query: connection.execute(query).all())
            txns = [wire.txn_from_text(row.txn) for row in rows]
            if not txns:
                continue
            stub = coordinator_pb2_grpc.CoordinatorStub(self.host.channel("coordinator"))
            question = coordinator_pb2.GetDecisionRequest(txns=[wire.txn_to_pb(txn) for txn in txns])
            try:
                response = await stub.GetDecision(question)
            except grpc.aio.AioRpcError:
                continue  # still in doubt; ask again later
            outcomes = [wire.outcome_from_pb(outcome) for outcome in response.outcomes]
            await self._decide(
                [
                    Decide(txn, commit=outcome is Outcome.COMMITTED)
                    for txn, outcome in zip(txns, outcomes, strict=True)
                    if outcome is not Outcome.UNDECIDED
                ]
            )

    # Accounts -----------------------------------------------------------------------------------

    async def OpenAccounts(self, request: pb.OpenAccountsRequest, context: Any) -> pb.OpenAccountsResponse:
        """Open what is not open yet, each with its opening balance posted against the funding account."""
        now = self.host.now()
        legs = [
            Leg(self.bank, new.account, wire.money_from_pb(new.opening_balance)) for new in request.accounts
        ]
        owners = {new.account: new.owner for new in request.accounts}

        def open_missing(connection: Connection) -> int:
            known = _accounts(connection, [leg.account for leg in legs])
            fresh = {leg.account: leg for leg in legs if leg.account not in known}
            opened = [
                Account(name, leg.money.currency, leg.money.amount_minor, owner=owners[name])
                for name, leg in fresh.items()
            ]
            if opened:
                connection.execute(insert(ACCOUNTS), [_account_row(account) for account in opened])
            lines = [line for leg in fresh.values() for line in ledger.posting([leg], against=ledger.FUNDING)]
            _post(connection, [(OPENING, line) for line in lines if line.money.amount_minor], now=now)
            return len(opened)

        return pb.OpenAccountsResponse(opened=await self._store.run(open_missing))

    async def CloseAccount(self, request: pb.CloseAccountRequest, context: Any) -> pb.Account:
        """Close an account. Raises NotFound."""
        close = update(ACCOUNTS).where(ACCOUNTS.c.account == request.account).values(closed=True)
        await self._store.run(lambda connection: connection.execute(close))
        return wire.account_to_pb(await self._account(request.account))

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.Account:
        """Balances, for the owner or an operator. Raises NotFound, PermissionDenied."""
        self._check_reader(request.account)
        return wire.account_to_pb(await self._account(request.account))

    async def GetStatement(self, request: pb.GetStatementRequest, context: Any) -> pb.GetStatementResponse:
        """Postings, for the owner or an operator. Raises NotFound, PermissionDenied."""
        self._check_reader(request.account)
        await self._account(request.account)
        query = select(POSTINGS).where(POSTINGS.c.account == request.account).order_by(POSTINGS.c.posting)
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        lines = [
            pb.StatementLine(
                posting=row.posting,
                txn=row.txn,
                money=wire.money_to_pb(Money(row.amount_minor, row.currency)),
                at_s=row.at_s,
            )
            for row in rows
        ]
        return pb.GetStatementResponse(lines=lines)

    def _check_reader(self, account: str) -> None:
        if current_peer().role is not Role.OPERATOR:
            check_account(current_caller(), f"{self.bank}/{account}")

    async def _account(self, name: str) -> Account:
        found = await self._store.run(lambda connection: _accounts(connection, [name]))
        if name not in found:
            raise NotFound("NOT_FOUND", f"{self.bank} keeps no account {name!r}")
        return found[name]


class _Books(Generic[Item, Answer]):
    """The rows that a batch is about, read once, changed by the rules, written once."""

    def __init__(self, connection: Connection, items: Sequence[Item]) -> None:
        self._connection = connection
        txns = [str(item.txn) for item in items]
        query = select(TRANSACTIONS).where(TRANSACTIONS.c.txn.in_(txns))
        self.rows: dict[Txn, Transaction] = {
            wire.txn_from_text(row.txn): _transaction(row) for row in connection.execute(query)
        }
        self._known = frozenset(self.rows)
        legs = [leg for row in self.rows.values() for leg in row.legs]
        legs += [leg for item in items if isinstance(item, Prepare) for leg in item.legs]
        self.accounts = _accounts(connection, dict.fromkeys(leg.account for leg in legs))

    def apply(
        self, items: Sequence[Item], rule: "Rule[Item, Answer]", *, now: float
    ) -> tuple[list[Answer], list[Change]]:
        """Apply the rule to each item in turn, each seeing what the ones before it changed."""
        answers: list[Answer] = []
        changes: list[Change] = []
        for item in items:
            answer, change = rule(self, item)
            answers.append(answer)
            changes.append(change)
            if change.transaction is not None:
                self.rows[change.transaction.txn] = change.transaction
            self.accounts.update({account.account: account for account in change.accounts})
        self._write(changes, now=now)
        return answers, changes

    def _write(self, changes: Iterable[Change], *, now: float) -> None:
        touched = dict.fromkeys(change.transaction.txn for change in changes if change.transaction)
        rows = [_transaction_row(self.rows[txn], now=now) for txn in touched]
        fresh = [row for row, txn in zip(rows, touched, strict=True) if txn not in self._known]
        changed = [row for row, txn in zip(rows, touched, strict=True) if txn in self._known]
        if fresh:
            self._connection.execute(insert(TRANSACTIONS), fresh)
        if changed:
            self._connection.execute(
                _UPDATE_TRANSACTION, [{f"_{k}": v for k, v in row.items()} for row in changed]
            )
        accounts = dict.fromkeys(account.account for change in changes for account in change.accounts)
        if accounts:
            balances = [_account_row(self.accounts[name]) for name in accounts]
            self._connection.execute(
                _UPDATE_ACCOUNT, [{f"_{k}": v for k, v in row.items()} for row in balances]
            )
        lines = [
            (str(change.transaction.txn), line)
            for change in changes
            if change.transaction
            for line in change.lines
        ]
        _post(self._connection, lines, now=now)


_UPDATE_TRANSACTION = (
    update(TRANSACTIONS)
    .where(TRANSACTIONS.c.txn == bindparam("_txn"))
    .values(
        state=bindparam("_state"),
        legs=bindparam("_legs"),
        reason=bindparam("_reason"),
        since_s=bindparam("_since_s"),
    )
)
_UPDATE_ACCOUNT = (
    update(ACCOUNTS)
    .where(ACCOUNTS.c.account == bindparam("_account"))
    .values(posted_minor=bindparam("_posted_minor"), held_minor=bindparam("_held_minor"))
)


def _accounts(connection: Connection, names: Iterable[str]) -> dict[str, Account]:
    query = select(ACCOUNTS).where(ACCOUNTS.c.account.in_(list(names)))
    return {row.account: Account(**row._mapping) for row in connection.execute(query)}


def _account_row(account: Account) -> dict[str, Any]:
    return {name: getattr(account, name) for name in ACCOUNTS.c.keys()}


def _transaction(row: Any) -> Transaction:
    legs = tuple(
        Leg("", account, Money(amount, currency)) for account, amount, currency in json.loads(row.legs)
    )
    return Transaction(wire.txn_from_text(row.txn), State(row.state), legs, row.reason)


def _transaction_row(row: Transaction, *, now: float) -> dict[str, Any]:
    legs = [[leg.account, leg.money.amount_minor, leg.money.currency] for leg in row.legs]
    return {
        "txn": str(row.txn),
        "state": row.state.value,
        "legs": json.dumps(legs),
        "reason": row.reason,
        "since_s": now,
    }


def _post(connection: Connection, lines: Iterable[tuple[str, ledger.PostingLine]], *, now: float) -> None:
    rows = [
        {
            "txn": txn,
            "account": line.account,
            "amount_minor": line.money.amount_minor,
            "currency": line.money.currency,
            "at_s": now,
        }
        for txn, line in lines
    ]
    if rows:
        connection.execute(insert(POSTINGS), rows)
