"""Natural batching: while one call is in flight, what arrives in the meantime forms the next call.

A quiet node sends batches of one with no delay; a busy one sends few large ones, and pauses between them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# A call of 100 items moves data as fast as the machine can; more only adds latency.
BATCH_ITEMS_MAX = 100
# When others wait as a call comes back, more are about to. A call costs the processor many times what an item
# costs, so a busy sender waits this long before its next one: payments that share the processor gain by it.
PAUSE_S = 0.03
# What no payment waits for leaves a busy sender still more rarely.
UNHURRIED_S = 0.1


class Spawn(Protocol):
    """How the host runs work of the node's own."""

    def __call__(self, work: Coroutine[Any, Any, None], /) -> "asyncio.Task[None]":
        """Start it."""


class Batcher(Generic[Item, Result]):
    """Sends items in batches; each submitter gets its own item's result, or the batch's error."""

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        spawn: Spawn,
        overlap: bool = False,
        pause_s: float = PAUSE_S,
    ) -> None:
        """`send` takes a call's items and returns a result for each; `pause_s` lies between calls when busy.

        One call is under way at a time, or with `overlap` any number: then only what is submitted at the same
        moment goes together.
        """
        self._send = send
        self._spawn = spawn
        self._overlap = overlap
        self._pause_s = pause_s
        self._sending = False
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Send one item with whatever else is waiting; the future raises what its call raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._sending:
            self._sending = True
            self._spawn(self._run())
        return future

    async def _run(self) -> None:
        pause_s = 0.0  # only what is ready at this moment joins
        try:
            while self._waiting:
                await asyncio.sleep(pause_s)
                pause_s = self._pause_s
                batch, self._waiting = self._waiting[:BATCH_ITEMS_MAX], self._waiting[BATCH_ITEMS_MAX:]
                if self._overlap:
                    self._spawn(self._call(batch))
                else:
                    await self._call(batch)
        finally:
            self._sending = False

    async def _call(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._send([item for item, _ in batch])
            assert len(results) == len(batch), "a result for each item"
        except Exception as error:  # noqa: BLE001 - every submitter gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():  # its submitter may have been cancelled
                future.set_result(result)
