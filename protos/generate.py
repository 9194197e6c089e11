"""Writes paylab/pb from protos/paylab/v1: messages, gRPC stubs and their type stubs.

Run it as `make protos`, which calls it in an environment with the oldest grpcio-tools that paylab
supports: generated stubs refuse a grpcio older than the tools that made them.
"""

import re
import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parent
OUT = PROTOS.parent / "paylab" / "pb"


def main() -> None:
    """Compile every proto file, then move the imports from `paylab.v1` to `paylab.pb`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("paylab/v1/*.proto"))
    staging = OUT.parent / "pb.new"
    staging.mkdir(exist_ok=True)
    flags = [f"--{kind}_out={staging}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *flags, *sources], check=True)  # noqa: S603 - our own arguments
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*_pb2*"):
        old.unlink()
    for made in sorted((staging / "paylab" / "v1").iterdir()):
        text = re.sub(r"\bpaylab\.v1\b(?=[ .]\S*_?pb2|\simport)", "paylab.pb", made.read_text())
        (OUT / made.name).write_text(text)
        made.unlink()
    for folder in (staging / "paylab" / "v1", staging / "paylab", staging):
        folder.rmdir()
    (OUT / "__init__.py").write_text('"""Generated from protos/ by `make protos`; do not edit."""\n')


if __name__ == "__main__":
    main()
