"""What actors of the model say to each other and what comes of one input: the words of the explorer."""

from dataclasses import dataclass
from typing import Any

from paylab.core.messages import Ack, Answer, Commit, Decide, Inquire, Outcome, Prepare, Txn, Vote
from paylab.nodes.events import Kind

GATEWAY, COORDINATOR = "gateway", "coordinator"


@dataclass(frozen=True, slots=True)
class Answered:
    """Coordinator to gateway: its answer, with the epoch that every response carries."""

    answer: Answer
    epoch: int

    @property
    def txn(self) -> Txn:
        """Which attempt it is about."""
        return self.answer.txn


@dataclass(frozen=True, slots=True)
class Open:
    """A call of the gateway that the coordinator has not answered yet: its Commit has arrived."""

    request: Commit

    @property
    def txn(self) -> Txn:
        """Which attempt it is about."""
        return self.request.txn


@dataclass(frozen=True, slots=True)
class Saved:
    """Gateway to coordinator: the outcome is on my disk."""

    txn: Txn


@dataclass(frozen=True, slots=True)
class SavedToo:
    """Coordinator to gateway: that you have it is on my disk."""

    txn: Txn


@dataclass(frozen=True, slots=True)
class WhichEpoch:
    """Gateway to coordinator, after a restart of the gateway."""

    txn: Txn | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """Coordinator to gateway."""

    epoch: int
    txn: Txn | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Bank to coordinator: I am prepared; what was decided?"""

    txn: Txn


@dataclass(frozen=True, slots=True)
class Told:
    """Coordinator to bank: what is known."""

    txn: Txn
    outcome: Outcome


Body = (
    Commit
    | Answered
    | Open
    | Saved
    | SavedToo
    | WhichEpoch
    | Epoch
    | Prepare
    | Vote
    | Decide
    | Ack
    | Inquire
    | Ask
    | Told
)
# Answers come over the call that asked for them: whoever asked and has died since never hears them.
REPLIES = (Answered, Open, SavedToo, Epoch, Vote, Ack, Told)


@dataclass(frozen=True, slots=True)
class Message:
    """On its way."""

    sender: str
    receiver: str
    body: Body

    @property
    def reply(self) -> bool:
        """Whether it answers a call of its receiver."""
        return isinstance(self.body, REPLIES)

    def __str__(self) -> str:
        """Write it as a word and what it is about."""
        return f"{word(self.body)} {self.body.txn}" if self.body.txn else word(self.body)


def word(body: Body) -> str:  # noqa: PLR0911 - a case a message
    """What a message says, in a word or two."""
    match body:
        case Vote():
            return "yes" if body.yes else f"no: {body.reason}"
        case Decide():
            return "Decide commit" if body.commit else "Decide abort"
        case Ack():
            return "ack" if body.ok else f"refused: {body.refusal}"
        case Answered():
            return f"{body.answer.outcome} {body.answer.reason}".rstrip()
        case Told():
            return str(body.outcome)
        case Epoch():
            return f"epoch {body.epoch}"
        case _:
            return type(body).__name__


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a node writes or decides; the timeline shows it."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """What one input makes of an actor: its next state, and what it did, in order."""

    state: Any
    acts: tuple[Note | Message, ...] = ()
    # Where it died, if it did: before it did anything, or after so many of the things that it had to do.
    died: str = ""

    @property
    def sent(self) -> tuple[Message, ...]:
        """The messages among what it did."""
        return tuple(act for act in self.acts if isinstance(act, Message))


@dataclass(frozen=True, slots=True)
class Exchange:
    """Messages of these kinds about one transaction, from or to one node if one is named."""

    kinds: tuple[type, ...]
    txn: Txn | None
    node: str = ""

    def has(self, message: Message) -> bool:
        """Whether a message belongs to it."""
        return (
            isinstance(message.body, self.kinds)
            and message.body.txn == self.txn
            and (not self.node or self.node in (message.sender, message.receiver))
        )


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that an actor may do when it has waited long enough.

    Each of `unless` is an exchange that it waits for. It comes when in one of them nothing is on its way any
    more: to say something again before that would be a duplicate. A `deadline` may also pass while everything
    is on its way; then something is late, which counts as lost.
    """

    name: str
    result: Result
    unless: tuple[Exchange, ...] = ()
    deadline: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """The state of an actor whose rules have failed: it does nothing any more."""

    why: str
