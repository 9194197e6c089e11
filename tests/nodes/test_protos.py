"""The committed stubs are those of the protos; everything is explained, and every method has a rule."""

import re
from pathlib import Path

import grpc_tools
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_tools import protoc

from paylab.core.authorization import RULES
from paylab.pb import (
    authentication_pb2,
    bank_pb2,
    coordinator_pb2,
    load_balancer_pb2,
    money_pb2,
    offline_queue_pb2,
    payment_gateway_pb2,
    transaction_logger_pb2,
)

PROTOS = Path(__file__).parents[2] / "protos"
SOURCES = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("paylab/v1/*.proto"))
COMMITTED = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (
        authentication_pb2,
        bank_pb2,
        coordinator_pb2,
        load_balancer_pb2,
        money_pb2,
        offline_queue_pb2,
        payment_gateway_pb2,
        transaction_logger_pb2,
    )
}
# Where descriptor.proto keeps, inside a file, its messages, enums and services.
MESSAGES, ENUMS, SERVICES = 4, 5, 6


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """What the installed compiler makes of the protos, comments included."""
    out = tmp_path_factory.mktemp("protos") / "set.bin"
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--descriptor_set_out={out}"]
    assert protoc.main([*arguments, "--include_source_info", *SOURCES]) == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {file.name: file for file in files}


def test_every_proto_has_stubs() -> None:
    """No proto without its committed module, and no module without its proto."""
    assert sorted(COMMITTED) == SOURCES
    committed = {path.stem for path in (PROTOS.parent / "paylab" / "pb").glob("*_pb2.py")}
    assert committed == {Path(source).stem + "_pb2" for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES)
def test_stubs_are_fresh(source: str, compiled: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """`make protos` was run after the last change of a proto."""
    fresh, committed = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
    fresh.CopyFrom(compiled[source])
    fresh.ClearField("source_code_info")
    for message in fresh.message_type:
        for field in message.field:
            field.ClearField("json_name")  # the compiler adds it, and every runtime can
    COMMITTED[source].CopyToProto(committed)
    assert committed == fresh


@pytest.mark.parametrize("source", SOURCES)
def test_everything_is_explained(
    source: str, compiled: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    """Every field, enum value and rpc has a comment of a sentence."""
    file = compiled[source]
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    wanted: dict[tuple[int, ...], str] = {}
    for n, message in enumerate(file.message_type):
        assert not message.nested_type, "nested messages would need a look of their own"
        for m, field in enumerate(message.field):
            wanted[MESSAGES, n, 2, m] = f"{message.name}.{field.name}"
    for n, enum in enumerate(file.enum_type):
        for m, value in enumerate(enum.value):
            wanted[ENUMS, n, 2, m] = f"{enum.name}.{value.name}"
    for n, service in enumerate(file.service):
        for m, method in enumerate(service.method):
            wanted[SERVICES, n, 2, m] = f"{service.name}.{method.name}"
    silent = [
        name
        for path, name in wanted.items()
        if not re.search(r"\w.*[.…]$", comments.get(path, ""), re.DOTALL)
    ]
    assert not silent


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    """Who may call is said of all that is served, health and reflection included, and of nothing else."""
    descriptors = [*COMMITTED.values(), health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    methods = {
        f"/{service.full_name}/{method.name}": method
        for file in descriptors
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert set(RULES) == set(methods)
    streams = {name for name, method in methods.items() if method.server_streaming}
    assert {name for name, rule in RULES.items() if rule.streaming} == streams


def test_all_descriptors_are_in_the_default_pool() -> None:
    """Reflection answers from this pool."""
    pool = descriptor_pool.Default()
    for source in SOURCES:
        assert pool.FindFileByName(source).package == "paylab.v1"
