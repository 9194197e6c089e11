"""What an experiment found: rows, a table, a figure, files."""

import csv
import importlib.metadata
import importlib.util
import json
import math
import platform
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paylab.errors import LabError
from paylab.lab.experiments.statistics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from paylab.lab.experiments.experiments import Experiment

PACKAGES = ("paylab", "grpcio", "protobuf", "SQLAlchemy", "matplotlib", "pandas")
# An axis whose values differ by more than this is logarithmic.
LOG_FROM = 20
PNG_DPI = 160
# Larger values are shown without decimals.
DIGITS_FROM = 1_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result:
    """The answer to an experiment's question.

    `rows` has a row for each treatment and measure: the parameters, then `measure, sample, measured, low,
    high, expected, met`; the last two are None where nothing was expected. `trials` has what each measured.
    """

    experiment: "Experiment"
    seed: int
    quick: bool
    settings: dict[str, Any]
    trial_seeds: tuple[int, ...]
    confidence: float
    rows: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    started_at: str
    duration_s: float

    @property
    def met(self) -> bool:
        """Whether everything came out as expected."""
        return all(row["met"] is not False for row in self.rows)

    @property
    def badge(self) -> str:
        """Where figures say they come from."""
        return f"simulated, seed {self.seed}" + (", quick" if self.quick else "")

    @property
    def table(self) -> "pd.DataFrame":
        """The rows as a data frame."""
        import pandas as pd  # noqa: PLC0415 - only notebooks need it, and it takes long to import

        return pd.DataFrame(self.rows)

    def difference(
        self, measure: str, first: dict[str, Any], second: dict[str, Any], *, confidence: float = 0.999
    ) -> Interval:
        """How much more `second` measured than `first`, both treatments: narrow, as they met the same chance.

        Raises LabError for what was not measured.
        """
        values = []
        for treatment in (first, second):
            wanted = {**treatment, "measure": measure}
            values.append([trial["value"] for trial in self.trials if wanted.items() <= trial.items()])
            if len(values[-1]) != len(self.trial_seeds):
                raise LabError("BAD_ARGUMENT", f"{measure!r} of {treatment} names no single treatment")
        return mean_interval([b - a for a, b in zip(*values, strict=True)], confidence=confidence)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "name": self.experiment.name,
            "seed": self.seed,
            "quick": self.quick,
            "rows": self.rows,
            "met": self.met,
            **({"conclusion": self._conclusion()[0]} if self.experiment.conclude else {}),
        }

    def manifest(self) -> dict[str, Any]:
        """What it takes to run this again: versions, seeds, parameters; and how long it took."""
        return {
            "name": self.experiment.name,
            "question": self.experiment.question,
            "expectation": self.experiment.expectation,
            "source": self.experiment.source,
            "met": self.met,
            "seed": self.seed,
            "quick": self.quick,
            "confidence": self.confidence,
            "grid": {name: list(values) for name, values in self.experiment.grid.items()},
            "settings": self.settings,
            "trial_seeds": self.trial_seeds,
            "started_at": self.started_at,
            "duration_s": self.duration_s,
            "versions": {"python": platform.python_version(), **_versions()},
            "platform": platform.platform(),
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write table (CSV), figure (SVG, PNG) and manifest (JSON) into a folder; returns their paths."""
        name, folder = self.experiment.name, writable(folder)
        paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "svg", "png", "json")]
        with paths[0].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        figure = self.figure()
        figure.savefig(paths[1], metadata={"Date": None})
        figure.savefig(paths[2], dpi=PNG_DPI)
        paths[3].write_text(json.dumps(self.manifest(), indent=2) + "\n", encoding="utf-8")
        return paths

    def figure(self) -> "Figure":
        """A panel for each measure: what was measured with its interval, and a line for what was expected."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for drawing

        measures = list(dict.fromkeys(row["measure"] for row in self.rows))
        figure = Figure(figsize=(1.5 + 4.0 * len(measures), 3.6), layout="constrained")
        for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            self._draw(axes, measure)
        figure.suptitle(self.experiment.question, fontsize=10, wrap=True)
        figure.supxlabel(self.badge, x=0.99, ha="right", fontsize=8, color="grey")
        return figure

    def _draw(self, axes: Any, measure: str) -> None:
        rows = [row for row in self.rows if row["measure"] == measure]
        along, *others = self.experiment.grid
        ticks = list(dict.fromkeys(row[along] for row in rows))
        series = list(dict.fromkeys(tuple(row[name] for name in others) for row in rows))
        for n, values in enumerate(series):
            mine = [row for row in rows if tuple(row[name] for name in others) == values]
            # Series stand side by side.
            x = [ticks.index(row[along]) + 0.16 * (n - (len(series) - 1) / 2) for row in mine]
            y = [row["measured"] for row in mine]
            below = [row["measured"] - row["low"] for row in mine]
            above = [row["high"] - row["measured"] for row in mine]
            label = ", ".join(f"{name}: {_text(value)}" for name, value in zip(others, values, strict=True))
            axes.errorbar(
                x, y, yerr=[below, above], fmt="o", capsize=3, label=label.replace("_", " ") or "measured"
            )
            expected = [math.nan if row["expected"] is None else row["expected"] for row in mine]
            last = "expected" if n == len(series) - 1 else None
            axes.plot(x, expected, "_", color="black", markersize=16, label=last)
        self._label(axes, along, ticks, measure)
        low, high = min(row["measured"] for row in rows), max(row["measured"] for row in rows)
        if low > 0 and high > LOG_FROM * low:
            axes.set_yscale("log", subs=[2, 5])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend(fontsize=8, frameon=False)

    def _label(self, axes: Any, along: str, ticks: list[Any], measure: str) -> None:
        axes.set_xticks(range(len(ticks)), [_text(tick) for tick in ticks])
        axes.set_xlim(-0.6, len(ticks) - 0.4)
        axes.set_xlabel(along.replace("_", " "))
        unit = self.experiment.units.get(measure, "")
        axes.set_ylabel(measure.replace("_", " ") + (f" ({unit})" if unit else ""))

    def _cells(self) -> list[list[str]]:
        head = [name.replace("_", " ") for name in self.rows[0]]
        return [head, *([_text(value) for value in row.values()] for row in self.rows)]

    def _verdict(self) -> str:
        missed = sum(row["met"] is False for row in self.rows)
        share = f"{100 * self.confidence:g} %"
        count = len(self.trial_seeds)
        said = "as expected" if self.met else f"NOT as expected in {missed} of {len(self.rows)} rows"
        return f"{said}; {count} trials each, all intervals together hold with {share} ({self.badge})"

    def __str__(self) -> str:
        """A table for a terminal."""
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        about = [self.experiment.question, f"Expected: {self.experiment.expectation}"]
        verdict = f"{self.experiment.name}: {self._verdict()}"
        return "\n".join([*about, "", *lines, "", *self._conclusion(), verdict])

    def _conclusion(self) -> list[str]:
        return [self.experiment.conclude(self.rows)] if self.experiment.conclude else []

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        head, *rows = (
            "<tr>" + "".join(f"<{tag} {left}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(["th", *["td"] * len(self.rows)], self._cells(), strict=True)
        )
        return (
            f"<p><b>{escape(self.experiment.question)}</b><br>Expected: "
            f"{escape(self.experiment.expectation)} <small>{escape(self.experiment.source)}</small></p>"
            f"<table>{head}{''.join(rows)}</table>"
            f"<p>{escape(' '.join([*self._conclusion(), self._verdict()]))}</p>"
        )


def writable(folder: str | Path) -> Path:
    """A folder for results, made if it is not there. Raises LabError when nothing can be written or drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise LabError("NOT_INSTALLED", 'figures need matplotlib: pip install "paylab[notebook]"')
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError("BAD_ARGUMENT", f"cannot write to {folder}: {error.strerror}") from None
    return Path(folder)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _text(value: Any) -> str:
    """A value as a reader wants it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= DIGITS_FROM else f"{value:.4g}"
    return str(value)
