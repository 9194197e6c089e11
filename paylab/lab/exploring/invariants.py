"""What must hold in every state of the model, and when a state has nothing in doubt."""

from collections.abc import Iterator
from typing import Any

from paylab.core.messages import Decide, Outcome, Txn
from paylab.core.participant import State
from paylab.core.payment import AT_REST
from paylab.core.payment import State as PaymentState
from paylab.lab.exploring.bank_actor import BankState
from paylab.lab.exploring.board import EVERYTHING, Board
from paylab.lab.exploring.coordinator_actor import CoordinatorState
from paylab.lab.exploring.gateway_actor import GatewayState
from paylab.lab.exploring.model import COORDINATOR, GATEWAY, Answered, Broken, Message, Told
from paylab.lab.exploring.space import PAYER

ATOMIC = "both legs or none"
AGREE = "decisions never contradict"
ONCE = "at most one attempt of a payment commits"
OVERDRAWN = "nothing is overdrawn"
LEDGERS = "balances and holds follow from the rows"
GATEWAYS = "the gateway's answer agrees with the ledgers"
RULES = "the rules answer every input"
LIVE = "whatever happens, nothing stays in doubt for ever"
INVARIANTS = (ATOMIC, AGREE, ONCE, OVERDRAWN, LEDGERS, GATEWAYS, RULES, LIVE)


class Verdict:
    """What is said of all actors together, whatever is on its way."""

    __slots__ = ("broken", "ended", "forbidden", "settled")

    def __init__(
        self, broken: str, *, settled: bool = False, forbidden: int = 0, ended: frozenset[Txn] = frozenset()
    ) -> None:
        """Messages that are `forbidden` contradict what is on disk; of `ended` attempts everybody knows."""
        self.broken = broken
        self.settled = settled
        self.forbidden = forbidden
        self.ended = ended


class Invariants:
    """Judges states; what was judged before is looked up."""

    def __init__(self, board: Board) -> None:
        """Judge states of this board."""
        self._board = board
        self._space = board.space
        self._says: dict[tuple[Txn, bool], int] = {}
        self._decisions = 0
        self._verdicts: dict[int, Verdict] = {}
        # Which messages stay on their way: for all actors together, and whether anything may still crash.
        self.kept: dict[int, int] = {}
        self._clashes: dict[int, frozenset[Txn]] = {}
        board.new_message.append(self._learn)

    def broken(self, packed: int) -> str:
        """Which invariant a state breaks and how; empty when none."""
        verdict = self.verdict(packed)
        if verdict.broken:
            return verdict.broken
        if packed & verdict.forbidden:
            (message, _), *_ = self._board.on_the_way(packed & verdict.forbidden)
            said = f"{message.sender} says {message} to {message.receiver}"
            return f"{AGREE}: {said}, which contradicts what is on disk"
        words = packed & self._decisions
        clash = self._clashes.get(words)
        if clash is None:
            clash = self._clashes[words] = self._clash(words)
        for txn in sorted(clash - verdict.ended, key=str):
            return f"{AGREE}: {txn} is called both committed and aborted"
        return ""

    def keep(self, packed: int) -> int:
        """The messages that stay on their way, as a mask; the others would be heard in vain."""
        verdict = self.verdict(packed)
        vain = 0 if verdict.broken else self._board.in_vain(packed) & ~verdict.forbidden
        kept = self.kept[packed & self._board.kept_by] = EVERYTHING ^ vain
        return kept

    def settled(self, packed: int) -> bool:
        """Whether nothing is in doubt, open or unsaid."""
        return self.verdict(packed).settled

    def verdict(self, packed: int) -> Verdict:
        """What is said of all actors."""
        key = packed & self._board.actors_mask
        known = self._verdicts.get(key)
        if known is not None:
            return known
        states = {name: each.state(packed) for name, each in self._board.fields.items()}
        broken = next(
            (f"{name}: {RULES}: {s.why}" for name, s in states.items() if isinstance(s, Broken)), ""
        )
        verdict = Verdict(broken) if broken else self._judge(states)
        self._verdicts[key] = verdict
        return verdict

    # One state ----------------------------------------------------------------------------------

    def _judge(self, states: dict[str, Any]) -> Verdict:
        gateway: GatewayState = states.pop(GATEWAY)
        coordinator: CoordinatorState = states.pop(COORDINATOR)
        banks: dict[str, BankState] = states
        rows: dict[Txn, dict[str, State]] = {}
        for name, bank in banks.items():
            for row in bank.books.rows:
                rows.setdefault(row.txn, {})[name] = row.state
        logged = {record.txn for record in coordinator.log}
        committed = {txn for txn, found in rows.items() if State.COMMITTED in found.values()} | logged
        aborted = {txn for txn, found in rows.items() if State.ABORTED in found.values()}
        settled = self._settled(gateway, coordinator, rows)
        everywhere = {txn for txn in committed if self._everywhere(rows.get(txn, {}))}
        saved = {row.payment for row in gateway.rows if row.state is PaymentState.COMMITTED}
        ended = frozenset(txn for txn in everywhere if txn.payment in saved and txn not in logged)
        broken = (
            next(self._atomicity(rows, committed, aborted, everywhere if settled else committed), "")
            or next(_money(banks, self._space.payments, self._space.price_minor), "")
            or next(_answers(gateway, committed), "")
        )
        says = self._says
        forbidden = 0
        for txn in committed - ended:
            forbidden |= says.get((txn, False), 0)
        for txn in aborted:
            forbidden |= says.get((txn, True), 0)
        return Verdict(broken, settled=settled, forbidden=forbidden, ended=ended)

    def _atomicity(
        self, rows: dict[Txn, dict[str, State]], committed: set[Txn], aborted: set[Txn], everywhere: set[Txn]
    ) -> Iterator[str]:
        for txn in sorted(committed & aborted, key=str):
            yield f"{ATOMIC}: {txn} is {_list(rows.get(txn, {}))}" + (
                ""
                if State.COMMITTED in rows.get(txn, {}).values()
                else " and committed in the coordinator's log"
            )
        for txn in sorted(committed - everywhere, key=str):
            yield f"{ATOMIC}: nothing is in doubt, and {txn} is {_list(rows.get(txn, {}))}"
        attempts: dict[str, set[int]] = {}
        for txn in committed:
            attempts.setdefault(txn.payment, set()).add(txn.attempt)
        for payment, found in sorted(attempts.items()):
            if len(found) > 1:
                yield f"{ONCE}: attempts {', '.join(map(str, sorted(found)))} of {payment} are committed"

    def _settled(
        self, gateway: GatewayState, coordinator: CoordinatorState, rows: dict[Txn, dict[str, State]]
    ) -> bool:
        ending = {record.txn for record in coordinator.lazy}
        waiting = [
            attempt
            for name, value in coordinator.memory
            if name == "attempts"
            for _, attempt in value
            if attempt.waiting_for
        ]
        return (
            not gateway.outbox
            and not waiting
            and all(record.txn in ending for record in coordinator.log)
            and not any(State.PREPARED in found.values() for found in rows.values())
            and all(row.state in AT_REST or row.attempt > self._space.attempts for row in gateway.rows)
        )

    def _everywhere(self, found: dict[str, State]) -> bool:
        return len(found) == self._space.banks and set(found.values()) == {State.COMMITTED}

    # Messages -----------------------------------------------------------------------------------

    def _learn(self, message: Message, bit: int) -> None:
        decision = _decision(message)
        if decision is not None:
            self._says[decision] = self._says.get(decision, 0) | bit
            self._decisions |= bit
        self._verdicts.clear()
        self.kept.clear()
        self._clashes.clear()

    def _clash(self, words: int) -> frozenset[Txn]:
        said = {decision for message, _ in self._board.on_the_way(words) if (decision := _decision(message))}
        return frozenset(txn for txn, commit in said if commit and (txn, False) in said)


def _decision(message: Message) -> tuple[Txn, bool] | None:
    """What a message says was decided, of which attempt."""
    match message.body:
        case Decide(txn, commit):
            return txn, commit
        case Told(txn, outcome):
            return None if outcome is Outcome.UNDECIDED else (txn, outcome is Outcome.COMMITTED)
        case Answered(answer):
            if answer.outcome is Outcome.COMMITTED:
                return Txn(answer.txn.payment, answer.committed_attempt), True
            return (answer.txn, False) if answer.outcome is Outcome.ABORTED else None
        case _:
            return None


def _money(banks: dict[str, BankState], payments: int, price_minor: int) -> Iterator[str]:
    """No account is overdrawn, and every balance follows from the rows and from what was there at first."""
    for name, bank in banks.items():
        for account in bank.books.accounts:
            if account.available_minor < 0:
                yield f"{OVERDRAWN}: {name}/{account.account} has {account.available_minor} to spend"
            mine = [
                (row.state, leg.money.amount_minor)
                for row in bank.books.rows
                for leg in row.legs
                if leg.account == account.account
            ]
            held = sum(max(0, -minor) for state, minor in mine if state is State.PREPARED)
            opened = account.posted_minor - sum(minor for state, minor in mine if state is State.COMMITTED)
            if account.held_minor != held:
                holds = f"{name}/{account.account} holds {account.held_minor}"
                yield f"{LEDGERS}: {holds}, and {held} is promised"
            affordable = (payments, payments - 1) if account.account == PAYER else (0,)
            if opened not in [count * price_minor for count in affordable]:
                has = f"{name}/{account.account} has {account.posted_minor}"
                yield f"{LEDGERS}: {has}, which its rows do not explain"


def _answers(gateway: GatewayState, committed: set[Txn]) -> Iterator[str]:
    """What the gateway has told, or will do next, fits what is committed."""
    for row in gateway.rows:
        attempts = [txn.attempt for txn in committed if txn.payment == row.payment]
        if row.state is PaymentState.COMMITTED and not attempts:
            yield f"{GATEWAYS}: {row.payment} is called COMMITTED, and neither log nor ledger knows of it"
        if row.state is PaymentState.PREPARING and any(attempt < row.attempt for attempt in attempts):
            yield f"{GATEWAYS}: attempt {row.attempt} of {row.payment} is open, attempt {attempts[0]} commits"
        if row.state not in (PaymentState.PREPARING, PaymentState.COMMITTED) and attempts:
            yield f"{GATEWAYS}: {row.payment} is called {row.state} and attempt {attempts[0]} commits"


def _list(found: dict[str, State]) -> str:
    return ", ".join(f"{state} at {name}" for name, state in found.items()) or "unknown to every bank"
