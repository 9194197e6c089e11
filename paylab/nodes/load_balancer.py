"""A load balancer: servers register with a lease, every other call is forwarded to one of them as raw bytes.

The server behind sees the balancer's certificate, so the balancer applies the same table of rules to its
own caller and vouches for it in metadata.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paylab.core.authorization import RULES, Identity, Role, group_of
from paylab.core.balancing import Endpoint
from paylab.core.health import Health, Limits
from paylab.errors import PermissionDenied
from paylab.nodes.host import Host
from paylab.nodes.interceptors import (
    ACCOUNT_KEY,
    BANK_KEY,
    CALL_KEY,
    CALLER_KEY,
    LAMPORT_KEY,
    METADATA,
    current_peer,
)
from paylab.nodes.node import Node
from paylab.nodes.server_pool import Errand, NoServer, ServerPool
from paylab.pb import load_balancer_pb2 as pb
from paylab.pb import load_balancer_pb2_grpc as pb_grpc

# Metadata that is this hop's own business.
HOP_KEYS = frozenset({CALLER_KEY, LAMPORT_KEY, CALL_KEY, "user-agent"})
# A broken health check is tried again after this part of the server's lease, and a silent one opened anew
# after so many leases, in case what it said got lost.
CHECK_AGAIN_AFTER = 0.1
CHECK_ANEW_AFTER = 10
# Whoever watches the list hears of changes at most so often.
WATCH_EVERY_S = 0.05
HEALTH_TO_PB = {
    Health.SERVING: pb.HEALTH_SERVING,
    Health.NOT_SERVING: pb.HEALTH_NOT_SERVING,
    Health.UNREACHABLE: pb.HEALTH_UNREACHABLE,
}


class LoadBalancer(Node, pb_grpc.LoadBalancerServicer):
    """Forwards to servers of one role; `group` is what they serve, None when metadata names the bank."""

    role = Role.BALANCER

    def __init__(
        self, host: Host, *, serves: Role, group: str | None = None, limits: Limits | None = None
    ) -> None:
        """Every group gets a policy of its own."""
        super().__init__(host)
        self.pool = ServerPool(host, limits=limits)
        self._serves = serves
        self._group = group
        self._checked: set[str] = set()
        # Done, and replaced, when the list of servers has changed.
        self._news: asyncio.Future[None] | None = None
        self.pool.changed = self._tell

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve LoadBalancer, and forward whatever else arrives."""
        pb_grpc.add_LoadBalancerServicer_to_server(self, server)
        server.add_generic_rpc_handlers((_Proxy(self.host, self.pool, group=self._group),))
        return ["paylab.v1.LoadBalancer"]

    # Servers make themselves known ----------------------------------------------------------------

    async def Register(self, request: pb.RegisterServerRequest, context: Any) -> pb.RegisterServerResponse:
        """Enter a server. Raises PermissionDenied unless its certificate bears that name, group and role."""
        peer = current_peer()
        server, group = request.server, request.group
        if peer.role is not self._serves or not self.speaks_for(peer, server) or group_of(server) != group:
            raise PermissionDenied("ROLE", f"{peer} may not register {server} for {group!r} here")
        self._check(self.pool.enter(server, group, lease_s=request.lease_s, weight=request.weight or 1))
        return pb.RegisterServerResponse()

    def speaks_for(self, peer: Identity, server: str) -> bool:
        """Whether the holder of a certificate may register this server."""
        return peer.node == server

    async def ReportLoad(self, request: pb.ReportLoadRequest, context: Any) -> pb.ReportLoadResponse:
        """Note a server's load and renew its lease."""
        endpoint = self.pool.endpoints.get(request.server)
        if endpoint is None or current_peer().node != request.server:
            return pb.ReportLoadResponse(known=False)
        self.pool.renew(endpoint, load=request.in_flight)
        self._check(endpoint)
        return pb.ReportLoadResponse(known=True)

    def _check(self, endpoint: Endpoint) -> None:
        if endpoint.server not in self._checked:
            self._checked.add(endpoint.server)
            self.host.spawn(self._check_health(endpoint), daemon=True)

    async def _check_health(self, endpoint: Endpoint) -> None:
        """Watch a server's health for as long as its lease runs."""
        while endpoint.leased(self.host.now()):
            stub: Any = health_pb2_grpc.HealthStub(self.host.channel(endpoint.server))
            try:
                watch = stub.Watch(
                    health_pb2.HealthCheckRequest(), timeout=CHECK_ANEW_AFTER * endpoint.lease_s
                )
                async for update in watch:
                    serving = update.status == health_pb2.HealthCheckResponse.SERVING
                    self.pool.say(endpoint, Health.SERVING if serving else Health.NOT_SERVING)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    self.pool.say(endpoint, Health.UNREACHABLE)
            await self.host.sleep(CHECK_AGAIN_AFTER * endpoint.lease_s)
        self._checked.discard(endpoint.server)

    # The list -----------------------------------------------------------------------------------

    async def ListServers(self, request: pb.ListServersRequest, context: Any) -> pb.ListServersResponse:
        """Say what is believed about each server."""
        return self._listed(request.group)

    async def WatchServers(
        self, request: pb.ListServersRequest, context: Any
    ) -> AsyncIterator[pb.ListServersResponse]:
        """Say it now, and again whenever something about it has changed."""
        while True:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            news = self._news
            yield self._listed(request.group)
            await asyncio.shield(news)
            await self.host.sleep(WATCH_EVERY_S)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set_result(None)
            self._news = None

    def _listed(self, group: str) -> pb.ListServersResponse:
        chosen = [e for e in self.pool.endpoints.values() if group in ("", e.group)]
        return pb.ListServersResponse(
            servers=[self._info(e) for e in sorted(chosen, key=lambda e: (e.group, e.server))],
            waiting=sum(self.pool.waiting(name) for name in sorted({e.group for e in chosen})),
        )

    def _info(self, endpoint: Endpoint) -> pb.ServerInfo:
        now, outliers = self.host.now(), self.pool.detector(endpoint.group)
        return pb.ServerInfo(
            server=endpoint.server,
            group=endpoint.group,
            reported_load=endpoint.reported_load,
            in_flight=endpoint.in_flight,
            forwarded=endpoint.forwarded,
            eligible=self.pool.eligible(endpoint, now),
            lease_left_s=endpoint.lease_until_s - now,
            weight=endpoint.weight,
            latency_s=endpoint.latency_s,
            health=HEALTH_TO_PB[self.pool.health[endpoint.server]],
            ejections=outliers.ejections(endpoint.server),
            ejected_for_s=outliers.ejected_for_s(endpoint.server, now=now),
        )


class _Proxy(grpc.GenericRpcHandler):
    """Forwards every method that nobody else serves; it knows no message."""

    def __init__(self, host: Host, pool: ServerPool, *, group: str | None) -> None:
        self._host = host
        self._pool = pool
        self._group = group
        self._handlers: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler for a method; the same object at every call."""
        method = handler_call_details.method
        rule = RULES.get(method)
        if rule is None or method.startswith(("/grpc.", "/paylab.v1.LoadBalancer/")):
            return None
        if method not in self._handlers:
            self._handlers[method] = self._handler(method)
        return self._handlers[method]

    def _handler(self, method: str) -> Any:
        if RULES[method].streaming:

            async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
                async for response in self._stream(method, request, context):
                    yield response

            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(partial(self._forward, method))

    async def _forward(self, method: str, request: bytes, context: Any) -> bytes:
        about, metadata = METADATA.get(), _onward(context)
        errand = Errand(
            method,
            self._group_of(about),
            about.get(ACCOUNT_KEY, ""),
            RULES[method].repeatable,
            lambda server: self._method(server, method)(request, metadata=metadata),
        )
        try:
            response, call = await self._pool.run(errand)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details(), tuple(error.trailing_metadata() or ()))
            raise AssertionError from error  # abort has raised
        except NoServer as nobody:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(nobody))
        context.set_trailing_metadata(tuple(await call.trailing_metadata()))
        answer: bytes = response
        return answer

    async def _stream(self, method: str, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Hand a stream on as it comes; whoever has heard its beginning hears no other server's."""
        about = METADATA.get()
        try:
            endpoint = await self._pool.take(self._group_of(about), key=about.get(ACCOUNT_KEY, ""))
            with self._pool.counted(endpoint):
                open_stream: Any = self._host.channel(endpoint.server).unary_stream(method)
                call = open_stream(request, metadata=_onward(context))
                async for response in call:
                    yield response
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details(), tuple(error.trailing_metadata() or ()))
        except NoServer as nobody:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(nobody))
        context.set_trailing_metadata(tuple(await call.trailing_metadata()))

    def _group_of(self, metadata: dict[str, str]) -> str:
        return self._group if self._group is not None else metadata.get(BANK_KEY, "")

    def _method(self, server: str, method: str) -> Any:
        return self._host.channel(server).unary_unary(method)


def _onward(context: Any) -> tuple[tuple[str, Any], ...]:
    """The caller's metadata without this hop's, and our word for who the caller is."""
    kept = ((key, value) for key, value in context.invocation_metadata() or () if key not in HOP_KEYS)
    return (*kept, (CALLER_KEY, str(current_peer())))
