"""The gateway of the model: rows of payments by compare-and-set, and an outbox to the coordinator."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from paylab.core import payment as rules
from paylab.core.decisions import Decisions
from paylab.core.messages import Answer, Commit, Leg, Outcome, Txn
from paylab.core.payment import Payment, State
from paylab.lab.exploring.model import (
    COORDINATOR,
    GATEWAY,
    Answered,
    Epoch,
    Exchange,
    Message,
    Note,
    Open,
    Result,
    Saved,
    SavedToo,
    Timer,
    WhichEpoch,
)
from paylab.lab.exploring.space import LIFETIME_S
from paylab.nodes.events import Kind


@dataclass(frozen=True, slots=True)
class GatewayState:
    """Rows and outbox are on disk; the coordinator's epoch, as far as it is known, is not (0: unknown)."""

    rows: tuple[Payment, ...]
    outbox: frozenset[Txn] = frozenset()
    known_epoch: int = 1


class GatewayActor:
    """The client's request, the driver of each payment, and the queue that drives a payment again."""

    name = GATEWAY

    def __init__(self, legs: tuple[Leg, ...], attempts: int, decisions: Decisions) -> None:
        """Every payment moves `legs` and is tried `attempts` times at most."""
        self._legs = legs
        self._attempts = attempts
        self._decisions = decisions

    def receive(self, state: GatewayState, message: Message) -> list[Result]:
        """Apply a message: first what it does, then where the gateway may die meanwhile."""
        match message.body:
            case Answered() as answered:
                return self._answered(state, answered)
            case SavedToo(txn):
                return self._points(state, replace(state, outbox=state.outbox - {txn}), ())
            case Epoch(epoch):
                return [Result(replace(state, known_epoch=max(epoch, state.known_epoch)))]
            case body:
                raise TypeError(f"no gateway is told {body}")

    def timers(self, state: GatewayState) -> Iterator[Timer]:
        """What the gateway does of its own accord."""
        for row in state.rows:
            if row.state in (State.CREATED, State.QUEUED) and row.attempt < self._attempts:
                yield from self._opens(state, row)
            if row.state is State.QUEUED and row.attempt >= self._attempts:
                given_up = rules.give_up(row, "GIVEN_UP")
                yield Timer("gives up", Result(_with(state, given_up), (_note(given_up),)))
            if row.state is State.PREPARING and row.attempt <= self._attempts:
                about = Exchange((Commit, Open, Answered), row.txn)
                yield Timer("asks again", Result(state, (self._request(row),)), (about,))
                silence = Answered(Answer(row.txn, Outcome.UNDECIDED), state.known_epoch)
                heard = self._answered(state, silence)[0]
                if heard.state != state:
                    yield Timer("waits no longer", heard)
        for txn in sorted(state.outbox, key=str):
            told = Message(GATEWAY, COORDINATOR, Saved(txn))
            yield Timer("says again", Result(state, (told,)), (Exchange((Saved, SavedToo), txn),))

    def crashed(self, state: GatewayState) -> list[GatewayState]:
        """What a crash leaves; nothing when that is the same."""
        return [replace(state, known_epoch=0)] if state.known_epoch else []

    def _opens(self, state: GatewayState, row: Payment) -> Iterator[Timer]:
        if not state.known_epoch:
            question = Message(GATEWAY, COORDINATOR, WhichEpoch())
            yield Timer("asks", Result(state, (question,)), (Exchange((WhichEpoch, Epoch), None),))
            return
        following = self._decisions.gateway_open_attempt(
            row, expires_at_s=LIFETIME_S, epoch=state.known_epoch
        )
        verb = "tries again" if row.attempt else "begins"
        acts = (_note(following), self._request(following))
        for result in self._points(state, _with(state, following), acts):
            if result.state.rows != state.rows:  # to die before the write is to die
                yield Timer(verb, result)

    def _answered(self, state: GatewayState, answered: Answered) -> list[Result]:
        """Judge the row by the answer; the write is made only if the row is as it was, which it is here."""
        epoch = max(state.known_epoch, answered.epoch)
        (row,) = (row for row in state.rows if row.payment == answered.txn.payment)
        following: Payment = self._decisions.gateway_conclude(
            row, answered.answer, expires_at_s=LIFETIME_S, epoch=epoch
        )
        after = replace(state, known_epoch=epoch)
        if following == row:
            return [Result(after)]
        acts: list[Note | Message] = [_note(following)]
        after = _with(after, following)
        if following.state is State.COMMITTED:
            after = replace(after, outbox=after.outbox | {following.txn})
            acts.append(Message(GATEWAY, COORDINATOR, Saved(following.txn)))
        elif following.state is State.PREPARING and following.attempt <= self._attempts:
            acts.append(self._request(following))
        return self._points(state, after, tuple(acts))

    def _points(
        self, before: GatewayState, after: GatewayState, acts: tuple[Note | Message, ...]
    ) -> list[Result]:
        """All of it; none of it; the write and nothing after it."""
        gone = replace(after, known_epoch=0)
        written = tuple(act for act in acts if isinstance(act, Note))
        return [
            Result(after, acts),
            Result(replace(before, known_epoch=0), (), "before it writes"),
            Result(gone, written, "before it speaks"),
        ]

    def _request(self, row: Payment) -> Message:
        return Message(GATEWAY, COORDINATOR, Commit(row.txn, self._legs, row.expires_at_s, row.epoch))


def _with(state: GatewayState, row: Payment) -> GatewayState:
    rows = tuple(row if row.payment == old.payment else old for old in state.rows)
    return replace(state, rows=rows)


def _note(row: Payment) -> Note:
    return Note(Kind.FORCED_WRITE, f"{row.state} {row.txn}")
