"""A history as a file: JSON lines that show where they were cut or edited.

The first line is a header (format, version, world, seed, …), the last one tells how many events there are.
Every line ends with "chain", the beginning of a SHA-256 over the line and the chain before it, so a line
that was changed, moved or removed does not fit the one before. Nothing in the file depends on the wall clock
of whoever writes it or on the order of a set: the same simulated run gives the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from paylab.errors import LabError
from paylab.nodes.events import Event, Kind

FORMAT = "paylab-history"
VERSION = 1
# So many hexadecimal digits of the chain stand on a line: chance fits once in 2^64.
CHAIN_SHOWN = 16
_MARK = ',"chain":"'
_TEXTS = ("node", "peer", "method", "call", "parent", "detail")
_NUMBERS = ("seq", "lamport")
FIRST_CHAIN = "0" * 64


def bad_history(path: str | Path, line: int, what: str) -> LabError:
    """The error for a file that cannot be read."""
    return LabError("BAD_HISTORY", f"{path}, line {line}: {what}")


class Chain:
    """Ties each line to all those before it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.tip = FIRST_CHAIN

    def after(self, body: str) -> str:
        """Move on by one line, given without its chain; returns what the line shows."""
        self.tip = hashlib.sha256((self.tip + body).encode()).hexdigest()
        return self.tip[:CHAIN_SHOWN]

    def line(self, entry: Mapping[str, Any]) -> str:
        """One line of a file."""
        body = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f'{body[:-1]}{_MARK}{self.after(body)}"}}\n'


class HistoryWriter:
    """Writes one file, or only its SHA-256 if `path` is None."""

    def __init__(self, path: str | Path | None, header: Mapping[str, Any]) -> None:
        """Write the header."""
        self.events = 0
        self._digest = hashlib.sha256()
        self._chain = Chain()
        self._file: TextIO | None = None
        if path is not None:
            self._file = Path(path).open("w", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed by close()
        self.closed = False
        self._put({"format": FORMAT, "version": VERSION, **header})

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write one event, as JSON types."""
        self.events += 1
        self._put(entry)

    def close(self) -> str:
        """Write the last line; returns the SHA-256 of the file. Closing again changes nothing."""
        if not self.closed:
            self.closed = True
            self._put({"end": True, "events": self.events})
            if self._file is not None:
                self._file.close()
        return self._digest.hexdigest()

    def _put(self, entry: Mapping[str, Any]) -> None:
        line = self._chain.line(entry)
        self._digest.update(line.encode())
        if self._file is not None:
            self._file.write(line)


class HistoryReader:
    """Reads one file from its first line to its last. Raises LabError BAD_HISTORY that names the line."""

    def __init__(self, path: str | Path) -> None:
        """Read the header."""
        self.path = Path(path)
        self._line = 0
        self._chain = Chain()
        self._entries = self._read()
        self.header = next(self._entries, {})
        if self.header.get("format") != FORMAT:
            raise bad_history(path, 1, "this is no history of paylab")
        if self.header.get("version") != VERSION:
            raise bad_history(path, 1, f"version {self.header.get('version')} is not {VERSION}")

    def __iter__(self) -> Iterator[Event]:
        """The events, in order; each line is verified before its event is given out."""
        for count, entry in enumerate(self._entries):
            if "end" in entry:
                self._check_end(entry, count)
                return
            try:
                event = _event(entry)
            except (KeyError, TypeError, ValueError) as error:
                raise bad_history(self.path, self._line, f"this is no event: {error}") from None
            yield event
        raise bad_history(self.path, self._line, "the file ends here without its last line: it was cut")

    def _check_end(self, entry: Mapping[str, Any], count: int) -> None:
        if entry.get("events") != count:
            raise bad_history(
                self.path, self._line, f"{entry.get('events')} events were written, {count} are here"
            )
        if next(self._entries, None) is not None:
            raise bad_history(self.path, self._line, "something stands after the last line")

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open(encoding="utf-8", newline="\n") as lines:
                for text in lines:
                    self._line += 1
                    yield self._entry(text)
        except OSError as error:
            raise LabError("BAD_HISTORY", f"{self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise bad_history(self.path, self._line + 1, "this is not UTF-8 text") from None

    def _entry(self, text: str) -> dict[str, Any]:
        body, mark, shown = text.rstrip("\r\n").rpartition(_MARK)
        try:
            entry = json.loads(text)
        except ValueError:
            raise bad_history(self.path, self._line, "the line is not whole") from None
        if not isinstance(entry, dict) or not mark:
            raise bad_history(self.path, self._line, "this is no line of a history")
        if self._chain.after(body + "}") != shown.removesuffix('"}'):
            raise bad_history(
                self.path,
                self._line,
                "does not follow from the lines before it: it was edited, or lines are missing",
            )
        del entry["chain"]
        return entry


def _event(entry: Mapping[str, Any]) -> Event:
    facts, payments, at_s = entry.get("facts"), entry["payments"], entry["at_s"]
    wrong = [name for name in _TEXTS if not isinstance(entry[name], str)]
    wrong += [name for name in _NUMBERS if type(entry[name]) is not int]
    if wrong or not isinstance(payments, list) or not isinstance(at_s, int | float):
        raise ValueError(f"{', '.join(wrong) or 'payments or at_s'} has the wrong type")
    if facts is not None and not isinstance(facts, dict):
        raise ValueError("facts has the wrong type")
    return Event(
        node=entry["node"],
        seq=entry["seq"],
        lamport=entry["lamport"],
        at_s=float(at_s),
        kind=Kind(entry["kind"]),
        payments=tuple(payments),
        peer=entry["peer"],
        method=entry["method"],
        call=entry["call"],
        parent=entry["parent"],
        detail=entry["detail"],
        facts=facts,
    )


def seal(entries: Iterable[Mapping[str, Any]]) -> str:
    """The text of a file with these lines, header and end among them, each with a chain that fits."""
    chain = Chain()
    return "".join(chain.line(entry) for entry in entries)
