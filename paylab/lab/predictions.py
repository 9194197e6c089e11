"""Predict before you look: a question with choices that never blocks a notebook, and the tally at its end."""

from collections.abc import Sequence
from html import escape
from typing import Any

_ASKED: list["Prediction"] = []


class Prediction:
    """One question; the reader may choose an answer, and the notebook says later what happened."""

    def __init__(self, question: str, choices: Sequence[str]) -> None:
        """`choices` has at least two different answers."""
        if len(set(choices)) < 2:  # noqa: PLR2004 - one answer is no question
            raise ValueError("a prediction needs at least two different choices")
        self.question = question
        self.choices = tuple(choices)
        self.guess: str | None = None
        self.outcome: str | None = None

    def choose(self, choice: str) -> None:
        """Guess. Raises ValueError for what is not among the choices."""
        if choice not in self.choices:
            raise ValueError(f"{choice!r} is none of the choices")
        self.guess = choice

    def was(self, outcome: str) -> None:
        """Say what happened. Raises ValueError for what is not among the choices."""
        if outcome not in self.choices:
            raise ValueError(f"{outcome!r} is none of the choices")
        self.outcome = outcome

    def _ipython_display_(self) -> None:
        import ipywidgets as widgets  # noqa: PLC0415 - comes with the notebook extra
        from IPython.core.display_functions import display  # noqa: PLC0415

        from paylab.lab.panels.still import Still  # noqa: PLC0415 - it is a widget

        buttons = widgets.ToggleButtons(options=self.choices, value=None, layout={"width": "100%"})
        buttons.style.button_width = "auto"

        def chosen(change: dict[str, Any]) -> None:
            self.guess = change["new"]

        buttons.observe(chosen, names="value")
        answers = "".join(f"<li>{escape(choice)}</li>" for choice in self.choices)
        show: Any = display  # it has no types
        show(Still(f"<p><b>Your guess:</b> {escape(self.question)}</p><ul>{answers}</ul>"))
        show(widgets.VBox([widgets.HTML(f"<b>Your guess:</b> {escape(self.question)}"), buttons]))


def predict(question: str, choices: Sequence[str]) -> Prediction:
    """Ask the reader for a guess. Asking the same question again replaces it."""
    _ASKED[:] = [asked for asked in _ASKED if asked.question != question]
    _ASKED.append(Prediction(question, choices))
    return _ASKED[-1]


class Guesses:
    """All predictions of this notebook beside what happened."""

    def __init__(self, asked: Sequence[Prediction]) -> None:
        """Keep them in the order in which they were asked."""
        self.asked = tuple(asked)

    @property
    def right(self) -> int:
        """How many guesses came true."""
        return sum(asked.guess is not None and asked.guess == asked.outcome for asked in self.asked)

    def __repr__(self) -> str:
        """A line per question."""
        lines = [f"{a.question}  guessed: {a.guess or '-'}  happened: {a.outcome or '-'}" for a in self.asked]
        return "\n".join([*lines, f"{self.right} of {len(self.asked)} came true"])

    def _repr_html_(self) -> str:
        cells = [(a.question, a.guess or "-", a.outcome or "-") for a in self.asked]
        left = "style='text-align:left'"
        rows = "".join(
            "<tr>" + "".join(f"<td {left}>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells
        )
        head = "".join(f"<th {left}>{name}</th>" for name in ("question", "your guess", "what happened"))
        return f"<table><tr>{head}</tr>{rows}</table><p>{self.right} of {len(self.asked)} came true.</p>"


def guesses() -> Guesses:
    """Every prediction that was asked, and what happened."""
    return Guesses(_ASKED)
