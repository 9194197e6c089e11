"""The frame of the history checks: what a history has said so far, and folds that look at each fact in turn.

A fold states one invariant. It is called with every fact that it has a method for, before the picture takes
the fact in, so it sees what stood there and what is said now. Every fact costs it the same, however long the
history is.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from paylab.lab.checking.event_facts import Facts
from paylab.nodes.events import Event, Kind

# A fold reports so many findings; one broken rule often breaks a thousand times.
FINDINGS_MAX = 100
# A dead letter rests, and may be taken up again.
TERMINAL = frozenset({"COMMITTED", "DECLINED", "CANCELLED"})
AT_REST = TERMINAL | {"DEAD_LETTER"}


BEFORE = Event("", 0, 0, 0.0, Kind.STATE)


@dataclass(slots=True)
class Txn:
    """What has been said of one attempt."""

    # by bank: its row's state, and the legs that it prepared
    at: dict[str, str] = field(default_factory=dict)
    legs: dict[str, Sequence[list[Any]]] = field(default_factory=dict)
    # The coordinator's commit record is durable.
    forced: bool = False
    # COMMITTED or ABORTED once anybody has said so, and who did.
    outcome: str = ""
    said_by: str = ""


@dataclass(slots=True)
class Payment:
    """A payment as the gateway's row has it, and the banks that have posted it."""

    row: Facts
    posted: set[str] = field(default_factory=set)

    @property
    def state(self) -> str:
        """The row's state."""
        return str(self.row["state"])

    @property
    def operation(self) -> str:
        """What it does; histories of old knew payments only."""
        return str(self.row.get("operation", "PAY"))

    @property
    def moves(self) -> bool:
        """Whether banks post it."""
        return self.operation not in ("AUTHORISE", "VOID")

    @property
    def banks(self) -> set[str]:
        """Those that must post it."""
        return {str(self.row[side]).partition("/")[0] for side in ("payer", "payee")}


@dataclass(slots=True)
class SetAside:
    """What an authorisation sets aside on the payer's account, less what has been taken over."""

    left_minor: int
    until_s: float
    # VOIDED or EXPIRED once it has ended.
    ended: str = ""


@dataclass(slots=True)
class Picture:
    """What a history has said so far."""

    # The books are older than the history: what it does not know may have been there before.
    continued: bool = False
    events: int = 0
    # The event that is looked at.
    event: Event = field(default=BEFORE)
    txns: dict[str, Txn] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)
    # by bank and account: posted and held
    balances: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    prepared: dict[tuple[str, str], None] = field(default_factory=dict)
    # by authorisation
    set_aside: dict[str, SetAside] = field(default_factory=dict)
    # Payments of which somebody has said that an attempt is committed.
    committed: set[str] = field(default_factory=set)
    quiet_moments: int = 0
    # How many facts there were, and how many attempts each bank has committed.
    facts: int = 0
    posted_at: Counter[str] = field(default_factory=Counter)

    def take(self, facts: Facts) -> None:
        """Take one set of facts in."""
        self.facts += 1
        take = self.TAKE.get(facts["at"])
        if take is not None:
            take(self, facts)

    def txn(self, name: str) -> Txn:
        """What is known of an attempt, perhaps nothing."""
        return self.txns.get(name) or NOTHING

    def payment_of(self, txn: str) -> Payment | None:
        """The payment of an attempt, if the gateway has said anything of it."""
        return self.payments.get(txn.rpartition("/")[0])

    def decided(self, txn: str, outcome: str, who: str) -> None:
        """Somebody has said what became of an attempt; the first to say so counts."""
        known = self.txns.setdefault(txn, Txn())
        if not known.outcome:
            known.outcome, known.said_by = outcome, who
        if outcome == "COMMITTED":
            self.committed.add(txn.rpartition("/")[0])

    def _opened(self, facts: Facts) -> None:
        for account, amount_minor, _ in facts["accounts"]:
            self.balances[facts["bank"], account] = (amount_minor, 0)

    def _bank(self, facts: Facts) -> None:
        bank, txn, state = facts["bank"], facts["txn"], facts["state"]
        self._set_aside(facts)
        known = self.txns.setdefault(txn, Txn())
        if state == "COMMITTED" and known.at.get(bank) != state:
            self.posted_at[bank] += 1
        known.at[bank] = state
        if state == "PREPARED":
            known.legs[bank] = facts["legs"]
            self.prepared[bank, txn] = None
        else:
            self.prepared.pop((bank, txn), None)
            if bank in known.legs:
                known.legs[bank] = ()  # promised once, and free of it now
            self.decided(txn, state, bank)
            payment = self.payment_of(txn)
            if payment is not None and state == "COMMITTED":
                payment.posted.add(bank)
        for account, posted_minor, held_minor in facts.get("after", ()):
            self.balances[bank, account] = (posted_minor, held_minor)

    def change_of_left(self, facts: Facts) -> int:
        """What a bank's new row will change in what its payment's authorisation has left.

        It follows from the gateway's row and from the states before and after, not from what banks say.
        """
        payment, state = self.payment_of(facts["txn"]), facts["state"]
        if payment is None or payment.row["payer"].partition("/")[0] != facts["bank"]:
            return 0
        minor = int(payment.row["amount_minor"])
        if payment.operation == "AUTHORISE":
            return minor if state == "COMMITTED" else 0
        if payment.operation not in ("CAPTURE", "VOID"):
            return 0
        prepared = self.txn(facts["txn"]).at.get(facts["bank"]) == "PREPARED"
        if state == "ABORTED":
            known = self.set_aside.get(payment.row["about"])
            return minor if prepared and known is not None and not known.ended else 0
        # What is prepared was taken over then, not now.
        return 0 if prepared else -minor

    def _set_aside(self, facts: Facts) -> None:
        payment, change = self.payment_of(facts["txn"]), self.change_of_left(facts)
        if payment is None:
            return
        if payment.operation == "AUTHORISE" and change:
            until_s = payment.row["authorised_until_s"]
            self.set_aside.setdefault(payment.row["payment"], SetAside(change, until_s))
        elif (known := self.set_aside.get(payment.row.get("about", ""))) is not None:
            known.left_minor += change
            if payment.operation == "VOID" and facts["state"] == "COMMITTED":
                known.ended = "VOIDED"

    def _expired(self, facts: Facts) -> None:
        known = self.set_aside.get(facts["authorisation"])
        if known is not None:
            known.left_minor, known.ended = 0, "EXPIRED"
        for account, posted_minor, held_minor in facts["after"]:
            self.balances[facts["bank"], account] = (posted_minor, held_minor)

    def _decision(self, facts: Facts) -> None:
        self.txns.setdefault(facts["txn"], Txn()).forced = True
        self.decided(facts["txn"], "COMMITTED", "the coordinator's log")

    def _coordinator(self, facts: Facts) -> None:
        said = said_by_coordinator(facts)
        if said is not None:
            self.decided(*said, "the coordinator")

    def _gateway(self, facts: Facts) -> None:
        known = self.payments.get(facts["payment"])
        if known is None:
            self.payments[facts["payment"]] = Payment(facts)
        else:
            known.row = facts

    def _quiet(self, _: Facts) -> None:
        self.quiet_moments += 1

    TAKE: ClassVar[dict[str, Callable[..., None]]] = {
        "opened": _opened,
        "bank": _bank,
        "expired": _expired,
        "decision": _decision,
        "coordinator": _coordinator,
        "gateway": _gateway,
        "quiet": _quiet,
    }


NOTHING = Txn()


def said_by_coordinator(facts: Facts) -> tuple[str, str] | None:
    """The attempt that an answer of the coordinator is about and its outcome; None while undecided."""
    if facts["outcome"] == "COMMITTED":
        return f"{facts['txn'].rpartition('/')[0]}/{facts['committed_attempt']}", "COMMITTED"
    return (facts["txn"], "ABORTED") if facts["outcome"] == "ABORTED" else None


class Fold:
    """One invariant. A method named after a fact's "at" is called with each such fact."""

    name: ClassVar[str]

    def __init__(self, picture: Picture) -> None:
        """Nothing is checked yet."""
        self.picture = picture
        self.count = 0
        self.found = 0
        # The position of the event that broke it, and what is wrong.
        self.findings: deque[tuple[int, str]] = deque(maxlen=FINDINGS_MAX)

    def broken(self, what: str) -> None:
        """Report that the event which is looked at breaks the invariant."""
        self.found += 1
        if self.found <= FINDINGS_MAX:
            self.findings.append((self.picture.events, what))

    def at_end(self) -> Iterator[str]:
        """What only the whole history shows; asked as often as somebody wants a report."""
        yield from ()

    def opened(self, facts: Facts) -> None:
        """Accounts were opened."""

    def bank(self, facts: Facts) -> None:
        """A bank's row has changed."""

    def expired(self, facts: Facts) -> None:
        """A bank has let go of what an authorisation that has expired still held."""

    def forgotten(self, facts: Facts) -> None:
        """The gateway has forgotten keys whose time is over."""

    def refusal(self, facts: Facts) -> None:
        """A bank has refused a decision."""

    def decision(self, facts: Facts) -> None:
        """The coordinator's commit record is durable."""

    def coordinator(self, facts: Facts) -> None:
        """The coordinator answers."""

    def decide(self, facts: Facts) -> None:
        """Decisions go out."""

    def votes(self, facts: Facts) -> None:
        """Votes go out."""

    def gateway(self, facts: Facts) -> None:
        """A payment's row has changed."""

    def logger(self, facts: Facts) -> None:
        """The log has new entries."""

    def receipt(self, facts: Facts) -> None:
        """A receipt is given (ANSWERED) or taken (RETURNED)."""

    def quiet(self, _: Facts) -> None:
        """Nothing is in doubt, open or unsent, says the lab."""


FACT_METHODS = (
    *("opened", "bank", "expired", "forgotten", "refusal", "decision", "coordinator", "decide"),
    *("votes", "gateway", "logger", "receipt", "quiet"),
)
