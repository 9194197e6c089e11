"""Tells the moves of a trace as the events that real nodes record, so that they are drawn as those are."""

from typing import Any

from paylab.core.messages import Ack, Commit, Decide, Inquire, Prepare, Vote
from paylab.lab.exploring.model import (
    Answered,
    Ask,
    Epoch,
    Message,
    Note,
    Open,
    Saved,
    SavedToo,
    Told,
    WhichEpoch,
)
from paylab.lab.exploring.moves import Move
from paylab.nodes import wire
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2, coordinator_pb2

STEP_S = 0.001
METHODS: dict[type, str] = {
    Commit: "/paylab.v1.Coordinator/Commit",
    Saved: "/paylab.v1.Coordinator/Acknowledge",
    WhichEpoch: "/paylab.v1.Coordinator/GetEpoch",
    Ask: "/paylab.v1.Coordinator/GetDecision",
    Prepare: "/paylab.v1.Bank/Prepare",
    Decide: "/paylab.v1.Bank/Decide",
    Inquire: "/paylab.v1.Bank/Inquire",
}
# Which requests a reply may answer.
ANSWERS: dict[type, tuple[type, ...]] = {
    Answered: (Commit,),
    SavedToo: (Saved,),
    Epoch: (WhichEpoch,),
    Told: (Ask,),
    Vote: (Prepare, Inquire),
    Ack: (Decide,),
}


class Narrator:
    """Takes moves in order; `events` grows."""

    def __init__(self) -> None:
        """Nothing has happened."""
        self.events: list[Event] = []
        self._calls = 0
        # The call of each message on its way; and of those that were delivered and not answered yet.
        self._flying: dict[Message, str] = {}
        self._open: list[tuple[Message, str]] = []

    def tell(self, step: int, move: Move) -> None:
        """One more move."""
        at_s = step * STEP_S
        message = move.message
        if message is not None and not isinstance(message.body, Open):
            self._arrives(at_s, move, message)
        elif move.fault == "lost" and message is None:
            return
        crashed = move.fault == "crashed"
        for act in move.acts:
            if isinstance(act, Message):
                self._says(at_s, act)
            elif act.kind is Kind.CRASHED:
                self._dies(at_s, move.node)
                crashed = False
            else:
                self._add(at_s, move.node, act.kind, payments=_payments(act), detail=act.text)
        if crashed:
            self._dies(at_s, move.node)

    def _arrives(self, at_s: float, move: Move, message: Message) -> None:
        call = self._flying.get(message) or self._sent(at_s, message)
        if move.fault == "lost":
            self._flying.pop(message, None)
            self._lost(at_s, message, call)
            return
        if move.fault != "doubled":
            self._flying.pop(message, None)
        kind = Kind.RETURNED if message.reply else Kind.RECEIVED
        self._call(at_s, message.receiver, kind, message, call)
        if not message.reply:
            self._open.append((message, call))
            if move.fault == "doubled":  # the copy is a call of its own
                self._flying[message] = self._sent(at_s, message)

    def _lost(self, at_s: float, message: Message, call: str) -> None:
        caller = message.receiver if message.reply else message.sender
        peer = message.sender if message.reply else message.receiver
        method = METHODS[ANSWERS[type(message.body)][0] if message.reply else type(message.body)]
        self._add(
            at_s,
            caller,
            Kind.FAILED,
            payments=_payments(message),
            peer=peer,
            method=method,
            call=call,
            detail="lost",
        )

    def _says(self, at_s: float, message: Message) -> None:
        if isinstance(message.body, Open):
            return
        if not message.reply:
            if message not in self._flying:  # one that is on its way is not drawn twice
                self._flying[message] = self._sent(at_s, message)
            return
        call = self._answered_call(message)
        self._call(at_s, message.sender, Kind.ANSWERED, message, call)
        self._flying[message] = call

    def _sent(self, at_s: float, message: Message) -> str:
        self._calls += 1
        call = f"{message.sender}:{self._calls}"
        self._call(at_s, message.sender, Kind.SENT, message, call)
        return call

    def _answered_call(self, reply: Message) -> str:
        """The last call that this may answer."""
        for place in range(len(self._open) - 1, -1, -1):
            request, call = self._open[place]
            asked = (request.receiver, request.sender) == (reply.sender, reply.receiver)
            about = reply.body.txn is None or request.body.txn == reply.body.txn
            if asked and about and isinstance(request.body, ANSWERS[type(reply.body)]):
                del self._open[place]
                return call
        self._calls += 1
        return f"{reply.receiver}:{self._calls}"

    def _dies(self, at_s: float, node: str) -> None:
        self._add(at_s, node, Kind.CRASHED)
        self._add(at_s + STEP_S / 2, node, Kind.RESTARTED)

    def _call(self, at_s: float, node: str, kind: Kind, message: Message, call: str) -> None:
        peer = message.receiver if node == message.sender else message.sender
        body = type(message.body)
        method = METHODS[ANSWERS[body][0] if message.reply else body]
        self._add(
            at_s,
            node,
            kind,
            payments=_payments(message),
            peer=peer,
            method=method,
            call=call,
            detail=_written(message),
        )

    def _add(self, at_s: float, node: str, kind: Kind, **facts: Any) -> None:
        number = len(self.events) + 1
        self.events.append(Event(node, number, number, at_s, kind, **facts))


def _payments(about: Message | Note) -> tuple[str, ...]:
    if isinstance(about, Message):
        return (about.body.txn.payment,) if about.body.txn else ()
    return ()


def _written(message: Message) -> Any:  # noqa: PLR0911 - a case a message
    """The message as it would go over the wire; of those that say little, their text."""
    match message.body:
        case Prepare() as prepare:
            return bank_pb2.PrepareRequest(items=[wire.prepare_to_pb(prepare)])
        case Decide() as decide:
            return bank_pb2.DecideRequest(items=[wire.decide_to_pb(decide)])
        case Vote() as vote:
            return bank_pb2.PrepareResponse(votes=[wire.vote_to_pb(vote)])
        case Ack() as ack:
            return bank_pb2.DecideResponse(acks=[wire.ack_to_pb(ack)])
        case Commit() as commit:
            return coordinator_pb2.CommitRequest(items=[wire.commit_to_pb(commit)])
        case Answered(answer, epoch):
            return coordinator_pb2.CommitResponse(answers=[wire.answer_to_pb(answer)], epoch=epoch)
        case Told(_, outcome):
            return coordinator_pb2.GetDecisionResponse(outcomes=[wire.outcome_to_pb(outcome)])
        case _:
            return str(message)
