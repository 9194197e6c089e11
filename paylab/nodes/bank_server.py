"""A bank server: one of several stateless twins over its bank's ledger database.

The rules are `paylab.core.participant` and `paylab.core.ledger`; here rows are read, the rules applied
and rows written, for a whole batch of transactions in one write transaction.
"""

from collections.abc import Sequence
from typing import Any

import grpc

from paylab.core import messages
from paylab.core.authorization import Role
from paylab.core.ledger import Account
from paylab.core.participant import Change
from paylab.errors import InvalidRequest, NotFound
from paylab.nodes import wire
from paylab.nodes.bank_store import Answer, BankStore, Books, Item, Rule
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.interceptors import current_caller, current_peer
from paylab.nodes.node import LEASE_S, Node, keep_registered
from paylab.pb import bank_pb2 as pb
from paylab.pb import bank_pb2_grpc as pb_grpc
from paylab.pb import coordinator_pb2, coordinator_pb2_grpc

# A transaction that is prepared for longer than this makes its bank ask for the decision.
IN_DOUBT_AFTER_S = 3.0
SWEEP_MAX = 100


class BankServer(Node, pb_grpc.BankServicer):
    """Serves one bank; whatever it knows is in the ledger, so its twin can finish what it began."""

    role = Role.BANK

    def __init__(
        self,
        host: Host,
        *,
        bank: str,
        balancer: str = "bank-lb",
        lease_s: float = LEASE_S,
        weight: int = 1,
    ) -> None:
        """Register with `balancer` once running, to be given `weight` shares of the calls."""
        super().__init__(host)
        self.bank = bank
        self._balancer = balancer
        self._lease_s = lease_s
        self._weight = weight
        self._books = BankStore(host, bank)

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve Bank."""
        pb_grpc.add_BankServicer_to_server(self, server)
        return ["paylab.v1.Bank"]

    async def boot(self) -> None:
        """Create the tables."""
        await self._books.create_tables()

    async def run(self) -> None:
        """Make ourselves known, and ask about whatever is in doubt."""
        self.host.spawn(
            keep_registered(
                self.host,
                balancer=self._balancer,
                lease_s=self._lease_s,
                group=self.bank,
                weight=self._weight,
            ),
            daemon=True,
        )
        self.host.spawn(self._sweep(), daemon=True)

    # Two-phase commit ---------------------------------------------------------------------------

    async def Prepare(self, request: pb.PrepareRequest, context: Any) -> pb.PrepareResponse:
        """Vote on each transaction; the votes leave after the promises are durable."""
        items = [wire.prepare_from_pb(item) for item in request.items]
        votes = await self._apply(items, self._vote)
        return pb.PrepareResponse(votes=[wire.vote_to_pb(vote) for vote in votes])

    def _vote(self, books: "Books[Any, Any]", item: messages.Prepare) -> tuple[messages.Vote, Change]:
        rules = self.host.decisions
        for earlier in rules.bank_superseded(tuple(books.rows.values()), item):
            _, change = rules.bank_decide(books.rows[earlier.txn], books.accounts, earlier)
            books.take(change)
        voted: tuple[messages.Vote, Change] = rules.bank_prepare(
            books.rows.get(item.txn), books.accounts, item, vote=rules.bank_vote
        )
        return voted

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        """Carry out each decision; the acknowledgements leave after that is durable."""
        items = [wire.decide_from_pb(item) for item in request.items]
        acks = await self._decide(items)
        # Presumed abort: nobody waits for the acknowledgement of an abort, so there is none.
        told = [ack for item, ack in zip(items, acks, strict=True) if item.commit or not ack.ok]
        return pb.DecideResponse(acks=[wire.ack_to_pb(ack) for ack in told])

    async def Inquire(self, request: pb.InquireRequest, context: Any) -> pb.InquireResponse:
        """Say what became of one-phase transactions."""
        items = [messages.Inquire(wire.txn_from_pb(txn)) for txn in request.txns]
        votes = await self._apply(
            items, lambda books, item: self.host.decisions.bank_inquire(books.rows.get(item.txn), item)
        )
        return pb.InquireResponse(votes=[wire.vote_to_pb(vote) for vote in votes])

    async def _decide(self, items: Sequence[messages.Decide]) -> list[messages.Ack]:
        acks = await self._apply(
            items,
            lambda books, item: self.host.decisions.bank_decide(
                books.rows.get(item.txn), books.accounts, item
            ),
        )
        for ack in acks:
            if not ack.ok:
                self.host.recorder.record(
                    Kind.STATE,
                    payments=(ack.txn.payment,),
                    detail=f"refused a decision: {ack.refusal}",
                    facts={"at": "refusal", "bank": self.bank, "txn": str(ack.txn), "refusal": ack.refusal},
                )
        return acks

    async def _apply(self, items: Sequence[Item], rule: "Rule[Item, Answer]") -> list[Answer]:
        return await self._books.apply(items, rule, now=self.host.now())

    async def _sweep(self) -> None:
        """Let go of what has expired, and ask the coordinator about what has been prepared for long.

        Both for our twins, too, and once a lease: a twin that died is missed no sooner.
        """
        while True:
            await self.host.sleep(self._lease_s)
            now = self.host.now()
            txns = await self._books.sweep(now=now, before_s=now - IN_DOUBT_AFTER_S, limit=SWEEP_MAX)
            if not txns:
                continue
            stub = coordinator_pb2_grpc.CoordinatorStub(self.host.channel("coordinator"))
            question = coordinator_pb2.GetDecisionRequest(txns=[wire.txn_to_pb(txn) for txn in txns])
            outcomes: list[messages.Outcome | None] = [None] * len(txns)
            try:
                response = await stub.GetDecision(question)
                outcomes = [wire.outcome_from_pb(outcome) for outcome in response.outcomes]
            except grpc.aio.AioRpcError:
                pass  # nobody answered
            commits = [self.host.decisions.bank_in_doubt(outcome) for outcome in outcomes]
            await self._decide(
                [
                    messages.Decide(txn, commit=commit)
                    for txn, commit in zip(txns, commits, strict=True)
                    if commit is not None
                ]
            )

    # Accounts -----------------------------------------------------------------------------------

    async def OpenAccounts(self, request: pb.OpenAccountsRequest, context: Any) -> pb.OpenAccountsResponse:
        """Open what is not open yet, balances posted against the funding account. Raises InvalidRequest."""
        opening = [
            Account(new.account, money.currency, money.amount_minor, owner=new.owner)
            for new in request.accounts
            for money in [wire.money_from_pb(new.opening_balance)]
        ]
        for account in opening:
            if not account.account or set("@/") & set(account.account):
                raise InvalidRequest("BAD_ACCOUNT", f"{account.account!r} is no name for an account")
            if account.posted_minor < 0:
                raise InvalidRequest("INVALID_AMOUNT", f"{account.account} cannot open below zero")
        return pb.OpenAccountsResponse(opened=await self._books.open_accounts(opening, now=self.host.now()))

    async def CloseAccount(self, request: pb.CloseAccountRequest, context: Any) -> pb.Account:
        """Close an account. Raises NotFound."""
        await self._books.close_account(request.account)
        return wire.account_to_pb(await self._account(request.account))

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.Account:
        """Balances, for the owner or an operator. Raises NotFound, PermissionDenied."""
        self._check_reader(request.account)
        return wire.account_to_pb(await self._account(request.account))

    async def GetStatement(self, request: pb.GetStatementRequest, context: Any) -> pb.GetStatementResponse:
        """Postings, for the owner or an operator. Raises NotFound, PermissionDenied."""
        self._check_reader(request.account)
        await self._account(request.account)
        rows = await self._books.statement(request.account)
        lines = [
            pb.StatementLine(
                posting=row.posting, txn=row.txn, money=wire.money_to_pb(row.money), at_s=row.at_s
            )
            for row in rows
        ]
        return pb.GetStatementResponse(lines=lines)

    def _check_reader(self, account: str) -> None:
        if current_peer().role is not Role.OPERATOR:
            self.host.decisions.access_account(current_caller(), f"{self.bank}/{account}")

    async def _account(self, name: str) -> Account:
        found = await self._books.account(name)
        if found is None:
            raise NotFound("NOT_FOUND", f"{self.bank} keeps no account {name!r}")
        return found
