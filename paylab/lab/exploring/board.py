"""The whole model in one number.

The lowest bits say how much may still go wrong. Above them each actor has a field with the number of its
state, and above those every message has one bit: it is on its way, or it is not. So a move is
`state & keep | put` (`moves.py`). The rules of an actor are asked once for each of its states and inputs.

That a message is on its way once or not at all loses nothing: a second copy is a duplicate, and a duplicate
is a message that stays on its way while it is delivered.
"""

from collections.abc import Callable, Iterator
from typing import Any

from paylab.core.decisions import Decisions
from paylab.lab.exploring.bank_actor import BankActor, BankState, Books
from paylab.lab.exploring.coordinator_actor import CoordinatorActor, CoordinatorState
from paylab.lab.exploring.gateway_actor import GatewayActor, GatewayState
from paylab.lab.exploring.model import COORDINATOR, GATEWAY, Broken, Exchange, Message, Open, Result, Timer
from paylab.lab.exploring.space import Space

BUDGET_BITS = 3
BUDGET_MASK = (1 << BUDGET_BITS) - 1
CRASHES, LOSSES, DUPLICATES = 0, BUDGET_BITS, 2 * BUDGET_BITS
FIELDS_AT = 3 * BUDGET_BITS
FIELD_BITS = 18
# Wider than any state.
EVERYTHING = (1 << 1024) - 1


class Field:
    """The place of one actor: numbers for its states, and what it answered in them."""

    def __init__(self, actor: Any, at: int, known: dict[Any, int], states: list[Any]) -> None:
        """Actors that are alike share `known` and `states`."""
        self.actor = actor
        self.at = at
        self.mask = ((1 << FIELD_BITS) - 1) << at
        self._known, self.states = known, states
        self.answers: dict[tuple[int, Any], list[Any]] = {}

    def put(self, state: Any) -> int:
        """The bits that stand for a state."""
        number = self._known.get(state)
        if number is None:
            number = self._known[state] = len(self.states)
            self.states.append(state)
            assert number < 1 << FIELD_BITS, f"{self.actor.name} has too many states"
        return number << self.at

    def number(self, packed: int) -> int:
        """The number of the actor's state."""
        return (packed & self.mask) >> self.at

    def state(self, packed: int) -> Any:
        """The actor's state."""
        return self.states[self.number(packed)]

    def receive(self, packed: int, message: Message, bit: int = 0) -> list[Any]:
        """What comes of a message: first what the actor does, then where it may die meanwhile."""
        return self.ask(packed, bit or message, lambda state: self.actor.receive(state, message))

    def ask(self, packed: int, about: Any, rule: Callable[[Any], Any]) -> list[Any]:
        """What the actor answers in its state; its rule is asked the first time only."""
        number = self.number(packed)
        found = self.answers.get((number, about))
        if found is None:
            state = self.states[number]
            try:
                answer = [] if isinstance(state, Broken) else rule(state)
                found = [answer] if isinstance(answer, Result) else list(answer)
            except Exception as error:  # noqa: BLE001 - whatever a rule raises is what was looked for
                found = _failed(about, error)
            self.answers[number, about] = found
        return found


def _failed(about: Any, error: Exception) -> list[Any]:
    result = Result(Broken(f"{type(error).__name__}: {error}"))
    if about == "timers":
        return [Timer("fails", result)]
    return [] if isinstance(about, str) else [result]


class Board:
    """Packs and unpacks states."""

    def __init__(self, space: Space, decisions: Decisions) -> None:
        """Every actor and no message yet."""
        self.space = space
        names = space.bank_names
        actors: list[Any] = [
            GatewayActor(space.legs(), space.attempts, decisions),
            CoordinatorActor(decisions),
            *(BankActor(name, decisions) for name in names),
        ]
        # All payees' banks are alike, so they share the numbers of their states.
        payees: tuple[dict[Any, int], list[Any]] = {}, []
        self.fields: dict[str, Field] = {}
        for place, actor in enumerate(actors):
            known, states = payees if actor.name in names[1:] else ({}, [])
            self.fields[actor.name] = Field(actor, FIELDS_AT + place * FIELD_BITS, known, states)
        self.messages_at = FIELDS_AT + len(actors) * FIELD_BITS
        self.actors_mask = ((1 << self.messages_at) - 1) ^ ((1 << FIELDS_AT) - 1)
        self.kept_by = self.actors_mask | BUDGET_MASK
        self.messages: list[Message] = []
        self.bits: dict[Message, int] = {}
        self.replies_to: dict[str, int] = dict.fromkeys(self.fields, 0)
        self._masks: dict[Exchange, int] = {}
        # By actor and the number of its state.
        self._ignored_in: dict[str, dict[int, int]] = {name: {} for name in self.fields}
        self._unchanging: dict[str, dict[int, list[tuple[int, int]]]] = {name: {} for name in self.fields}
        self._safe: dict[str, dict[int, int]] = {name: {} for name in names}
        # Told of every message that has got a bit.
        self.new_message: list[Callable[[Message, int], None]] = []

    def openings(self) -> Iterator[int]:
        """The states in which a run may begin."""
        space = self.space
        budget = space.crashes << CRASHES | space.losses << LOSSES | space.duplicates << DUPLICATES
        packed = budget | self.fields[GATEWAY].put(GatewayState(space.new_payments()))
        booted = self.fields[COORDINATOR].actor.crashed(CoordinatorState(epoch=0))[0]
        packed |= self.fields[COORDINATOR].put(booted.state)
        for books in space.openings():
            banks = zip(space.bank_names, books, strict=True)
            yield packed | sum(self.fields[name].put(BankState(Books(opened))) for name, opened in banks)

    def bit(self, message: Message) -> int:
        """The bit of a message; whoever keeps masks learns of a new one."""
        bit = self.bits.get(message)
        if bit is None:
            bit = self.bits[message] = 1 << (self.messages_at + len(self.messages))
            self.messages.append(message)
            if message.reply:
                self.replies_to[message.receiver] |= bit
                self._ignored_in[message.receiver].clear()
            else:
                self._unchanging[message.receiver].clear()
            for exchange in self._masks:
                if exchange.has(message):
                    self._masks[exchange] |= bit
            for learn in self.new_message:
                learn(message, bit)
        return bit

    def mask(self, exchange: Exchange) -> int:
        """The bits of all messages of an exchange that are known."""
        if exchange not in self._masks:
            self._masks[exchange] = sum(bit for message, bit in self.bits.items() if exchange.has(message))
        return self._masks[exchange]

    def on_the_way(self, packed: int) -> Iterator[tuple[Message, int]]:
        """The messages of a state, with their bits."""
        flight = packed >> self.messages_at
        while flight:
            low = flight & -flight
            flight ^= low
            yield self.messages[low.bit_length() - 1], low << self.messages_at

    def in_vain(self, packed: int) -> int:
        """The messages of which nothing comes.

        An answer that its caller would ignore is not on its way: the call has ended. So is a request that
        changes nothing and whose answer would be ignored, when nothing crashes any more: what the receiver
        has written stays written.
        """
        ignored = self._ignored(packed)
        return ignored if packed & BUDGET_MASK else ignored | self._idle(packed, ignored)

    def _idle(self, packed: int, ignored: int) -> int:
        bits = 0
        for own in self.fields.values():
            found = self._unchanging[own.actor.name].get(own.number(packed))
            for bit, answers in self._unchanged_by(own, packed) if found is None else found:
                if answers & ignored == answers:
                    bits |= bit
        return bits

    def _unchanged_by(self, own: Field, packed: int) -> list[tuple[int, int]]:
        """The requests that do not change an actor's state, with what it would answer."""
        found = []
        for message, bit in list(self.bits.items()):
            if message.receiver == own.actor.name and not message.reply:
                result = next(iter(own.receive(packed, message, bit)), None)
                if result is None or result.state != own.state(packed) or len(result.sent) < len(result.acts):
                    continue
                found.append((bit, sum(map(self.bit, result.sent))))
        self._unchanging[own.actor.name][own.number(packed)] = found
        return found

    def _ignored(self, packed: int) -> int:
        bits = 0
        for own in self.fields.values():
            number = own.number(packed)
            found = self._ignored_in[own.actor.name].get(number)
            bits |= self._ignored_by(own, packed) if found is None else found
        return bits

    def _ignored_by(self, own: Field, packed: int) -> int:
        bits = 0
        for message, bit in self.on_the_way(self.replies_to[own.actor.name]):
            if not isinstance(message.body, Open):
                results = own.receive(packed, message, bit)
                if results and not results[0].acts and results[0].state == own.state(packed):
                    bits |= bit
        self._ignored_in[own.actor.name][own.number(packed)] = bits
        return bits

    def made_safe(self, packed: int) -> int:
        """The state after the last crash: what of the banks' rows is durable makes no difference any more."""
        for name, safe in self._safe.items():
            own = self.fields[name]
            number = own.number(packed)
            if number not in safe:
                safe[number] = own.put(own.actor.safe(own.states[number]))
            packed = packed & (EVERYTHING ^ own.mask) | safe[number]
        return packed
