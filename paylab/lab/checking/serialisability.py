"""Whether the payments can be told one after the other: a list-append check over the accounts of all banks.

Every account is a list to which postings are appended. A transaction that prepares a debit reads the list as
it stands (how much is posted, how much is held) and promises; one that posts appends. From this follows who
must come before whom, and the check looks for a circle.

Source: K. Kingsbury, P. Alvaro, Elle: Inferring Isolation Anomalies from Experimental Observations, VLDB
2020. Two appends do not order each other here, as in Elle they would: a hold has set a debit's money aside
before (P. O'Neil, The Escrow Transactional Method, TODS 1986), so postings to one account commute, and two
banks may post two payments in different orders. What was read does order.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from paylab.lab.checking.event_facts import Facts
from paylab.lab.checking.folds import Fold, Picture

Account = tuple[str, str]
SHOWN_MAX = 6


class SerialisableAccounts(Fold):
    """There is an order of whole payments that explains all that was read and never overdraws an account.

    First, each change of an account starts from what the change before it left: nothing is lost or
    invented in between. Then, at the end: no circle of payments of which each had read what the one before it
    posted (Elle's G1c); and done in an order without circles, one at a time, no payment overdraws.
    """

    name = "account histories are serialisable"

    def __init__(self, picture: Picture) -> None:
        """No account has a history."""
        super().__init__(picture)
        # by account: what was posted before the history began, then (txn, amount) in the order of posting
        self._opening: dict[Account, int] = {}
        self._postings: dict[Account, list[tuple[str, int]]] = {}
        # (account, how many postings it saw, txn)
        self._reads: list[tuple[Account, int, str]] = []
        # by authorisation its txn, which read the account for those that capture it: (authorisation, txn)
        self._authorised: dict[str, str] = {}
        self._captures: list[tuple[str, str]] = []

    def opened(self, facts: Facts) -> None:
        """Accounts begin."""
        for name, amount_minor, _ in facts["accounts"]:
            account = (facts["bank"], name)
            if account in self._opening:
                self.broken(f"{'/'.join(account)} was opened twice")
            self._opening[account] = amount_minor
            self._postings[account] = []

    def bank(self, facts: Facts) -> None:
        """Each change starts from what the change before it left."""
        bank, txn, state = facts["bank"], facts["txn"], facts["state"]
        lines, legs = facts.get("lines", ()), facts.get("legs", ())
        held = self.picture.txn(txn).legs.get(bank, ())
        posted_by = _sums(lines)
        holds_by = _sums(legs, debits=True)
        releases_by = _sums(held, debits=True)
        set_aside = self._set_aside(facts)
        # Who takes out of what is set aside need not look at the balance.
        payment = self.picture.payment_of(txn)
        reads = payment is None or payment.operation not in ("CAPTURE", "VOID")
        # In one phase it reads when it posts.
        holds_now = _sums(lines, debits=True) if lines and not held else holds_by
        for name, posted_minor, held_minor in facts.get("after", ()):
            self.count += 1
            account = (bank, name)
            held_moved = holds_by.get(name, 0) - releases_by.get(name, 0)
            moved = (posted_by.get(name, 0), held_moved + set_aside.get(name, 0))
            self._starts_right(account, (posted_minor, held_minor), moved, f"{txn} {state.lower()}")
            if account in self._postings and reads and name in holds_now and name in (posted_by or holds_by):
                self._reads.append((account, len(self._postings[account]), txn))
            if moved[0] and account in self._postings:
                self._postings[account].append((txn, moved[0]))

    def expired(self, facts: Facts) -> None:
        """What has expired comes off the hold, nothing else."""
        for name, posted_minor, held_minor in facts["after"]:
            self.count += 1
            moved = (0, -facts["released_minor"])
            what = f"the end of {facts['authorisation']}"
            self._starts_right((facts["bank"], name), (posted_minor, held_minor), moved, what)

    def _starts_right(
        self, account: Account, after: tuple[int, int], moved: tuple[int, int], what: str
    ) -> None:
        before = self._before(account, after[0] - moved[0], after[1] - moved[1])
        if before is None:
            self.broken(f"{'/'.join(account)} was never opened")
        elif (before[0] + moved[0], before[1] + moved[1]) != after:
            self.broken(
                f"{what} left {'/'.join(account)} at {after[0]} with {after[1]} held, from"
                f" {before[0]} with {before[1]} held it should be {before[0] + moved[0]} with"
                f" {before[1] + moved[1]}: it read something else"
            )

    def _set_aside(self, facts: Facts) -> dict[str, int]:
        """What authorisations do to what the payer's account holds, besides the prepared debits."""
        payment = self.picture.payment_of(facts["txn"])
        if payment is None or payment.operation in ("PAY", "REFUND"):
            return {}
        if payment.operation == "CAPTURE" and facts["state"] == "COMMITTED":
            self._captures.append((payment.row["about"], facts["txn"]))
        elif payment.operation == "AUTHORISE" and facts["state"] == "COMMITTED":
            self._authorised[payment.row["payment"]] = facts["txn"]
        return {payment.row["payer"].partition("/")[2]: self.picture.change_of_left(facts)}

    def _before(self, account: Account, posted_minor: int, held_minor: int) -> tuple[int, int] | None:
        known = self.picture.balances.get(account)
        if known is None and self.picture.continued:
            self._opening[account] = posted_minor
            self._postings[account] = []
            return posted_minor, held_minor
        return known

    def at_end(self) -> Iterator[str]:
        """Look for a circle, and do all payments one after the other; linear in postings and reads.

        Whoever has read enough goes at once, before money comes that it did not know of.
        """
        after, waiting_for = self._edges()
        readers = {txn for _, _, txn in self._reads}
        ready: deque[Any] = deque()

        def is_ready(node: Any) -> None:
            if node in readers:
                ready.appendleft(node)
            else:
                ready.append(node)

        for node in [node for node, count in waiting_for.items() if not count]:
            is_ready(node)
        amounts = self._amounts()
        balances = dict(self._opening)
        while ready:
            node = ready.popleft()
            for account, amount_minor in amounts.get(node, ()):
                balances[account] += amount_minor
                if balances[account] < 0 and amount_minor < 0:
                    yield f"no order of payments explains that {'/'.join(account)} could pay {node}"
            for following in after.get(node, ()):
                waiting_for[following] -= 1
                if not waiting_for[following]:
                    is_ready(following)
        left = [node for node, count in waiting_for.items() if count]
        if left:
            circle = _circle(left, after)
            shown = ", ".join(circle[:SHOWN_MAX]) + (" …" if len(circle) > SHOWN_MAX else "")
            yield f"each of these had read what the one before it posted, in a circle: {shown}"

    def _edges(self) -> tuple[dict[Any, list[Any]], dict[Any, int]]:
        """Who comes before whom. (account, n) stands for "the first n postings are there"."""
        after: dict[Any, list[Any]] = {}
        waiting_for: dict[Any, int] = {}

        def edge(first: Any, then: Any) -> None:
            after.setdefault(first, []).append(then)
            waiting_for.setdefault(first, 0)
            waiting_for[then] = waiting_for.get(then, 0) + 1

        for account, postings in self._postings.items():
            for n, (txn, _) in enumerate(postings, start=1):
                edge(txn, (account, n))
                if n > 1:
                    edge((account, n - 1), (account, n))
        for account, n, txn in self._reads:
            if n:
                edge((account, n), txn)
            else:
                waiting_for.setdefault(txn, 0)
        for authorisation, txn in dict.fromkeys(self._captures):
            if authorisation in self._authorised:
                edge(self._authorised[authorisation], txn)
        return after, waiting_for

    def _amounts(self) -> dict[Any, list[tuple[Account, int]]]:
        amounts: dict[Any, list[tuple[Account, int]]] = {}
        for account, postings in self._postings.items():
            for txn, amount_minor in postings:
                amounts.setdefault(txn, []).append((account, amount_minor))
        return amounts


def _circle(left: list[Any], after: dict[Any, list[Any]]) -> list[str]:
    """A circle among nodes of which each has one of them before it."""
    before = {}
    among = set(left)
    for node in left:
        for following in after.get(node, ()):
            if following in among:
                before[following] = node
    seen: dict[Any, None] = {}
    node = left[0]
    while node not in seen:
        seen[node] = None
        node = before[node]
    circle = list(seen)[list(seen).index(node) :]
    return [str(member) for member in reversed(circle) if isinstance(member, str)]


def _sums(lines: Any, *, debits: bool = False) -> dict[str, int]:
    """What each account gains, or what of it must be set aside."""
    sums: dict[str, int] = {}
    for name, amount_minor, _ in lines:
        amount = max(0, -amount_minor) if debits else amount_minor
        if amount or not debits:
            sums[name] = sums.get(name, 0) + amount
    return sums
