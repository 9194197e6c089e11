"""`python -m paylab node`: says that it serves, drains at SIGTERM, is quiet at SIGINT, refuses bad input."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paylab.__main__ import main
from paylab.core.authorization import Identity, Role
from paylab.core.money import Money
from paylab.errors import LabError
from paylab.lab.pki import Authority
from paylab.lab.processes.addresses import SharedAddresses
from paylab.lab.processes.death import Death
from paylab.lab.processes.node_config import PEMS, NodeConfig
from paylab.nodes import wire
from paylab.nodes.host import NOWHERE
from paylab.pb import bank_pb2, bank_pb2_grpc

AUTHORITY = Authority()
Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    """A bank server, as a lab would tell it."""
    (tmp_path / "addresses").mkdir()
    identity = Identity("alpine-1", Role.BANK)
    return NodeConfig(
        identity.node,
        identity.role,
        tmp_path,
        tmp_path / "addresses",
        AUTHORITY.issue(identity),
        {"bank": "alpine"},
    )


@pytest.fixture
def start(config: NodeConfig, tmp_path: Path) -> Iterator[Start]:
    """Start it and read the line that it prints."""
    started: list[subprocess.Popen[str]] = []
    path = replace(config, ends_with_stdin=True).write(tmp_path / "alpine-1")

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "paylab", "node", "bank", "--config", str(path)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        with process:
            process.kill()


def dialled(config: NodeConfig) -> grpc.Channel:
    operator = AUTHORITY.issue(Identity("lab", Role.OPERATOR))
    credentials = grpc.ssl_channel_credentials(operator.ca_pem, operator.key_pem, operator.certificate_pem)
    address = SharedAddresses(config.addresses).of(config.name)
    return grpc.secure_channel(address, credentials, (("grpc.ssl_target_name_override", config.name),))


def serves(channel: grpc.Channel) -> bool:
    health: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(service="paylab.v1.Bank"), timeout=20)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_it_drains_at_sigterm_and_is_quiet_at_sigint(
    start: Start, config: NodeConfig, eventually: Callable[..., None]
) -> None:
    """A call that is under way gets its answer, then it ends with status 0; interrupted it says nothing."""
    process = start()
    assert process.stdout is not None
    line = process.stdout.readline()
    address = SharedAddresses(config.addresses).of("alpine-1")
    assert line == f"alpine-1 (bank) serves at {address}\n"
    account = bank_pb2.NewAccount(account="alice", opening_balance=wire.money_to_pb(Money(100, "EUR")))
    with dialled(config) as channel:
        # Somebody holds the database, so the call waits; what follows it on the wire shows that it is there.
        with closing(sqlite3.connect(config.data / "bank-alpine.sqlite", isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            bank: Any = bank_pb2_grpc.BankStub(channel)
            call = bank.OpenAccounts.future(bank_pb2.OpenAccountsRequest(accounts=[account]), timeout=20)
            assert serves(channel)
            process.send_signal(signal.SIGTERM)
            eventually(lambda: not serves(channel))
            assert not call.done()
            locker.execute("COMMIT")
        assert call.result().opened == 1
    assert process.wait(timeout=30) == 0
    assert process.communicate() == ("", "")
    again = start()
    assert again.stdout is not None
    assert "serves" in again.stdout.readline()
    again.send_signal(signal.SIGINT)
    assert again.wait(timeout=30) == 130
    assert again.communicate() == ("", "")


def test_it_does_not_outlive_the_lab_that_started_it(start: Start) -> None:
    """When whoever holds its standard input is gone, it ends in order."""
    process = start()
    assert process.stdout is not None
    assert process.stdin is not None
    assert "serves" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=30) == 0


def test_secrets_are_for_their_owner_only(config: NodeConfig, tmp_path: Path) -> None:
    """Key and configuration have mode 0600, also when written again; what is read is what was written."""
    folder = tmp_path / "node"
    for _ in range(2):
        path = config.write(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ["node.json", *PEMS.values()], 0o600
    )
    assert NodeConfig.read(path) == config


def broken_configs(good: dict[str, Any]) -> dict[str, str]:
    return {
        "nothing": "",
        "no JSON": "{",
        "a list": "[]",
        "no name": json.dumps({name: value for name, value in good.items() if name != "name"}),
        "no such role": json.dumps(good | {"role": "clown"}),
        "another role": json.dumps(good | {"role": "logger", "options": {}}),
        "no key": json.dumps(good | {"key": "nowhere.pem"}),
        "an unknown option": json.dumps(good | {"options": {"bank": "alpine", "colour": "red"}}),
        "a missing option": json.dumps(good | {"options": {}}),
        "no object of options": json.dumps(good | {"options": []}),
        "an unknown death": json.dumps(good | {"death": {"point": "during", "write": "COMMIT"}}),
    }


@pytest.mark.parametrize("kind", broken_configs({}))
def test_a_bad_config_is_one_clear_line(
    kind: str, config: NodeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, no traceback, and the line says what is wrong."""
    path = config.write(tmp_path / "node")
    path.write_text(broken_configs(json.loads(path.read_text()))[kind])
    assert main(["node", "bank", "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("paylab: BAD_CONFIG: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["clown", "--config", "x"], ["bank"], []])
def test_an_unknown_role_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and what there is to choose from."""
    with pytest.raises(SystemExit) as ended:
        main(["node", *arguments])
    assert ended.value.code == 2
    assert "usage: paylab node" in capsys.readouterr().err


def test_addresses_are_shared(tmp_path: Path) -> None:
    """Who moves is found again by everybody, and who never came is nowhere."""
    mine, theirs = SharedAddresses(tmp_path), SharedAddresses(tmp_path)
    assert theirs.of("bank") == NOWHERE
    for port in (1_001, 1_002):
        mine.announce("bank", f"127.0.0.1:{port}")
        assert (mine.of("bank"), theirs.of("bank")) == (f"127.0.0.1:{port}",) * 2
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_death_is_read_as_it_was_written() -> None:
    """Anything else is refused."""
    death = Death("after", "COMMIT", 3)
    assert Death.from_json(json.loads(json.dumps(death.to_json()))) == death
    for wrong in (
        {},
        {"point": "after"},
        {"point": "after", "write": 1},
        {**death.to_json(), "x": 1},
        "COMMIT",
    ):
        with pytest.raises(LabError, match="BAD_CONFIG"):
            Death.from_json(wrong)
