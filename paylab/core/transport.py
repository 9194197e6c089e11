"""What a server asks of a connection before it looks at any call, and how often a verifier asks for keys."""

from dataclasses import dataclass

from paylab.core.authorization import Identity

# A message of 100 batched items takes about 20 kB; this leaves room and still bounds an attacker.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
# A token has about 700 bytes, and everything else is short.
METADATA_BYTES_MAX = 16 * 1024
# An attacker who invents key ids makes at most one fetch in this time.
REFETCH_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Transport:
    """Limits of a server. Authorities beside the lab's own are trusted only by weakened ones."""

    client_certificates: bool = True
    also_trusted_pem: bytes = b""
    message_bytes_max: int = MESSAGE_BYTES_MAX
    metadata_bytes_max: int = METADATA_BYTES_MAX


def transport(_server: Identity) -> Transport:
    """What a server asks of a connection: mutual TLS, and messages and metadata of bounded size."""
    return Transport()


def may_refetch(*, now: float, asked_at_s: float) -> bool:
    """Whether an unknown key id is a reason to ask for the keys again, or was asked about a moment ago."""
    return now - asked_at_s >= REFETCH_AFTER_S
