"""Open-loop load: calls start when they are due, whether or not those before have ended.

A closed loop waits for answers and so asks a slow network less ("coordinated omission"); here a call's
latency counts from the moment at which it was due.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from paylab.core.backoff import Rng
from paylab.errors import PaylabError


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: when it was due after the start, how long after that it ended, and with what."""

    due_s: float
    latency_s: float
    result: Any = None
    error: PaylabError | None = None


async def arrivals(
    rate_per_s: Callable[[], float],
    *,
    duration_s: float,
    rng: Rng | None = None,
    stop: asyncio.Event | None = None,
) -> AsyncIterator[float]:
    """Yield when each call is due, in seconds from now, once that moment has come; until `stop` is set.

    At even distances, or with `rng` as a Poisson process. The rate is asked again after every call.
    """
    loop, stop = asyncio.get_running_loop(), stop or asyncio.Event()
    began_s, due_s = loop.time(), 0.0
    while due_s < duration_s and not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, began_s + due_s - loop.time())):
                await stop.wait()
                return
        yield due_s
        due_s += (1.0 if rng is None else -math.log(1.0 - rng.random())) / rate_per_s()


async def open_loop(
    send: Callable[[int], Awaitable[Any]], *, rate_per_s: float, duration_s: float, rng: Rng | None = None
) -> list[Sample]:
    """Call `send(n)` so many times a second, at even distances or with `rng` as a Poisson process.

    Runs on the lab's loop, and waits for the last answer. What is no PaylabError is raised.
    """
    loop = asyncio.get_running_loop()
    began_s, calls = loop.time(), list[asyncio.Task[Sample]]()

    async def call(n: int, due_s: float) -> Sample:
        result, error = None, None
        try:
            result = await send(n)
        except PaylabError as failure:
            error = failure
        return Sample(due_s, loop.time() - began_s - due_s, result, error)

    async with asyncio.TaskGroup() as group:
        async for due_s in arrivals(lambda: rate_per_s, duration_s=duration_s, rng=rng):
            calls.append(group.create_task(call(len(calls), due_s)))
    return [call.result() for call in calls]
