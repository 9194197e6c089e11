"""The client library: logs in, pays, and repeats itself safely.

Whatever is not known to have failed is asked again with the same key, never with a new one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from paylab.core.money import Money
from paylab.core.retries import Again, advice
from paylab.errors import ERROR_OF_REASON, OutcomeUnknown, Overloaded, PaylabError, Unauthenticated
from paylab.nodes import wire
from paylab.nodes.client_outbox import ClientOutbox, Wish
from paylab.nodes.host import Host
from paylab.nodes.interceptors import ACCOUNT_KEY, BANK_KEY, REPLAYED_KEY
from paylab.pb import authentication_pb2, authentication_pb2_grpc, bank_pb2, bank_pb2_grpc
from paylab.pb import payment_gateway_pb2 as pb
from paylab.pb import payment_gateway_pb2_grpc as pb_grpc

T = TypeVar("T")

RETRY_BASE_S = 0.1
RETRY_CAP_S = 2.0
CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a payment. `state` is COMMITTED, DECLINED, QUEUED, CANCELLED or DEAD_LETTER."""

    payment: str
    state: str
    reason: str
    payer: str
    payee: str
    money: Money
    attempts: int
    key: str
    # PAY, AUTHORISE, CAPTURE, VOID or REFUND, and the payment that it follows if it does.
    operation: str = "PAY"
    about: str = ""
    # For an authorisation: when it expires; in a terminal state: until when at least the key is remembered.
    authorised_until_s: float = 0.0
    key_until_s: float = 0.0
    # This answer was given before: it is the same answer.
    replayed: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        """Write it in one line."""
        why = f" ({self.reason})" if self.reason else ""
        what = "" if self.operation == "PAY" else f"{self.operation.lower()} "
        return (
            f"{self.state}{why}: {what}{self.money} from {self.payer} to {self.payee}, payment {self.payment}"
        )


class PaymentClient:
    """One user of the network."""

    def __init__(
        self, host: Host, *, username: str, password: str, gateways: Sequence[str] = ("gateway",)
    ) -> None:
        """Nothing is sent yet. Of several gateways over one store, another is asked when one fails."""
        self.username = username
        self._host = host
        self._gateways = tuple(gateways)
        self._password = password
        self._access_token = ""
        self._refresh_token = ""
        self._expires_at_s = 0.0
        self._renewing = asyncio.Lock()
        self.outbox = ClientOutbox(host, owner=username, pay=self._pay_wish)
        # Shared by every call, so that many that fail together do not make a storm.
        self._limit = host.decisions.client_retry_budget()

    async def login(self) -> None:
        """Exchange the password for tokens. Raises Unauthenticated, OutcomeUnknown."""
        self._keep(await _errors(self._auth().Login(self._credentials())))

    def log_out(self) -> None:
        """Forget the tokens; the next call logs in."""
        self._access_token = self._refresh_token = ""

    async def pay(
        self,
        *,
        payer: str,
        payee: str,
        money: Money,
        key: str = "",
        deadline_s: float = 30.0,
        when_short: str = "decline",
    ) -> Receipt:
        """Pay once, however often it must be asked. A key is drawn when none is given.

        With `when_short="wait"` a payer who has not enough gets QUEUED, and it is tried again now and then.
        Raises OutcomeUnknown when `deadline_s` has passed without an answer: ask again with the same key.
        """
        request = pb.PayRequest(
            idempotency_key=key or self._host.new_id(),
            payer=payer,
            payee=payee,
            money=wire.money_to_pb(money),
            when_short=wire.when_short_to_pb(when_short),
        )
        return await self._ask_for("Pay", request, deadline_s)

    async def authorise(
        self,
        *,
        payer: str,
        payee: str,
        money: Money,
        lifetime_s: float = 0.0,
        key: str = "",
        deadline_s: float = 30.0,
    ) -> Receipt:
        """Set money aside that the payee may capture for `lifetime_s`, 7 days unless given; else as `pay`."""
        request = pb.AuthoriseRequest(
            idempotency_key=key or self._host.new_id(),
            payer=payer,
            payee=payee,
            money=wire.money_to_pb(money),
            lifetime_s=lifetime_s,
        )
        return await self._ask_for("Authorise", request, deadline_s)

    async def capture(
        self, authorisation: str, money: Money | None = None, *, key: str = "", deadline_s: float = 30.0
    ) -> Receipt:
        """Take what was authorised, without `money` all that is left. Raises WrongState; else as `pay`."""
        request = pb.CaptureRequest(**self._follow_up(authorisation, money, key))
        return await self._ask_for("Capture", request, deadline_s)

    async def void(self, authorisation: str, *, key: str = "", deadline_s: float = 30.0) -> Receipt:
        """Give back what is left of an authorisation. Raises WrongState; else as `pay`."""
        request = pb.VoidRequest(**self._follow_up(authorisation, None, key))
        return await self._ask_for("Void", request, deadline_s)

    async def refund(
        self, payment: str, money: Money | None = None, *, key: str = "", deadline_s: float = 30.0
    ) -> Receipt:
        """Pay back what I was paid, without `money` all that is left. Raises WrongState; else as `pay`."""
        request = pb.RefundRequest(**self._follow_up(payment, money, key))
        return await self._ask_for("Refund", request, deadline_s)

    def _follow_up(self, payment: str, money: Money | None, key: str) -> dict[str, Any]:
        fields = {"idempotency_key": key or self._host.new_id(), "payment": payment}
        return fields | ({"money": wire.money_to_pb(money)} if money is not None else {})

    async def _ask_for(self, method: str, request: Any, deadline_s: float) -> Receipt:
        async def ask(call: dict[str, Any]) -> Receipt:
            message, trailing = await self._at_gateway(method, request, call)
            return _receipt(message, replayed=any(name == REPLAYED_KEY for name, _ in trailing))

        return await self._until(deadline_s, ask)

    async def _at_gateway(self, method: str, request: Any, call: dict[str, Any]) -> tuple[Any, Any]:
        """One call; the next one goes to another gateway if this one did not answer."""
        asked = self._gateways[0]
        pending = getattr(self._gateway(), method)(request, **call)
        try:
            return await pending, await pending.trailing_metadata()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            told = isinstance(error, grpc.aio.AioRpcError) and wire.status_to_error(error).reason
            if told not in ERROR_OF_REASON and asked == self._gateways[0]:
                self._gateways = (*self._gateways[1:], asked)
            raise

    async def cancel(self, payment: str, *, deadline_s: float = 10.0) -> Receipt:
        """Take a payment back that is queued or a dead letter. Raises NotFound, WrongState."""
        request = pb.CancelPaymentRequest(payment=payment)
        return await self._ask_for("CancelPayment", request, deadline_s)

    async def pay_later(
        self, *, payer: str, payee: str, money: Money, key: str = "", when_short: str = "decline"
    ) -> str:
        """Write a payment down and return its key at once; it is sent until it is answered.

        That works while the gateway is away, and a client that crashes goes on where it was. Raises KeyReused
        for a key of another payment, Overloaded when too much is waiting already.
        """
        wish = Wish(key or self._host.new_id(), payer, payee, money, when_short)
        await self.outbox.put(wish)
        return wish.key

    async def _pay_wish(self, wish: Wish) -> Receipt:
        return await self.pay(
            payer=wish.payer,
            payee=wish.payee,
            money=wish.money,
            key=wish.key,
            when_short=wish.when_short,
            deadline_s=CALL_TIMEOUT_S,
        )

    async def payment(self, payment: str, *, deadline_s: float = 10.0) -> Receipt:
        """Where a payment stands. Raises NotFound."""
        request = pb.GetPaymentRequest(payment=payment)
        return await self._ask_for("GetPayment", request, deadline_s)

    async def payments(self, *, limit: int = 100, deadline_s: float = 10.0) -> list[Receipt]:
        """My payments, newest first."""
        request = pb.ListPaymentsRequest(limit=limit)
        response, _ = await self._until(
            deadline_s, lambda call: self._at_gateway("ListPayments", request, call)
        )
        return [_receipt(receipt) for receipt in response.receipts]

    async def watch(self, payment: str) -> AsyncIterator[Receipt]:
        """Yield a payment's states until it is terminal or a dead letter."""
        await self._logged_in()
        call = self._gateway().WatchPayment(pb.GetPaymentRequest(payment=payment), metadata=self._metadata())
        async for receipt in call:
            yield _receipt(receipt)

    async def balance(self, account: str, *, deadline_s: float = 10.0) -> Money:
        """What can be spent from an account of mine. Raises NotFound, PermissionDenied."""
        bank, _, name = account.partition("/")
        request = bank_pb2.GetAccountRequest(account=name)
        stub = bank_pb2_grpc.BankStub(self._host.channel("bank-lb"))

        def ask(call: dict[str, Any]) -> Awaitable[bank_pb2.Account]:
            call["metadata"] = (*call["metadata"], (BANK_KEY, bank), (ACCOUNT_KEY, account))
            return stub.GetAccount(request, **call)

        found = await self._until(deadline_s, ask)
        return Money(found.posted.amount_minor - found.held.amount_minor, found.posted.currency)

    # Trying again -------------------------------------------------------------------------------

    async def _until(self, deadline_s: float, ask: Callable[[dict[str, Any]], Awaitable[T]]) -> T:
        """Ask until there is a definite answer; an error is raised, OutcomeUnknown at the deadline."""
        until_s, failures, refreshed = self._host.now() + deadline_s, 0, False
        self._limit.sent()
        while True:
            left_s = until_s - self._host.now()
            try:
                await self._logged_in()
                token = self._access_token
                self._renew_ahead(token)
                call = {"timeout": max(0.0, min(left_s, CALL_TIMEOUT_S)), "metadata": self._metadata()}
                answer = await _errors(ask(call))
            except Unauthenticated as error:
                if refreshed or advice(error).again is not Again.REFRESHED:
                    raise
                refreshed = True
                await self._refresh(token)
            except (Overloaded, OutcomeUnknown) as error:
                self._limit.failed()
                failures = await self._rest(error, failures, until_s=until_s)
            else:
                self._limit.succeeded()
                return answer

    async def _rest(self, error: PaylabError, failures: int, *, until_s: float) -> int:
        """Return, with the count of failures, when the call may be sent again. Raises `error` to give up."""
        while True:
            failures += 1
            backoff_s = self._host.decisions.client_delay(
                failures, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._host.rng
            )
            delay_s = self._host.decisions.client_retry(
                error, backoff_s=backoff_s, left_s=until_s - self._host.now()
            )
            if delay_s is None:
                raise error
            await self._host.sleep(delay_s)
            if self._limit.allows(now=self._host.now()):
                return failures
            # Nothing is sent without leave; the call keeps still for another delay.

    async def _logged_in(self) -> None:
        async with self._renewing:  # of many payments that need a token, one gets it
            if not self._access_token:
                await self.login()

    def _renew_ahead(self, token: str) -> None:
        """Ask for the next token in the background, in good time; the present one serves meanwhile."""
        due = self._host.decisions.client_renew(now=self._host.now(), expires_at_s=self._expires_at_s)
        if due and not self._renewing.locked():
            self._host.spawn(self._try_refresh(token), daemon=True)

    async def _try_refresh(self, token: str) -> None:
        with suppress(OutcomeUnknown, Overloaded, Unauthenticated):
            await self._refresh(token)

    async def _refresh(self, expired: str) -> None:
        async with self._renewing:
            if self._access_token != expired:
                return
            try:
                request = authentication_pb2.RefreshRequest(refresh_token=self._refresh_token)
                self._keep(await _errors(self._auth().Refresh(request)))
            except Unauthenticated:
                await self.login()

    def _keep(self, tokens: authentication_pb2.TokenResponse) -> None:
        self._access_token, self._refresh_token = tokens.access_token, tokens.refresh_token
        self._expires_at_s = self._host.now() + tokens.expires_in_s

    def _credentials(self) -> authentication_pb2.LoginRequest:
        return authentication_pb2.LoginRequest(username=self.username, password=self._password)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._access_token}"),)

    def _auth(self) -> "authentication_pb2_grpc.AuthenticationAsyncStub":
        return authentication_pb2_grpc.AuthenticationStub(self._host.channel("auth-lb"))

    def _gateway(self) -> "pb_grpc.PaymentGatewayAsyncStub":
        return pb_grpc.PaymentGatewayStub(self._host.channel(self._gateways[0]))


async def _errors(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise wire.status_to_error(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us but the call, whose connection went away: it may have happened.
        raise OutcomeUnknown(
            "OUTCOME_UNKNOWN", "the call was cancelled: ask again with the same key"
        ) from None


def _receipt(message: pb.Receipt, *, replayed: bool = False) -> Receipt:
    return Receipt(
        payment=message.payment,
        state=pb.PaymentState.Name(message.state),
        reason=message.reason,
        payer=message.payer,
        payee=message.payee,
        money=wire.money_from_pb(message.money),
        attempts=message.attempts,
        key=message.idempotency_key,
        operation=pb.Operation.Name(message.operation),
        about=message.about,
        authorised_until_s=message.authorised_until_s,
        key_until_s=message.key_until_s,
        replayed=replayed,
    )
