"""Invariants of agreement over a history: all parties say the same, in the right order, and come to rest."""

from paylab.core import payment as rules
from paylab.lab.checking.event_facts import Facts
from paylab.lab.checking.folds import TERMINAL, Fold, Picture, said_by_coordinator
from paylab.nodes.events import Event, Kind


class Atomicity(Fold):
    """An attempt is committed at all its banks or at none.

    Source: J. Gray, Notes on Data Base Operating Systems, 1978.
    """

    name = "both banks or none, over time"

    def __init__(self, picture: Picture) -> None:
        """Nothing is half done yet."""
        super().__init__(picture)
        self._half_done: dict[str, None] = {}

    def bank(self, facts: Facts) -> None:
        """Compare with the other bank."""
        txn, state, bank = facts["txn"], facts["state"], facts["bank"]
        if state == "PREPARED":
            return
        self.count += 1
        others = self.picture.txn(txn).at
        contrary = "ABORTED" if state == "COMMITTED" else "COMMITTED"
        for other, theirs in others.items():
            if other != bank and theirs == contrary:
                self.broken(f"{txn} is {state} at {bank} and {theirs} at {other}")
        payment = self.picture.payment_of(txn)
        if state != "COMMITTED" or payment is None:
            return
        missing = [b for b in payment.banks if b != bank and others.get(b) != "COMMITTED"]
        if missing:
            self._half_done[txn] = None
        else:
            self._half_done.pop(txn, None)

    def quiet(self, _: Facts) -> None:
        """Whatever is half done now stays so."""
        for txn in self._half_done:
            self.broken(f"{txn} is committed at {_where(self.picture, txn)} only, and nothing is in flight")
        self._half_done.clear()


def _where(picture: Picture, txn: str) -> str:
    return " and ".join(bank for bank, state in picture.txn(txn).at.items() if state == "COMMITTED")


class Decisions(Fold):
    """Nobody contradicts what anybody has said of an attempt before; states move as the rules allow.

    Source: atomic commitment, conditions AC1 and AC2: P. Bernstein, V. Hadzilacos, N. Goodman, Concurrency
    Control and Recovery in Database Systems, 1987, chapter 7.
    """

    name = "decisions never contradict"

    def _say(self, txn: str, outcome: str, who: str) -> None:
        self.count += 1
        known = self.picture.txn(txn)
        if known.outcome and known.outcome != outcome:
            self.broken(f"{who} says {txn} is {outcome}, {known.said_by} said {known.outcome}")

    def bank(self, facts: Facts) -> None:
        """A row moves from PREPARED to its end, or straight there, and stays."""
        txn, state, bank = facts["txn"], facts["state"], facts["bank"]
        before = self.picture.txn(txn).at.get(bank)
        if before not in (None, "PREPARED") or before == state:
            self.broken(f"{bank} made {txn} {state}, it was {before} already")
        if state != "PREPARED":
            self._say(txn, state, bank)

    def refusal(self, facts: Facts) -> None:
        """A decision that a bank must refuse contradicts its promise."""
        self.broken(f"{facts['bank']} had to refuse a decision about {facts['txn']}: {facts['refusal']}")

    def decision(self, facts: Facts) -> None:
        """A commit record."""
        self._say(facts["txn"], "COMMITTED", "the coordinator's log")

    def coordinator(self, facts: Facts) -> None:
        """An answer."""
        said = said_by_coordinator(facts)
        if said is not None:
            self._say(*said, "the coordinator")

    def decide(self, facts: Facts) -> None:
        """Decisions on their way."""
        event = self.picture.event
        for txn, commit in facts["items"]:
            self._say(txn, "COMMITTED" if commit else "ABORTED", f"{event.node}, to a bank,")

    def gateway(self, facts: Facts) -> None:
        """A payment moves as its table says, and ends as its attempts did."""
        payment, state = facts["payment"], facts["state"]
        known = self.picture.payments.get(payment)
        self.count += 1
        if known is not None and rules.State(state) not in rules.TRANSITIONS[rules.State(known.state)]:
            self.broken(f"{payment} was {known.state} and became {state}")
        committed = payment in self.picture.committed
        if state == "COMMITTED" and not committed and not self.picture.continued:
            self.broken(f"the gateway says {payment} is COMMITTED, and nobody decided that")
        elif state != "COMMITTED" and committed:
            self.broken(
                f"the gateway says {payment} is {state} {facts['reason']}, and an attempt is COMMITTED"
            )


class ForcedFirst(Fold):
    """What is said was durable before: a yes after its promise, a commit after its record.

    Source: write-ahead logging and presumed abort: Mohan, Lindsay, Obermarck, TODS 11(4), 1986.
    """

    name = "forced before it is said"

    def decide(self, facts: Facts) -> None:
        """A commit leaves after its record is durable."""
        event = self.picture.event
        for txn, commit in facts["items"]:
            self.count += 1
            if commit and not self.picture.txn(txn).forced and not self._older(txn):
                self.broken(f"{event.node} told {event.peer} to commit {txn} before that was on its disk")

    def coordinator(self, facts: Facts) -> None:
        """So does the answer; in one phase the bank's ledger is the log."""
        event = self.picture.event
        said = said_by_coordinator(facts)
        self.count += 1
        if said is None or said[1] != "COMMITTED":
            return
        known = self.picture.txn(said[0])
        if not known.forced and "COMMITTED" not in known.at.values() and not self._older(said[0]):
            self.broken(f"{event.node} called {said[0]} committed before that was on any disk")

    def votes(self, facts: Facts) -> None:
        """A yes leaves after the promise is durable."""
        event = self.picture.event
        bank = event.node.rpartition("-")[0]
        for txn, yes, _ in facts["votes"]:
            self.count += 1
            known = self.picture.txn(txn)
            promised = bank in known.legs or known.at.get(bank) == "COMMITTED"
            if yes and not promised and not self._older(txn):
                self.broken(f"{event.node} voted yes on {txn} before its promise was on disk")

    def _older(self, txn: str) -> bool:
        return self.picture.continued and self.picture.payment_of(txn) is None


class LogAgrees(Fold):
    """The log tells each payment's end once, as the gateway wrote it. Source: the transactional outbox."""

    name = "the log agrees over time"

    def __init__(self, picture: Picture) -> None:
        """Nothing is logged."""
        super().__init__(picture)
        self._events: set[str] = set()
        self._unlogged: dict[str, None] = {}

    def gateway(self, facts: Facts) -> None:
        """An end must be logged sooner or later."""
        if facts["state"] in TERMINAL:
            self._unlogged[f"{facts['payment']}/{facts['attempt']}/{facts['state']}"] = None

    def logger(self, facts: Facts) -> None:
        """Look at each new entry."""
        for event_id in facts["events"]:
            self.count += 1
            txn, _, state = event_id.rpartition("/")
            if event_id in self._events:
                self.broken(f"the log has {event_id} twice")
            self._events.add(event_id)
            self._unlogged.pop(event_id, None)
            payment = self.picture.payment_of(txn)
            if payment is None:
                if not self.picture.continued:
                    self.broken(f"the log knows {txn}, the gateway does not")
            elif state in TERMINAL and payment.state != state:
                self.broken(f"the log says {txn} is {state}, the gateway says {payment.state}")

    def quiet(self, _: Facts) -> None:
        """By now every end is logged."""
        for event_id in self._unlogged:
            self.broken(f"{event_id} is not in the log, and nothing is on its way")
        self._unlogged.clear()


class Rest(Fold):
    """After heal and quiet time nothing is in doubt and no attempt is open.

    Source: condition AC5 of atomic commitment (Bernstein, Hadzilacos, Goodman 1987): all reach a decision.
    """

    name = "nothing is left in doubt"

    def __init__(self, picture: Picture) -> None:
        """Nothing is open."""
        super().__init__(picture)
        self._open: dict[str, None] = {}

    def gateway(self, facts: Facts) -> None:
        """Follow open attempts."""
        if facts["state"] == "PREPARING":
            self._open[facts["payment"]] = None
        else:
            self._open.pop(facts["payment"], None)

    def quiet(self, _: Facts) -> None:
        """Now nothing may be open."""
        self.count += 1
        for bank, txn in self.picture.prepared:
            self.broken(f"{txn} is in doubt at {bank}")
        for payment in self._open:
            self.broken(f"{payment} has an open attempt")


class Whole(Fold):
    """No event is missing: every node numbers its events without a gap, and its Lamport clock only grows.

    Source: L. Lamport, Time, Clocks, and the Ordering of Events in a Distributed System, CACM 21(7), 1978.
    """

    name = "the history is whole"

    def __init__(self, picture: Picture) -> None:
        """No node is known."""
        super().__init__(picture)
        self._last: dict[str, tuple[int, int]] = {}
        self._sent: dict[str, tuple[int, list[Facts]]] = {}

    def every(self, event: Event, facts: Facts | None) -> None:
        """Look at one event, whatever it is."""
        self.count += 1
        node, call = event.node, event.call
        last = self._last.get(node)
        seq, lamport = last or (event.seq - 1 if self.picture.continued else 0, 0)
        if event.seq != seq + 1 and not (event.kind is Kind.RESTARTED and event.seq > seq):
            self.broken(f"{node} goes from event {seq} to {event.seq}")
        if event.lamport <= lamport:
            self.broken(f"the clock of {node} goes from {lamport} to {event.lamport}")
        self._last[node] = (event.seq, event.lamport)
        if not call:
            return
        if event.kind is Kind.SENT:
            self._sent[call] = (event.lamport, [])
        elif event.kind is Kind.RECEIVED:
            sent = self._sent.get(call)
            if sent is not None and event.lamport <= sent[0]:
                self.broken(f"{node} received call {call} before it was sent")
        elif event.kind is Kind.FAILED or (event.kind is Kind.RETURNED and facts is None):
            self._sent.pop(call, None)

    def receipt(self, facts: Facts) -> None:
        """What the client got is what the gateway said."""
        event = self.picture.event
        if event.kind is Kind.ANSWERED:
            if event.call in self._sent:
                self._sent[event.call][1].append(facts)
            return
        _, answers = self._sent.pop(event.call, (0, []))
        if answers and facts not in answers:
            self.broken(f"{event.node} got another receipt of {facts['payment']} than {event.peer} gave")
