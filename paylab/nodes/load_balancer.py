"""A load balancer: servers register with a lease, every other call is forwarded to one of them as raw bytes.

The server behind sees the balancer's certificate, so the balancer applies the same table of rules to its
own caller and vouches for it in metadata.
"""

from collections.abc import Sequence
from typing import Any

import grpc

from paylab.core.authorization import RULES, Identity, Role
from paylab.core.balancing import Call, Endpoint, Policy
from paylab.errors import PermissionDenied
from paylab.nodes.host import Host
from paylab.nodes.interceptors import BANK_KEY, CALL_KEY, CALLER_KEY, LAMPORT_KEY, current_peer, metadata_of
from paylab.nodes.node import Node
from paylab.pb import load_balancer_pb2 as pb
from paylab.pb import load_balancer_pb2_grpc as pb_grpc

# Metadata that is this hop's own business.
HOP_KEYS = frozenset({CALLER_KEY, LAMPORT_KEY, CALL_KEY, "user-agent"})
# How long a server whose connection failed is left alone before it is tried again.
SUSPECT_S = 1.0


class LoadBalancer(Node, pb_grpc.LoadBalancerServicer):
    """Forwards to servers of one role; `group` is what they serve, None when metadata names the bank."""

    role = Role.BALANCER

    def __init__(self, host: Host, *, serves: Role, group: str | None = None) -> None:
        """Every group gets a policy of its own."""
        super().__init__(host)
        self._serves = serves
        self._group = group
        self._policies: dict[str, Policy] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._proxy = _Proxy(self)

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve LoadBalancer, and forward whatever else arrives."""
        pb_grpc.add_LoadBalancerServicer_to_server(self, server)
        server.add_generic_rpc_handlers((self._proxy,))
        return ["paylab.v1.LoadBalancer"]

    # LoadBalancer -------------------------------------------------------------------------------

    async def Register(self, request: pb.RegisterServerRequest, context: Any) -> pb.RegisterServerResponse:
        """Enter a server. Raises PermissionDenied unless its certificate bears that name and our role."""
        peer = current_peer()
        if peer.role is not self._serves or not self.speaks_for(peer, request.server):
            raise PermissionDenied("ROLE", f"{peer} may not register {request.server} here")
        until_s = self.host.now() + request.lease_s
        self._endpoints[request.server] = Endpoint(request.server, request.group, until_s, request.lease_s)
        return pb.RegisterServerResponse()

    def speaks_for(self, peer: Identity, server: str) -> bool:
        """Whether the holder of a certificate may register this server."""
        return peer.node == server

    async def ReportLoad(self, request: pb.ReportLoadRequest, context: Any) -> pb.ReportLoadResponse:
        """Note a server's load and renew its lease."""
        endpoint = self._endpoints.get(request.server)
        if endpoint is None or current_peer().node != request.server:
            return pb.ReportLoadResponse(known=False)
        endpoint.reported_load = request.in_flight
        endpoint.lease_until_s = self.host.now() + endpoint.lease_s
        return pb.ReportLoadResponse(known=True)

    async def ListServers(self, request: pb.ListServersRequest, context: Any) -> pb.ListServersResponse:
        """Say what is believed about each server."""
        now = self.host.now()
        servers = [
            pb.ServerInfo(
                server=endpoint.server,
                group=endpoint.group,
                reported_load=endpoint.reported_load,
                in_flight=endpoint.in_flight,
                forwarded=endpoint.forwarded,
                eligible=endpoint.eligible(now),
                lease_left_s=endpoint.lease_until_s - now,
            )
            for endpoint in sorted(self._endpoints.values(), key=lambda e: (e.group, e.server))
            if request.group in ("", endpoint.group)
        ]
        return pb.ListServersResponse(servers=servers)

    # Picking ------------------------------------------------------------------------------------

    def group_of(self, metadata: dict[str, str]) -> str:
        """Whose servers a call is for."""
        return self._group if self._group is not None else metadata.get(BANK_KEY, "")

    def pick(self, group: str, *, but: set[str]) -> Endpoint | None:
        """The server for the next call, none of those in `but`; None when there is none."""
        now = self.host.now()
        offered = [
            endpoint
            for _, endpoint in sorted(self._endpoints.items())
            if endpoint.group == group and endpoint.server not in but and endpoint.eligible(now)
        ]
        if not offered:
            return None
        policy = self._policies.get(group)
        if policy is None:
            policy = self._policies[group] = self.host.decisions.balancer_policy()
        return policy.pick(offered, Call(self.host.rng, now))

    def suspect(self, endpoint: Endpoint) -> None:
        """Leave a server alone for a while."""
        endpoint.suspect_until_s = self.host.now() + SUSPECT_S


class _Proxy(grpc.GenericRpcHandler):
    """Forwards every method that nobody else serves; it knows no message."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        self._handlers: dict[str, Any] = {}
        self._calls: dict[tuple[str, str], tuple[grpc.aio.Channel, Any]] = {}

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

            async def stream(request: bytes, context: Any) -> Any:
                endpoint = await self._pick(context, but=set())
                channel = self._balancer.host.channel(endpoint.server)
                open_stream: Any = channel.unary_stream(method)
                call = open_stream(request, metadata=_onward(context))
                async for response in call:
                    yield response

            return grpc.unary_stream_rpc_method_handler(stream)

        async def unary(request: bytes, context: Any) -> bytes:
            return await self._forward(method, request, context)

        return grpc.unary_unary_rpc_method_handler(unary)

    async def _forward(self, method: str, request: bytes, context: Any) -> bytes:
        tried: set[str] = set()
        metadata = _onward(context)
        while True:
            endpoint = await self._pick(context, but=tried)
            tried.add(endpoint.server)
            endpoint.in_flight += 1
            endpoint.forwarded += 1
            call = self._call(endpoint.server, method)(request, metadata=metadata)
            try:
                response: bytes = await call
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._balancer.suspect(endpoint)
                    if RULES[method].repeatable:
                        continue  # it may have been done already, and doing it again is harmless
                await context.abort(error.code(), error.details(), tuple(error.trailing_metadata() or ()))
            else:
                context.set_trailing_metadata(tuple(await call.trailing_metadata()))
                return response
            finally:
                endpoint.in_flight -= 1

    async def _pick(self, context: Any, *, but: set[str]) -> Endpoint:
        group = self._balancer.group_of(metadata_of(context))
        endpoint = self._balancer.pick(group, but=but)
        if endpoint is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"no server of {group!r} is up")
        assert endpoint is not None
        return endpoint

    def _call(self, server: str, method: str) -> Any:
        channel = self._balancer.host.channel(server)
        known = self._calls.get((server, method))
        if known is None or known[0] is not channel:
            known = self._calls[server, method] = (channel, channel.unary_unary(method))
        return known[1]


def _onward(context: Any) -> tuple[tuple[str, Any], ...]:
    """The caller's metadata without this hop's, and our word for who the caller is."""
    kept = ((key, value) for key, value in context.invocation_metadata() or () if key not in HOP_KEYS)
    return (*kept, (CALLER_KEY, str(current_peer())))
