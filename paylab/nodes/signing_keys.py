"""The keys that sign access tokens: shared by the authentication servers, encrypted at rest, rotated."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Column, Connection, Float, LargeBinary, MetaData, String, Table, delete, insert, select

from paylab.core.key_rotation import Rotation, SigningKey
from paylab.nodes.host import Host
from paylab.nodes.statements import Statement
from paylab.nodes.store import Store
from paylab.nodes.token_verifier import ALGORITHM

TABLES = MetaData()
SIGNING_KEYS = Table(
    "signing_keys",
    TABLES,
    Column("kid", String, primary_key=True),
    Column("public_bytes", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # the private key, see `seal`
    Column("signs_from_s", Float, nullable=False),
)
NONCE_BYTES = 12
_ALL = Statement(select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.signs_from_s, SIGNING_KEYS.c.kid))


def seal(private_bytes: bytes, *, kid: str, seal_key: bytes, nonce: bytes) -> bytes:
    """Encrypt a private key (AES-GCM) and bind it to its id, so that rows cannot be exchanged."""
    return nonce + AESGCM(seal_key).encrypt(nonce, private_bytes, kid.encode())


def unseal(sealed: bytes, *, kid: str, seal_key: bytes) -> Ed25519PrivateKey:
    """Undo `seal`. Raises InvalidTag with another key, or for a row that was changed."""
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    return Ed25519PrivateKey.from_private_bytes(AESGCM(seal_key).decrypt(nonce, ciphertext, kid.encode()))


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key that was made just now."""

    kid: str
    signs_from_s: float


class SigningKeys:
    """Every authentication server sees the same keys; whoever looks first makes the next one."""

    def __init__(self, host: Host, store: Store, *, seal_key: bytes) -> None:
        """Nothing is read yet."""
        self._host = host
        self._store = store
        self._seal_key = seal_key

    async def make_due(self, *, asked: bool = False) -> MadeKey | None:
        """Make the next key if it is due or asked for, and drop keys that are withdrawn."""
        rows = await self._store.run(_rows)
        rotation = self._rotation(rows, asked=asked)
        if rotation.make_from_s is None and {row.kid for row in rows} <= set(rotation.published):
            return None
        row = self._new_row()

        def turn(connection: Connection) -> MadeKey | None:
            rotation = self._rotation(_rows(connection), asked=asked)
            withdrawn = SIGNING_KEYS.c.kid.not_in(rotation.published)
            connection.execute(delete(SIGNING_KEYS).where(withdrawn))
            if rotation.make_from_s is None:
                return None
            made = MadeKey(row["kid"], rotation.make_from_s)
            connection.execute(insert(SIGNING_KEYS).values({**row, "signs_from_s": made.signs_from_s}))
            return made

        return await self._store.run(turn)

    async def signing(self) -> tuple[str, Ed25519PrivateKey]:
        """The key that signs now, and its id."""
        rows = await self._store.run(_rows)
        kid = self._rotation(rows).signs
        (sealed,) = [row.sealed for row in rows if row.kid == kid]
        return kid, unseal(sealed, kid=kid, seal_key=self._seal_key)

    async def published(self) -> list[dict[str, str]]:
        """The keys that verify, as JSON Web Keys."""
        rows = await self._store.run(_rows)
        published = self._rotation(rows).published
        return [jwk(row.kid, row.public_bytes) for row in rows if row.kid in published]

    def _rotation(self, rows: Any, *, asked: bool = False) -> Rotation:
        keys = [SigningKey(row.kid, row.signs_from_s) for row in rows]
        return self._host.decisions.auth_rotation(keys, now=self._host.now(), asked=asked)

    def _new_row(self) -> dict[str, Any]:
        private_bytes = self._host.secret_bytes(32)
        public_bytes = Ed25519PrivateKey.from_private_bytes(private_bytes).public_key().public_bytes_raw()
        kid = hashlib.sha256(public_bytes).hexdigest()[:16]
        nonce = self._host.secret_bytes(NONCE_BYTES)
        sealed = seal(private_bytes, kid=kid, seal_key=self._seal_key, nonce=nonce)
        return {"kid": kid, "public_bytes": public_bytes, "sealed": sealed}


def jwk(kid: str, public_bytes: bytes) -> dict[str, str]:
    """A public key as a JSON Web Key (RFC 8037)."""
    x = base64.urlsafe_b64encode(public_bytes).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM, "kid": kid, "x": x}


def _rows(connection: Connection) -> Any:
    return _ALL.rows(connection, {})
