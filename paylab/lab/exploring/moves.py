"""The moves of a board: worked out once for every value of the bits that they depend on, then looked up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from paylab.lab.exploring.bank_actor import BankActor
from paylab.lab.exploring.board import (
    BUDGET_MASK,
    CRASHES,
    DUPLICATES,
    EVERYTHING,
    FIELDS_AT,
    LOSSES,
    Board,
    Field,
)
from paylab.lab.exploring.model import (
    COORDINATOR,
    Answered,
    Exchange,
    Message,
    Note,
    Open,
    Result,
    Told,
)
from paylab.nodes.events import Kind

Masks = tuple[int, ...]
# Moves that may always be made, those that are faults, timers in time, and timers that come too early or at
# which their owner dies.
Found = tuple[
    tuple[tuple[int, int], ...],
    tuple[tuple[int, int], ...],
    tuple[tuple[Masks, int, int], ...],
    tuple[tuple[bool, Masks, int, int], ...],
]


@dataclass(frozen=True, slots=True)
class Move:
    """One step: `state & keep | put`, and what it is in words. `fault` is empty for what goes as it should.

    A timer has `unless`: masks of what it waits for.
    """

    keep: int
    put: int
    node: str
    what: str
    message: Message | None = None
    acts: tuple[Note | Message, ...] = ()
    fault: str = ""
    unless: Masks = ()
    early: bool = False

    def allowed(self, packed: int) -> bool:
        """Whether a timer may come: in time when something is not on its way, too early when all is."""
        return not self.unless or self.early == all(packed & mask for mask in self.unless)


@dataclass(slots=True)
class Source:
    """Where moves come from: the bits that they depend on, and the moves for values of these bits."""

    moves: Callable[[int], Iterator[Move]]
    mask: int
    # Messages whose bits belong to the mask.
    wants: Callable[[Message], bool] = lambda _: False
    table: dict[int, Found] = field(default_factory=dict)

    def remember(self, key: int, moves: Sequence[Move]) -> Found:
        """Keep the moves of a value, each once."""
        free = dict.fromkeys((m.keep, m.put) for m in moves if not m.fault and not m.unless)
        faults = dict.fromkeys((m.keep, m.put) for m in moves if m.fault and not m.unless)
        timers = dict.fromkeys((m.unless, m.keep, m.put) for m in moves if m.unless and not m.fault)
        mishaps = dict.fromkeys((m.early, m.unless, m.keep, m.put) for m in moves if m.unless and m.fault)
        found = self.table[key] = tuple(free), tuple(faults), tuple(timers), tuple(mishaps)
        return found


class Moves:
    """Every move of every state of a board."""

    def __init__(self, board: Board) -> None:
        """Nothing is worked out yet."""
        self._board = board
        self.sources = list(self._sources())
        for message, bit in board.bits.items():
            self._learn(message, bit)
        board.new_message.append(self._learn)

    def fill(self, source: Source, key: int) -> Found:
        """Work the moves out that a source has for a value."""
        while True:
            known = len(self._board.bits)
            moves = list(source.moves(key))
            if len(self._board.bits) == known:
                return source.remember(key, moves)
            # Moves that were worked out before a message became known may have masks without it.

    def of(self, packed: int) -> Iterator[Move]:
        """Every move of a state, with its words."""
        for source in self.sources:
            for move in source.moves(packed & source.mask):
                if move.allowed(packed):
                    yield move

    def _learn(self, message: Message, bit: int) -> None:
        for source in self.sources:
            if source.wants(message):
                source.mask |= bit
            # What was worked out before knew nothing of it.
            source.table.clear()

    # Where moves come from ----------------------------------------------------------------------

    def _sources(self) -> Iterator[Source]:
        budgets = (1 << FIELDS_AT) - 1
        fields = self._board.fields
        coordinator = fields[COORDINATOR].mask | budgets
        for name, own in fields.items():
            yield Source(_of(self._alone, name), own.mask | budgets)
            if name != COORDINATOR:
                yield Source(_of(self._deliveries, name), own.mask | budgets, _from_to(COORDINATOR, name))
                yield Source(_of(self._deliveries, COORDINATOR), coordinator, _from_to(name, COORDINATOR))
        for name in self._board.space.bank_names:
            own = fields[name]
            yield Source(_of(self._unanswered, name), own.mask | budgets, _answers_question(name))
            yield Source(_of(self._questions, name), own.mask | coordinator)

    def _alone(self, name: str, key: int) -> Iterator[Move]:
        """What an actor does without being told: timers, and crashes."""
        own = self._board.fields[name]
        for timer in own.ask(key, "timers", own.actor.timers):
            yield from self._move(own, key, timer.result, timer.name, unless=timer.unless)
            if timer.deadline and key >> LOSSES & BUDGET_MASK:
                yield from self._move(own, key, timer.result, timer.name, unless=timer.unless, early=True)
        if key >> CRASHES & BUDGET_MASK:
            for left in own.ask(key, "crashed", own.actor.crashed):
                result = left if isinstance(left, Result) else Result(left, (Note(Kind.CRASHED, ""),))
                yield from self._move(own, key, replace(result, died="at rest"), "crashes")

    def _deliveries(self, name: str, key: int) -> Iterator[Move]:
        """Every message of these may arrive, arrive and stay, or be lost."""
        own = self._board.fields[name]
        for message, bit in self._board.on_the_way(key):
            results = own.receive(key, message, bit)
            if isinstance(message.body, Open):  # no message: the caller's patience ends, and it asks again
                yield from self._move(own, key, results[0], "", message=message, bit=bit)
                continue
            for result in results:
                yield from self._move(own, key, result, "", message=message, bit=bit)
                if not result.died and key >> DUPLICATES & BUDGET_MASK:
                    yield from self._move(own, key, result, "", message=message, doubled=True)
            if key >> LOSSES & BUDGET_MASK and not isinstance(message.body, Told):
                keep, put = _spend(key, LOSSES, EVERYTHING ^ bit, 0)
                yield Move(keep, put, message.receiver, "is lost", message, (), "lost")

    def _questions(self, name: str, key: int) -> Iterator[Move]:
        """A bank asks and is answered at once, as a late question is one that is asked later.

        The answer may be late. When nobody answers, the question is lost.
        """
        bank, coordinator = self._board.fields[name], self._board.fields[COORDINATOR]
        for question, waits_for in bank.ask(key, "questions", bank.actor.questions):
            result = coordinator.receive(key, question)[0]
            yield from self._move(coordinator, key, result, "", message=question, unless=[waits_for])
            if key >> LOSSES & BUDGET_MASK:
                move = self._silence(bank, key, question, 0)
                yield replace(move, unless=(self._board.mask(waits_for),))

    def _unanswered(self, name: str, key: int) -> Iterator[Move]:
        """The answer to a question may be lost."""
        if key >> LOSSES & BUDGET_MASK:
            for message, bit in self._board.on_the_way(key):
                yield self._silence(self._board.fields[name], key, message, bit)

    def _silence(self, bank: Field, key: int, message: Message, bit: int) -> Move:
        """A question or the answer to it is lost, and the bank does what it does when nobody answers."""
        results = bank.ask(key, ("silence", message), lambda state: bank.actor.unanswered(state, message))
        keep, put = _spend(key, LOSSES, EVERYTHING ^ (bank.mask | bit), _next(bank, key, results[0]))
        return Move(keep, put, message.receiver, "is lost", message, results[0].acts, "lost")

    def _move(
        self,
        own: Field,
        key: int,
        result: Result,
        what: str,
        *,
        message: Message | None = None,
        bit: int = 0,
        doubled: bool = False,
        unless: Sequence[Exchange] = (),
        early: bool = False,
    ) -> Iterator[Move]:
        """The move that a result makes, if the space has room for what goes wrong in it."""
        keep, put, fault = EVERYTHING ^ (own.mask | bit), 0, ""
        if result.died:
            if not key >> CRASHES & BUDGET_MASK:
                return
            # Whoever dies never hears the answers to its calls.
            keep, put = _spend(key, CRASHES, keep & ~self._board.replies_to[own.actor.name], put)
            key, fault = key - (1 << CRASHES), "crashed"
        if doubled:
            keep, put = _spend(key, DUPLICATES, keep, put)
            fault = "doubled"
        if early:
            keep, put = _spend(key, LOSSES, keep, put)
            fault = fault or "late"
        put |= _next(own, key, result)
        for sent in result.sent:
            put |= self._board.bit(sent)
            if isinstance(sent.body, Answered):
                keep &= ~self._board.mask(Exchange((Open,), sent.body.txn))
        masks = tuple(self._board.mask(exchange) for exchange in unless)
        yield Move(keep, put, own.actor.name, what or result.died, message, result.acts, fault, masks, early)


def _next(own: Field, key: int, result: Result) -> int:
    """The bits of an actor's next state; when nothing crashes any more, what is written is durable."""
    safe = not key >> CRASHES & BUDGET_MASK and isinstance(own.actor, BankActor)
    return own.put(own.actor.safe(result.state) if safe else result.state)


def _spend(key: int, budget: int, keep: int, put: int) -> tuple[int, int]:
    left = (key >> budget & BUDGET_MASK) - 1
    return keep & ~(BUDGET_MASK << budget), put | left << budget


def _of(moves: Callable[[str, int], Iterator[Move]], name: str) -> Callable[[int], Iterator[Move]]:
    return lambda key: moves(name, key)


def _from_to(sender: str, receiver: str) -> Callable[[Message], bool]:
    return lambda message: (message.sender, message.receiver) == (sender, receiver)


def _answers_question(bank: str) -> Callable[[Message], bool]:
    return lambda message: isinstance(message.body, Told) and message.receiver == bank
