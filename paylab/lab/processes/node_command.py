"""`python -m paylab node ROLE --config FILE`: one node, with the same code as in a lab, as a process.

It prints one line when it serves, ends in order at SIGTERM, and without a word at SIGINT.
"""

import argparse
import asyncio
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from paylab.core.authorization import Identity, Role
from paylab.errors import LabError
from paylab.lab.loop import new_event_loop, tune_interpreter
from paylab.lab.processes.addresses import SharedAddresses
from paylab.lab.processes.death import MortalHost
from paylab.lab.processes.node_config import NodeConfig
from paylab.lab.slots import filled
from paylab.nodes.events import Event
from paylab.nodes.host import GrpcHost
from paylab.nodes.node import Node
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.store import Databases

# Calls that are under way at SIGTERM have this long to end.
DRAIN_S = 2.0
ROLES = ("balancer", "auth", "bank", "gateway", "coordinator", "logger", "queue")
INTERRUPTED = 130
MICROSECONDS = 1_000_000


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    node = commands.add_parser("node", help="run one node as a process of its own")
    node.add_argument("role", metavar="ROLE", choices=ROLES, help=", ".join(ROLES))
    node.add_argument(
        "--config", required=True, metavar="FILE", help="JSON: name, certificate, addresses, disk"
    )
    node.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; returns the exit status. Raises LabError BAD_CONFIG."""
    config = NodeConfig.read(Path(options.config))
    if config.role != options.role:
        raise LabError("BAD_CONFIG", f"{options.config} is for a {config.role}, not for a {options.role}")
    make = node_maker(config)
    tune_interpreter()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serve(config, make))


def node_maker(config: NodeConfig) -> Callable[[GrpcHost], Node]:
    """What makes the node on its host. Raises LabError BAD_CONFIG."""
    options = dict(config.options)
    try:
        packed: dict[str, bytes] = cloudpickle.loads(config.replacements) if config.replacements else {}
        decisions, kinds = filled({slot: cloudpickle.loads(mine) for slot, mine in packed.items()})
        if options.get("cost") is not None:
            options["cost"] = PasswordCost(**options["cost"])
        if "secret" in options:
            options["secret"] = bytes.fromhex(options["secret"])
        if "serves" in options:
            options["serves"] = Role(options["serves"])
        make = functools.partial(kinds[f"node.{config.role}"], **options)
    except (TypeError, ValueError) as error:
        raise LabError("BAD_CONFIG", f"{config.name}: {error}") from error

    def on(host: GrpcHost) -> Node:
        host.decisions = decisions
        try:
            node: Node = make(host)
        except TypeError as error:
            raise LabError("BAD_CONFIG", f"{config.name}: {error}") from error
        return node

    return on


async def _serve(config: NodeConfig, make: Callable[[GrpcHost], Node]) -> int:
    told = _first_signal(config)
    databases, addresses = Databases(config.data), SharedAddresses(config.addresses)
    host = _host(config, databases, addresses)
    try:
        node = make(host)
        starting = asyncio.ensure_future(node.start())
        waited: set[asyncio.Future[Any]] = {starting, told}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            starting.result()
            where = addresses.of(config.name)
            print(f"{config.name} ({config.role}) serves at {where}", flush=True)  # noqa: T201 - a command prints
            status = await told
            await node.health.enter_graceful_shutdown()
        else:
            starting.cancel()
            status = told.result()
        await host.stop(grace_s=DRAIN_S)
    finally:
        databases.close()
    for failure in host.failures:
        print(f"{config.name}: {type(failure).__name__}: {failure}", file=sys.stderr)  # noqa: T201 - the same
    return 1 if host.failures else status


def _host(config: NodeConfig, databases: Databases, addresses: SharedAddresses) -> GrpcHost:
    about: dict[str, Any] = {
        "credentials": config.credentials,
        "addresses": addresses,
        "databases": databases,
        "sink": _nowhere,
    }
    identity = Identity(config.name, config.role)
    host = (
        GrpcHost(identity, **about)
        if config.death is None
        else MortalHost(identity, death=config.death, **about)
    )
    # Calls are numbered on from those of an earlier life, whose numbers nobody has written down.
    host.recorder.calls = int(time.time() * MICROSECONDS)
    return host


def _nowhere(_event: Event) -> None:
    """A process keeps no history: its last words would be missing, as it may be killed at any moment."""


def _first_signal(config: NodeConfig) -> "asyncio.Future[int]":
    """The exit status once somebody wants the process to end."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not told.done():
            told.set_result(status)

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            loop.remove_reader(sys.stdin.fileno())
            end(0)

    loop.add_signal_handler(signal.SIGTERM, end, 0)
    loop.add_signal_handler(signal.SIGINT, end, INTERRUPTED)
    if config.ends_with_stdin:
        loop.add_reader(sys.stdin.fileno(), read)
    return told
