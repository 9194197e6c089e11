"""Verifies access tokens where they arrive, with the authentication servers' public keys.

PyJWT verifies the signature; which key does and what the claims must say is decided in `paylab.core.tokens`.
"""

import asyncio
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import grpc
import jwt

from paylab.core.revocation import Revocations
from paylab.core.tokens import Caller
from paylab.errors import OutcomeUnknown, Unauthenticated
from paylab.pb import authentication_pb2, authentication_pb2_grpc

if TYPE_CHECKING:  # the host makes its verifier, so at run time the import goes the other way
    from paylab.nodes.host import Host

ALGORITHM = "EdDSA"
# Tokens live minutes and a caller has one, so this covers as many active callers.
CACHE_MAX = 10_000
# A revoked token is refused at the latest after this time, as long as an authentication server is in reach.
FRESH_FOR_S = 30.0
FETCH_TIMEOUT_S = 2.0
# Times, issuer and audience are checked with the node's own clock by `token.check`.
_SIGNATURE_ONLY: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}


class TokenVerifier:
    """Keeps the public keys, the revocations, and the claims of tokens whose signature was found right."""

    def __init__(self, host: "Host") -> None:
        """Fetch keys through this host, at first use."""
        self._host = host
        self._keys: dict[str, jwt.PyJWK] = {}
        self._revocations = Revocations()
        # In the loop's time, which nobody sets back.
        self._fetched_at_s = self._asked_at_s = float("-inf")
        self._answered = True
        self._fetching = asyncio.Lock()
        self._claims: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """Return who the token speaks for. Raises Unauthenticated, OutcomeUnknown."""
        age_s = asyncio.get_running_loop().time() - self._fetched_at_s
        if age_s > FRESH_FOR_S / 2:
            await self._freshen(age_s)
        claims = self._claims.get(token)
        if claims is None:
            claims = await self._verified_claims(token)
            self._claims[token] = claims
            if len(self._claims) > CACHE_MAX:
                self._claims.popitem(last=False)
        decisions = self._host.decisions
        caller: Caller = decisions.token_check(claims, now=self._host.now())
        if decisions.token_revoked(claims, self._revocations):
            raise Unauthenticated("TOKEN_INVALID", "this token was revoked")
        return caller

    async def _verified_claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("TOKEN_INVALID", "this is not a token") from error
        self._host.decisions.token_header(header)
        key = await self._key(header)
        try:
            # The key brings its algorithm along, and the token may name no other (RFC 8725, 3.1).
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=[key.algorithm_name], options=_SIGNATURE_ONLY
            )
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("TOKEN_INVALID", "the signature is wrong") from error
        return claims

    # Keys and revocations -----------------------------------------------------------------------

    async def _key(self, header: dict[str, Any]) -> jwt.PyJWK:
        find = self._host.decisions.token_key
        key: jwt.PyJWK | None = find(header, self._keys)
        if key is None:
            async with self._fetching:  # of many calls that need a key, one fetches it
                key = find(header, self._keys)
                if key is None and self._may_ask():
                    await self._fetch()
                    key = find(header, self._keys)
        if key is not None:
            return key
        if not self._answered:
            # The token may be good and its payment may exist already: only "ask again" is true here.
            raise OutcomeUnknown(message="no authentication server is in reach to say whose key this is")
        raise Unauthenticated("TOKEN_INVALID", "no authentication server signs with this key")

    async def _freshen(self, age_s: float) -> None:
        """Fetch in the background while what is known is still fresh, otherwise before going on."""
        if self._fetching.locked() and age_s <= FRESH_FOR_S:
            return
        if age_s <= FRESH_FOR_S:
            if self._may_ask():
                self._asked_at_s = asyncio.get_running_loop().time()
                self._host.spawn(self._fetch(), daemon=True)
            return
        async with self._fetching:
            stale = asyncio.get_running_loop().time() - self._fetched_at_s > FRESH_FOR_S
            if stale and self._may_ask():
                await self._fetch()

    def _may_ask(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._host.decisions.token_refetch(now=now, asked_at_s=self._asked_at_s)

    async def _fetch(self) -> None:
        """Ask an authentication server; without an answer, what is known still serves."""
        self._asked_at_s = asyncio.get_running_loop().time()
        stub = authentication_pb2_grpc.AuthenticationStub(self._host.channel("auth-lb"))
        try:
            response = await stub.GetJwks(authentication_pb2.GetJwksRequest(), timeout=FETCH_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            self._answered = False
            return
        except asyncio.CancelledError:  # who asked waits no longer, and others know nothing yet
            self._answered = False
            raise
        self._answered, self._fetched_at_s = True, asyncio.get_running_loop().time()
        published = {key["kid"]: key for key in json.loads(response.jwks_json)["keys"]}
        if not self._keys.keys() <= published.keys():
            self._claims.clear()  # what a withdrawn key has signed is not believed any more
        self._keys = {kid: self._keys.get(kid) or jwt.PyJWK(key) for kid, key in published.items()}
        self._revocations = Revocations(frozenset(response.revoked_token_ids), response.refused_until_s)
