"""Look-aside balancing: a client watches a balancer's list of servers and picks for itself.

The balancer stays the one who knows the servers, but no call passes through it. Picking, sending again and
waiting for room are the same code (`ServerPool`). While the balancer is away, the last list serves on.
"""

import asyncio
import math
from typing import Any

import grpc

from paylab.core.authorization import RULES
from paylab.core.health import Health
from paylab.errors import PaylabError
from paylab.nodes import wire
from paylab.nodes.host import Host
from paylab.nodes.interceptors import ACCOUNT_KEY, BANK_KEY
from paylab.nodes.server_pool import Errand, NoServer, ServerPool
from paylab.pb import load_balancer_pb2 as pb
from paylab.pb import load_balancer_pb2_grpc as pb_grpc

# A list that nothing has changed is asked for anew after this time.
WATCH_S = 60.0
# The balancer is away: ask again.
RETRY_S = 0.2


class LookAside:
    """Stands where a channel to the balancer would: a stub over it calls the servers themselves."""

    def __init__(self, host: Host, *, balancer: str) -> None:
        """Nothing is known before `watch` has heard from the balancer."""
        self.pool = ServerPool(host)
        self._host = host
        self._balancer = balancer
        self._known = asyncio.Event()

    async def watch(self) -> None:
        """Follow the balancer's list, for ever."""
        while True:
            stub: Any = pb_grpc.LoadBalancerStub(self._host.channel(self._balancer))
            try:
                async for listed in stub.WatchServers(pb.ListServersRequest(), timeout=WATCH_S):
                    self._learn(listed)
            except grpc.aio.AioRpcError:
                await self._host.sleep(RETRY_S)

    def _learn(self, listed: pb.ListServersResponse) -> None:
        for info in listed.servers:
            endpoint = self.pool.endpoints.get(info.server)
            if endpoint is None:
                endpoint = self.pool.enter(info.server, info.group, lease_s=math.inf, weight=info.weight)
            self.pool.renew(endpoint, load=info.reported_load)
            self.pool.say(endpoint, Health.SERVING if info.eligible else Health.NOT_SERVING)
            if not info.eligible and info.lease_left_s <= 0:
                self.pool.give_up(endpoint)
        self._known.set()

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002 - grpc's interface
    ) -> Any:
        """A method of whatever server the metadata names a bank for."""
        codecs, repeatable = (request_serializer, response_deserializer), RULES[method].repeatable

        async def ask(request: Any, *, metadata: Any = (), timeout: float | None = None) -> Any:  # noqa: ASYNC109 - grpc's interface
            about = dict(metadata)
            errand = Errand(
                method,
                about.get(BANK_KEY, ""),
                about.get(ACCOUNT_KEY, ""),
                repeatable,
                lambda server: self._host.channel(server).unary_unary(method, *codecs)(
                    request, metadata=metadata, timeout=timeout
                ),
                timeout,
            )
            try:
                if not self._known.is_set():
                    async with asyncio.timeout(timeout):
                        await self._known.wait()
                response, _ = await self.pool.run(errand)
            except NoServer as nobody:
                raise _failed(grpc.StatusCode.UNAVAILABLE, str(nobody)) from None
            except PaylabError as error:
                raise _failed(*wire.error_to_status(error)) from None
            except TimeoutError:
                raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
            return response

        return ask


def _failed(code: grpc.StatusCode, details: str, trailers: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)
