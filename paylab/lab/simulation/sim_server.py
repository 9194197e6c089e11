"""The simulated server: takes generated servicers; each call runs in a task of its own, as in grpc.aio."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import AbortError, ServerInterceptor

from paylab.lab.simulation.sim_calls import CANCELLED, SimCall
from paylab.lab.simulation.sim_context import ServedCall

if TYPE_CHECKING:  # the host makes its servers, so at run time the import goes the other way
    from paylab.lab.simulation.sim_host import SimHost

UNKNOWN = grpc.StatusCode.UNKNOWN


@dataclass(slots=True)
class CallDetails(grpc.HandlerCallDetails):
    """What an interceptor is told about a call."""

    method: str
    invocation_metadata: Any


class SimServer(grpc.aio.Server):
    """Serves under its host's name while it is started."""

    def __init__(
        self, host: "SimHost", interceptors: Sequence[ServerInterceptor], *, message_bytes_max: int
    ) -> None:
        """Not reachable before `start`."""
        # grpc.aio.Server's own initialiser would open a real server.
        self.host = host
        self.calls: dict[ServedCall, None] = {}
        self.message_bytes_max = message_bytes_max
        self._registered: dict[str, Any] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._stopped = asyncio.Event()
        find: Any = self._find
        for interceptor in reversed(interceptors):
            find = partial(interceptor.intercept_service, find)
        self._pipeline: Callable[[CallDetails], Any] = find

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Ask these, in order, about methods that are not registered."""
        self._generic += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Serve the methods of a service."""
        for name, handler in method_handlers.items():
            self._registered[f"/{service_name}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:  # noqa: ARG002 - grpc's interface
        """There are no ports: nodes find each other by name."""
        return 1

    def add_secure_port(self, address: str, server_credentials: Any) -> int:  # noqa: ARG002 - grpc's interface
        """There are no ports: nodes find each other by name."""
        return 1

    async def start(self) -> None:
        """Be reachable."""
        self.host.world.servers[self.host.identity.node] = self

    async def stop(self, grace: float | None) -> None:
        """Take no calls any more; those under way get `grace` seconds, then they are cancelled."""
        self.leave()
        running = [served.task for served in self.calls if served.task is not None]
        if running and grace:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await asyncio.gather(*running, return_exceptions=True)
        for served in list(self.calls):
            served.refuse(grpc.StatusCode.UNAVAILABLE, "Server is shutting down")
        self._stopped.set()

    def leave(self) -> None:
        """Take no calls any more."""
        if self.host.world.servers.get(self.host.identity.node) is self:
            del self.host.world.servers[self.host.identity.node]

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's interface
        """Wait until it has stopped; whether that took too long."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False

    async def _find(self, details: CallDetails) -> Any:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    # One call -----------------------------------------------------------------------------------

    def accept(self, call: SimCall) -> None:
        """A call has arrived."""
        host = self.host
        served = ServedCall(self, call)
        self.calls[served] = None
        if call.served is None:
            call.served = served
        elif call.deadline_ns is not None:
            served.expire_soon(
                call.deadline_ns - host.world.loop.now_ns
            )  # a duplicate, of which nobody knows
        context = host.daemon_context if call.daemon else host.context
        served.task = host.world.loop.create_task(self._serve(served), context=context.copy())

    async def _serve(self, served: "ServedCall") -> None:
        call = served.call
        try:
            if len(call.message) > self.message_bytes_max:
                size = f"{len(call.message)} vs. {self.message_bytes_max}"
                served.refuse(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({size})"
                )
                return
            handler = await self._pipeline(CallDetails(call.method.name, call.metadata))
            if handler is None:
                served.refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
                return
            await served.handle(handler)
        except AbortError:
            pass  # the status has left
        except asyncio.CancelledError:
            served.refuse(CANCELLED, "RPC cancelled")
            raise
        except Exception as error:  # noqa: BLE001 - as grpc.aio does
            served.refuse(UNKNOWN, f"Unexpected {type(error)}: {error}")
        finally:
            self.calls.pop(served, None)
            if call.served is served:
                call.served = None
