"""The queue's disk: waiting payments, who tries which, and dead letters.

An entry is in FRONT when it may be tried: the oldest of its payer, or one that waits for funds and so gave up
its place in that order. Whoever takes it puts its worker's name on it and puts it off until the lease ends:
nobody else finds it due before, and when its worker has died it is due again by itself. A worker whose lease
has ended changes nothing any more. Several processes may share one store.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from paylab.nodes.statements import Statement, among

TABLES = MetaData()
FRONT, BEHIND, DEAD = "FRONT", "BEHIND", "DEAD"
ENTRIES = Table(
    "entries",
    TABLES,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("payment", String, nullable=False, unique=True),
    Column("payer", String, nullable=False),
    Column("place", String, nullable=False),
    Column("in_order", Boolean, nullable=False),
    Column("due_at_s", Float, nullable=False),
    # Who tries it now; empty when nobody does.
    Column("worker", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("queued_at_s", Float, nullable=False),
    # JSON: the latest tries, [at_s, reason] each
    Column("history", String, nullable=False),
    Index("entries_due", "place", "due_at_s"),
    Index("entries_of_payer", "payer", "seq"),
    sqlite_autoincrement=True,
)
# As many tries are kept of each payment: the first seconds, and the latest hours.
HISTORY_MAX = 20

_WAITING = (ENTRIES.c.place == FRONT) | (ENTRIES.c.place == BEHIND)
_THESE = among(ENTRIES.c.payment, "payments")
_KNOWN = Statement(select(ENTRIES.c.payment, ENTRIES.c.payer, ENTRIES.c.place).where(_THESE))
_COUNT = Statement(select(func.count().label("waiting")).where(_WAITING))
_ENTER = Statement(
    insert(ENTRIES), columns=tuple(column.name for column in ENTRIES.c if column is not ENTRIES.c.seq)
)
_REVIVE = Statement(
    update(ENTRIES)
    .where(_THESE)
    .values(
        place=FRONT,
        in_order=False,
        worker="",
        tries=0,
        due_at_s=bindparam("_now"),
        queued_at_s=bindparam("_now"),
    )
)
_FORGET = Statement(delete(ENTRIES).where(_THESE))
_DUE = Statement(
    select(ENTRIES)
    .where((ENTRIES.c.place == FRONT) & (ENTRIES.c.due_at_s <= bindparam("now")))
    .order_by(ENTRIES.c.due_at_s, ENTRIES.c.seq)
    .limit(bindparam("limit"))
)
_NEXT_DUE = Statement(select(func.min(ENTRIES.c.due_at_s).label("due_at_s")).where(ENTRIES.c.place == FRONT))
_LEASE = Statement(
    update(ENTRIES)
    .where(ENTRIES.c.seq == bindparam("_seq"))
    .values(worker=bindparam("_worker"), due_at_s=bindparam("_until_s"))
)
_MINE = (ENTRIES.c.payment == bindparam("_payment")) & (ENTRIES.c.worker == bindparam("_worker"))
_DROP = Statement(delete(ENTRIES).where(_MINE))
_CHANGED = ("place", "in_order", "due_at_s", "tries", "reason", "history")
_PUT_BACK = Statement(
    update(ENTRIES).where(_MINE).values(worker="", **{name: bindparam(f"_{name}") for name in _CHANGED})
)
# The oldest that waits in order.
_IN_ORDER = (ENTRIES.c.payer == bindparam("_payer")) & ENTRIES.c.in_order & (ENTRIES.c.place != DEAD)
_OLDEST = select(ENTRIES.c.seq).where(_IN_ORDER).order_by(ENTRIES.c.seq).limit(1)
_ADVANCE = Statement(
    update(ENTRIES)
    .where((ENTRIES.c.seq == _OLDEST.scalar_subquery()) & (ENTRIES.c.place == BEHIND))
    .values(place=FRONT)
)


def waiting(connection: Connection) -> int:
    """How many wait."""
    return int(_COUNT.rows(connection, {})[0].waiting)


def take_in(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add entries behind those of the same payer; one that is here already stays as it is."""
    present = {row.payment for row in _known(connection, [row["payment"] for row in rows])}
    fresh = {row["payment"]: dict(row) for row in rows if row["payment"] not in present}
    for row in fresh.values():
        row |= {"place": BEHIND if row["in_order"] else FRONT, "worker": "", "tries": 0, "history": "[]"}
    _ENTER.run(connection, fresh.values())
    _advance(connection, {row["payer"] for row in fresh.values()})


def take_up(connection: Connection, payments: Sequence[str], *, now: float) -> None:
    """Let dead letters wait anew, and whoever still works on one lose it; their history stays."""
    if payments:
        _REVIVE.run(connection, [{"payments": json.dumps(payments), "_now": now}])


def forget(connection: Connection, payments: Sequence[str]) -> None:
    """Drop entries, dead letters too, whoever works on them; those behind them move up."""
    if payments:
        payers = {row.payer for row in _known(connection, payments)}
        _FORGET.run(connection, [{"payments": json.dumps(payments)}])
        _advance(connection, payers)


def lease(connection: Connection, *, worker: str, now: float, until_s: float, limit: int) -> list[Any]:
    """Take up to `limit` entries that are due; nobody else gets them before `until_s`."""
    due = _DUE.rows(connection, {"now": now, "limit": limit})
    _LEASE.run(connection, [{"_seq": row.seq, "_worker": worker, "_until_s": until_s} for row in due])
    return due


def next_due_s(connection: Connection) -> float | None:
    """When the next entry is due, or a lease ends; None when nothing waits."""
    due_at_s: float | None = _NEXT_DUE.rows(connection, {})[0].due_at_s
    return due_at_s


def settle(connection: Connection, payment: str, payer: str, *, worker: str) -> bool:
    """Drop an entry whose payment is settled; False when the lease was lost."""
    dropped = _DROP.run(connection, [{"_payment": payment, "_worker": worker}]) > 0
    if dropped:
        _advance(connection, [payer])
    return dropped


def put_back(connection: Connection, payment: str, payer: str, *, worker: str, **changed: Any) -> bool:
    """End the lease and change the entry; False when the lease was lost."""
    row = {"_payment": payment, "_worker": worker} | {f"_{name}": value for name, value in changed.items()}
    found = _PUT_BACK.run(connection, [row]) > 0
    if found:
        _advance(connection, [payer])
    return found


def release(connection: Connection, *, worker: str, now: float) -> int:
    """End the leases of a worker's earlier lives; returns how many there were."""
    mine = ENTRIES.c.worker.startswith(f"{worker}/", autoescape=True)
    return int(connection.execute(update(ENTRIES).where(mine).values(worker="", due_at_s=now)).rowcount)


def make_due(connection: Connection, payments: Sequence[str], *, now: float) -> int:
    """Let waiting entries that nobody tries be due at once, all or those; returns how many."""
    idle = _WAITING & (ENTRIES.c.worker == "")
    due = update(ENTRIES).where(idle).values(due_at_s=now)
    if payments:
        due = due.where(ENTRIES.c.payment.in_(payments))
    return int(connection.execute(due).rowcount)


def listed(connection: Connection, *, dead: bool, limit: int) -> Sequence[Any]:
    """Waiting entries or dead letters, in the order in which they were queued."""
    wanted = ENTRIES.c.place == DEAD if dead else _WAITING
    return connection.execute(select(ENTRIES).where(wanted).order_by(ENTRIES.c.seq).limit(limit)).all()


def _advance(connection: Connection, payers: Iterable[str]) -> None:
    """Bring the oldest of each payer to the front."""
    _ADVANCE.run(connection, [{"_payer": payer} for payer in sorted(payers)])


def _known(connection: Connection, payments: Sequence[str]) -> list[Any]:
    return _KNOWN.rows(connection, {"payments": json.dumps(payments)})
