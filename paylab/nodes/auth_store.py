"""What the authentication servers keep together: users, families of refresh tokens, failures, revocations.

Every function here is one write transaction, or a step of one; what is decided is decided in `paylab.core`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from paylab.core.decisions import Decisions
from paylab.core.lockout import BY_PEER, BY_USER, Failures, counted
from paylab.core.refresh import REFRESH_LIFETIME_S, RefreshToken, Verdict
from paylab.nodes.statements import Statement

TABLES = MetaData()
USERS = Table(
    "users",
    TABLES,
    Column("username", String, primary_key=True),
    Column("password_hash", String, nullable=False),
    Column("accounts", String, nullable=False),  # JSON list of "bank/account"
    Column("roles", String, nullable=False),  # JSON list
)
REFRESH_TOKENS = Table(
    "refresh_tokens",
    TABLES,
    Column("token_hash", String, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("username", String, nullable=False),
    Column("expires_at_s", Float, nullable=False),
    Column("used_at_s", Float),
    Column("family_ended", Boolean, nullable=False, default=False),
    # The access token that was given with it.
    Column("token_id", String, nullable=False),
    Column("access_expires_at_s", Float, nullable=False),
)
FAILURES = Table(
    "login_failures",
    TABLES,
    Column("who", String, primary_key=True),  # "user alice" or "peer laptop"
    Column("failures", Integer, nullable=False),
    Column("last_at_s", Float, nullable=False),
)
REVOCATIONS = Table(
    "revocations",
    TABLES,
    Column("token_id", String, primary_key=True),
    Column("expires_at_s", Float, nullable=False),
)
AUDIT = Table(
    "audit",
    TABLES,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at_s", Float, nullable=False),
    Column("what", String, nullable=False),
)

_USER = Statement(select(USERS).where(USERS.c.username == bindparam("username")))
_REFRESH = Statement(select(REFRESH_TOKENS).where(REFRESH_TOKENS.c.token_hash == bindparam("token_hash")))
_GIVE = Statement(
    insert(REFRESH_TOKENS), columns=[column.name for column in REFRESH_TOKENS.c if not column.nullable]
)
_USE = Statement(
    update(REFRESH_TOKENS)
    .where(REFRESH_TOKENS.c.token_hash == bindparam("_token_hash"))
    .values(used_at_s=bindparam("_now"))
)
_DROP_EXPIRED = Statement(delete(REFRESH_TOKENS).where(REFRESH_TOKENS.c.expires_at_s <= bindparam("now")))
_REVOKED = Statement(select(REVOCATIONS))


# Users and their failures --------------------------------------------------------------------------


def user(connection: Connection, username: str) -> Any:
    """A user's row; None when there is none."""
    return next(iter(_USER.rows(connection, {"username": username})), None)


def create_user(connection: Connection, username: str, digest: str) -> bool:
    """Whether the user is new."""
    if user(connection, username) is not None:
        return False
    row = {"username": username, "password_hash": digest, "accounts": "[]", "roles": "[]"}
    connection.execute(insert(USERS).values(row))
    return True


def add_rights(
    connection: Connection, username: str, *, accounts: Iterable[str], roles: Iterable[str]
) -> None:
    """Give a user more accounts and roles."""
    row = user(connection, username)
    rights = {
        name: json.dumps(sorted({*json.loads(getattr(row, name)), *wanted}))
        for name, wanted in (("accounts", accounts), ("roles", roles))
    }
    connection.execute(update(USERS).where(USERS.c.username == username).values(**rights))


def set_digest(connection: Connection, username: str, digest: str) -> None:
    """Keep a user's password under more expensive parameters."""
    connection.execute(update(USERS).where(USERS.c.username == username).values(password_hash=digest))


@dataclass(frozen=True, slots=True)
class Try:
    """What is known when somebody tries a password: how long he must wait first, and the user."""

    wait_s: float
    who: str
    user: Any


def begin_try(connection: Connection, username: str, peer: str, *, now: float, decisions: Decisions) -> Try:
    """Count the try as a failure before it is looked at, so that many at once are counted, too."""
    asked = [(f"user {username}", BY_USER), (f"peer {peer}", BY_PEER)]
    for who, rules in asked:
        wait_s = decisions.auth_lockout(_failures(connection, who), now=now, rules=rules)
        if wait_s:
            audit(connection, now, f"refused {username} at {peer}: {who} is locked")
            return Try(wait_s, who, None)
    for who, rules in asked:
        _keep(connection, who, counted(_failures(connection, who), now=now, rules=rules))
    longest_s = max(rules.forget_after_s for _, rules in asked)
    connection.execute(delete(FAILURES).where(FAILURES.c.last_at_s < now - longest_s))
    return Try(0.0, "", user(connection, username))


def forgive(connection: Connection, username: str, peer: str) -> None:
    """The password was right: the user starts anew, and the peer takes this one try back."""
    connection.execute(delete(FAILURES).where(FAILURES.c.who == f"user {username}"))
    taken_back = update(FAILURES).where(FAILURES.c.who == f"peer {peer}")
    connection.execute(taken_back.values(failures=FAILURES.c.failures - 1))


def unlock(connection: Connection, username: str, peer: str, *, now: float, by: str) -> None:
    """Forget failures, at an operator's word."""
    for who in [
        *(f"user {name}" for name in [username] if name),
        *(f"peer {name}" for name in [peer] if name),
    ]:
        connection.execute(delete(FAILURES).where(FAILURES.c.who == who))
        audit(connection, now, f"{by} unlocked {who}")


def _failures(connection: Connection, who: str) -> Failures:
    row = connection.execute(select(FAILURES).where(FAILURES.c.who == who)).first()
    return Failures(row.failures, row.last_at_s) if row is not None else Failures()


def _keep(connection: Connection, who: str, failures: Failures) -> None:
    connection.execute(delete(FAILURES).where(FAILURES.c.who == who))
    row = {"who": who, "failures": failures.count, "last_at_s": failures.last_at_s}
    connection.execute(insert(FAILURES).values(row))


def audit(connection: Connection, now: float, what: str) -> None:
    """Keep a line for whoever looks into an incident."""
    connection.execute(insert(AUDIT).values(at_s=now, what=what))


# Refresh tokens ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """A refresh token that is given, and the access token beside it."""

    token_hash: str
    family: str
    username: str
    token_id: str
    access_expires_at_s: float


def give(connection: Connection, grant: Grant, *, now: float) -> None:
    """Keep a refresh token; those that have expired go."""
    _DROP_EXPIRED.run(connection, [{"now": now}])
    row = {name: getattr(grant, name) for name in Grant.__dataclass_fields__}
    row |= {"expires_at_s": now + REFRESH_LIFETIME_S, "family_ended": False}
    _GIVE.run(connection, [row])


def find_refresh(connection: Connection, token_hash: str) -> Any:
    """A refresh token's row; None when there is none."""
    return next(iter(_REFRESH.rows(connection, {"token_hash": token_hash})), None)


def use_refresh(
    connection: Connection, token_hash: str, following: Grant, *, now: float, decisions: Decisions
) -> tuple[Verdict, Grant, Any]:
    """Do with a presented token what it deserves.

    Returns the verdict, what is given for it (family and user taken over) and the user's row.
    """
    row, successor = find_refresh(connection, token_hash), find_refresh(connection, following.token_hash)
    presented = None
    if row is not None:
        presented = RefreshToken(
            expires_at_s=row.expires_at_s,
            used_at_s=row.used_at_s,
            successor_used=successor is None or successor.used_at_s is not None,
            family_ended=bool(row.family_ended),
        )
    verdict = decisions.auth_refresh(presented, now=now)
    if verdict is Verdict.ROTATE:
        _USE.run(connection, [{"_token_hash": token_hash, "_now": now}])
        following = replace(following, family=row.family, username=row.username)
        give(connection, following, now=now)
    elif verdict is Verdict.END_FAMILY:
        audit(connection, now, f"a used refresh token of {row.username} came back: its family ends")
        end_family(connection, row.family, now=now)
    elif verdict is Verdict.REPEAT:
        following = replace(following, username=row.username, token_id=successor.token_id)
    return verdict, following, user(connection, row.username if row is not None else "")


def end_family(connection: Connection, family: str, *, now: float) -> None:
    """End every refresh token that descends from one login, and the access tokens given with them."""
    mine = REFRESH_TOKENS.c.family == family
    for row in connection.execute(select(REFRESH_TOKENS).where(mine)).all():
        revoke(connection, row.token_id, row.access_expires_at_s, now=now)
    connection.execute(update(REFRESH_TOKENS).where(mine).values(family_ended=True))


def revoke(connection: Connection, token_id: str, expires_at_s: float, *, now: float) -> None:
    """End an access token; ids of tokens that have expired meanwhile go."""
    connection.execute(
        delete(REVOCATIONS).where((REVOCATIONS.c.expires_at_s <= now) | (REVOCATIONS.c.token_id == token_id))
    )
    if expires_at_s > now:
        connection.execute(insert(REVOCATIONS).values(token_id=token_id, expires_at_s=expires_at_s))


def revoked(connection: Connection) -> list[tuple[str, float]]:
    """Every revoked id with its token's end."""
    return [(row.token_id, row.expires_at_s) for row in _REVOKED.rows(connection, {})]
