"""Verifies access tokens where they arrive, with the authentication servers' public keys.

PyJWT verifies the signature; what the claims must say is decided in `paylab.core.tokens`.
"""

import asyncio
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import grpc
import jwt

from paylab.core.tokens import TYPE, Caller
from paylab.errors import OutcomeUnknown, Unauthenticated
from paylab.pb import authentication_pb2, authentication_pb2_grpc

if TYPE_CHECKING:  # the host makes its verifier, so at run time the import goes the other way
    from paylab.nodes.host import Host

ALGORITHM = "EdDSA"
# Tokens live minutes and a caller has one, so this covers as many active callers.
CACHE_MAX = 10_000
# An attacker who invents key ids makes at most one fetch in this time.
REFETCH_AFTER_S = 2.0


class TokenVerifier:
    """Keeps the public keys and the claims of tokens whose signature was found right."""

    def __init__(self, host: "Host") -> None:
        """Fetch keys through this host, at first use."""
        self._host = host
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._claims: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """Return who the token speaks for. Raises Unauthenticated, OutcomeUnknown."""
        claims = self._claims.get(token)
        if claims is None:
            claims = await self._verified_claims(token)
            self._claims[token] = claims
            if len(self._claims) > CACHE_MAX:
                self._claims.popitem(last=False)
        return self._host.decisions.token_check(claims, now=self._host.now())

    async def _verified_claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("TOKEN_INVALID", "this is not a token") from error
        if header.get("typ") != TYPE or header.get("alg") != ALGORITHM:
            raise Unauthenticated("TOKEN_INVALID", f"an access token has typ {TYPE} and alg {ALGORITHM}")
        key = await self._key(str(header.get("kid", "")))
        # Times, issuer and audience are checked with the node's own clock by check_claims.
        unchecked: Any = {
            f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")
        }
        try:
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=[ALGORITHM], options=unchecked)
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("TOKEN_INVALID", "the signature is wrong") from error
        return claims

    async def _key(self, key_id: str) -> jwt.PyJWK:
        now, answered = self._host.now(), True
        async with self._fetching:  # of many calls that need a key, one fetches it
            if key_id not in self._keys and now - self._fetched_at >= REFETCH_AFTER_S:
                answered = await self._fetch()
        if key_id in self._keys:
            return self._keys[key_id]
        if not answered:
            # The token may be good and its payment may exist already: only "ask again" is true here.
            raise OutcomeUnknown(message="no authentication server is in reach to say whose key this is")
        raise Unauthenticated("TOKEN_INVALID", "no authentication server signs with this key")

    async def _fetch(self) -> bool:
        """Whether an authentication server has answered."""
        stub = authentication_pb2_grpc.AuthenticationStub(self._host.channel("auth-lb"))
        try:
            response = await stub.GetJwks(authentication_pb2.GetJwksRequest())
        except grpc.aio.AioRpcError:
            return False  # the keys that are known still serve
        self._fetched_at = self._host.now()
        self._keys = {key["kid"]: jwt.PyJWK(key) for key in json.loads(response.jwks_json)["keys"]}
        return True
