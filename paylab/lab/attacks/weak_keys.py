"""Ways to find the key of a token that have been in use, each of which lets the sender choose it.

Every function stands for `paylab.core.tokens.find_key`, which looks `kid` up and believes nothing else.
"""

import hmac
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509 import load_pem_x509_certificate

from paylab.core.tokens import find_key
from paylab.lab.attacks import forging
from paylab.nodes import signing_keys

Header = Mapping[str, Any]
Keys = Mapping[str, Any]
HERE = Path(__file__).parent


class LooseKey(jwt.PyJWK):
    """A key that does not look at the signature; with a `secret`, an HMAC key of any length."""

    def __init__(self, algorithm_name: str, secret: bytes | None = None) -> None:
        """PyJWT itself would refuse to make either."""
        self.algorithm_name = algorithm_name
        self.Algorithm: Any = self
        self.key: Any = secret

    def prepare_key(self, key: Any) -> Any:
        """It is ready."""
        return key

    def check_key_length(self, _key: Any) -> None:
        """Any length will do."""

    def verify(self, signed: bytes, key: bytes | None, signature: bytes) -> bool:
        """Whether the signature is right; without a secret it always is."""
        return key is None or hmac.compare_digest(hmac.digest(key, signed, "sha256"), signature)


def never_verified(header: Header, _keys: Keys) -> Any:
    """Whatever the signature is, it is right: the token was only decoded."""
    return LooseKey(str(header.get("alg")))


def none_is_an_algorithm(header: Header, keys: Keys) -> Any:
    """A token that says it is not signed need not be."""
    return LooseKey("none") if header.get("alg") == "none" else find_key(header, keys)


def token_chooses_algorithm(header: Header, keys: Keys) -> Any:
    """The public key's bytes serve as an HMAC secret when the token says HS256."""
    key = find_key(header, keys)
    if key is not None and header.get("alg") == "HS256":
        return LooseKey("HS256", key.key.public_bytes_raw())
    return key


def unknown_is_fine(header: Header, keys: Keys) -> Any:
    """Without a key there is nothing to verify with."""
    return find_key(header, keys) or never_verified(header, keys)


def kid_is_a_path(header: Header, keys: Keys) -> Any:
    """Keys are files, and `kid` is the name of one."""
    path = HERE / str(header["kid"])
    return find_key(header, keys) or (LooseKey("HS256", path.read_bytes()) if path.exists() else None)


def kid_in_a_query(header: Header, keys: Keys) -> Any:
    """Keys are rows, and `kid` is pasted into the query."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE keys (kid TEXT, x TEXT)")
        rows = [(kid, forging.encoded(key.key.public_bytes_raw())) for kid, key in keys.items()]
        connection.executemany("INSERT INTO keys VALUES (?, ?)", rows)
        found = connection.execute(f"SELECT x FROM keys WHERE kid = '{header['kid']}'").fetchone()  # noqa: S608 - the hole
    return jwt.PyJWK(signing_keys.jwk("found", forging.decoded(found[0]))) if found else None


def jwk_in_the_header(header: Header, keys: Keys) -> Any:
    """The token brings its own key along."""
    return jwt.PyJWK(header["jwk"]) if "jwk" in header else find_key(header, keys)


def jku_is_followed(header: Header, keys: Keys) -> Any:
    """The token says where its keys are published."""
    if "jku" not in header:
        return find_key(header, keys)
    with urlopen(header["jku"]) as answer:  # noqa: S310 - the hole
        return jwt.PyJWK(json.load(answer)["keys"][0])


def x5u_is_followed(header: Header, keys: Keys) -> Any:
    """The token says where its certificate is."""
    if "x5u" not in header:
        return find_key(header, keys)
    with urlopen(header["x5u"]) as answer:  # noqa: S310 - the hole
        public = load_pem_x509_certificate(answer.read()).public_key()
    assert isinstance(public, Ed25519PublicKey)
    return jwt.PyJWK(signing_keys.jwk("found", public.public_bytes_raw()))


def one_key_for_all(header: Header, keys: Keys) -> Any:
    """The keys of another environment, where everybody may sign, are trusted here, too."""
    return find_key(header, keys) or (
        jwt.PyJWK(forging.attackers_jwk()) if header.get("kid") == forging.ATTACKERS_KID else None
    )
