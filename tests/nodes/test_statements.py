"""Statements that are compiled once do what SQLAlchemy would have done."""

import json
from collections.abc import Iterator
from sqlite3 import IntegrityError

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from paylab.nodes.statements import Statement, among
from paylab.nodes.store import sqlite_engine

TABLES = MetaData()
NOTES = Table(
    "notes",
    TABLES,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False),
    Column("text", LargeBinary, nullable=False),
)
INSERT = Statement(insert(NOTES), columns=("name", "text"))
ALL = Statement(select(NOTES).order_by(NOTES.c.id))
NAMES = [f"note {n}" for n in range(50_000)] + ["ümläut", 'quo"te', ""]


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A database with every note."""
    with sqlite_engine(None).connect() as opened:
        TABLES.create_all(opened)
        INSERT.run(opened, [{"name": name, "text": name.encode()} for name in NAMES])
        yield opened


def test_rows_have_their_columns_by_name(connection: Connection) -> None:
    """In the order that was asked for; the key that was left out is the database's business."""
    rows = ALL.rows(connection, {})
    assert [(row.id, row.name, row.text) for row in rows[-2:]] == [
        (len(NAMES) - 1, 'quo"te', b'quo"te'),
        (len(NAMES), "", b""),
    ]


def test_one_text_serves_any_number_of_values(connection: Connection) -> None:
    """None, a few in any order and more than once, or more than SQLite takes as parameters."""
    some = Statement(select(NOTES.c.name).where(among(NOTES.c.name, "names")).order_by(NOTES.c.id))
    asked: list[list[str]] = [[], ["ümläut", "note 3", 'quo"te', "note 3", "unknown"], NAMES]
    found = [[row.name for row in some.rows(connection, {"names": json.dumps(names)})] for names in asked]
    assert found == [[], ["note 3", "ümläut", 'quo"te'], NAMES]


def test_changes_take_values_of_their_own_and_given_ones(connection: Connection) -> None:
    """What the statement brings along need not be given again, and counts beside what is given."""
    change = Statement(update(NOTES).where(NOTES.c.name == bindparam("_name")).values(text=b"new"))
    change.run(connection, [{"_name": "note 1"}, {"_name": "note 2"}])
    Statement(delete(NOTES).where(NOTES.c.id > bindparam("last"))).run(connection, [{"last": 4}])
    assert [row.text for row in ALL.rows(connection, {})] == [b"note 0", b"new", b"new", b"note 3"]


def test_what_is_missing_is_refused(connection: Connection) -> None:
    """A value that nobody gave, and one that the table does not allow."""
    with pytest.raises(KeyError, match="text"):
        INSERT.run(connection, [{"name": "alone"}])
    with pytest.raises(IntegrityError, match="NOT NULL"):
        INSERT.run(connection, [{"name": "empty", "text": None}])
