"""What a lab is booted with: names and numbers that are checked, and the key of its users' passwords."""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paylab.core.balancing import POLICIES, Policy
from paylab.errors import LabError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
# More servers of one kind would not fit a drawing, nor two processor cores.
SERVERS_MAX = 9


def check_arguments(banks: Sequence[str], bank_servers: int, auth_servers: int, gateways: int) -> None:
    """Refuse names and numbers that no network can have. Raises LabError."""
    if isinstance(banks, str) or not banks or len(set(banks)) != len(banks):
        raise LabError("BAD_ARGUMENT", "banks is a list of different names")
    for bank in banks:
        if not NAME.fullmatch(bank):
            raise LabError("BAD_NAME", f"{bank!r} is not a name of lower-case letters, digits and hyphens")
    counts = {"bank_servers": bank_servers, "auth_servers": auth_servers, "gateways": gateways}
    for what, count in counts.items():
        if not 1 <= count <= SERVERS_MAX:
            raise LabError("BAD_ARGUMENT", f"{what} is 1 to {SERVERS_MAX}, not {count}")


def checked_weights(weights: Mapping[str, int], banks: Sequence[str], bank_servers: int) -> Mapping[str, int]:
    """Weights of bank servers, each 1 or more. Raises LabError."""
    names = [f"{bank}-{n}" for bank in banks for n in range(1, bank_servers + 1)]
    for name, weight in weights.items():
        if name not in names or weight < 1:
            raise LabError("BAD_ARGUMENT", f"{name!r} with weight {weight} is no bank server with 1 or more")
    return weights


def policy_maker(policy: str | Callable[[], Policy]) -> Callable[[], Policy]:
    """What makes a policy, from its name or from itself. Raises LabError."""
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise LabError("BAD_ARGUMENT", f"policy is one of {', '.join(POLICIES)}, not {policy!r}")
        return POLICIES[policy]
    if not callable(policy):
        raise LabError("BAD_ARGUMENT", f"policy is a name or a class with a pick, not {policy!r}")
    return policy


def lab_secret(folder: Path) -> bytes:
    """The key from which users' passwords are derived, so that a second boot knows them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lab.key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()
