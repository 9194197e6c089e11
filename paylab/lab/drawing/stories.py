"""A payment's journey in plain English, told from its events."""

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from paylab.lab.checking.history import detail_text, is_gateway
from paylab.lab.drawing.facts import FACT_KINDS, Call, Fact, duration, in_order, pair_calls
from paylab.nodes import wire
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2, payment_gateway_pb2

REASONS = {
    "INSUFFICIENT_FUNDS": "the account does not hold that much",
    "ACCOUNT_NOT_FOUND": "it keeps no such account",
    "ACCOUNT_CLOSED": "the account is closed",
    "CURRENCY_MISMATCH": "the account is kept in another currency",
    "AUTHORISATION_EXPIRED": "the authorisation has expired",
    "AUTHORISATION_CLOSED": "the authorisation does not hold that much any more",
    "BANK_UNREACHABLE": "a bank was out of reach",
}


# By request: which call carries it, and what becomes of a hold and of the money when it is carried out.
_MOVES = ("posted it: the hold became a debit, the promised credit a credit", "moved the money")
ENDS: dict[type, tuple[str, str, str]] = {
    payment_gateway_pb2.PayRequest: ("Pay", *_MOVES),
    payment_gateway_pb2.CaptureRequest: ("Capture", *_MOVES),
    payment_gateway_pb2.RefundRequest: ("Refund", *_MOVES),
    payment_gateway_pb2.AuthoriseRequest: (
        "Authorise",
        "carried it out: the hold stays until a capture, a void or its expiry",
        "set the money aside",
    ),
    payment_gateway_pb2.VoidRequest: (
        "Void",
        "carried it out: what was on hold is free again",
        "gave back what was on hold",
    ),
}


class Story(str):
    """A text of one sentence or two a line, which a notebook shows as a numbered list."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The text itself, for a terminal."""
        return str(self)

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in self.splitlines())
        return f"<ol>{items}</ol>"


def tell(payment: str, events: Iterable[Event]) -> Story:
    """The story of `payment` from its `events`, crashes and restarts of its nodes among them."""
    told, downs = in_order(events)
    if not told:
        return Story(f"Nothing is remembered of payment {payment}.")
    return Story("\n".join(_Journey(payment, told, downs).lines()))


class _Journey:
    def __init__(self, payment: str, events: Sequence[Event], downs: Sequence[Event]) -> None:
        self._payment = payment
        self._events = events
        self._downs = downs
        self._calls = pair_calls(events)
        self._facts = [
            (event, fact)
            for event in events
            if event.kind in FACT_KINDS
            for fact in [Fact.of(event)]
            if fact.txn.rpartition("/")[0] == payment
        ]
        self._pays = [call for method, *_ in ENDS.values() for call in self._calls_of(method)]
        asked = self._pays[0].sent.detail if self._pays and self._pays[0].sent else None
        _, self._end, self._one_step = ENDS.get(type(asked), ENDS[payment_gateway_pb2.PayRequest])
        self._receipt_told = False

    def lines(self) -> Iterator[str]:
        """The whole story."""
        yield from self._asked()
        attempts = sorted({fact.attempt for _, fact in self._facts})
        for number, attempt in enumerate(attempts):
            if number in (0, len(attempts) - 1):
                yield from self._attempt(attempt)
            elif number == 1:
                last = attempts[-2]
                yield f"Attempt{'' if last == attempt else 's'} {_span(attempt, last)} ended like the first."
            if number in (0, len(attempts) - 1):
                yield from self._receipt(before=self._begin_of(attempts[number + 1 :]))
        yield from self._afterwards()
        yield self._sum()

    def _asked(self) -> Iterator[str]:
        if not self._pays or self._pays[0].sent is None:
            yield f"How payment {self._payment} began is no longer in memory."
            return
        who, request = self._pays[0].sent.node, self._pays[0].sent.detail
        if type(request) in ENDS:
            yield f'{who} asked to {_wish(request)}, with the key "{request.idempotency_key}".'
        lost = [call for call in self._pays if call.failed]
        if lost:
            yield f"{who} got no answer to {_times(len(lost), 'call')} and asked again with the same key."
        yield f"The gateway checked the token of {who} and claimed the key for payment {self._payment}."

    # One attempt --------------------------------------------------------------------------------

    def _attempt(self, attempt: int) -> Iterator[str]:
        if attempt > 1:
            yield self._reopened(attempt)
        yield from self._detours(attempt)
        facts = [(event, fact) for event, fact in self._facts if fact.attempt == attempt]
        prepares = self._prepares(attempt)
        promised = _each(facts, Kind.FORCED_WRITE, "PREPARED")
        if promised:
            what = [f"{node} {_promise(prepares.get(node, []))}" for node in promised]
            yield f"{_and(what)}. Each forced that to its disk and voted yes."
        no = [(event.node, fact.reason) for event, fact in facts if fact.word == "ABORTED" and fact.reason]
        for node, reason in dict.fromkeys(pair for pair in no if pair[0] != "coordinator"):
            yield f"{node} voted no ({reason}): {REASONS.get(reason, 'it could not promise')}."
        decisions = (e for e, f in facts if e.node == "coordinator" and f.word in ("COMMIT", "ABORTED"))
        decided = next(decisions, None)
        if decided is not None and decided.kind is Kind.FORCED_WRITE:
            yield (
                f"Every vote was yes, so the coordinator forced COMMIT to its log {self._after(decided)}: "
                "from then on nothing could stop the payment."
            )
        elif decided is not None:
            reason = Fact.of(decided).reason
            why = f", as {REASONS[reason]}," if reason == "BANK_UNREACHABLE" else ""
            yield f"So the coordinator{why} decided ABORT {self._after(decided)}; no money moved."
        yield from self._carried_out(facts, one_phase=not promised)
        yield from self._saved(facts)

    def _reopened(self, attempt: int) -> str:
        opened = next(event for event, fact in self._facts if fact.attempt == attempt)
        asked = [c for c in self._calls_of("Redrive") if c.sent and c.sent.at_s <= opened.at_s]
        who = "the queue asked the gateway to try again" if asked else "the gateway tried again"
        return f"{self._after(opened).capitalize()} {who}: attempt {attempt}."

    def _detours(self, attempt: int) -> Iterator[str]:
        """Servers that could not be reached, and who did their work."""
        unreached, status = 0, ""
        for number, call in self._calls.items():
            if call.sent is None or self._attempt_of(call) != attempt:
                continue
            method = call.sent.method.rpartition("/")[2]
            hops = [hop for hop in self._calls.values() if hop.sent and hop.sent.parent == number]
            lost = [hop.sent for hop in hops if hop.sent and hop.failed]
            served = next((hop.sent.peer for hop in hops if hop.sent and not hop.failed), "")
            if lost and served:
                gone = _and([f"{sent.peer}{self._crash_of(sent)}" for sent in lost])
                yield f"{call.sent.peer} could not reach {gone}, so {method} went to its twin {served}."
            if call.failed and call.ended and method == "Prepare":
                unreached += 1
                status = detail_text(call.ended).partition(": ")[2] or detail_text(call.ended)
        if unreached:
            yield f"The coordinator's Prepare failed {_times(unreached, 'time')}: {status}."

    def _carried_out(self, facts: Sequence[tuple[Event, Fact]], *, one_phase: bool) -> Iterator[str]:
        others = [(event, fact) for event, fact in facts if not is_gateway(event.node)]
        banks = [(event, fact) for event, fact in others if event.node != "coordinator"]
        posted = _each(banks, Kind.FORCED_WRITE, "COMMITTED")
        aborted = [(event, fact) for event, fact in banks if not fact.reason]
        released = [] if one_phase else _each(aborted, Kind.STATE, "ABORTED")
        if posted and one_phase:
            yield f"One bank keeps both accounts, so {_and(posted)} {self._one_step} in a single step."
        elif posted:
            yield f"{_and(posted)} {self._end}."
        if released:
            yield f"{_and(released)} let go of what had been promised."

    def _saved(self, facts: Sequence[tuple[Event, Fact]]) -> Iterator[str]:
        for event, fact in facts:
            if is_gateway(event.node) and event.kind is Kind.STATE and fact.word != "PREPARING":
                why = f" ({fact.reason})" if fact.reason else ""
                handed = ", and handed it to the queue to try again later" if fact.word == "QUEUED" else ""
                yield f"The gateway saved {fact.word}{why} {self._after(event)}{handed}."

    # Afterwards ---------------------------------------------------------------------------------

    def _receipt(self, *, before: float) -> Iterator[str]:
        """What the client first heard, if that was before a point in time."""
        first = self._first_answer()
        if first is not None and first.at_s < before and not self._receipt_told:
            self._receipt_told = True
            yield f"{first.node} had the receipt{_state(first.detail)} {self._after(first)}."

    def _afterwards(self) -> Iterator[str]:
        first = self._first_answer()
        again = [c for c in self._pays if first and c.sent and not c.failed and c.sent.at_s >= first.at_s]
        if again:
            asked = "once more" if len(again) == 1 else f"{len(again)} more times"
            yield f"Asked {asked} with the same key, the gateway gave the same receipt and charged nothing."
        for event in self._events:
            if event.facts is not None and event.facts["at"] == "expired":
                yield f"{event.node} let go of what was still on hold {self._after(event)}: it had expired."
        if any(event.node == "logger" and event.kind is Kind.FORCED_WRITE for event in self._events):
            yield "The logger wrote what became of it to its log."

    def _sum(self) -> str:
        sent = [event for event in self._events if event.kind is Kind.SENT]
        nodes = {event.node for event in self._events}
        forced = sum(event.kind is Kind.FORCED_WRITE for event in self._events)
        lasted = duration(self._events[-1].at_s - self._events[0].at_s)
        return (
            f"In all {_times(len(sent), 'call')} between {len(nodes)} nodes and "
            f"{_times(forced, 'forced write')} within {lasted}."
        )

    # Looking things up --------------------------------------------------------------------------

    def _first_answer(self) -> Event | None:
        return next((call.ended for call in self._pays if call.ended and not call.failed), None)

    def _begin_of(self, attempts: Sequence[int]) -> float:
        """When the first of these attempts began; never, if there is none."""
        return min((e.at_s for e, fact in self._facts if fact.attempt in attempts), default=math.inf)

    def _calls_of(self, method: str) -> list[Call]:
        return [c for c in self._calls.values() if c.sent and c.sent.method.endswith(f"/{method}")]

    def _attempt_of(self, call: Call) -> int:
        """Which attempt a call to a bank is about; 0 for none."""
        request = call.sent.detail if call.sent else None
        if not isinstance(request, bank_pb2.PrepareRequest | bank_pb2.DecideRequest):
            return 0
        return next((item.txn.attempt for item in request.items if item.txn.payment == self._payment), 0)

    def _prepares(self, attempt: int) -> dict[str, list[Any]]:
        """The legs that each bank server was asked to promise."""
        return {
            call.received.node: [leg for item in request.items for leg in item.legs if self._is_mine(item)]
            for call in self._calls_of("Prepare")
            if call.received
            and isinstance(request := call.received.detail, bank_pb2.PrepareRequest)
            and any(self._is_mine(item) and item.txn.attempt == attempt for item in request.items)
        }

    def _is_mine(self, item: bank_pb2.Prepare) -> bool:
        return item.txn.payment == self._payment

    def _crash_of(self, sent: Event) -> str:
        before = [down for down in self._downs if down.node == sent.peer and down.at_s <= sent.at_s]
        return ", which had crashed" if before and before[-1].kind is Kind.CRASHED else ""

    def _after(self, event: Event) -> str:
        return f"after {duration(event.at_s - self._events[0].at_s)}"


def _each(facts: Sequence[tuple[Event, Fact]], kind: Kind, word: str) -> list[str]:
    return list(
        dict.fromkeys(event.node for event, fact in facts if event.kind is kind and fact.word == word)
    )


def _wish(request: Any) -> str:
    """What a client asks for."""
    if isinstance(request, payment_gateway_pb2.VoidRequest):
        return f"give back what is left of authorisation {request.payment}"
    money = wire.money_from_pb(request.money) if request.HasField("money") else "all that is left"
    match request:
        case payment_gateway_pb2.PayRequest():
            return f"pay {money} from {request.payer} to {request.payee}"
        case payment_gateway_pb2.AuthoriseRequest():
            return f"set {money} of {request.payer} aside for {request.payee}"
        case payment_gateway_pb2.CaptureRequest():
            return f"capture {money} of authorisation {request.payment}"
        case _:
            return f"refund {money} of payment {request.payment}"


def _promise(legs: Sequence[Any]) -> str:
    """What a yes to these legs promises."""
    return _and([_leg_promise(leg) for leg in legs]) or "promised its part"


def _leg_promise(leg: Any) -> str:
    money, account = wire.money_from_pb(leg.money), f"{leg.bank}/{leg.account}"
    verb = leg.hold.Verb.Name(leg.hold.verb)
    if money.amount_minor < 0:
        if verb in ("TAKE", "FREE"):
            return f"took over {-money} that the authorisation holds on {account}"
        return f"put {-money} of {account} on hold"
    if verb in ("PLACE", "FREE"):
        return f"found {account} fit to be paid {money}" if verb == "PLACE" else f"agreed for {account}"
    return f"noted {money} to come for {account}"


def _state(receipt: Any) -> str:
    if not isinstance(receipt, payment_gateway_pb2.Receipt):
        return ""
    return f" {payment_gateway_pb2.PaymentState.Name(receipt.state)}"


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
