"""An authentication server: users, passwords and tokens, over a user store that all of them share."""

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Column, Connection, Float, LargeBinary, MetaData, String, Table, insert, select, update

from paylab.core.authorization import Role
from paylab.core.tokens import ACCESS_LIFETIME_S, REFRESH_LIFETIME_S, TYPE, access_claims
from paylab.errors import PermissionDenied, Unauthenticated
from paylab.nodes.host import Host
from paylab.nodes.interceptors import current_peer
from paylab.nodes.node import LEASE_S, Node, keep_registered
from paylab.nodes.token_verifier import ALGORITHM
from paylab.pb import authentication_pb2 as pb
from paylab.pb import authentication_pb2_grpc as pb_grpc

TABLES = MetaData()
USERS = Table(
    "users",
    TABLES,
    Column("username", String, primary_key=True),
    Column("password_hash", String, nullable=False),
    Column("accounts", String, nullable=False),  # JSON list of "bank/account"
    Column("roles", String, nullable=False),  # JSON list
)
SIGNING_KEYS = Table(
    "signing_keys",
    TABLES,
    Column("kid", String, primary_key=True),
    Column("private_bytes", LargeBinary, nullable=False),
    Column("made_at_s", Float, nullable=False),
)
REFRESH_TOKENS = Table(
    "refresh_tokens",
    TABLES,
    Column("token_hash", String, primary_key=True),
    Column("username", String, nullable=False),
    Column("expires_at_s", Float, nullable=False),
    Column("used_at_s", Float),
)


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """Argon2id parameters; the defaults are RFC 9106's second recommendation."""

    time_cost: int = 3
    memory_kib: int = 65_536
    parallelism: int = 4


class AuthServer(Node, pb_grpc.AuthenticationServicer):
    """Any of them can do everything: users, keys and refresh tokens are in the shared store."""

    role = Role.AUTH

    def __init__(
        self,
        host: Host,
        *,
        balancer: str = "auth-lb",
        cost: PasswordCost | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """Register with `balancer` once running."""
        super().__init__(host)
        cost = cost or PasswordCost()
        self._balancer = balancer
        self._lease_s = lease_s
        self._store = host.store("auth")
        self._hasher = PasswordHasher(cost.time_cost, cost.memory_kib, cost.parallelism)
        self._nobodys_hash = ""

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve Authentication."""
        pb_grpc.add_AuthenticationServicer_to_server(self, server)
        return ["paylab.v1.Authentication"]

    async def boot(self) -> None:
        """Create the tables, and the first signing key unless a twin has."""
        await self._store.create_tables(TABLES)
        private = self.host.secret_bytes(32)
        public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        row = {
            "kid": hashlib.sha256(public).hexdigest()[:16],
            "private_bytes": private,
            "made_at_s": self.host.now(),
        }

        def first_key(connection: Connection) -> None:
            if connection.execute(select(SIGNING_KEYS.c.kid)).first() is None:
                connection.execute(insert(SIGNING_KEYS).values(row))

        await self._store.run(first_key)

    async def run(self) -> None:
        """Make ourselves known."""
        self.host.spawn(
            keep_registered(self.host, balancer=self._balancer, lease_s=self._lease_s, group="auth"),
            daemon=True,
        )

    # Authentication -----------------------------------------------------------------------------

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        """Create a user. Only an operator may give accounts and roles."""
        if (request.accounts or request.roles) and current_peer().role is not Role.OPERATOR:
            raise PermissionDenied("ROLE", "only an operator gives accounts and roles")
        known = await self._user(request.username)
        if known is not None:
            await self._check_password(known.password_hash, request.password)
            await self._store.run(lambda connection: _add_rights(connection, request))
            return pb.RegisterResponse(created=False)
        salt = self.host.secret_bytes(16)
        digest = await self.host.run_blocking(lambda: self._hasher.hash(request.password, salt=salt))

        def create(connection: Connection) -> bool:
            if connection.execute(select(USERS).where(USERS.c.username == request.username)).first():
                return False
            row = {"username": request.username, "password_hash": digest, "accounts": "[]", "roles": "[]"}
            connection.execute(insert(USERS).values(row))
            return True

        created = await self._store.run(create)
        await self._store.run(lambda connection: _add_rights(connection, request))
        return pb.RegisterResponse(created=created)

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.TokenResponse:
        """Check the password; an unknown user costs the same time and gets the same answer."""
        user = await self._user(request.username)
        await self._check_password(user.password_hash if user else await self._decoy(), request.password)
        if user is None:
            raise Unauthenticated("TOKEN_INVALID", "wrong name or password")
        return await self._tokens(user)

    async def Refresh(self, request: pb.RefreshRequest, context: Any) -> pb.TokenResponse:
        """Use a refresh token up, and give the next pair."""
        digest, now = _digest(request.refresh_token), self.host.now()

        def use(connection: Connection) -> str | None:
            fresh = (
                (REFRESH_TOKENS.c.token_hash == digest)
                & REFRESH_TOKENS.c.used_at_s.is_(None)
                & (REFRESH_TOKENS.c.expires_at_s > now)
            )
            row = connection.execute(select(REFRESH_TOKENS.c.username).where(fresh)).first()
            connection.execute(update(REFRESH_TOKENS).where(fresh).values(used_at_s=now))
            return str(row.username) if row else None

        username = await self._store.run(use)
        user = await self._user(username) if username else None
        if user is None:
            raise Unauthenticated("TOKEN_INVALID", "this refresh token is not valid")
        return await self._tokens(user)

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.GetJwksResponse:
        """Publish every key that verifies."""
        keys = []
        for row in await self._keys():
            public = Ed25519PrivateKey.from_private_bytes(row.private_bytes).public_key().public_bytes_raw()
            x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
            keys.append(
                {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM, "kid": row.kid, "x": x}
            )
        return pb.GetJwksResponse(jwks_json=json.dumps({"keys": keys}))

    # Steps --------------------------------------------------------------------------------------

    async def _user(self, username: str) -> Any:
        query = select(USERS).where(USERS.c.username == username)
        return await self._store.run(lambda connection: connection.execute(query).first())

    async def _keys(self) -> Sequence[Any]:
        query = select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.made_at_s, SIGNING_KEYS.c.kid)
        return await self._store.rows(query)

    async def _check_password(self, password_hash: str, password: str) -> None:
        try:
            await self.host.run_blocking(functools.partial(self._hasher.verify, password_hash, password))
        except (VerifyMismatchError, InvalidHashError) as error:
            raise Unauthenticated("TOKEN_INVALID", "wrong name or password") from error

    async def _decoy(self) -> str:
        if not self._nobodys_hash:
            salt, nobody = self.host.secret_bytes(16), self.host.secret_bytes(16)
            self._nobodys_hash = await self.host.run_blocking(lambda: self._hasher.hash(nobody, salt=salt))
        return self._nobodys_hash

    async def _tokens(self, user: Any) -> pb.TokenResponse:
        key = (await self._keys())[-1]
        claims = access_claims(
            subject=user.username,
            accounts=json.loads(user.accounts),
            roles=json.loads(user.roles),
            token_id=self.host.new_id(),
            now=self.host.now(),
        )
        private = Ed25519PrivateKey.from_private_bytes(key.private_bytes)
        refresh_token = base64.urlsafe_b64encode(self.host.secret_bytes(32)).decode()
        row = {
            "token_hash": _digest(refresh_token),
            "username": user.username,
            "expires_at_s": self.host.now() + REFRESH_LIFETIME_S,
        }
        await self._store.execute(insert(REFRESH_TOKENS).values(row))
        return pb.TokenResponse(
            access_token=jwt.encode(claims, private, ALGORITHM, headers={"kid": key.kid, "typ": TYPE}),
            expires_in_s=ACCESS_LIFETIME_S,
            refresh_token=refresh_token,
        )


def _digest(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode()).hexdigest()


def _add_rights(connection: Connection, request: pb.RegisterRequest) -> None:
    row = connection.execute(select(USERS).where(USERS.c.username == request.username)).one()
    rights = {
        name: json.dumps(sorted({*json.loads(getattr(row, name)), *wanted}))
        for name, wanted in (("accounts", request.accounts), ("roles", request.roles))
    }
    connection.execute(update(USERS).where(USERS.c.username == request.username).values(**rights))
