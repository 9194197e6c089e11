"""Statements that every payment runs: SQLAlchemy writes them once, SQLite runs them.

To run a statement SQLAlchemy takes four times as long as SQLite does, and there are dozens to a payment.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, bindparam, func, select
from sqlalchemy.dialects import sqlite


def among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether a column is one of those in the JSON list that is given as `name`: one text for any number."""
    given = func.json_each(bindparam(name, type_=String)).table_valued("value")
    return column.in_(select(given.c.value))


class Statement:
    """A statement compiled for SQLite; what its parameters and columns hold must be what SQLite keeps."""

    def __init__(self, statement: Any, *, columns: Sequence[str] | None = None) -> None:
        """Compile it; an insert fills these `columns`, or all. A yes or no comes back as 1 or 0."""
        compiled = statement.compile(dialect=sqlite.dialect(), column_keys=columns)
        self._text = str(compiled)
        names = compiled.positiontup or ()
        self._in_order = _picker(names)
        # Values that the statement itself brings along.
        self._own = {name: compiled.binds[name].value for name in names if not compiled.binds[name].required}
        found = getattr(statement, "selected_columns", ())
        self._row = _row_type(column.name for column in found)

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """What it finds, each row with its columns as attributes."""
        return list(map(self._row._make, _driver(connection).execute(self._text, self._bound(values))))

    def run(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> int:
        """Run it once for each of `rows`; returns how many rows of the table it touched."""
        cursor = _driver(connection).executemany(self._text, map(self._bound, rows))
        return int(cursor.rowcount)

    def _bound(self, values: Mapping[str, Any]) -> Sequence[Any]:
        return self._in_order({**self._own, **values} if self._own else values)


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """Takes the values of these names out of a mapping; `itemgetter` makes no tuple of one."""
    return itemgetter(*names) if len(names) > 1 else lambda values: [values[name] for name in names]


def _row_type(columns: Iterable[str]) -> Any:
    return namedtuple("Row", columns)  # noqa: PYI024 - what its columns are is known when it runs


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection  # a sqlite3.Connection
