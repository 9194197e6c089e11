"""Compiles a proto that stands in a notebook cell, as often as the cell is run."""

import itertools
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import grpc

from paylab.errors import LabError

_NUMBERS = itertools.count(1)
_PACKAGE = re.compile(r"^package\s+(\w+)\s*;", re.MULTILINE)


def compile_proto(text: str) -> SimpleNamespace:
    """The messages, stubs and servicers of a proto, by name: what `protoc` writes into two modules.

    `services` lists the services' full names.
    protobuf keeps every file of a process for ever and refuses a second one of the same name. So each call
    compiles under a fresh one: `package demo;` becomes `demo_1`, `demo_2`, ... Raises LabError BAD_PROTO.
    """
    number = next(_NUMBERS)
    named, packages = _PACKAGE.subn(rf"package \1_{number};", text)
    if packages != 1:
        raise LabError("BAD_PROTO", "it needs one line such as `package demo;`")
    with tempfile.TemporaryDirectory(prefix="paylab-proto-") as folder:
        file = Path(folder) / f"cell_{number}.proto"
        file.write_text(named, encoding="utf-8")
        sys.path.append(folder)  # where gRPC looks for protos
        try:
            modules = grpc.protos_and_services(file.name)
        except Exception as error:  # noqa: BLE001 - the compiler's own class is private
            raise LabError("BAD_PROTO", str(error)) from None
        finally:
            sys.path.remove(folder)
    found = {name: value for module in modules for name, value in vars(module).items()}
    public = {name: found[name] for name in found if _is_of_the_proto(name)}
    services = [service.full_name for service in found["DESCRIPTOR"].services_by_name.values()]
    return SimpleNamespace(**public, services=services)


def _is_of_the_proto(name: str) -> bool:
    return name.startswith("add_") or (name[0].isupper() and not name.isupper())
