"""Sends payments through a lab and says what became of them: the day in data/, or any file of payments."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from paylab.core.money import Money
from paylab.errors import OutcomeUnknown
from paylab.lab.checking import checks
from paylab.lab.payment_files import Job, PaymentOrder, bank_of, read_job
from paylab.nodes.client import PaymentClient, Receipt

if TYPE_CHECKING:
    import pandas as pd

    from paylab.lab.lab import Lab

# Through a crash and a restart a payment may take a while; its outcome is worth waiting for.
PAYMENT_DEADLINE_S = 120.0
RUN_TIMEOUT_S = 24 * 3600.0
SETTLE_TIMEOUT_S = 30.0
ASK_AGAIN_S = 0.25
CONCURRENCY_DEFAULT = 64
# 2,000 unary calls at once on one channel end in CANCELLED.
CONCURRENCY_MAX = 500


@dataclass(frozen=True, slots=True)
class Sent:
    """One row of the file and what became of it; `state` is UNKNOWN if nobody answered in time."""

    order: PaymentOrder
    payment: str
    state: str
    reason: str
    attempts: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. The fields are the keys of `--json`, but for `rows` and `report`."""

    payments: int
    committed: int
    declined: dict[str, int]
    queued: int
    in_doubt: int
    duplicates: int
    conserved: bool
    seconds: float
    payments_per_s: float
    latency_ms: dict[str, float]
    rows: tuple[Sent, ...] = field(repr=False)
    report: checks.Report = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return self.report.ok

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON types."""
        summary = {name: getattr(self, name) for name in self.__slots__ if name not in ("rows", "report")}
        return summary | {"violations": self.report.violations}

    def to_frame(self) -> "pd.DataFrame":
        """One row a payment: what the file said, then state, reason, attempts and latency_ms."""
        import pandas as pd  # noqa: PLC0415 - only notebooks need it, and it takes long to import

        rows = []
        for sent in self.rows:
            order = asdict(sent.order)
            money = order.pop("money")
            outcome = {"state": sent.state, "reason": sent.reason, "attempts": sent.attempts}
            rows.append(order | money | outcome | {"latency_ms": sent.latency_s * 1000})
        return pd.DataFrame(rows)

    def _lines(self) -> list[tuple[str, str]]:
        declined = [(f"declined, {reason}", f"{count:,}") for reason, count in self.declined.items()]
        percentiles = ", ".join(f"{name} {value:.1f} ms" for name, value in self.latency_ms.items())
        return [
            ("payments", f"{self.payments:,}"),
            ("committed", f"{self.committed:,}"),
            *declined,
            ("queued", f"{self.queued:,}"),
            ("in doubt", f"{self.in_doubt:,}"),
            ("duplicates", f"{self.duplicates:,}"),
            ("money", "conserved" if self.conserved else "NOT CONSERVED"),
            ("seconds", f"{self.seconds:.2f}"),
            ("payments/s", f"{self.payments_per_s:,.0f}"),
            ("latency", percentiles),
        ]

    def __str__(self) -> str:
        """A table for a terminal."""
        lines = self._lines()
        width = max(len(name) for name, _ in lines)
        table = [f"{name:<{width}}  {value}" for name, value in lines]
        return "\n".join([*table, *(f"BROKEN  {line}" for line in self.report.violations[:10])])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._lines()
        )
        return f"<table>{rows}</table>"


def run_file(
    lab: "Lab",
    payments: str | Path,
    *,
    accounts: str | Path | None = None,
    opening_balance: str | Money | None = None,
    first: int | None = None,
    concurrency: int = CONCURRENCY_DEFAULT,
    progress: bool = True,
) -> RunResult:
    """Send every payment of a file, or the `first` so many. Raises BadInput before anything is sent."""
    job = read_job(payments, accounts, opening_balance)
    job = replace(job, payments=job.payments[:first])
    return run_job(lab, job, concurrency=concurrency, progress=progress)


def run_job(
    lab: "Lab", job: Job, *, concurrency: int = CONCURRENCY_DEFAULT, progress: bool = True
) -> RunResult:
    """Open the job's accounts, send its payments, wait until nothing is in doubt, check."""
    lab.world.call(_open_accounts(lab, job))
    with tqdm(total=len(job.payments), unit=" payments", disable=not progress, smoothing=0.1) as bar:
        began_s = lab.world.now()
        sent = lab.world.call(
            _send_all(lab, job.payments, concurrency=min(concurrency, CONCURRENCY_MAX), bar=bar),
            timeout_s=RUN_TIMEOUT_S,
        )
        seconds = lab.world.now() - began_s
    sent = lab.world.call(_await_queued(lab, sent), timeout_s=SETTLE_TIMEOUT_S * 2)
    lab.settle(timeout_s=SETTLE_TIMEOUT_S)
    return _result(lab, sent, seconds=seconds)


async def _open_accounts(lab: "Lab", job: Job) -> None:
    for bank in job.banks:
        mine = [account for account in job.accounts if bank_of(account.account) == bank]
        names = [
            (account.account.partition("/")[2], account.opening, account.owner or "") for account in mine
        ]
        await lab.network.open_accounts(bank, names)
        for account in mine:
            if account.closed:
                await lab.network.close_account(bank, account.account.partition("/")[2])


async def _send_all(
    lab: "Lab", orders: Sequence[PaymentOrder], *, concurrency: int, bar: "tqdm[Any]"
) -> list[Sent]:
    """Send with `concurrency` payments on the way at any time; the result is in the order of the file."""
    client = await lab.runner()
    await client.login()
    sent: list[Sent | None] = [None] * len(orders)
    rest = iter(enumerate(orders))

    async def worker() -> None:
        for index, order in _each(rest):
            sent[index] = await _send(lab, client, order)
            bar.update()

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return [row for row in sent if row is not None]


def _each(rest: Iterator[tuple[int, PaymentOrder]]) -> Iterator[tuple[int, PaymentOrder]]:
    """The workers share one iterator, so payments leave in the order of the file."""
    yield from rest


async def _send(lab: "Lab", client: PaymentClient, order: PaymentOrder) -> Sent:
    began_s = lab.world.now()
    try:
        receipt: Receipt | None = await client.pay(
            payer=order.payer,
            payee=order.payee,
            money=order.money,
            key=order.key,
            deadline_s=PAYMENT_DEADLINE_S,
        )
    except OutcomeUnknown:
        receipt = None
    latency_s = lab.world.now() - began_s
    if receipt is None:
        return Sent(order, "", "UNKNOWN", "", 0, latency_s)
    return Sent(order, receipt.payment, receipt.state, receipt.reason, receipt.attempts, latency_s)


async def _await_queued(lab: "Lab", sent: Sequence[Sent]) -> list[Sent]:
    """Give the offline queue time to settle what it took; what is queued then stays queued."""
    client, rows = await lab.runner(), list(sent)
    until_s = lab.world.now() + SETTLE_TIMEOUT_S
    while True:
        queued = [index for index, row in enumerate(rows) if row.state in ("QUEUED", "PREPARING")]
        if not queued or lab.world.now() >= until_s:
            return rows
        await asyncio.sleep(ASK_AGAIN_S)
        for index in queued:
            receipt = await client.payment(rows[index].payment)
            rows[index] = replace(
                rows[index], state=receipt.state, reason=receipt.reason, attempts=receipt.attempts
            )


def _result(lab: "Lab", sent: Sequence[Sent], *, seconds: float) -> RunResult:
    report = lab.check()
    states = Counter(row.state for row in sent)
    reasons = Counter(row.reason for row in sent if row.state == "DECLINED")
    latencies_ms = sorted(row.latency_s * 1000 for row in sent)
    found = Counter(line.partition(":")[0] for line in report.violations)
    return RunResult(
        payments=len(sent),
        committed=states["COMMITTED"],
        declined=dict(sorted(reasons.items())),
        queued=states["QUEUED"],
        in_doubt=report.in_doubt + states["UNKNOWN"],
        duplicates=found["no key charged twice"],
        conserved=not (found["money is conserved"] or found["every posting balances"]),
        seconds=round(seconds, 3),
        payments_per_s=round(len(sent) / seconds, 1) if seconds else 0.0,
        latency_ms={f"p{p}": round(percentile(latencies_ms, p), 2) for p in (50, 95, 99)},
        rows=tuple(sent),
        report=report,
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The value below or at which `percent` of all lie: nearest rank, and 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
