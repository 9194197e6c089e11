"""A failing run becomes small while the same check fails, can be repeated, and tells the faulty step."""

import json

import pytest

from paylab.errors import LabError
from paylab.lab.campaigns.cases import Calm, Case
from paylab.lab.campaigns.faulty_steps import faulty_steps
from paylab.lab.campaigns.minimise import Minimal, minimise
from paylab.lab.campaigns.orders import Order
from paylab.lab.campaigns.seed_runs import run_seed
from paylab.lab.faults import at, crash_at_commit, lose
from paylab.lab.planted_bugs import planted
from paylab.nodes.events import Event

BUG = planted("decision-before-force")
SCHEDULE = [at(0.2, lose(0.05)), at(0.5, crash_at_commit("coordinator", "before", 1)), at(0.6, lose(0.0))]
ORDERS = [
    Order(0.1, "boreal/dan", "boreal/cleo", 300, "inside"),
    Order(0.7, "alpine/ada", "boreal/cleo", 500, "first"),
    Order(0.9, "alpine/ada", "boreal/dan", 700, "second"),
]


@pytest.fixture(scope="module")
def small() -> Minimal:
    result = run_seed(1, orders=ORDERS, schedule=SCHEDULE, replace=BUG)
    return minimise(result, replace=BUG, check="outcomes agree with ledgers")


def test_only_what_is_needed_is_left(small: Minimal) -> None:
    """One payment between two banks, and the crash at the coordinator's first commit."""
    assert small.payments == 1
    assert [str(timed.fault) for timed in small.case.schedule] == [
        "crash_at_commit('coordinator', 'before', 1)"
    ]
    assert small.case.choices == {}


def test_the_story_names_the_faulty_step(small: Minimal) -> None:
    """Fifteen lines at most; the coordinator told a bank before its decision was on disk."""
    lines = small.story().splitlines()
    assert len(lines) <= 15
    assert (
        lines[-2]
        == "What went wrong: the coordinator told a bank to commit P1/1 before that was on its disk."
    )
    assert any("aborted P1/1 because the coordinator, when asked, said so" in line for line in lines)
    assert "The coordinator crashed." in lines


def test_it_can_be_repeated_and_drawn(small: Minimal) -> None:
    """The replay breaks the same invariants, and the timeline shows the causal past."""
    assert small.replay().violations == small.result.violations
    assert "outcomes agree with ledgers" in small.result.broken
    assert 0 < small.timeline().shown < len(small.events)


def test_a_network_without_bugs_makes_no_misstep() -> None:
    """Under the same faults nothing is to blame, and there is nothing to make small."""
    events: list[Event] = []
    result = run_seed(1, orders=ORDERS, schedule=SCHEDULE, watch=events.append)
    assert result.ok
    assert faulty_steps(events) == []
    with pytest.raises(LabError, match="breaks no invariant"):
        minimise(result)


@pytest.mark.parametrize("seed", [6, 93, 118])
def test_heavy_faults_make_no_node_misstep(seed: int) -> None:
    """Late messages, aborts that overtake votes and gateways that die look odd, and are allowed."""
    events: list[Event] = []
    assert run_seed(seed, payments=20, watch=events.append).ok
    assert faulty_steps(events) == []


def test_a_case_can_be_saved(small: Minimal) -> None:
    """What was written as JSON is the same case."""
    assert Case.from_json(json.loads(json.dumps(small.case.to_json()))) == small.case


def test_calm_choices_are_zero_where_nothing_is_recorded() -> None:
    """Recorded numbers come first, then zeros for as long as anybody asks."""
    lane = Calm({"latency a>b": [3, 4]}).get("latency a>b")
    assert [lane[number] for number in range(4)] == [3, 4, 0, 0]
    assert len(lane) > 10**9
