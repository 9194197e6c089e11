"""`lab.check()`: the ledgers, read independently of the nodes, and the history, folded while it happened."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from paylab.core.money import Money
from paylab.lab.checking import ledger_checks
from paylab.lab.checking.history_checks import FOLDS, HistoryChecks
from paylab.lab.checking.ledger_checks import Books, read_books
from paylab.lab.real_world import World

# A report shows so many violations and counts the rest.
SHOWN_MAX = 10
AGREE = "ledgers agree with the history"
# What is on disk is told to the history within this time.
TOLD_WITHIN_S = 0.05
# Every name that can stand before a violation.
CHECKS = (*ledger_checks.CHECKS, AGREE, *(fold.name for fold in FOLDS))


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, how much, what was found, and what could not be checked."""

    checked: dict[str, int]
    violations: list[str]
    in_doubt: int
    unchecked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations

    def failed(self) -> Counter[str]:
        """How often each check failed."""
        return Counter(line.split(":", 1)[0] for line in self.violations)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "ok": self.ok,
            "checked": self.checked,
            "violations": self.violations,
            "in_doubt": self.in_doubt,
            "unchecked": self.unchecked,
        }

    def __str__(self) -> str:
        """A line per invariant."""
        failed = self.failed()
        lines = [
            f"{'BROKEN' if failed[name] else 'holds '}  {name} ({count} checked)"
            for name, count in self.checked.items()
        ]
        lines += [f"  {violation}" for violation in self.violations[:SHOWN_MAX]]
        if len(self.violations) > SHOWN_MAX:
            lines.append(f"  … {len(self.violations)} violations in all")
        lines.append(f"in doubt now: {self.in_doubt}")
        lines += [f"not checked: {what}" for what in self.unchecked]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A table of checks, how much each checked and its verdict; below it what was found."""
        failed = self.failed()
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:right">{count:,}</td>'
            f'<td style="text-align:left">{"<b>✘ broken</b>" if failed[name] else "✔ holds"}</td></tr>'
            for name, count in self.checked.items()
        )
        found = "".join(f"<li>{escape(violation)}</li>" for violation in self.violations[:SHOWN_MAX])
        if len(self.violations) > SHOWN_MAX:
            found += f"<li>… {len(self.violations)} violations in all</li>"
        notes = "".join(f"<li>{escape(what)}</li>" for what in self.unchecked)
        return (
            "<table><thead><tr><th>check</th><th>checked</th><th>verdict</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
            + (f"<p>What was found:</p><ul>{found}</ul>" if found else "")
            + f"<p>In doubt now: {self.in_doubt}.{' Not checked:' if notes else ''}</p>"
            + (f"<ul>{notes}</ul>" if notes else "")
        )


def check(world: World, banks: Sequence[str], history: HistoryChecks | None) -> Report:
    """Run every check on what the stores hold at this moment, and on the history so far if that is whole."""
    posted_before = world.call(_posted(history)) if history is not None else Counter[str]()
    books = read_books(world, banks)
    checked: dict[str, int] = {}
    violations: list[str] = []
    for name, function in ledger_checks.CHECKS.items():
        count, found = function(books)
        checked[name] = count
        violations += [f"{name}: {line}" for line in found]
    told, unchecked = list[str](), ["the history: nodes that are processes keep none"]
    if history is not None:
        told, unchecked = world.call(_judge(history, books, posted_before, checked))
    in_doubt = sum(state == "PREPARED" for rows in books.transactions.values() for state, _ in rows.values())
    return Report(checked, violations + told, in_doubt, unchecked)


async def _posted(history: HistoryChecks) -> Counter[str]:
    return Counter(history.picture.posted_at)


async def _judge(
    history: HistoryChecks, books: Books, posted_before: Counter[str], checked: dict[str, int]
) -> tuple[list[str], list[str]]:
    """What the history shows, and whether the ledgers hold what it says; runs on the lab's loop."""
    violations = []
    if not history.picture.continued:
        count, found = _ledgers_agree(history, books, posted_before)
        if found:  # a batch may be on disk and not told yet
            await asyncio.sleep(TOLD_WITHIN_S)
            count, found = _ledgers_agree(history, books, posted_before)
        checked[AGREE] = count
        violations += [f"{AGREE}: {line}" for line in found]
    checked |= history.checked()
    return violations + history.violations(), history.unchecked()


def _ledgers_agree(
    history: HistoryChecks, books: Books, posted_before: Counter[str]
) -> tuple[int, list[str]]:
    """What the history saw durable is in the ledgers, and nothing else is.

    The books were read after `posted_before` was counted and before the history is asked again, so payments
    that are under way disturb neither side.
    """
    picture, count, found = history.picture, 0, list[str]()
    for bank, rows in books.transactions.items():
        committed = [txn for txn, (state, _) in rows.items() if state == "COMMITTED"]
        count += len(committed)
        found += [
            f"{bank} has committed {txn}, of which the history knows nothing"
            for txn in committed
            if picture.txn(txn).at.get(bank) != "COMMITTED"
        ]
        if len(committed) < posted_before[bank]:
            found.append(f"{bank} has committed {len(committed)}, the history saw {posted_before[bank]}")
    return count, found


def balances(world: World, banks: Iterable[str]) -> dict[str, Money]:
    """Every customer account's posted balance."""
    books = read_books(world, banks)
    return {
        f"{bank}/{account}": Money(posted_minor, currency)
        for bank, accounts in books.accounts.items()
        for account, (currency, posted_minor, _) in accounts.items()
    }


def unsettled(world: World, banks: Iterable[str]) -> int:
    """How many transactions are in doubt, attempts open, outbox rows unsent and commits unsettled."""
    count: Any = 0
    for bank in banks:
        count += world.rows(f"bank-{bank}", "SELECT count(*) FROM transactions WHERE state = 'PREPARED'")[0][
            0
        ]
    count += world.rows("gateway", "SELECT count(*) FROM payments WHERE state = 'PREPARING'")[0][0]
    count += world.rows("gateway", "SELECT count(*) FROM outbox")[0][0]
    count += world.rows("coordinator", "SELECT count(*) FROM commits")[0][0]
    return int(count)
