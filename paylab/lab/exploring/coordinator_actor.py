"""The coordinator of the model: performs the core's effects one by one and may die between any two.

The core is the real one. Its clock stands still at zero, and delays of timers do not matter: the deadline of
the votes may pass at any moment, and what was sent is sent again when it, or its answer, was lost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paylab.core.coordinator import Coordinator
from paylab.core.decisions import Decisions
from paylab.core.effects import (
    Append,
    CommitRecord,
    Effect,
    EndRecord,
    Reply,
    ResolvedRecord,
    SavedRecord,
    Send,
    SetTimer,
    TimerKind,
)
from paylab.core.messages import Ack, Commit, Decide, Inquire, Outcome, Prepare, Txn, Vote
from paylab.lab.exploring.model import (
    COORDINATOR,
    GATEWAY,
    Answered,
    Ask,
    Epoch,
    Exchange,
    Message,
    Note,
    Open,
    Result,
    Saved,
    SavedToo,
    Timer,
    Told,
    WhichEpoch,
)
from paylab.nodes.events import Kind

Record = CommitRecord | SavedRecord | EndRecord | ResolvedRecord


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """Epoch and log are on disk, `lazy` is on its way there; memory and timers are what a crash takes."""

    epoch: int = 1
    log: tuple[CommitRecord, ...] = ()
    lazy: tuple[Record, ...] = ()
    memory: tuple[tuple[str, Any], ...] = ()
    timers: frozenset[tuple[TimerKind, Txn]] = frozenset()


class CoordinatorActor:
    """Drives one core, which it builds anew from the state for every input."""

    name = COORDINATOR

    def __init__(self, decisions: Decisions) -> None:
        """Use the core in the slot."""
        self._new: Callable[..., Coordinator] = decisions.coordinator_core

    def core(self, state: CoordinatorState) -> Coordinator:
        """The core as it is in this state."""
        core = self._new(epoch=state.epoch)
        for name, value in state.memory:
            kind = type(getattr(core, name, value))
            setattr(core, name, kind(value) if isinstance(value, tuple) else value)
        return core

    def receive(self, state: CoordinatorState, message: Message) -> list[Result]:
        """Apply a message: first what it does, then where the coordinator may die meanwhile."""
        core = self.core(state)
        match message.body:
            case Open(request) | (Commit() as request):
                effects = core.commit(request, now=0.0)
                answered = any(
                    isinstance(e, Reply) and e.answer.outcome is not Outcome.UNDECIDED for e in effects
                )
                call = [] if answered else [Message(GATEWAY, COORDINATOR, Open(request))]
                return self._results(state, core, effects, *call)
            case Vote() as vote:
                return self._results(state, core, core.vote(message.sender, vote))
            case Ack() as ack:
                return self._results(state, core, core.acknowledge(message.sender, ack))
            case Ask(txn):
                told: Any = Told(txn, core.decision(txn, now=0.0))
                return self._results(state, core, [], Message(COORDINATOR, message.sender, told))
            case Saved(txn):
                done = Message(COORDINATOR, GATEWAY, SavedToo(txn))
                return self._results(state, core, core.saved(txn), done)
            case WhichEpoch():
                return [Result(state, (Message(COORDINATOR, GATEWAY, Epoch(state.epoch)),))]
            case body:
                raise TypeError(f"no coordinator is told {body}")

    def timers(self, state: CoordinatorState) -> Iterator[Timer]:
        """Timers that are set; those that the core would ignore are gone, as it will ignore them for ever."""
        for kind, txn in sorted(state.timers, key=str):
            core = self.core(state)
            effects = core.timer(kind, txn)
            left = replace(state, timers=state.timers - {(kind, txn)})
            deadline = kind is TimerKind.VOTES
            unless = self._exchanges(state, txn) if deadline else _answered(effects)
            verb = "waits no longer for votes" if deadline else "sends again"
            for result in self._results(left, core, effects):
                yield Timer(verb, result, unless, deadline=deadline)

    def crashed(self, state: CoordinatorState) -> list[Result]:
        """What a crash leaves, and what the next boot says. Of lazy records the first few may be there."""
        results = []
        for count in range(len(state.lazy), -1, -1):
            log = _written(state.log, state.lazy[:count])
            core = self._new(epoch=state.epoch + 1)
            effects = core.recover(list(log))
            on_disk, acts = list(_steps(CoordinatorState(state.epoch + 1, log), effects))[-1]
            results.append(Result(self._settled(on_disk, core), (Note(Kind.CRASHED, ""), *acts)))
        return list(dict.fromkeys(results))

    def _results(
        self, state: CoordinatorState, core: Coordinator, effects: list[Effect], *then: Message
    ) -> list[Result]:
        """Everything done; and for every thing to do, a crash before it."""
        things: list[Effect | Message] = [*effects, *then]
        *points, (on_disk, acts) = _steps(state, things)
        whole = Result(self._settled(on_disk, core), acts)
        before = zip(points, map(_named, things), strict=True) if things else [((state, ()), "it acts")]
        deaths = [
            replace(left, acts=(*said, *left.acts), died=f"before {name}")
            for (disk, said), name in before
            for left in self.crashed(disk)
        ]
        return [whole, *deaths]

    def _exchanges(self, state: CoordinatorState, txn: Txn) -> tuple[Exchange, ...]:
        """What is waited for about a transaction: what its other timers would send again."""
        others = [kind for kind, of in state.timers if of == txn and kind is not TimerKind.VOTES]
        return tuple(
            exchange for kind in sorted(others) for exchange in _answered(self.core(state).timer(kind, txn))
        )

    def _settled(self, state: CoordinatorState, core: Coordinator) -> CoordinatorState:
        """The state with what the core remembers, and without timers that it would ignore."""
        state = replace(state, memory=_frozen(core))
        live = []
        for kind, txn in state.timers:
            core = self.core(state)
            if core.timer(kind, txn) or _frozen(core) != state.memory:
                live.append((kind, txn))
        return replace(state, timers=frozenset(live))


def _named(thing: Effect | Message) -> str:
    if isinstance(thing, Append):
        return f"the {type(thing.record).__name__}"
    if isinstance(thing, Send):
        return f"{type(thing.message).__name__} to {thing.bank}"
    return f"the {type(thing.body if isinstance(thing, Message) else thing).__name__}"


def _steps(
    state: CoordinatorState, things: Sequence[Effect | Message]
) -> Iterator[tuple[CoordinatorState, tuple[Note | Message, ...]]]:
    """What is on disk and what was done: before each of the things, and after the last."""
    acts: tuple[Note | Message, ...] = ()
    yield state, acts
    for thing in things:
        if isinstance(thing, Message):
            acts = (*acts, thing)
        else:
            state, more = _perform(state, thing)
            acts = (*acts, *more)
        yield state, acts


def _perform(state: CoordinatorState, effect: Effect) -> tuple[CoordinatorState, list[Note | Message]]:
    match effect:
        case Append(record, forced):
            lazy = (*state.lazy, record)
            note = (
                [Note(Kind.FORCED_WRITE, f"COMMIT {record.txn}")] if isinstance(record, CommitRecord) else []
            )
            if not forced:
                return replace(state, lazy=lazy), []
            # A log is in order: what is forced takes with it whatever was written before.
            return replace(state, log=_written(state.log, lazy), lazy=()), [*note]
        case Send(bank, message):
            if isinstance(message, Prepare):  # as the bank's own row has them: without the bank's name
                message = replace(message, legs=tuple(replace(leg, bank="") for leg in message.legs))
            return state, [Message(COORDINATOR, bank, message)]
        case Reply(answer):
            if answer.outcome is Outcome.UNDECIDED:
                return state, []  # whoever asked waits on
            said: list[Note | Message] = [Message(COORDINATOR, GATEWAY, Answered(answer, state.epoch))]
            if answer.outcome is Outcome.ABORTED:
                said.insert(0, Note(Kind.STATE, f"{answer.txn} is ABORTED {answer.reason}".rstrip()))
            return state, said
        case SetTimer(kind, txn):
            return replace(state, timers=state.timers | {(kind, txn)}), []


def _written(log: tuple[CommitRecord, ...], records: tuple[Record, ...]) -> tuple[CommitRecord, ...]:
    """The log after some more records; what has ended is not kept."""
    kept = {record.txn.payment: record for record in log}
    for record in records:
        match record:
            case CommitRecord():
                kept[record.txn.payment] = record
            case SavedRecord(txn):
                if txn.payment in kept:
                    kept[txn.payment] = replace(kept[txn.payment], saved=True)
            case EndRecord(txn):
                kept.pop(txn.payment, None)
    return tuple(kept[payment] for payment in sorted(kept))


def _frozen(core: Coordinator) -> tuple[tuple[str, Any], ...]:
    """All that the core remembers, so that it can be compared."""
    kept = {name: value for name, value in vars(core).items() if name not in ("epoch", "timing")}
    return tuple((name, _fixed(kept[name])) for name in sorted(kept))


def _fixed(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted(value.items(), key=lambda item: str(item[0])))
    if isinstance(value, set | frozenset):
        return tuple(sorted(value, key=str))
    return tuple(value) if isinstance(value, list) else value


def _answered(effects: Sequence[Effect]) -> tuple[Exchange, ...]:
    """For every message that is sent again: it and its answer."""
    answers: dict[type, type] = {Prepare: Vote, Inquire: Vote, Decide: Ack}
    return tuple(
        Exchange((type(effect.message), answers[type(effect.message)]), effect.message.txn, effect.bank)
        for effect in effects
        if isinstance(effect, Send)
    )
