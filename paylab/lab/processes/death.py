"""A process that kills itself at one of its forced writes: right before it is durable, or right after.

This is process death, as by SIGKILL: what the process had in memory is gone, what it had handed to the
operating system is not. It is not a loss of power, which would put the disk's own caches to the test.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from paylab.errors import LabError
from paylab.nodes.events import Kind, Recorder
from paylab.nodes.host import GrpcHost
from paylab.nodes.store import Store

T = TypeVar("T")

POINTS = ("before", "after")
# What is recorded about a transaction before it is durable goes here instead of into the history.
_REHEARSED: ContextVar[list[str] | None] = ContextVar("paylab_rehearsed", default=None)


@dataclass(frozen=True, slots=True)
class Death:
    """Die right `point` ("before", "after") the `nth` write that is recorded as `write`.

    `write` is the first word that the history has for it: EPOCH, COMMIT or SAVED of a coordinator, PREPARED,
    COMMITTED or ABORTED of a bank server.
    """

    point: str
    write: str
    nth: int = 1

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> "Death":
        """Read what `to_json` wrote. Raises LabError BAD_CONFIG."""
        known = isinstance(content, Mapping) and set(content) <= {"point", "write", "nth"}
        if not known or content.get("point") not in POINTS or not isinstance(content.get("write"), str):
            raise LabError("BAD_CONFIG", f"a death is {POINTS}, a write and its number, not {content!r}")
        return cls(**content)


class RehearsingRecorder(Recorder):
    """Can be told something without recording it, to learn what would be recorded."""

    def record(self, kind: Kind, *, detail: Any = "", **about: Any) -> None:
        """Record one event, or only note its text during a rehearsal."""
        heard = _REHEARSED.get()
        if heard is None:
            super().record(kind, detail=detail, **about)
        elif kind is Kind.FORCED_WRITE:
            heard.append(str(detail))


class MortalStore(Store):
    """A node's disk at which the node's process kills itself."""

    def __init__(self, *args: Any, host: "MortalHost", **kwargs: Any) -> None:
        """`host` counts the writes."""
        super().__init__(*args, **kwargs)
        self._host = host

    async def run(
        self, transaction: Callable[[Connection], T], *, told: Callable[[T], None] | None = None
    ) -> T:
        """Run a transaction and return its result once that is durable, unless it is the one to die of."""
        due = False

        def watched(connection: Connection) -> T:
            nonlocal due
            result = transaction(connection)
            due = self._host.is_due(_rehearse(told, result))
            if due and self._host.death.point == "before":
                die()
            return result

        def durable(result: T) -> None:
            if due:
                die()
            if told is not None:
                told(result)

        return await super().run(watched, told=durable)


class MortalHost(GrpcHost):
    """A real host that ends its own process at one forced write."""

    def __init__(self, *args: Any, death: Death, **kwargs: Any) -> None:
        """Must be made on the event loop that will own every aio object of this host."""
        super().__init__(*args, **kwargs)
        self.death = death
        self._left = death.nth
        self.recorder = RehearsingRecorder(self.identity.node, self.now, kwargs["sink"])

    def store(self, name: str) -> Store:
        """A handle on a database of this process."""
        database = self._databases.open(name)
        store = MortalStore(database, host=self, run_blocking=self.run_blocking, recorder=self.recorder)
        self._stores.append(store)
        return store

    def is_due(self, writes: list[str]) -> bool:
        """Count the forced writes of a transaction that is about to be durable; whether to die of one."""
        for write in writes:
            self._left -= write.partition(" ")[0] == self.death.write
            if self._left == 0:
                return True
        return False


def _rehearse(told: Callable[[T], None] | None, result: T) -> list[str]:
    """The forced writes that would be recorded if this result were durable; `told` only records."""
    heard: list[str] = []
    token = _REHEARSED.set(heard)
    try:
        if told is not None:
            told(result)
    finally:
        _REHEARSED.reset(token)
    return heard


def die() -> None:
    """End this process at once; nothing of it runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # until the signal is here, for this thread must do nothing more
