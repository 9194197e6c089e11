"""What can be broken in a world, by the names of nodes; for schedules of faults, in either world."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class CommitPoint(StrEnum):
    """Where in a commit a node dies."""

    BEFORE = "before"  # nothing of the transaction is on disk
    UNANSWERED = "unanswered"  # it is on disk, and the node never learns that it is
    AFTER = "after"  # the node learns it, and dies within two milliseconds


@dataclass(frozen=True, slots=True)
class Troubles:
    """What is wrong with a world at the moment; links are (from, to)."""

    paused: frozenset[str]
    cuts: frozenset[tuple[str, str]]
    # Seconds that a message takes longer, and the share of messages that is lost.
    delays: Mapping[tuple[str, str], float]
    losses: Mapping[tuple[str, str], float]
    # How many times slower a node is.
    slowness: Mapping[str, float]
    # The share of messages that is lost on every link: the larger of requests and replies.
    loss_everywhere: float


class FaultyWorld(Protocol):
    """The faults. Each may be called from any thread and takes effect at once, on what is sent from then on.

    Faults of the network last until `heal`. A node's own last until they are set back, slow and skew through
    a restart, too. A rate is a probability, 0 to 1, and 0 switches a fault off. An unknown name is no error:
    a node of that name may come.
    """

    def lose(self, rate: float, *, requests: bool = True, replies: bool = True) -> None:
        """Lose messages on every link. Whoever waits for one waits until its deadline."""

    def lose_between(self, a: str, b: str, rate: float) -> None:
        """Lose messages between two nodes, either way."""

    def mend(self, a: str, b: str) -> None:
        """End whatever is wrong with the link between two nodes alone, either way."""

    def troubles(self) -> Troubles:
        """What is wrong at the moment."""

    def duplicate(self, rate: float) -> None:
        """Deliver requests twice, each on its own time; the caller gets the answer that comes first."""

    def reorder(self, rate: float, seconds: float) -> None:
        """Hold messages back for up to `seconds`, so that later ones overtake them."""

    def delay(self, a: str, b: str, seconds: float) -> None:
        """Add `seconds` to every message between two nodes, either way."""

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose everything from `a` to `b` and, unless `one_way`, from `b` to `a`."""

    def heal(self) -> None:
        """End every fault of the network. What is lost stays lost."""

    def pause(self, node: str) -> None:
        """Stop a node where it stands, as SIGSTOP does: its clock goes on, its code does not."""

    def resume(self, node: str) -> None:
        """Let a paused node go on: its timers that are due fire, its messages arrive, all at once."""

    def slow(self, node: str, factor: float) -> None:
        """Make a node's messages, either way, and its computing take `factor` times as long; 1 ends it."""

    def skew(self, node: str, seconds: float) -> None:
        """Set a node's clock forward, or back for less than 0; 0 sets it right."""

    def crash_at_commit(
        self, node: str, point: CommitPoint, crash: Callable[[], Coroutine[Any, Any, None]], *, nth: int = 1
    ) -> None:
        """Kill a node at its `nth` commit that writes; `crash` then does the lab's bookkeeping."""
