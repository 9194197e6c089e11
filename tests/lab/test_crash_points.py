"""Whoever dies, before or after whatever call on its host: nothing is lost, doubled or left open."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from paylab.lab.campaigns import crash_points
from paylab.lab.campaigns.crash_points import CLIENT, NODES
from paylab.nodes import queue_store

# Every place takes three minutes, a share of them as many as tests may; CRASH_POINTS=all takes all.
EVERY = {"gateway": 6, "queue": 4, "logger": 1, CLIENT: 2}
ALL = os.environ.get("CRASH_POINTS") == "all"


@pytest.mark.parametrize("node", NODES)
def test_nothing_is_lost_wherever_a_node_dies(node: str) -> None:
    """A node dies at a place of the story, comes back, and everything ends as if it had not."""
    found = crash_points.places(node)
    step = 1 if ALL else EVERY[node]
    runs = [crash_points.run(node, nth) for nth in range(1, len(found) + 1, step)]
    assert [run.died for run in runs] == found[::step]
    broken = [f"{run.died}: {line}" for run in runs for line in run.violations]
    assert not broken, "\n".join(broken)


def test_the_story_has_every_kind_of_place() -> None:
    """Writes, reads, calls, timers and spawns of whoever makes them; hundreds in all."""
    found = {node: crash_points.places(node) for node in NODES}
    assert sum(map(len, found.values())) > 490
    kinds = {node: Counter(place.rpartition("/")[2] for place in found[node]) for node in NODES}
    assert {"before a write", "after a write", "before a read", "before a spawn"} <= kinds["gateway"].keys()
    assert {"Commit", "Append", "Enqueue", "Acknowledge", "GetEpoch"} <= kinds["gateway"].keys()
    assert {"Redrive"} <= kinds["queue"].keys()
    assert kinds["logger"].keys() == {"before a write", "after a write"}
    assert {"Pay", "CancelPayment", "Login", "after a write"} <= kinds[CLIENT].keys()
    for node in NODES:
        for place in found[node]:
            if place.startswith("before /"):
                assert place.replace("before", "sent") in found[node]


def test_the_same_story_has_the_same_places() -> None:
    """A number names a place for ever."""
    assert crash_points.places("logger") == crash_points.places("logger")
    assert crash_points.run("logger", 3) == crash_points.run("logger", 3)


def test_a_queue_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that drops an entry when it takes it loses the payment if it dies at that moment."""
    lease: Callable[..., list[Any]] = queue_store.lease

    def forgetful(connection: Connection, **about: Any) -> list[Any]:
        taken = lease(connection, **about)
        queue_store.forget(connection, [entry.payment for entry in taken])
        return taken

    monkeypatch.setattr(queue_store, "lease", forgetful)
    redrives = [nth for nth, place in enumerate(crash_points.places("queue"), 1) if "before /" in place]
    lines = [line for nth in redrives[:2] for line in crash_points.run("queue", nth).violations]
    assert any("every order ends well: queued is" in line for line in lines)
