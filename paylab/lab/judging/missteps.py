"""Finds the steps at which a node broke the protocol, in the events of a run: what a story points at.

Each rule is one that PROTOCOL gives: what must be on disk before it is said, and who may decide what.
"""

# ruff: noqa: SLF001 - the table of rules stands below the class whose methods they are

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from paylab.lab.checking.history import is_gateway
from paylab.lab.drawing.facts import Fact
from paylab.nodes import wire
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2, coordinator_pb2, payment_gateway_pb2

ABORTED, COMMITTED = coordinator_pb2.OUTCOME_ABORTED, coordinator_pb2.OUTCOME_COMMITTED


@dataclass(frozen=True, slots=True)
class Misstep:
    """An event that the protocol forbids, and why in one sentence. `payment` is whose it is.

    `harmless` ones break nothing as long as every other guard holds: no other check finds them.
    """

    event: Event
    text: str
    payment: str
    harmless: bool = False


def missteps(events: Iterable[Event]) -> list[Misstep]:
    """The missteps in these events, in order; none in a network without bugs."""
    watch = Watch()
    for event in events:
        watch.see(event)
    return watch.found


class Watch:
    """Remembers what was said and forced, and compares what comes next."""

    def __init__(self) -> None:
        self.found: list[Misstep] = []
        self._forced: set[tuple[str, str]] = set()  # (bank or coordinator, "PREPARED p/1")
        self._told: defaultdict[tuple[str, str], set[bool]] = defaultdict(set)  # (bank, txn) -> decisions
        # (bank, payment) -> the latest attempt that the bank was asked to prepare
        self._latest: defaultdict[tuple[str, str], int] = defaultdict(lambda: 1)
        self._aborted_at: set[tuple[str, str]] = set()
        self._asked: dict[str, Any] = {}  # call -> request
        self._late: set[tuple[str, str]] = set()  # (call, txn) of Prepares that came after an abort
        self._one_phase: set[str] = set()
        self._said_no: set[str] = set()
        self._yes: defaultdict[str, set[str]] = defaultdict(set)
        self._banks: defaultdict[str, set[str]] = defaultdict(set)
        self._committed_at: defaultdict[str, set[str]] = defaultdict(set)
        self._life = 0
        self._begun: dict[str, int] = {}
        self._closed: set[str] = set()  # attempts that the gateway was told are aborted
        self._payments_of_key: dict[tuple[str, str], str] = {}
        self._ends: dict[str, str] = {}

    def see(self, event: Event) -> None:
        """Take one event."""
        if event.kind is Kind.RESTARTED and event.node == "coordinator":
            self._life += 1
        rules = _RULES.get(type(event.detail))
        if rules is not None:
            rule = rules.get(event.kind)
            if rule is not None:
                rule(self, event, event.detail)
        elif event.kind is Kind.FORCED_WRITE or event.kind is Kind.STATE:
            self._fact(event)

    def _blame(self, event: Event, txn: str, text: str, *, harmless: bool = False) -> None:
        payment = txn.rpartition("/")[0] or txn
        self.found.append(Misstep(event, text, payment, harmless))

    # Coordinator --------------------------------------------------------------------------------

    def _prepare_sent(self, event: Event, request: bank_pb2.PrepareRequest) -> None:
        for item in request.items:
            txn = _txn(item.txn)
            if item.one_phase:
                self._one_phase.add(txn)
            self._banks[txn] |= {leg.bank for leg in item.legs}
            if self._begun.setdefault(txn, self._life) != self._life:
                self._blame(event, txn, f"the coordinator began {txn} again after its restart", harmless=True)

    def _decide_sent(self, event: Event, request: bank_pb2.DecideRequest) -> None:
        for item in request.items:
            txn = _txn(item.txn)
            if event.node != "coordinator" or not item.commit:
                continue
            if ("coordinator", f"COMMIT {txn}") not in self._forced:
                self._blame(
                    event, txn, f"the coordinator told a bank to commit {txn} before that was on its disk"
                )
            silent = self._banks[txn] - self._yes[txn]
            if silent:
                who = " and ".join(sorted(silent))
                self._blame(event, txn, f"the coordinator committed {txn} without the yes of {who}")

    def _decision_answered(self, event: Event, response: coordinator_pb2.GetDecisionResponse) -> None:
        request = self._asked.get(event.call)
        if request is None:
            return
        for message, outcome in zip(request.txns, response.outcomes, strict=False):
            txn = _txn(message)
            known = ("coordinator", f"COMMIT {txn}") in self._forced
            # Once every bank has committed the coordinator may forget; a question that comes later is late.
            if outcome == ABORTED and known and self._banks[txn] - self._committed_at[txn]:
                self._blame(
                    event,
                    txn,
                    f"the coordinator answered ABORTED about {txn}: it forgot that it had committed",
                )
            if outcome == COMMITTED and not known:
                self._blame(
                    event, txn, f"the coordinator answered COMMITTED about {txn}, which it never decided"
                )

    def _decision_returned(self, event: Event, response: coordinator_pb2.GetDecisionResponse) -> None:
        request = self._asked.get(event.call)
        for message, outcome in zip(request.txns if request else (), response.outcomes, strict=False):
            if outcome in (ABORTED, COMMITTED):
                self._told[_bank(event.node), _txn(message)].add(outcome == COMMITTED)

    def _keep_request(self, event: Event, request: Any) -> None:
        self._asked.setdefault(event.call, request)

    # Banks --------------------------------------------------------------------------------------

    def _prepare_received(self, event: Event, request: bank_pb2.PrepareRequest) -> None:
        bank = _bank(event.node)
        for item in request.items:  # a later attempt says that the earlier ones are aborted
            if (bank, _txn(item.txn)) in self._aborted_at:
                self._late.add((event.call, _txn(item.txn)))
            latest, now = self._latest[bank, item.txn.payment], item.txn.attempt
            for attempt in range(latest, now):
                self._told[bank, f"{item.txn.payment}/{attempt}"].add(False)  # noqa: FBT003 - a set of both
            self._latest[bank, item.txn.payment] = max(latest, now)
        self._asked[event.call] = request

    def _prepare_answered(self, event: Event, response: bank_pb2.PrepareResponse) -> None:
        bank = _bank(event.node)
        for vote in response.votes:
            txn = _txn(vote.txn)
            if not vote.yes:
                self._no_answered(event, bank, txn)
                continue
            self._yes[txn].add(bank)
            durable = {(bank, f"PREPARED {txn}"), (bank, f"COMMITTED {txn}")} & self._forced
            if (event.call, txn) in self._late:
                self._blame(event, txn, f"{event.node} said yes to {txn}, which {bank} had aborted")
            elif not durable:
                self._blame(event, txn, f"{event.node} said yes to {txn} before its promise was on disk")

    def _inquiry_answered(self, event: Event, response: bank_pb2.InquireResponse) -> None:
        for vote in response.votes:
            if not vote.yes:
                self._no_answered(event, _bank(event.node), _txn(vote.txn))

    def _no_answered(self, event: Event, bank: str, txn: str) -> None:
        self._said_no.add(txn)
        if (bank, txn) not in self._aborted_at:
            text = f"{event.node} said no to {txn} and kept no record of it, so a late Prepare may get a yes"
            self._blame(event, txn, text, harmless=True)

    def _decide_received(self, event: Event, request: bank_pb2.DecideRequest) -> None:
        for item in request.items:
            self._told[_bank(event.node), _txn(item.txn)].add(item.commit)

    def _bank_fact(self, event: Event, fact: Fact) -> None:
        bank = _bank(event.node)
        if event.kind is Kind.FORCED_WRITE:
            self._forced.add((bank, f"{fact.word} {fact.txn}"))
        if fact.word == "ABORTED":
            self._aborted_at.add((bank, fact.txn))
        if fact.word == "COMMITTED":
            self._committed_at[fact.txn].add(bank)
        decided = fact.word in ("ABORTED", "COMMITTED") and (bank, f"PREPARED {fact.txn}") in self._forced
        if decided and (fact.word == "COMMITTED") not in self._told[bank, fact.txn]:
            what = "committed" if fact.word == "COMMITTED" else "aborted"
            if not any(step.text.startswith(f"{event.node} {what} {fact.txn} alone") for step in self.found):
                text = f"{event.node} {what} {fact.txn} alone: the coordinator had not told it to"
                self._blame(event, fact.txn, text)

    # Gateway ------------------------------------------------------------------------------------

    def _commit_returned(self, _: Event, response: coordinator_pb2.CommitResponse) -> None:
        self._closed.update(_txn(answer.txn) for answer in response.answers if answer.outcome == ABORTED)

    def _paid(self, event: Event, receipt: payment_gateway_pb2.Receipt) -> None:
        request = self._asked.get(event.call)
        if not isinstance(request, payment_gateway_pb2.PayRequest) or not is_gateway(event.node):
            return
        key = (event.peer, request.idempotency_key)
        asked = receipt.money != request.money or receipt.payee != request.payee
        if asked:
            self._blame(
                event,
                receipt.payment,
                f"the gateway took another request under the key {key[1]!r} for the same",
            )
        if self._payments_of_key.setdefault(key, receipt.payment) != receipt.payment:
            self._blame(event, receipt.payment, f"the gateway made a second payment for the key {key[1]!r}")
        state = payment_gateway_pb2.PaymentState.Name(receipt.state)
        end = self._ends.get(receipt.payment)
        if end is not None and end != state:
            text = f"the gateway answered {state} about a payment that was {end}"
            self._blame(event, receipt.payment, text)

    def _gateway_fact(self, event: Event, fact: Fact) -> None:
        payment, _, attempt = fact.txn.rpartition("/")
        if fact.word in ("COMMITTED", "DECLINED"):
            self._ends.setdefault(payment, fact.word)
        if event.kind is not Kind.FORCED_WRITE:
            return
        if (
            fact.word == "PREPARING"
            and attempt != "1"
            and f"{payment}/{int(attempt) - 1}" not in self._closed
        ):
            text = f"the gateway opened {fact.txn} while the attempt before was not known to be aborted"
            self._blame(event, fact.txn, text, harmless=True)
        if fact.word in ("DECLINED", "QUEUED") and fact.txn not in self._closed:
            text = f"the gateway called {payment} {fact.word} when the coordinator had not aborted {fact.txn}"
            self._blame(event, fact.txn, text)

    def _coordinator_fact(self, event: Event, fact: Fact) -> None:
        if event.kind is Kind.FORCED_WRITE and fact.word == "COMMIT":
            self._forced.add(("coordinator", f"COMMIT {fact.txn}"))
        if event.kind is Kind.STATE and fact.word == "ABORTED":
            if ("coordinator", f"COMMIT {fact.txn}") in self._forced:
                text = f"the coordinator answered ABORTED about {fact.txn}: it forgot that it had committed"
                self._blame(event, fact.txn, text)
            elif (
                fact.txn in self._one_phase
                and fact.reason == "BANK_UNREACHABLE"
                and fact.txn not in self._said_no
            ):
                text = (
                    f"the coordinator aborted {fact.txn} without asking its only bank, which may have posted"
                )
                self._blame(event, fact.txn, text)

    def _fact(self, event: Event) -> None:
        fact = Fact.of(event)
        if event.facts is not None and event.facts["at"] == "refusal":
            txn, refusal = event.facts["txn"], event.facts["refusal"]
            if refusal != "ALREADY_COMMITTED":  # that is the answer to a late question, see above
                text = f"{event.node} had to refuse a decision about {txn}: {refusal}"
                self._blame(event, txn, text, harmless=True)
        elif is_gateway(event.node):
            self._gateway_fact(event, fact)
        elif event.node == "coordinator":
            self._coordinator_fact(event, fact)
        elif fact.txn:
            self._bank_fact(event, fact)


# By type, which tells most events apart at the first look, then by kind.
_RULES: dict[type, dict[Kind, Any]] = {
    bank_pb2.PrepareRequest: {Kind.SENT: Watch._prepare_sent, Kind.RECEIVED: Watch._prepare_received},
    bank_pb2.PrepareResponse: {Kind.ANSWERED: Watch._prepare_answered},
    bank_pb2.DecideRequest: {Kind.SENT: Watch._decide_sent, Kind.RECEIVED: Watch._decide_received},
    bank_pb2.InquireResponse: {Kind.ANSWERED: Watch._inquiry_answered},
    coordinator_pb2.GetDecisionRequest: {
        Kind.SENT: Watch._keep_request,
        Kind.RECEIVED: Watch._keep_request,
    },
    coordinator_pb2.GetDecisionResponse: {
        Kind.ANSWERED: Watch._decision_answered,
        Kind.RETURNED: Watch._decision_returned,
    },
    coordinator_pb2.CommitResponse: {Kind.RETURNED: Watch._commit_returned},
    payment_gateway_pb2.PayRequest: {Kind.SENT: Watch._keep_request},
    payment_gateway_pb2.Receipt: {Kind.ANSWERED: Watch._paid},
}


def _txn(message: Any) -> str:
    return str(wire.txn_from_pb(message))


def _bank(server: str) -> str:
    return server.rpartition("-")[0]
