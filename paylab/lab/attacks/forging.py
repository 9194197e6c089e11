"""Tokens as an attacker makes them: with the network's own key, with another one, or with none."""

import base64
import hmac
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from paylab.core.tokens import TYPE, access_claims
from paylab.nodes import signing_keys
from paylab.nodes.token_verifier import ALGORITHM

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

# What an attacker signs with; everybody knows it.
ATTACKERS_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FORGED = "forged"
ATTACKERS_KID = "attackers-key"


def signing_key(lab: "Lab") -> tuple[str, Ed25519PrivateKey]:
    """The key that signs the network's tokens: only the lab, which knows the secret, can open it."""
    query = "SELECT kid, sealed FROM signing_keys ORDER BY signs_from_s, kid"
    kid, sealed = lab.world.rows("auth", query)[0]
    seal_key = hmac.digest(lab.auth_secret, b"seal", "sha256")
    return kid, signing_keys.unseal(sealed, kid=kid, seal_key=seal_key)


def claims(lab: "Lab", subject: str, account: str, **changes: Any) -> dict[str, Any]:
    """What an authentication server would say of a customer now; a change to None leaves a claim out."""
    said = access_claims(subject=subject, accounts=[account], roles=[], token_id=FORGED, now=lab.world.now())
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def signed(lab: "Lab", said: Mapping[str, Any], **headers: Any) -> str:
    """Signed with the network's own key, as a careless twin of its authentication servers would."""
    kid, private = signing_key(lab)
    return jwt.encode(dict(said), private, ALGORITHM, headers={"kid": kid, "typ": TYPE, **headers})


def forged(said: Mapping[str, Any], *, kid: str = ATTACKERS_KID, **headers: Any) -> str:
    """Signed with the attacker's key."""
    return jwt.encode(dict(said), ATTACKERS_KEY, ALGORITHM, headers={"kid": kid, "typ": TYPE, **headers})


def by_hand(said: Mapping[str, Any], header: Mapping[str, Any], *, key: bytes | None = None) -> str:
    """Put together without a library, which would refuse: HMAC-SHA256 with `key`, or no signature at all."""
    signing_input = ".".join(encoded(json.dumps(part).encode()) for part in (header, said))
    signature = b"" if key is None else hmac.digest(key, signing_input.encode(), "sha256")
    return f"{signing_input}.{encoded(signature)}"


def encoded(part: bytes) -> str:
    """Base64 as tokens have it."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    """Undo `encoded`."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def data_url(document: bytes) -> str:
    """An address whose document stands in it, so that a forged one can be followed without a network."""
    return f"data:;base64,{base64.b64encode(document).decode()}"


def attackers_jwk(**changes: str) -> dict[str, str]:
    """The attacker's public key."""
    public_bytes = ATTACKERS_KEY.public_key().public_bytes_raw()
    return signing_keys.jwk(ATTACKERS_KID, public_bytes) | changes
