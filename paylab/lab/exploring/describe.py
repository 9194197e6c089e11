"""Moves and states of the model in words."""

from typing import Any

from paylab.lab.exploring.bank_actor import BankState
from paylab.lab.exploring.coordinator_actor import CoordinatorState
from paylab.lab.exploring.gateway_actor import GatewayState
from paylab.lab.exploring.model import Broken, Message, Note, Open
from paylab.lab.exploring.moves import Move
from paylab.nodes.events import Kind


def story(move: Move) -> str:
    """What a move does, in a line."""
    message = move.message
    if move.fault == "lost":
        what = f"{message} to {move.node} is lost" if message else "a message is lost"
    elif message is None:
        what = f"{move.node} {move.what}"
    elif isinstance(message.body, Open):
        what = f"{message.receiver} is asked again for {message.body.txn}"
    else:
        what = f"{message.receiver} gets {message} from {message.sender}"
    if move.fault == "doubled":
        what += ", and a copy stays on its way"
    if move.fault == "late":
        what += " although all that it waits for is on its way"
    crash = next(
        (n for n, act in enumerate(move.acts) if isinstance(act, Note) and act.kind is Kind.CRASHED), None
    )
    done = list(filter(None, map(_act, move.acts[:crash])))
    again = [] if crash is None else list(filter(None, map(_act, move.acts[crash + 1 :])))
    if move.fault == "crashed" and move.what != "crashes":
        done.append("and dies" if message is None else f"and dies {move.what}")
    text = "; ".join(filter(None, (what, ", ".join(done))))
    return f"{text}; restarted, it {', '.join(again)}" if again else text


def _act(act: Note | Message) -> str:
    if isinstance(act, Note):
        return f"writes {act.text}" if act.kind is Kind.FORCED_WRITE else act.text
    return "" if isinstance(act.body, Open) else f"says {act} to {act.receiver}"


def holdings(state: Any) -> str:
    """What an actor holds, in a line."""
    match state:
        case Broken(why):
            return f"failed: {why}"
        case GatewayState():
            rows = [
                f"{row.payment} {row.state}" + (f" ({row.attempt})" if row.attempt else "")
                for row in state.rows
            ]
            return "; ".join(
                [*rows, *(f"tells that it saved {txn}" for txn in sorted(state.outbox, key=str))]
            )
        case CoordinatorState():
            return "; ".join(_coordinator(state)) or "nothing"
        case BankState():
            return "; ".join(_bank(state))
        case _:
            return str(state)


def _coordinator(state: CoordinatorState) -> list[str]:
    attempts = [attempt for name, value in state.memory if name == "attempts" for _, attempt in value]
    lines = []
    for attempt in attempts:
        waits = f", waits for {', '.join(attempt.waiting_for)}" if attempt.waiting_for else ""
        lines.append(f"{attempt.txn} {attempt.phase}{waits}")
    return lines + [f"on disk: COMMIT {record.txn}" for record in state.log]


def _bank(state: BankState) -> list[str]:
    lines = []
    for row in state.books.rows:
        forced = "" if state.durable is None or row in state.durable.rows else " (not yet on disk)"
        lines.append(f"{row.txn} {row.state}{forced}")
    for account in state.books.accounts:
        held = f", {account.held_minor} of it held" if account.held_minor else ""
        lines.append(f"{account.account} has {account.posted_minor}{held}")
    return lines
