"""Natural batches: alone at once, in a crowd together, and no submitter hurts another."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from paylab.nodes.batching import BATCH_ITEMS_MAX, Batcher

TASKS: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return task


class Receiver:
    """Doubles numbers, a call at a time, when the test lets it."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, items: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(items))
        self.started.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [item * 2 for item in items]


def test_what_arrives_during_a_call_forms_the_next() -> None:
    """A quiet node's item leaves by itself; the crowd that gathers meanwhile leaves as one, in order."""

    async def run() -> None:
        receiver = Receiver()
        batcher = Batcher(receiver.send, spawn=spawn)
        first = batcher.submit(0)
        await receiver.started.wait()
        rest = [batcher.submit(n) for n in range(1, 6)]
        assert receiver.calls == [[0]]
        receiver.gate.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
        assert receiver.calls == [[0], [1, 2, 3, 4, 5]]

    asyncio.run(run())


def test_a_busy_sender_pauses_and_a_quiet_one_does_not() -> None:
    """Behind a call during which others came, what comes right after it still joins them."""

    async def run() -> None:
        receiver = Receiver()
        receiver.gate.set()
        batcher = Batcher(receiver.send, spawn=spawn)
        await batcher.submit(0)
        await batcher.submit(1)  # nobody waited as the first came back: it leaves at once
        assert receiver.calls == [[0], [1]]
        receiver.gate.clear()
        receiver.started.clear()
        crowd = [batcher.submit(2)]
        await receiver.started.wait()
        crowd.append(batcher.submit(3))
        receiver.gate.set()
        await crowd[0]
        for _ in range(5):
            await asyncio.sleep(0)
        crowd.append(batcher.submit(4))
        await asyncio.gather(*crowd)
        assert receiver.calls == [[0], [1], [2], [3, 4]]

    asyncio.run(run())


def test_a_busy_sender_pauses_as_long_as_it_is_told() -> None:
    """Between the call during which others came and theirs."""

    async def calls(pause_s: float) -> list[list[int]]:
        receiver = Receiver()
        batcher = Batcher(receiver.send, spawn=spawn, pause_s=pause_s)
        batcher.submit(0)
        await receiver.started.wait()
        batcher.submit(1)
        receiver.gate.set()
        for _ in range(20):
            await asyncio.sleep(0)
        return receiver.calls

    assert asyncio.run(calls(0.0)) == [[0], [1]]
    assert asyncio.run(calls(3600.0)) == [[0]]


def test_overlapping_calls_wait_for_nobody() -> None:
    """What is submitted at one moment goes together, and what comes later does not wait for its answer."""

    async def run() -> None:
        receiver = Receiver()
        batcher = Batcher(receiver.send, spawn=spawn, overlap=True)
        first = [batcher.submit(n) for n in range(2)]
        await receiver.started.wait()
        receiver.started.clear()
        second = batcher.submit(2)
        await receiver.started.wait()
        assert receiver.calls == [[0, 1], [2]]
        receiver.gate.set()
        assert await asyncio.gather(*first, second) == [0, 2, 4]

    asyncio.run(run())


def test_a_batch_has_a_limit() -> None:
    """What does not fit goes into the next call."""

    async def run() -> None:
        receiver = Receiver()
        receiver.gate.set()
        batcher = Batcher(receiver.send, spawn=spawn)
        count = 2 * BATCH_ITEMS_MAX + 1
        results = await asyncio.gather(*(batcher.submit(n) for n in range(count)))
        assert results == [n * 2 for n in range(count)]
        assert [len(call) for call in receiver.calls] == [BATCH_ITEMS_MAX, BATCH_ITEMS_MAX, 1]

    asyncio.run(run())


def test_a_cancelled_waiter_does_not_disturb_the_others() -> None:
    """Its item is sent all the same, and everybody else gets the result."""

    async def run() -> None:
        receiver = Receiver()
        batcher = Batcher(receiver.send, spawn=spawn)
        futures = [batcher.submit(n) for n in range(3)]
        await receiver.started.wait()
        futures[1].cancel()
        receiver.gate.set()
        assert [await futures[0], await futures[2]] == [0, 4]
        assert await batcher.submit(7) == 14

    asyncio.run(run())


def test_a_failing_send_fails_its_own_batch_only() -> None:
    """Every submitter of the batch gets the error; the next batch is sent as if nothing had been."""

    async def run() -> None:
        receiver = Receiver()
        receiver.error = ConnectionError("gone")
        batcher = Batcher(receiver.send, spawn=spawn)
        failing = [batcher.submit(n) for n in range(2)]
        await receiver.started.wait()
        receiver.gate.set()
        results = await asyncio.gather(*failing, return_exceptions=True)
        assert [str(result) for result in results] == ["gone", "gone"]
        receiver.error = None
        assert await batcher.submit(4) == 8

    asyncio.run(run())


def test_results_that_do_not_match_the_items_are_an_error() -> None:
    """A receiver that answers too little confirms nothing."""

    async def run() -> None:
        async def send(_: Sequence[int]) -> Sequence[int]:
            return []

        with pytest.raises(AssertionError, match="a result for each item"):
            await Batcher(send, spawn=spawn).submit(1)

    asyncio.run(run())
