"""Invariants of authorisations and refunds over a history: nobody takes more than he was given.

What an authorisation has left is the picture's own account of it (`Picture.change_of_left`).
"""

from collections import Counter

from paylab.core.money import Money
from paylab.lab.checking.event_facts import Facts
from paylab.lab.checking.folds import Fold, Picture


class Authorisations(Fold):
    """No more is captured than is set aside, nothing after the end; no more is paid back than was paid.

    Source: the escrow of P. O'Neil, The Escrow Transactional Method, TODS 11(4), 1986.
    """

    name = "no more is taken than was given"

    def __init__(self, picture: Picture) -> None:
        """Nothing was paid back."""
        super().__init__(picture)
        self._refunded: Counter[str] = Counter()

    def bank(self, facts: Facts) -> None:
        """Look at what is taken over, and at refunds."""
        payment = self.picture.payment_of(facts["txn"])
        if payment is None or payment.operation in ("PAY", "AUTHORISE"):
            return
        self.count += 1
        if payment.operation == "REFUND":
            self._refund(facts)
            return
        about, taken = payment.row["about"], -self.picture.change_of_left(facts)
        if taken <= 0:
            return
        known = self.picture.set_aside.get(about)
        if known is None:
            if not self.picture.continued:
                self.broken(f"{facts['bank']} takes {facts['txn']} out of {about}, which sets nothing aside")
        elif known.ended:
            self.broken(f"{facts['bank']} takes {facts['txn']} out of {about}, which is {known.ended}")
        elif taken > known.left_minor:
            self.broken(f"{facts['txn']} takes {taken} out of {about}, which has {known.left_minor} left")

    def _refund(self, facts: Facts) -> None:
        payment = self.picture.payment_of(facts["txn"])
        if payment is None or facts["state"] != "COMMITTED":
            return
        if payment.row["payer"].partition("/")[0] != facts["bank"]:
            return  # it is counted where the money leaves
        about = payment.row["about"]
        self._refunded[about] += payment.row["amount_minor"]
        paid = self.picture.payments.get(about)
        if paid is None:
            return
        money = Money(paid.row["amount_minor"], paid.row["currency"])
        if about not in self.picture.committed:
            self.broken(f"{facts['txn']} pays back {about}, which nobody has committed")
        if self._refunded[about] > money.amount_minor:
            self.broken(f"{self._refunded[about]} of {about} are paid back, which was {money}")

    def expired(self, facts: Facts) -> None:
        """What expires is all that is left, and not before its time."""
        self.count += 1
        known, about = self.picture.set_aside.get(facts["authorisation"]), facts["authorisation"]
        if known is None:
            if not self.picture.continued:
                self.broken(f"{facts['bank']} let {about} expire, which sets nothing aside")
        elif known.ended or known.left_minor != facts["released_minor"]:
            self.broken(
                f"{facts['released_minor']} of {about} expired, of {known.left_minor} left {known.ended}"
            )
        elif self.picture.event.at_s < known.until_s:
            self.broken(f"{about} expired {known.until_s - self.picture.event.at_s:.3f} s before its time")
