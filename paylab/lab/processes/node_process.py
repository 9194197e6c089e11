"""A node of a lab that runs as an operating-system process: started, killed, paused, ended in order."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from paylab.core.authorization import Identity
from paylab.errors import LabError
from paylab.lab.judging.judge_process import packed
from paylab.lab.processes.death import Death
from paylab.lab.processes.node_command import DRAIN_S
from paylab.lab.processes.node_config import NodeConfig
from paylab.nodes.events import Event, Recorder
from paylab.nodes.host import Credentials, Host
from paylab.nodes.node import Node

# A busy machine imports slowly.
START_S = 60.0
# What a process needs beside draining to end.
END_S = 10.0
LOG = "stderr.log"
LOG_SHOWN = 600


class NodeProcess:
    """Stands where a host stands in a lab; the host itself is in the process. One life of a node."""

    def __init__(
        self,
        identity: Identity,
        *,
        folder: Path,
        data: Path,
        credentials: Credentials,
        sink: Callable[[Event], None],
    ) -> None:
        """`folder` has a folder of addresses, and gets one for this node; nothing runs yet."""
        self.identity = identity
        # What the lab sees of the node: that it dies and comes back.
        self.recorder = Recorder(identity.node, time.time, sink)
        self._folder = folder
        self._data = data
        self._credentials = credentials
        self._process: subprocess.Popen[bytes] | None = None
        self._death: Death | None = None
        # Whether the lab wanted it to end.
        self._expected = False

    async def start(
        self,
        make: Callable[[Host], Node],
        *,
        replacements: Mapping[str, Any],
        death: Death | None = None,
    ) -> None:
        """Start it and wait until it serves, or has killed itself as told. Raises LabError NODE_FAILED."""
        self._death = death
        config = NodeConfig(
            self.identity.node,
            self.identity.role,
            self._data,
            self._folder / "addresses",
            self._credentials,
            _options(make),
            cloudpickle.dumps({slot: packed(mine) for slot, mine in replacements.items()}),
            death,
            ends_with_stdin=True,
        )
        path = config.write(self._folder / self.identity.node)
        try:
            async with asyncio.timeout(START_S):
                line = await asyncio.to_thread(self._start, path)
        except TimeoutError:
            self.kill()
            raise LabError(
                "NODE_FAILED", f"{self.identity.node} does not serve after {START_S:.0f} s"
            ) from None
        if not line and not self._died_as_told():
            raise LabError("NODE_FAILED", self._last_words())

    def _start(self, config: Path) -> bytes:
        """Start it; returns the line that it prints when it serves, nothing when it ends before."""
        with (config.parent / LOG).open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "paylab", "node", self.identity.role.value, "--config", str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # an interrupted cell interrupts no node
            )
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    @property
    def alive(self) -> bool:
        """Whether the process runs, or stands still."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The operating system's number for it. Raises LabError NOT_STARTED."""
        if self._process is None:
            raise LabError("NOT_STARTED", f"{self.identity.node} has no process yet")
        return self._process.pid

    def wait(self) -> None:
        """Wait until it has ended. Raises subprocess.TimeoutExpired."""
        if self._process is not None:
            self._process.wait(END_S)

    @property
    def failures(self) -> list[BaseException]:
        """That it ended and nobody had asked for it."""
        if self._process is None or self.alive or self._expected or self._died_as_told():
            return []
        return [LabError("NODE_FAILED", self._last_words())]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, SIGSTOP or SIGCONT."""
        if self.alive:
            assert self._process is not None
            self._process.send_signal(number)

    async def crash(self) -> None:
        """Kill it, at once."""
        await asyncio.to_thread(self.kill)

    async def stop(self) -> None:
        """End it in order."""
        await asyncio.to_thread(self._end)

    def kill(self) -> None:
        """Kill it if it lives, and wait for its end."""
        self._expected = True
        if self._process is not None:
            self._process.kill()
            self._reap(END_S)

    def _end(self) -> None:
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._reap(DRAIN_S + END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._expected = False
        else:
            self._expected = self._process.returncode == 0

    def _reap(self, timeout_s: float) -> None:
        assert self._process is not None
        self._process.wait(timeout_s)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _died_as_told(self) -> bool:
        if self._death is None or self._process is None:
            return False
        return self._process.wait(END_S) == -signal.SIGKILL

    def _last_words(self) -> str:
        assert self._process is not None
        log = self._folder / self.identity.node / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        words = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{self.identity.node} ended with status {self._process.wait(END_S)}: {words[:LOG_SHOWN]}"


def _options(make: Callable[[Host], Node]) -> dict[str, Any]:
    """What a node's constructor is told beside its host, as JSON types."""
    options = dict(make.keywords) if isinstance(make, partial) else {}
    if dataclasses.is_dataclass(cost := options.get("cost")) and not isinstance(cost, type):
        options["cost"] = dataclasses.asdict(cost)
    if "secret" in options:
        options["secret"] = options["secret"].hex()
    return options
