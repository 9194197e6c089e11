"""What a load measured: every payment, figures of a moment, the table and the picture of a finished run."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from paylab.core.money import Money
from paylab.lab.drawing.svg import BLUE, GREEN, PURPLE, VERMILION
from paylab.lab.workload import percentile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PERCENTS = (50, 95, 99)
# What a receipt can say; everything else is an error, by its reason.
RECEIPTS = ("COMMITTED", "DECLINED", "QUEUED", "PREPARING", "CREATED", "CANCELLED", "DEAD_LETTER")
COLOURS = {"COMMITTED": GREEN, "DECLINED": BLUE, "QUEUED": PURPLE, "error": VERMILION}
# Bars of the picture's first row are at least so wide.
BAR_S = 0.5
BARS_MAX = 120


@dataclass(frozen=True, slots=True)
class Paid:
    """One payment of a load; its moments are seconds from the start of the load."""

    key: str
    payer: str
    payee: str
    money: Money
    due_s: float
    # Later than due when as many as may be were under way already.
    sent_s: float
    ended_s: float
    # The first answer: a receipt's state, or why there was none, such as OUTCOME_UNKNOWN or OVERLOADED.
    answer: str
    # Where it stood in the end.
    state: str
    reason: str = ""
    payment: str = ""
    attempts: int = 0

    @property
    def latency_s(self) -> float:
        """From the moment at which it was due to the first answer."""
        return self.ended_s - self.due_s

    @property
    def failed(self) -> bool:
        """Whether the first answer was no receipt."""
        return self.answer not in RECEIPTS

    @property
    def kind(self) -> str:
        """The answer, all errors as one."""
        return "error" if self.failed else self.answer


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """A load at one moment. Rates, latencies and `error_rate` look at the last `window_s` only."""

    at_s: float
    window_s: float
    # Payments that were due so far; those sent; those that have ended, and with what.
    due: int
    sent: int
    ended: int
    answers: Mapping[str, int]
    # Payments that ended, each second; by answer, errors as one.
    per_s: float
    per_s_by_answer: Mapping[str, float]
    # NaN when nothing has ended.
    latency_ms: Mapping[str, float]
    error_rate: float
    # Payments in the offline queue, whoever sent them.
    queued: int

    @property
    def under_way(self) -> int:
        """Sent and not answered."""
        return self.sent - self.ended

    @property
    def waiting(self) -> int:
        """Due and not sent, as too many are under way."""
        return self.due - self.sent

    def __str__(self) -> str:
        """In one line."""
        answers = ", ".join(f"{count:,} {answer}" for answer, count in self.answers.items()) or "none ended"
        latency = ", ".join(f"{name} {value:.0f}" for name, value in self.latency_ms.items())
        return (
            f"{self.at_s:.1f} s: {self.per_s:.0f} payments/s, {latency} ms, "
            f"{100 * self.error_rate:.1f} % errors; "
            f"{self.under_way} under way, {self.waiting} waiting, {self.queued} queued; {answers}"
        )


def figures(
    paid: Sequence[Paid],
    *,
    at_s: float,
    window_s: float,
    due: int,
    sent: int,
    queued: int,
    answers: Mapping[str, int],
) -> LoadFigures:
    """The figures of a moment, from payments in the order in which they ended."""
    recent = []
    for one in reversed(paid):
        if one.ended_s < at_s - window_s:
            break
        recent.append(one)
    span_s = min(window_s, at_s)
    latencies_ms = sorted(1000 * one.latency_s for one in recent)
    kinds = Counter(one.kind for one in recent)
    return LoadFigures(
        at_s=at_s,
        window_s=window_s,
        due=due,
        sent=sent,
        ended=len(paid),
        answers=dict(answers),
        per_s=len(recent) / span_s if span_s else 0.0,
        per_s_by_answer={kind: number / span_s for kind, number in sorted(kinds.items())} if span_s else {},
        latency_ms={f"p{p}": percentile(latencies_ms, p) if latencies_ms else math.nan for p in PERCENTS},
        error_rate=kinds["error"] / len(recent) if recent else 0.0,
        queued=queued,
    )


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A finished load: `paid` in the order in which payments were due, its figures, and what happened."""

    paid: tuple[Paid, ...] = field(repr=False)
    ticks: tuple[LoadFigures, ...] = field(repr=False)
    # Seconds from the start, and what was seen or noted then, such as "alpine-1 out".
    marks: tuple[tuple[float, str], ...]
    duration_s: float
    badge: str

    @property
    def answers(self) -> dict[str, int]:
        """How many payments were answered with what at first."""
        return dict(Counter(one.answer for one in self.paid))

    @property
    def states(self) -> dict[str, int]:
        """Where they stood in the end, when the queue had settled what it took."""
        return dict(Counter(one.state for one in self.paid))

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles over all payments, from the moment at which each was due."""
        ordered = sorted(1000 * one.latency_s for one in self.paid)
        return {f"p{p}": percentile(ordered, p) for p in PERCENTS}

    def to_frame(self) -> "pd.DataFrame":
        """A row for each payment: key, payer, payee, moments, answer, state and the rest."""
        import pandas as pd  # noqa: PLC0415 - only notebooks need it, and it takes long to import

        rows = []
        for one in self.paid:
            row = asdict(one)
            money = row.pop("money")
            rows.append(row | money | {"latency_ms": 1000 * one.latency_s})
        return pd.DataFrame(rows)

    def figure(self) -> "Figure":
        """Payments a second by answer, latency percentiles, and what waits, over time; with what happened."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for drawing

        drawn = Figure(figsize=(7.2, 5.4), layout="constrained")
        rates, latencies, depths = drawn.subplots(3, 1, sharex=True)
        self._draw_rates(rates)
        times = [tick.at_s for tick in self.ticks]
        for percent, colour in zip(PERCENTS, (GREEN, BLUE, VERMILION), strict=True):
            values = [tick.latency_ms[f"p{percent}"] for tick in self.ticks]
            latencies.plot(times, values, color=colour, label=f"p{percent}")
        latencies.set(ylabel="latency (ms)", yscale="log")
        latencies.yaxis.set_major_formatter("{x:g}")
        for name, colour in (("under_way", BLUE), ("waiting", VERMILION), ("queued", PURPLE)):
            values = [getattr(tick, name) for tick in self.ticks]
            depths.plot(times, values, color=colour, label=name.replace("_", " "))
        depths.set(ylabel="payments", xlabel="seconds since the start")
        for axes in (rates, latencies, depths):
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, fontsize=8)
            axes.grid(axis="y", alpha=0.3)
            for at_s, _ in self.marks:
                axes.axvline(at_s, color="0.35", linestyle=":", linewidth=1)
        for row, (at_s, what) in enumerate(self.marks):
            place = (at_s, 1.02 + 0.11 * (row % 3))
            rates.annotate(what, place, xycoords=("data", "axes fraction"), fontsize=7, ha="center")
        drawn.supxlabel(self.badge, x=0.99, ha="right", fontsize=8, color="grey")
        return drawn

    def _draw_rates(self, axes: Any) -> None:
        end_s = max([self.duration_s, *(one.ended_s for one in self.paid)])
        width_s = max(BAR_S, end_s / BARS_MAX)
        edges = [n * width_s for n in range(int(end_s / width_s) + 2)]
        kinds = [kind for kind in COLOURS if any(one.kind == kind for one in self.paid)]
        axes.hist(
            [[one.ended_s for one in self.paid if one.kind == kind] for kind in kinds],
            bins=edges,
            weights=[[1 / width_s for one in self.paid if one.kind == kind] for kind in kinds],
            stacked=True,
            color=[COLOURS[kind] for kind in kinds],
            label=[kind.lower() for kind in kinds],
        )
        due = Counter(int(one.due_s / width_s) for one in self.paid)
        steps = [due[n] / width_s for n in range(len(edges) - 1)]
        axes.stairs(steps, edges, color="0.2", label="due")
        axes.set_ylabel("payments/s")

    def _lines(self) -> list[tuple[str, str]]:
        moved = {one.payment for one in self.paid if one.answer != one.state}
        later = Counter(f"{one.answer}, later {one.state}" for one in self.paid if one.payment in moved)
        latency = ", ".join(f"{name} {value:.1f} ms" for name, value in self.latency_ms.items())
        return [
            ("payments", f"{len(self.paid):,} in {self.duration_s:.1f} s"),
            *((answer, f"{number:,}") for answer, number in self.answers.items()),
            *((change, f"{number:,}") for change, number in later.items()),
            ("latency", latency),
            *((f"at {at_s:.2f} s", what) for at_s, what in self.marks),
        ]

    def __str__(self) -> str:
        """A table for a terminal."""
        lines = self._lines()
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = (
            f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(value)}</td></tr>"
            for name, value in self._lines()
        )
        return f"<table>{''.join(rows)}</table><p><small>{escape(self.badge)}</small></p>"
