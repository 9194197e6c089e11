"""An authentication server: users, passwords and tokens, over a user store that all of them share."""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

import grpc
import jwt

from paylab.core import revocation
from paylab.core.authorization import Role
from paylab.core.refresh import Verdict
from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S, TYPE, access_claims
from paylab.errors import InvalidRequest, Overloaded, PermissionDenied, Unauthenticated
from paylab.nodes import auth_store, signing_keys
from paylab.nodes.auth_store import Grant
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.interceptors import current_peer
from paylab.nodes.node import LEASE_S, Node, keep_registered
from paylab.nodes.passwords import PasswordCost, Passwords
from paylab.nodes.signing_keys import SigningKeys
from paylab.nodes.token_verifier import ALGORITHM
from paylab.pb import authentication_pb2 as pb
from paylab.pb import authentication_pb2_grpc as pb_grpc

# How often somebody looks whether the next signing key is due; until then the present one goes on.
LOOK_EVERY_S = 1_800.0
# Stands for every name that nobody can have.
NOBODY = "?"


class AuthServer(Node, pb_grpc.AuthenticationServicer):
    """Any of them can do everything: users, keys and refresh tokens are in the shared store.

    `secret` is what the store must not contain: what seals signing keys and makes refresh tokens comes of it.
    """

    role = Role.AUTH

    def __init__(
        self,
        host: Host,
        *,
        secret: bytes,
        balancer: str = "auth-lb",
        cost: PasswordCost | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """Register with `balancer` once running."""
        super().__init__(host)
        self._balancer = balancer
        self._lease_s = lease_s
        self._store = host.store("auth")
        self.passwords = Passwords(host, cost or PasswordCost())
        self.keys = SigningKeys(host, self._store, seal_key=hmac.digest(secret, b"seal", "sha256"))
        self._refresh_key = hmac.digest(secret, b"refresh", "sha256")

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve Authentication."""
        pb_grpc.add_AuthenticationServicer_to_server(self, server)
        return ["paylab.v1.Authentication"]

    async def boot(self) -> None:
        """Create the tables, and the first signing key unless a twin has."""
        await self._store.create_tables(auth_store.TABLES)
        await self._store.create_tables(signing_keys.TABLES)
        await self.keys.make_due()

    async def run(self) -> None:
        """Make ourselves known, and look after the keys."""
        self.host.spawn(
            keep_registered(self.host, balancer=self._balancer, lease_s=self._lease_s, group="auth"),
            daemon=True,
        )
        self.host.spawn(self._rotate(), daemon=True)

    async def _rotate(self) -> None:
        while True:
            await self.host.sleep(LOOK_EVERY_S)
            await self.keys.make_due()

    # Users --------------------------------------------------------------------------------------

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        """Create a user. Raises InvalidRequest, Unauthenticated, PermissionDenied, Overloaded.

        Only an operator may give accounts and roles. A name that is taken needs its password.
        """
        if (request.accounts or request.roles) and not self.host.decisions.auth_rights(current_peer().role):
            raise PermissionDenied("ROLE", "only an operator gives accounts and roles")
        name = request.username
        if not self.host.decisions.auth_username(name):
            raise InvalidRequest("BAD_NAME", "a name has 1 to 64 letters, digits and . _ @ -")
        created = False
        if await self._store.run(lambda connection: auth_store.user(connection, name)) is None:
            digest = await self.passwords.digest(request.password)
            created = await self._store.run(lambda it: auth_store.create_user(it, name, digest))
        if not created:
            await self._authenticate(name, request.password)
        await self._store.run(
            lambda it: auth_store.add_rights(it, name, accounts=request.accounts, roles=request.roles)
        )
        return pb.RegisterResponse(created=created)

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.TokenResponse:
        """Check the password; an unknown user costs the same time and gets the same answer."""
        user = await self._authenticate(request.username, request.password)
        refresh_token = base64.urlsafe_b64encode(self.host.secret_bytes(32)).decode()
        grant = self._grant(refresh_token, family=self.host.new_id(), username=user.username)
        await self._store.run(lambda it: auth_store.give(it, grant, now=self.host.now()))
        return await self._pair(user, refresh_token, token_id=grant.token_id)

    async def _authenticate(self, username: str, password: str) -> Any:
        """The user with this password. Raises Unauthenticated, Overloaded LOCKED_OUT."""
        known = self.host.decisions.auth_username(username)
        name, peer, now = username if known else NOBODY, current_peer().node, self.host.now()
        begun = await self._store.run(
            lambda it: auth_store.begin_try(it, name, peer, now=now, decisions=self.host.decisions)
        )
        if begun.wait_s:
            self._tell(f"{begun.who} is locked for {begun.wait_s:.1f} s")
            raise Overloaded("LOCKED_OUT", "too many failures: wait", begun.wait_s)
        if not await self._matches(begun.user, password):
            raise Unauthenticated("TOKEN_INVALID", "wrong name or password")
        if self.passwords.is_outdated(begun.user.password_hash):
            digest = await self.passwords.digest(password)
            await self._store.run(lambda it: auth_store.set_digest(it, name, digest))
        await self._store.run(lambda it: auth_store.forgive(it, name, peer))
        return begun.user

    async def _matches(self, user: Any, password: str) -> bool:
        return await self.passwords.matches(user.password_hash if user else None, password)

    async def Unlock(self, request: pb.UnlockRequest, context: Any) -> pb.UnlockResponse:
        """Forget failures, so that nobody has to wait any longer."""
        operator, now = str(current_peer()), self.host.now()
        await self._store.run(
            lambda it: auth_store.unlock(it, request.username, request.peer, now=now, by=operator)
        )
        self._tell(f"{operator} unlocked {' and '.join(filter(None, (request.username, request.peer)))}")
        return pb.UnlockResponse()

    def _tell(self, what: str) -> None:
        self.host.recorder.record(Kind.STATE, detail=what)

    # Tokens -------------------------------------------------------------------------------------

    async def Refresh(self, request: pb.RefreshRequest, context: Any) -> pb.TokenResponse:
        """Use a refresh token up, and give the next pair. Raises Unauthenticated."""
        successor = self._successor(request.refresh_token)
        following = self._grant(successor)
        verdict, given, user = await self._store.run(
            lambda it: auth_store.use_refresh(
                it,
                _digest(request.refresh_token),
                following,
                now=self.host.now(),
                decisions=self.host.decisions,
            )
        )
        if verdict in (Verdict.ROTATE, Verdict.REPEAT):
            return await self._pair(user, successor, token_id=given.token_id)
        if verdict is Verdict.END_FAMILY:
            self._tell(f"a used refresh token of {user.username} came back: its family ends")
        raise Unauthenticated("TOKEN_INVALID", "this refresh token is not valid")

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        """End a refresh token's family, or an access token."""
        now, claims = self.host.now(), await self._own_claims(request.token)

        def end(connection: Any) -> None:
            row = auth_store.find_refresh(connection, _digest(request.token))
            if row is not None:
                auth_store.end_family(connection, row.family, now=now)
            elif claims is not None:
                auth_store.revoke(connection, claims["jti"], claims["exp"] + LEEWAY_S, now=now)

        await self._store.run(end)
        return pb.RevokeResponse()

    async def RotateKeys(self, request: pb.RotateKeysRequest, context: Any) -> pb.RotateKeysResponse:
        """Make the next signing key now."""
        made = await self.keys.make_due(asked=True)
        assert made is not None
        return pb.RotateKeysResponse(kid=made.kid, signs_from_s=made.signs_from_s)

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.GetJwksResponse:
        """Publish every key that verifies, and what was revoked."""
        revoked = revocation.bounded(await self._store.run(auth_store.revoked), now=self.host.now())
        return pb.GetJwksResponse(
            jwks_json=json.dumps({"keys": await self.keys.published()}),
            revoked_token_ids=sorted(revoked.token_ids),
            refused_until_s=revoked.refused_until_s,
        )

    def _grant(self, refresh_token: str, *, family: str = "", username: str = "") -> Grant:
        """A refresh token to be kept, with a new access token's id."""
        access_expires_at_s = self.host.now() + ACCESS_LIFETIME_S + LEEWAY_S
        return Grant(_digest(refresh_token), family, username, self.host.new_id(), access_expires_at_s)

    async def _pair(self, user: Any, refresh_token: str, *, token_id: str) -> pb.TokenResponse:
        kid, private = await self.keys.signing()
        claims = access_claims(
            subject=user.username,
            accounts=json.loads(user.accounts),
            roles=json.loads(user.roles),
            token_id=token_id,
            now=self.host.now(),
        )
        return pb.TokenResponse(
            access_token=jwt.encode(claims, private, ALGORITHM, headers={"kid": kid, "typ": TYPE}),
            expires_in_s=ACCESS_LIFETIME_S,
            refresh_token=refresh_token,
        )

    async def _own_claims(self, token: str) -> dict[str, Any] | None:
        """The claims of an access token that we have signed; None for anything else."""
        unchecked: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud")}
        for key in await self.keys.published():
            try:
                claims: dict[str, Any] = jwt.decode(token, jwt.PyJWK(key), [ALGORITHM], options=unchecked)
            except jwt.InvalidTokenError:
                continue
            return claims
        return None

    def _successor(self, refresh_token: str) -> str:
        """The token after this one: always the same, so that a repeated request gets the same answer."""
        made = hmac.digest(self._refresh_key, refresh_token.encode(), "sha256")
        return base64.urlsafe_b64encode(made).decode()


def _digest(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode()).hexdigest()
