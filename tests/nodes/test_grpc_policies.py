"""gRPC's own balancing beside ours: the same servers and calls, under its service config."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from paylab.core.balancing import Call, Endpoint, RingHash, RoundRobin
from paylab.core.health import OutlierDetector, OutlierRules
from paylab.lab.simulation.choices import seeded
from paylab.nodes.interceptors import ACCOUNT_KEY

TIMEOUT_S = 20.0
NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING


@dataclass
class Plain:
    """A server without anything of paylab: it says its name, or fails when told to."""

    name: str
    failing: bool = False
    health: Any = field(default_factory=health.HealthServicer)

    def __post_init__(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(8))
        who: Any = grpc.unary_unary_rpc_method_handler(self._who)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo", {"Who": who}),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _who(self, _request: bytes, context: Any) -> bytes:
        if self.failing:
            context.abort(grpc.StatusCode.INTERNAL, "the disk is broken")
        return self.name.encode()


@pytest.fixture
def plain() -> Iterator[list[Plain]]:
    servers = [Plain("a"), Plain("b")]
    yield servers
    for one in servers:
        one.server.stop(None).wait()


def ask(servers: list[Plain], config: dict[str, Any], count: int, *, again: Any = None) -> list[str]:
    """Who answers so many calls of one gRPC client, "" for a failure; `again` happens before them."""
    target = "ipv4:" + ",".join(f"127.0.0.1:{one.port}" for one in servers)
    options = (("grpc.service_config", json.dumps(config)),)
    answers: list[str] = []
    with grpc.insecure_channel(target, options) as channel:
        who: Any = channel.unary_unary("/demo/Who")
        heard: set[str] = set()
        while len(heard) < sum(not one.failing for one in servers) and len(answers) < 1_000:
            answers.append(_one(who))  # until every connection is there
            heard.add(answers[-1])
        if again is not None:
            again()
        return [_one(who) for _ in range(count)]


def _one(who: Any, key: str = "") -> str:
    try:
        answer: bytes = who(b"", metadata=[(ACCOUNT_KEY, key)], wait_for_ready=True, timeout=TIMEOUT_S)
    except grpc.RpcError:
        return ""
    return answer.decode()


def test_round_robin_is_ours(plain: list[Plain]) -> None:
    """Both give each of two servers every second call."""
    theirs = Counter(ask(plain, {"loadBalancingConfig": [{"round_robin": {}}]}, 40))
    policy, call = RoundRobin(), Call(seeded("unused"))
    offered = [Endpoint(name, "demo", 1.0, 1.0) for name in ("a", "b")]
    ours = Counter(policy.pick(offered, call).server for _ in range(40))
    assert theirs == ours == {"a": 20, "b": 20}


def test_health_checking_takes_a_server_out(plain: list[Plain]) -> None:
    """A client that watches health leaves a server alone that says NOT_SERVING, as our balancer does."""
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "demo"}}
    plain[0].health.set("demo", NOT_SERVING)
    plain[1].health.set("demo", SERVING)
    target = "ipv4:" + ",".join(f"127.0.0.1:{one.port}" for one in plain)
    with grpc.insecure_channel(target, (("grpc.service_config", json.dumps(config)),)) as channel:
        who: Any = channel.unary_unary("/demo/Who")
        assert {_one(who) for _ in range(20)} == {"b"}


def owners(who: Any, keys: list[str]) -> dict[str, str]:
    """Who answers for each key, which always is the same one."""
    found: dict[str, str] = {}
    for _ in range(3):
        for key in keys:
            answer = who(b"", metadata=[(ACCOUNT_KEY, key)], wait_for_ready=True, timeout=TIMEOUT_S).decode()
            assert found.setdefault(key, answer) == answer
    return found


def test_ring_hash_keeps_keys_where_ours_keeps_them(
    plain: list[Plain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key stays at its server, and when one leaves its keys alone move; each of three has its share."""
    # gRPC's ring hashes a call's header only if it is asked to (proposal A76).
    monkeypatch.setenv("GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY", "true")
    plain.append(Plain("c"))
    ring = {"minRingSize": 1024, "maxRingSize": 4096, "requestHashHeader": ACCOUNT_KEY}
    config = json.dumps({"loadBalancingConfig": [{"ring_hash_experimental": ring}]})
    target = "ipv4:" + ",".join(f"127.0.0.1:{one.port}" for one in plain)
    keys = [f"alpine/account-{n}" for n in range(90)]
    with grpc.insecure_channel(target, (("grpc.service_config", config),)) as channel:
        who: Any = channel.unary_unary("/demo/Who")
        theirs = owners(who, keys)
        plain[0].server.stop(None).wait()
        of_a = next(key for key in keys if theirs[key] == "a")
        assert any(_one(who, of_a) not in ("", "a") for _ in range(100))  # its connection is known to be gone
        theirs_without_a = owners(who, keys)

    offered = [Endpoint(name, "demo", 1.0, 1.0) for name in ("a", "b", "c")]
    policy = RingHash()

    def ours(endpoints: list[Endpoint]) -> dict[str, str]:
        return {key: policy.pick(endpoints, Call(seeded("unused"), key=key)).server for key in keys}

    for before, after in ((theirs, theirs_without_a), (ours(offered), ours(offered[1:]))):
        shares = Counter(before.values())
        assert set(shares) == {"a", "b", "c"}
        assert min(shares.values()) >= len(keys) / 3 / 3
        moved = {key for key in keys if before[key] != after[key]}
        assert moved == {key for key in keys if before[key] == "a"}


def test_outlier_detection_ejects_whom_ours_ejects(plain: list[Plain]) -> None:
    """A server that fails all its calls is out after the interval in which more than 85 % failed, in both."""
    config = {
        "loadBalancingConfig": [
            {
                "outlier_detection_experimental": {
                    "interval": "0.2s",
                    "baseEjectionTime": "60s",
                    "maxEjectionPercent": 50,
                    "failurePercentageEjection": {
                        "threshold": 85,
                        "enforcementPercentage": 100,
                        "minimumHosts": 2,
                        "requestVolume": 5,
                    },
                    "childPolicy": [{"round_robin": {}}],
                }
            }
        ]
    }

    def break_one() -> None:
        plain[0].failing = True

    theirs = ask(plain, config, 3_000, again=break_one)
    assert "" in theirs[:10]
    assert set(theirs[-500:]) == {"b"}

    rules = OutlierRules(
        interval_s=0.2, requests_min=5, hosts_min=2, ejected_percent_max=50.0, failures_in_a_row=10**6
    )
    ours = OutlierDetector(rules)
    for name in ("a", "b"):
        ours.join(name)
    failed = 0
    for n in range(600):
        now = n / 1_000
        for name in ("a", "b"):
            if not ours.ejected(name, now=now):
                failed += name == "a"
                ours.count(name, failed=name == "a", now=now)
    assert ours.ejected("a", now=0.6)
    assert not ours.ejected("b", now=0.6)
    assert failed <= 201
