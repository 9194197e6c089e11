"""Histories as files: whole, tied together, the same from the same seed, and readable by other tools."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

import paylab
from paylab.errors import LabError
from paylab.lab.checking.event_facts import facts_of
from paylab.lab.checking.history import TAIL_EVENTS, History, as_dict
from paylab.lab.checking.history_file import HistoryReader
from paylab.nodes.events import Event, Kind
from paylab.pb import authentication_pb2
from tests.lab import saved_history
from tests.lab.saved_history import entries

ROOT = Path(__file__).parents[2]
WORLDS = ("simulated", "real")


@pytest.fixture(scope="module", params=WORLDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("saved") / f"{request.param}.jsonl"
    digest = saved_history.save(path, world=request.param)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    return path


def test_both_worlds_write_one_format(saved: Path) -> None:
    """Header, events with the same fields and kinds of facts, and a last line that counts them."""
    header, *events, end = entries(saved)
    assert (header["format"], header["version"]) == ("paylab-history", 1)
    assert (header["world"], header["seed"]) in (("simulated", 7), ("real", None))
    assert end == {"end": True, "events": len(events)}
    fields = {
        "node",
        "seq",
        "lamport",
        "at_s",
        "kind",
        "payments",
        "peer",
        "method",
        "call",
        "parent",
        "detail",
    }
    assert all(set(event) - {"facts"} == fields for event in events)
    kinds = {event["facts"]["at"] for event in events if "facts" in event}
    assert kinds >= {
        "opened",
        "bank",
        "decision",
        "coordinator",
        "decide",
        "votes",
        "gateway",
        "logger",
        "receipt",
    }
    assert {event["kind"] for event in events} >= {"crashed", "restarted", "sent", "received", "forced write"}


def test_a_loaded_history_is_the_one_that_was_saved(saved: Path, tmp_path: Path) -> None:
    """Load and stream again: the same lines."""
    loaded = History.load(saved)
    assert len(loaded) == len(entries(saved)) - 2
    again = tmp_path / "again.jsonl"
    loaded.stream_to(again)
    loaded.close()
    assert again.read_bytes() == saved.read_bytes()
    committed = next(
        event for event in loaded if event.kind is Kind.STATE and "COMMITTED" in str(event.detail)
    )
    assert loaded.of_payment(committed.payments[0])


def test_secrets_are_redacted(saved: Path) -> None:
    """Neither a password nor a token stands in the file."""
    text = saved.read_text(encoding="utf-8")
    assert "password=***" in text
    assert "access_token=***" in text
    assert not re.search(r"eyJ[A-Za-z0-9_-]{10,}\.", text)


def test_streaming_starts_with_what_memory_keeps(tmp_path: Path) -> None:
    """Events from before `stream_to` are written too; the header says how many are missing."""
    history = History(tail=2, world="simulated")
    for seq in range(1, 4):
        history.add(Event("ada", seq, seq, 0.0, Kind.STATE))
    history.stream_to(tmp_path / "late.jsonl")
    history.add(Event("ada", 4, 4, 0.0, Kind.STATE))
    history.close()
    header, *events, _ = entries(tmp_path / "late.jsonl")
    assert header["missing"] == 1
    assert [event["seq"] for event in events] == [2, 3, 4]
    assert TAIL_EVENTS > 1000


def test_the_same_seed_gives_the_same_bytes_in_two_processes(tmp_path: Path) -> None:
    """Whatever PYTHONHASHSEED is; another seed gives others."""
    program = (
        "import sys, pathlib; from tests.lab import saved_history;"
        "print(saved_history.save(pathlib.Path(sys.argv[1]), world='simulated', seed=int(sys.argv[2])))"
    )

    def digest(name: str, seed: int, hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(tmp_path / name), str(seed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    first, second, other = digest("a", 7, "1"), digest("b", 7, "2"), digest("c", 8, "1")
    assert first == second == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert other != first


def cut_in_half(lines: list[str]) -> list[str]:
    return [*lines[:40], lines[40][: len(lines[40]) // 2] + "\n", *lines[41:]]


def change_a_digit(lines: list[str]) -> list[str]:
    return [*lines[:40], lines[40].replace('"seq":', '"seq":1'), *lines[41:]]


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a line cut in half": (cut_in_half, "line 41: the line is not whole"),
    "a number changed": (change_a_digit, "line 41: does not follow"),
    "a line removed": (lambda lines: lines[:40] + lines[41:], "line 41: does not follow"),
    "two lines swapped": (
        lambda lines: [*lines[:40], lines[41], lines[40], *lines[42:]],
        "line 41: does not",
    ),
    "the header removed": (lambda lines: lines[1:], "line 1: does not follow"),
    "the header edited": (
        lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]],
        "line 1: d",
    ),
    "the last line removed": (lambda lines: lines[:-1], "without its last line"),
    "the last event removed": (lambda lines: [*lines[:-2], lines[-1]], "does not follow"),
    "something after the end": (lambda lines: [*lines, lines[-1]], "does not follow"),
    "nothing in it": (lambda _: [], "line 1: this is no history"),
    "no JSON": (lambda _: ["hello\n"], "line 1: the line is not whole"),
    "no history": (lambda _: ['{"a": 1}\n'], "line 1: this is no line of a history"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_refused_with_its_line(saved: Path, tmp_path: Path, edit: str) -> None:
    """Every change by hand shows at the line where it was made."""
    change, said = EDITS[edit]
    path = tmp_path / "edited.jsonl"
    lines = saved.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), encoding="utf-8")
    with pytest.raises(LabError, match=said) as caught:
        list(HistoryReader(path))
    assert caught.value.reason == "BAD_HISTORY"
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    """One line each."""
    with pytest.raises(LabError, match=r"none\.jsonl: No such file"):
        HistoryReader(tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabError, match="line 1: this is not UTF-8"):
        HistoryReader(tmp_path / "bytes")


def test_shiviz_clocks_follow_messages(saved: Path, tmp_path: Path) -> None:
    """Each node counts its own events from 1 by ones, and what is received includes its sending."""
    loaded = History.load(saved)
    loaded.to_shiviz(tmp_path / "log")
    text = (tmp_path / "log").read_text(encoding="utf-8")
    expression, delimiter, log = text.split("\n", 2)
    assert delimiter == ""
    pattern = expression.replace("(?<", "(?P<")
    own: dict[str, int] = defaultdict(int)
    found = list(re.finditer(pattern, log))
    assert len(found) * 2 == log.count("\n")
    for match in found:
        clock, host = json.loads(match["clock"]), match["host"]
        own[host] += 1
        assert clock[host] == own[host]
        if match["event"].startswith("received Pay "):
            assert clock["ada" if "ada" in match["event"] else "ben"] > 0
    assert own["gateway"] > 10


def test_list_append_reads_are_prefixes_of_the_last_read(saved: Path, tmp_path: Path) -> None:
    """Every account is a list that only grows, and each number is appended once."""
    History.load(saved).to_list_append(tmp_path / "list")
    operations = [json.loads(line) for line in (tmp_path / "list").read_text(encoding="utf-8").splitlines()]
    final = {account: read for _, account, read in operations[-1]["value"]}
    appended = [value for op in operations[:-1] for f, _, value in op["value"] if f == "append"]
    assert sorted(appended) == list(range(1, len(appended) + 1))
    assert sorted(appended) == sorted(n for read in final.values() for n in read)
    reads = [(account, read) for op in operations[:-1] for f, account, read in op["value"] if f == "r"]
    assert len(reads) == 10
    assert all(final.get(account, [])[: len(read)] == read for account, read in reads)
    assert [operation["index"] for operation in operations] == list(range(len(operations)))


def test_a_write_that_outlives_its_node_is_in_the_history() -> None:
    """A bank server dies after its commit and before it hears of it; the history has the posting."""
    with paylab.Lab(world="simulated", seed=3, name="outlived") as lab:
        ada = lab.client("ada", bank="alpine", balance="10.00 EUR")
        ben = lab.client("ben", bank="boreal")
        for server in ("alpine-1", "alpine-2"):
            lab.network.break_world("crash_at_commit", server, "unanswered", 1)
        payment = ada.submit_pay(ben, "1.00 EUR", key="k")
        lab.advance("1 s")
        died = [event for event in lab.history if event.kind is Kind.CRASHED]
        prepared = [
            event
            for event in lab.history
            if (facts := facts_of(event)) is not None
            and (facts["at"], facts.get("bank"), facts.get("state")) == ("bank", "alpine", "PREPARED")
        ]
        assert died
        assert [event.node for event in prepared] == [died[0].node]
        for server in ("alpine-1", "alpine-2"):
            if not lab.is_up(server):
                lab.restart(server)
        assert payment.result(60).state in ("COMMITTED", "QUEUED")
        lab.settle(timeout_s=60)
        assert lab.check().ok


def test_as_dict_leaves_facts_out_where_there_are_none() -> None:
    """Housekeeping says nothing that is checked."""
    assert "facts" not in as_dict(Event("ada", 1, 1, 0.0, Kind.SENT, method="/x"))


def test_what_an_event_says_stays_on_its_line() -> None:
    """A line end in a user's name, or in an error, is written out and forges no entry."""
    forged = "eve\nlab unlocked mallory\r\x1b[2J\u2028"
    for detail in (forged, authentication_pb2.LoginRequest(username=forged)):
        text = as_dict(Event("auth-1", 1, 1, 0.0, Kind.RECEIVED, detail=detail))["detail"]
        assert text.isprintable()
        assert "eve\\nlab unlocked mallory" in text
