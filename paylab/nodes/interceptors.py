"""What stands around every call at its server: history, deadlines, errors as statuses, who may call what."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from paylab.core.authorization import Identity, needs_token, parse_identity, rule_of
from paylab.core.tokens import Caller
from paylab.errors import PaylabError, PermissionDenied, Unauthenticated
from paylab.nodes import wire
from paylab.nodes.events import CURRENT_CALL, Kind

if TYPE_CHECKING:  # the host makes its interceptors, so at run time the import goes the other way
    from paylab.nodes.host import Host
    from paylab.nodes.token_verifier import TokenVerifier

LAMPORT_KEY = "paylab-lamport"
# A clock of more digits than 64 bits have is none.
CLOCK_DIGITS_MAX = 18
CALL_KEY = "paylab-call"
# Names the bank whose servers a call is for.
BANK_KEY = "paylab-bank"
# Names the account that a call is about, for balancers that send the same to the same server.
ACCOUNT_KEY = "paylab-account"
# Set by a balancer, which vouches for whoever called it.
CALLER_KEY = "paylab-caller"
# Trailing metadata of an answer that was given before.
REPLAYED_KEY = "paylab-replayed"

# When the inbound call that the running code works for must be answered, in loop time.
DEADLINE: ContextVar[float | None] = ContextVar("paylab_deadline", default=None)
# The running call's metadata, read once.
METADATA: ContextVar[dict[str, str]] = ContextVar("paylab_metadata")
# Whose certificate stands behind the running call, and whose token if it carried one.
PEER: ContextVar[Identity | None] = ContextVar("paylab_peer", default=None)
CALLER: ContextVar[Caller | None] = ContextVar("paylab_caller", default=None)

Context = grpc.aio.ServicerContext[Any, Any]


def server_interceptors(host: "Host", verifier: "TokenVerifier") -> list[grpc.aio.ServerInterceptor]:
    """In the order in which a call passes them."""
    return [CallInterceptor(host), AuthorizationInterceptor(host, verifier)]


def peer_identity(context: Context) -> Identity | None:
    """Who the peer's certificate names; None when it names nobody that paylab knows."""
    # Not from `auth_context()`, which copies the whole certificate at every call.
    if context.peer_identity_key() != "x509_subject_alternative_name":
        return None
    for name in context.peer_identities() or ():
        identity = parse_identity(name.decode())
        if identity is not None:
            return identity
    return None


def metadata_of(context: Context) -> dict[str, str]:
    """The call's metadata; of a repeated key the last value."""
    return {key: str(value) for key, value in context.invocation_metadata() or ()}


def clock_of(text: str | bytes) -> int:
    """A Lamport clock as somebody else wrote it; what is none counts as 0."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= CLOCK_DIGITS_MAX else 0


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Runs `around` about every handler, unary or streaming."""

    def __init__(self) -> None:
        """Wrapped handlers are kept: a handler is the same object at every call."""
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def around(
        self, method: str, request: Any, context: Context, answer: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Do something, await `answer()`, do something, return what it returned."""
        raise NotImplementedError

    async def intercept_service(
        self, continuation: Any, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler that would answer this call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, method: str, handler: Any) -> Any:
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._whole(method, handler.unary_unary), *codecs)
        if handler.unary_stream:
            behavior, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        else:
            behavior, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        # A streaming handler either yields its responses or writes them and returns.
        wrap = self._yielding if inspect.isasyncgenfunction(behavior) else self._whole
        return make(wrap(method, behavior), *codecs)

    def _whole(self, method: str, behavior: Any) -> Any:
        async def answer(request: Any, context: Context) -> Any:
            return await self.around(method, request, context, partial(behavior, request, context))

        return answer

    def _yielding(self, method: str, behavior: Any) -> Any:
        async def answer(request: Any, context: Context) -> None:
            async def write_all() -> None:
                responses: AsyncIterator[Any] = behavior(request, context)
                async for response in responses:
                    await context.write(response)

            await self.around(method, request, context, write_all)

        return answer


class CallInterceptor(AroundInterceptor):
    """Records the call, hands its deadline on, and turns a PaylabError into a status with ErrorInfo."""

    def __init__(self, host: "Host") -> None:
        """Record with the host's recorder."""
        super().__init__()
        self._host = host

    async def around(
        self, method: str, request: Any, context: Context, answer: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Record what came in and what went out."""
        recorder, metadata, identity = self._host.recorder, metadata_of(context), peer_identity(context)
        METADATA.set(metadata)
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            DEADLINE.set(asyncio.get_running_loop().time() + remaining_s)
        call = metadata.get(CALL_KEY, "")
        CURRENT_CALL.set(call)
        PEER.set(identity)
        recorder.observe(clock_of(metadata.get(LAMPORT_KEY, "")))
        peer, payments = identity.node if identity else "", wire.payments_of(request)
        recorder.record(Kind.RECEIVED, payments=payments, peer=peer, method=method, call=call, detail=request)
        rule = rule_of(method)
        # Who watches for hours keeps nobody busy.
        load = int(rule is None or not rule.streaming)
        recorder.in_flight += load
        kind: Kind = Kind.REFUSED
        detail: Any = "cancelled"
        try:
            detail = await answer()
            kind, payments = Kind.ANSWERED, wire.payments_of(detail) or payments
            return detail
        except PaylabError as error:
            detail = str(error)
            code, message, trailers = wire.error_to_status(error)
            await context.abort(code, message, (*trailers, (LAMPORT_KEY, str(recorder.lamport + 1))))
        except Exception as error:
            detail = str(error) or type(error).__name__
            # An InternalError means that the caller died before it could be told.
            if not isinstance(error, grpc.aio.AbortError | grpc.aio.InternalError):
                self._host.failures.append(error)
            raise
        finally:
            recorder.in_flight -= load
            recorder.record(kind, payments=payments, peer=peer, method=method, call=call, detail=detail)
            if kind is Kind.ANSWERED:
                trailing = context.trailing_metadata() or ()
                context.set_trailing_metadata((*trailing, (LAMPORT_KEY, str(recorder.lamport))))


class AuthorizationInterceptor(AroundInterceptor):
    """Refuses every call that the table of rules does not allow."""

    def __init__(self, host: "Host", verifier: "TokenVerifier") -> None:
        """Tokens are verified by `verifier`."""
        super().__init__()
        self._host = host
        self._verifier = verifier

    async def around(
        self, method: str, request: Any, context: Context, answer: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Find out who is calling, then ask the table. Raises Unauthenticated or PermissionDenied."""
        decisions, metadata = self._host.decisions, METADATA.get()
        identity = decisions.access_peer(PEER.get(), metadata.get(CALLER_KEY))
        PEER.set(identity)
        rule = decisions.access_rule(method)
        if needs_token(rule, identity):
            scheme, _, token = metadata.get("authorization", "").partition(" ")
            caller = await self._verifier.verify(token) if scheme == "Bearer" and token else None
            CALLER.set(decisions.access_scope(rule, caller))
        return await answer()


def current_caller() -> Caller:
    """The token's caller. Raises Unauthenticated when the call carried no token."""
    caller = CALLER.get()
    if caller is None:
        raise Unauthenticated("TOKEN_INVALID", "a token is needed")
    return caller


def current_peer() -> Identity:
    """The holder of the certificate behind the running call, a balancer's caller seen through it."""
    identity = PEER.get()
    if identity is None:
        raise PermissionDenied("ROLE", "the certificate names nobody that paylab knows")
    return identity
