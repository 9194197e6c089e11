"""What a node that runs as a process must be told: one JSON file, which names the others.

    {"name": "alpine-1", "role": "bank", "options": {"bank": "alpine", "lease_s": 3.0},
     "data": "/…/books", "addresses": "/…/addresses",
     "ca": "ca.pem", "certificate": "certificate.pem", "key": "key.pem"}

Paths are taken from the folder of the file. Beside these, a lab writes three that nobody else needs:
"replacements", "death" and "ends_with_stdin".
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paylab.core.authorization import Role
from paylab.errors import LabError
from paylab.lab.processes.death import Death
from paylab.nodes.host import Credentials

FILE = "node.json"
PEMS = {"ca": "ca.pem", "certificate": "certificate.pem", "key": "key.pem"}
REPLACEMENTS = "replacements.pickle"
TEXTS = ("name", "role", "data", "addresses", *PEMS)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node's name and role, its constructor's options, its disk, its peers and its certificate."""

    name: str
    role: Role
    data: Path
    addresses: Path
    credentials: Credentials
    options: Mapping[str, Any] = field(default_factory=dict)
    # Slots as cloudpickle wrote them; only a lab writes this, for its own processes.
    replacements: bytes = b""
    # The forced write at which the process is to kill itself.
    death: Death | None = None
    # Whether it ends when its standard input does, so that it never outlives the lab that started it.
    ends_with_stdin: bool = False

    def write(self, folder: Path) -> Path:
        """Write it with its PEM files into a folder, readable by their owner only; returns the JSON file."""
        folder.mkdir(mode=0o700, exist_ok=True)
        pems = (self.credentials.ca_pem, self.credentials.certificate_pem, self.credentials.key_pem)
        for name, pem in zip(PEMS.values(), pems, strict=True):
            _write_secret(folder / name, pem)
        content: dict[str, Any] = {
            "name": self.name,
            "role": self.role.value,
            "options": dict(self.options),
            "data": str(self.data),
            "addresses": str(self.addresses),
            **PEMS,
            "ends_with_stdin": self.ends_with_stdin,
        }
        if self.replacements:
            _write_secret(folder / REPLACEMENTS, self.replacements)
            content["replacements"] = REPLACEMENTS
        if self.death is not None:
            content["death"] = self.death.to_json()
        _write_secret(folder / FILE, json.dumps(content, indent=1).encode())
        return folder / FILE

    @classmethod
    def read(cls, path: Path) -> "NodeConfig":
        """Read what `write` wrote, or a person did. Raises LabError BAD_CONFIG."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LabError("BAD_CONFIG", f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise LabError("BAD_CONFIG", f"{path} is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise LabError("BAD_CONFIG", f"{path} is not a JSON object")
        for name in TEXTS:
            if not isinstance(content.get(name), str):
                raise LabError("BAD_CONFIG", f"{path} lacks {name!r}, a text")
        options = content.get("options", {})
        if content["role"] not in tuple(Role) or not isinstance(options, dict):
            raise LabError("BAD_CONFIG", f"{path}: {content['role']!r} is no role, or options is no object")
        here = path.parent
        replacements = content.get("replacements")
        return cls(
            content["name"],
            Role(content["role"]),
            here / content["data"],
            here / content["addresses"],
            Credentials(*(_bytes(here / content[name]) for name in PEMS)),
            options,
            _bytes(here / replacements) if replacements else b"",
            Death.from_json(content["death"]) if content.get("death") else None,
            bool(content.get("ends_with_stdin", False)),
        )


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabError("BAD_CONFIG", f"cannot read {path}: {error.strerror}") from None
