"""Helps to read: shows the installed source of an object, with file and line numbers."""

import inspect
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import paylab.errors

# What a reader takes in at one look.
LINES_MAX = 30
_PACKAGE = Path(paylab.errors.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Source:
    """Source text that displays itself with its line numbers."""

    path: str
    first_line: int
    text: str

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())

    def __str__(self) -> str:
        """File and number, then the lines."""
        numbered = [
            f"{number:>4}  {line}" for number, line in enumerate(self.text.splitlines(), self.first_line)
        ]
        return "\n".join([f"{self.path}:{self.first_line}", *numbered])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        place = f"<div style='opacity:.7'>{escape(self.path)}:{self.first_line}</div>"
        text = escape(str(self).partition("\n")[2])
        return f"{place}<pre style='overflow-x:auto;font-family:monospace'>{text}</pre>"


def source(thing: Any) -> Source:
    """The installed lines of a function or class of paylab. Raises TypeError for what has no source."""
    lines, first_line = inspect.getsourcelines(thing)
    path = Path(inspect.getsourcefile(thing) or "?")
    shown = path.relative_to(_PACKAGE) if path.is_relative_to(_PACKAGE) else Path(path.name)
    return Source(shown.as_posix(), first_line, textwrap.dedent("".join(lines)))
