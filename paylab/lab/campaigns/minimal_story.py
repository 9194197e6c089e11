"""Tells a minimised run: a line an RPC, and the step at which the protocol was broken."""

import re
from collections.abc import Iterator, Sequence

from paylab.lab.campaigns import sentences
from paylab.lab.campaigns.faulty_steps import faulty_steps
from paylab.lab.campaigns.sentences import names, one_phase, said, supersedes, who
from paylab.lab.checking.history import is_gateway
from paylab.lab.drawing.facts import FACT_KINDS, Call, Fact, pair_calls
from paylab.lab.drawing.stories import Story
from paylab.lab.judging.missteps import Misstep
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2, payment_gateway_pb2

LINES_MAX = 15
# Missteps that a story points at; more would hide the first.
BLAMED_MAX = 3
PAYMENT = re.compile(r"[0-9a-f]{24}")
KEY = re.compile(r"key '([^']+)'")


def tell(events: Sequence[Event], violations: Sequence[str]) -> Story:
    """The story of a small run that broke a check; at most 15 lines."""
    return Story("\n".join(_Teller(events, violations).lines()))


def causal_past(events: Sequence[Event], violations: Sequence[str]) -> list[Event]:
    """The events that led to the violation: what happened before it, at its nodes and by messages.

    Source: L. Lamport, Time, Clocks, and the Ordering of Events in a Distributed System, CACM 21(7), 1978.
    """
    payments = concerned(events, violations)
    last = _last_facts(events, payments)
    sent = {(event.call, event.kind): n for n, event in enumerate(events) if event.call}
    past: list[Event] = []
    for number in range(len(events) - 1, -1, -1):
        event = events[number]
        if number > last.get(event.node, -1):
            continue
        past.append(event)
        for kind in _CAUSES.get(event.kind, ()):
            cause = sent.get((event.call, kind), -1)
            last[event.peer] = max(cause, last.get(event.peer, -1))
    return _about(past[::-1], payments)


_CAUSES = {
    Kind.RECEIVED: (Kind.SENT,),
    Kind.RETURNED: (Kind.ANSWERED,),
    Kind.FAILED: (Kind.REFUSED,),
}


def concerned(events: Sequence[Event], violations: Sequence[str]) -> set[str]:
    """The payments that violations are about: those they name, those of the keys they name, or all."""
    known = {payment for event in events for payment in event.payments}
    named = {found for line in violations for found in PAYMENT.findall(line)} & known
    keys = {key for line in violations for key in KEY.findall(line)}
    for event in events:
        receipt = event.detail
        if isinstance(receipt, payment_gateway_pb2.Receipt) and receipt.idempotency_key in keys:
            named.add(receipt.payment)
    return named or known


def keys_of(events: Sequence[Event], violations: Sequence[str]) -> set[str]:
    """The idempotency keys of the payments that violations are about."""
    payments = concerned(events, violations)
    receipts = [e.detail for e in events if isinstance(e.detail, payment_gateway_pb2.Receipt)]
    return {receipt.idempotency_key for receipt in receipts if receipt.payment in payments}


def _last_facts(events: Sequence[Event], payments: set[str]) -> dict[str, int]:
    """Where each node's last word on the payments stands: what comes later only finds out."""
    blamed = {id(step.event) for step in faulty_steps(events) if step.payment in payments}
    return {
        event.node: number
        for number, event in enumerate(events)
        if id(event) in blamed or (event.kind in FACT_KINDS and payments & set(event.payments))
    }


def _about(events: Sequence[Event], payments: set[str]) -> list[Event]:
    """Events about these payments, the hops of their calls, and crashes."""
    calls = {event.call for event in events if event.call and payments & set(event.payments)}
    calls |= {event.parent for event in events if event.call in calls and event.parent}
    calls |= {event.call for event in events if event.parent and event.parent in calls}
    return [
        event
        for event in events
        if event.kind in (Kind.CRASHED, Kind.RESTARTED)
        or payments & set(event.payments)
        or (event.call and event.call in calls)
    ]


class _Teller:
    """Lines with how much each matters; the least important go when there are too many."""

    def __init__(self, events: Sequence[Event], violations: Sequence[str]) -> None:
        self._violations = violations
        payments = concerned(events, violations)
        self._events = causal_past(events, violations)
        # How a call ended may lie outside of the past, and is told with it.
        self._calls = pair_calls(_about(events, payments))
        seen: dict[str, Misstep] = {}
        for step in faulty_steps(events):
            if step.payment in payments:
                seen.setdefault(step.text, step)
        self._missteps = list(seen.values())[:BLAMED_MAX]
        self._guilty = _party(self._missteps[0].event.node) if self._missteps else ""
        order = dict.fromkeys(payment for event in self._events for payment in event.payments)
        # Others are named only where they share a message with those that the story is about.
        order = dict.fromkeys(sorted(order, key=lambda payment: payment not in payments))
        self._names = {payment: f"P{number}" for number, payment in enumerate(order, start=1)}

    def lines(self) -> list[str]:
        """The story; the verdict always, of the rest what fits."""
        verdict = self._verdict()
        found = list(self._all())
        while len(found) + len(verdict) > LINES_MAX:
            del found[min(range(len(found)), key=lambda n: (found[n][0], -n))]
        return [self._named(text) for text in [*(text for _, text in found), *verdict]]

    def _named(self, text: str) -> str:
        text = PAYMENT.sub(lambda found: self._names.get(found[0], found[0]), text)
        return text[0].upper() + text[1:]

    def _all(self) -> Iterator[tuple[int, str]]:
        blamed: dict[int, Misstep] = {id(step.event): step for step in self._missteps}
        previous, told = "", set[str]()
        for event in self._events:
            line = self._line(event)
            if line is not None and line[1] != previous:
                weight, previous = line
                # What is said again goes first when there are too many lines.
                yield weight - 4 * (previous in told), previous
                told.add(previous)
            if id(event) in blamed:
                yield 9, f"HERE: {blamed[id(event)].text}."

    def _line(self, event: Event) -> tuple[int, str] | None:  # noqa: PLR0911 - a table of kinds
        if event.kind is Kind.CRASHED:
            return 7, f"{who(event.node)} crashed."
        if event.kind is Kind.RESTARTED:
            return 4, f"{who(event.node)} came back."
        if event.kind is Kind.SENT:
            return self._rpc(self._calls[event.call]) if event.call in self._calls else None
        if event.kind not in FACT_KINDS:
            return None
        fact = Fact.of(event)
        if event.node == "coordinator":
            forced = event.kind is Kind.FORCED_WRITE
            return (6, f"the coordinator forced {fact.word} {fact.txn} to its log.") if forced else None
        if is_gateway(event.node):
            return (5, f"the gateway wrote down that {event.detail}.") if event.kind is Kind.STATE else None
        return self._bank_fact(event, fact)

    def _bank_fact(self, event: Event, fact: Fact) -> tuple[int, str] | None:
        if not fact.txn or fact.word not in ("COMMITTED", "ABORTED"):
            return None
        if event.kind is not Kind.STATE and (event.node, fact) in self._stated():
            return None
        return 8, f"{event.node} {fact.word.lower()} {fact.txn} {self._because(event, fact)}."

    def _stated(self) -> set[tuple[str, Fact]]:
        return {(e.node, Fact(Fact.of(e).word, Fact.of(e).txn)) for e in self._events if e.kind is Kind.STATE}

    def _because(self, event: Event, fact: Fact) -> str:
        """Why a bank did what it did, as far as its messages say."""
        before = self._events[: self._events.index(event)]
        reason = f": {fact.reason}" if fact.reason not in ("", "ALREADY_ABORTED") else ""
        for earlier in reversed([one for one in before if _party(one.node) == _party(event.node)]):
            if fact.word == "ABORTED" and supersedes(earlier, fact.txn):
                return "because it was asked to prepare the next attempt"
            why = _REASONS.get((earlier.kind, type(earlier.detail)))
            if why is not None and names(earlier.detail, fact.txn):
                alone = isinstance(earlier.detail, bank_pb2.PrepareRequest) and one_phase(earlier.detail)
                return ("because it alone decides" if alone else why) + reason
            if earlier.kind is Kind.RETURNED and earlier.method.endswith("/GetDecision"):
                answer = said(earlier.detail)
                return (
                    "because the coordinator, when asked, said so"
                    if fact.word in answer
                    else f"although the coordinator, when asked, said {answer}"
                )
            if earlier.kind is Kind.FAILED and earlier.method.endswith("/GetDecision"):
                return "because nobody answered its question"
        return "and no message had told it to"

    def _rpc(self, call: Call) -> tuple[int, str] | None:
        """One line for a call from a node that knows what it asks, hops through a balancer included."""
        assert call.sent is not None
        asked = sentences.asked(call.sent)
        if not asked:
            return None
        hops = [
            one
            for one in self._calls.values()
            if one.sent and one.sent.parent == call.sent.call and one.sent.method == call.sent.method
        ]
        arrived = next((one for one in hops if one.received), call)
        server = arrived.received.node if arrived.received else ""
        guilty = 2 * (self._guilty in (_party(call.sent.node), _party(server)))
        if call.ended and call.ended.kind is Kind.RETURNED:
            answer = said(call.ended.detail)
            return 5 + guilty, f"{asked}; {who(server)} " + (
                f"answered {answer}." if answer else "took note."
            )
        if server and not server.endswith("-lb"):
            return 6 + guilty, f"{asked}; {who(server)} got that, and no answer came back."
        return 3 + guilty, f"{asked}, which never arrived."

    def _verdict(self) -> list[str]:
        """The faulty step, and what it broke."""
        broken = [f"So this is broken: {self._violations[0]}."] if self._violations else []
        if self._missteps:
            return [f"What went wrong: {self._first_misstep()}.", *broken]
        facts = [event for event in self._events if event.kind in FACT_KINDS and Fact.of(event).txn]
        if not facts:
            return broken
        fact = Fact.of(facts[-1])
        step = (
            f"every step is one that the rules allow; {who(facts[-1].node)} made {fact.txn} {fact.word} last"
        )
        return [f"What went wrong: {step}.", *broken]

    def _first_misstep(self) -> str:
        """The first; of several servers that did the same wrong, one of the bank that the violation names."""

        def mistake(step: Misstep) -> str:
            return step.text.removeprefix(step.event.node)

        same = [step for step in self._missteps if mistake(step) == mistake(self._missteps[0])]
        named = [step for step in same if any(_party(step.event.node) in line for line in self._violations)]
        return (named or same)[0].text


_REASONS = {
    (Kind.RECEIVED, bank_pb2.DecideRequest): "because the coordinator told it to",
    (Kind.RECEIVED, bank_pb2.PrepareRequest): "when it was asked to prepare it",
    (Kind.RECEIVED, bank_pb2.InquireRequest): "because it was asked about it and did not know it",
}


def _party(node: str) -> str:
    """The bank of a bank server; any other node itself."""
    return node.rpartition("-")[0] or node
