"""Addresses that several processes share: a folder with one file a node, replaced as a whole."""

import os
from pathlib import Path

from paylab.nodes.host import AddressBook


class SharedAddresses(AddressBook):
    """An address book in a folder. Who restarts announces itself anew; others see it at their next call."""

    def __init__(self, folder: Path) -> None:
        """The folder is there already."""
        super().__init__()
        self._folder = folder
        # What was read, and from which state of the file.
        self._read: dict[str, tuple[tuple[int, int], str]] = {}

    def of(self, node: str) -> str:
        """Where a node listens now: one of this process from memory, any other from its file."""
        if node in self._addresses:
            return self._addresses[node]
        path = self._folder / node
        try:
            state = path.stat()
            key = (state.st_mtime_ns, state.st_ino)
            if self._read.get(node, (None, ""))[0] != key:
                self._read[node] = (key, path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return super().of(node)
        return self._read[node][1]

    def announce(self, node: str, address: str) -> None:
        """Say where a node of this process listens; readers see the old address or the new one."""
        super().announce(node, address)
        fresh = self._folder / f".{node}.{os.getpid()}"
        fresh.write_text(address, encoding="utf-8")
        fresh.replace(self._folder / node)
