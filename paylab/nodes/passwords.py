"""Passwords: stored as Argon2id, checked off the loop, and as expensive for a user who does not exist."""

import base64
from dataclasses import dataclass
from functools import partial

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from paylab.nodes.host import Host


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """Argon2id parameters; the defaults are RFC 9106's second recommendation."""

    time_cost: int = 3
    memory_kib: int = 65_536
    parallelism: int = 4


class Passwords:
    """Makes and checks digests."""

    def __init__(self, host: Host, cost: PasswordCost) -> None:
        """Compute where the host computes."""
        self._host = host
        self._cost = cost
        self._hasher = PasswordHasher(cost.time_cost, cost.memory_kib, cost.parallelism)
        self._decoy = ""
        # How often Argon2 was computed.
        self.computed = 0

    async def digest(self, password: str) -> str:
        """What is stored of a password."""
        self.computed += 1
        salt = self._host.secret_bytes(16)
        return await self._host.run_blocking(partial(self._hasher.hash, password, salt=salt))

    async def matches(self, digest: str | None, password: str) -> bool:
        """Whether this is the password; None stands for a user who does not exist, and takes as long."""
        self.computed += 1
        against = self._nobody() if digest is None else digest
        try:
            await self._host.run_blocking(partial(self._hasher.verify, against, password))
        except (VerifyMismatchError, InvalidHashError):
            return False
        return digest is not None

    def is_outdated(self, digest: str) -> bool:
        """Whether a digest was made with less work than passwords get now."""
        made = extract_parameters(digest)
        return made.time_cost < self._cost.time_cost or made.memory_cost < self._cost.memory_kib

    def _nobody(self) -> str:
        """A digest that no password has. It need not be computed, only verified."""
        if not self._decoy:
            salt, tag = (
                base64.b64encode(self._host.secret_bytes(length)).decode().rstrip("=") for length in (16, 32)
            )
            cost = f"m={self._cost.memory_kib},t={self._cost.time_cost},p={self._cost.parallelism}"
            self._decoy = f"$argon2id$v=19${cost}${salt}${tag}"
        return self._decoy
