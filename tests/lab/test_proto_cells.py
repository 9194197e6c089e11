"""A proto in a cell compiles as often as the cell is run."""

import pytest

from paylab.errors import LabError
from paylab.lab.proto_cells import compile_proto

PROTO = """
syntax = "proto3";
package demo;
service Piggy { rpc Add(Coins) returns (Coins); }
message Coins { int64 cents = 1; }
"""


def test_messages_stubs_and_servicers() -> None:
    """What a node and its callers need is there by name."""
    piggy = compile_proto(PROTO)
    assert piggy.Coins.FromString(piggy.Coins(cents=5).SerializeToString()).cents == 5
    assert {"PiggyStub", "PiggyServicer", "add_PiggyServicer_to_server"} <= set(vars(piggy))
    assert [name.partition(".")[2] for name in piggy.services] == ["Piggy"]


def test_again_and_changed() -> None:
    """A second run compiles what the cell says now; the first run's classes still work."""
    first = compile_proto(PROTO)
    second = compile_proto(PROTO.replace("int64 cents", "string cents"))
    assert first.Coins(cents=5).cents == 5
    assert second.Coins(cents="five").cents == "five"
    assert first.services != second.services


def test_what_does_not_compile() -> None:
    """The compiler's message names the line; a proto without a package cannot be made fresh."""
    with pytest.raises(LabError, match="Missing field number"):
        compile_proto(PROTO.replace("= 1", ""))
    with pytest.raises(LabError, match="package demo;"):
        compile_proto(PROTO.replace("package demo;", ""))
