"""The nemesis draws schedules that are data, the same for the same seed, and that any network survives."""

import pytest

from paylab.errors import LabError
from paylab.lab.campaigns import nemesis
from paylab.lab.faults import KINDS

SEEDS = range(60)
# What a reader does to one link with the mouse; a seed loses messages everywhere, and cuts links whole.
BY_HAND = {"lose_between", "mend"}


def test_a_seed_draws_one_schedule() -> None:
    """The same seed gives the same faults, another seed gives others."""
    assert nemesis.schedule(7) == nemesis.schedule(7)
    assert nemesis.schedule(7) != nemesis.schedule(8)


def test_intensities_differ_in_number_and_kind() -> None:
    """None is none, light is fewer than heavy, and heavy draws every kind of fault but those by hand."""
    drawn = {
        name: [timed for seed in SEEDS for timed in nemesis.schedule(seed, intensity=name)]
        for name in nemesis.INTENSITIES
    }
    assert drawn["none"] == []
    assert 0 < len(drawn["light"]) < len(drawn["heavy"]) / 2
    kinds = {timed.fault.kind for timed in drawn["heavy"]}
    assert kinds == set(KINDS) - BY_HAND


def test_every_writing_node_may_die_at_every_point_of_a_commit() -> None:
    """Bank servers, coordinator, gateway, queue and logger, before, unanswered and after."""
    found = {
        timed.fault.arguments[:2]
        for seed in range(400)
        for timed in nemesis.schedule(seed)
        if timed.fault.kind == "crash_at_commit"
    }
    nodes = [*nemesis.WRITING, "alpine-1", "alpine-2", "boreal-1", "boreal-2"]
    assert found == {(node, point) for node in nodes for point in ("before", "unanswered", "after")}


def test_every_fault_is_followed_by_its_end() -> None:
    """What is stopped is started, what is slowed, skewed or lost is set right, in the order of time."""
    ends = {"crash": "restart", "crash_at_commit": "restart", "pause": "resume", "partition": "heal"}
    for seed in SEEDS:
        schedule = nemesis.schedule(seed)
        assert [timed.at_s for timed in schedule] == sorted(timed.at_s for timed in schedule)
        for number, timed in enumerate(schedule):
            if timed.fault.kind in ends:
                rest = {later.fault.kind for later in schedule[number + 1 :]}
                assert ends[timed.fault.kind] in rest


def test_an_unknown_intensity_is_refused() -> None:
    """The error names those that exist."""
    with pytest.raises(LabError, match="none, light, heavy"):
        nemesis.schedule(1, intensity="medium")
