"""What merchants' payments should do, in memory: balances, what is set aside, and receipts.

It knows nothing of paylab: no attempts, keys in tables, banks or messages. One request after the other.
"""

from dataclasses import dataclass, field

# Which operation may follow which.
FOLLOWS = {"CAPTURE": ("AUTHORISE",), "VOID": ("AUTHORISE",), "REFUND": ("PAY", "CAPTURE")}


@dataclass
class Made:
    """A payment that was made, or declined."""

    operation: str
    payer: str
    payee: str
    minor: int
    about: "Made | None" = None
    reason: str = ""
    until_s: float = 0.0
    # What captures or refunds have taken of it.
    taken: int = 0
    voided: bool = False

    @property
    def state(self) -> str:
        return "DECLINED" if self.reason else "COMMITTED"

    @property
    def left(self) -> int:
        return 0 if self.voided or self.reason else self.minor - self.taken


@dataclass
class Model:
    """All accounts and payments."""

    posted: dict[str, int]
    made: list[Made] = field(default_factory=list)

    def available(self, account: str, now: float) -> int:
        held = sum(
            each.left
            for each in self.made
            if each.operation == "AUTHORISE" and each.payer == account and each.until_s > now
        )
        return self.posted[account] - held

    def ask(
        self, operation: str, payer: str, payee: str, minor: int, *, until_s: float = 0.0, now: float
    ) -> Made:
        """A payment, or an authorisation until `until_s`."""
        made = Made(operation, payer, payee, minor, until_s=until_s)
        if self.available(payer, now) < minor:
            made.reason = "INSUFFICIENT_FUNDS"
        elif operation == "PAY":
            self._move(made)
        self.made.append(made)
        return made

    def follow(self, operation: str, about: Made, minor: int | None, *, now: float) -> Made | None:
        """A capture, void or refund; None when it is refused and nothing is saved."""
        minor = about.left if minor is None else minor
        if about.operation not in FOLLOWS[operation] or not 0 < minor <= about.left:
            return None
        payer, payee = about.payer, about.payee
        if operation == "REFUND":
            payer, payee = payee, payer
        made = Made(operation, payer, payee, minor, about)
        if operation == "REFUND" and self.available(payer, now) < minor:
            made.reason = "INSUFFICIENT_FUNDS"
        elif operation != "REFUND" and about.until_s <= now:
            made.reason = "AUTHORISATION_EXPIRED"
        elif operation == "VOID":
            about.voided = True
        else:
            about.taken += minor
            self._move(made)
        self.made.append(made)
        return made

    def _move(self, made: Made) -> None:
        self.posted[made.payer] -= made.minor
        self.posted[made.payee] += made.minor
