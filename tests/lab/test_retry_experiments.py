"""Keys, queues and retries, measured: what theory says comes out, and a mistake put in on purpose shows."""

from dataclasses import replace
from typing import Any

import pytest

import paylab
from paylab import Lab
from paylab.core.decisions import DEFAULT
from paylab.core.retries import RetryBudget
from paylab.core.retry_schedule import RetrySchedule
from paylab.lab.experiments import reduced_network
from paylab.lab.experiments.catalogue.duplicates import EVERYTHING, INDEPENDENT, TROUBLES, TWO_PHASE
from paylab.lab.experiments.catalogue.recovery import OUTAGE_MEAN_S, recovered, recovered_from_memory
from paylab.lab.experiments.catalogue.retry_storm import MANNERS, Manner
from paylab.lab.experiments.experiment_results import Result
from paylab.lab.experiments.experiments import find
from paylab.lab.planted_bugs import ForgetsDecisions
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue


def quickly(name: str, replications: int, **parameters: Any) -> Result:
    return paylab.experiment(
        name, quick=True, replications=replications, workers=1, progress=False, **parameters
    )


def measured(result: Result, *by: str) -> dict[tuple[Any, ...], float]:
    return {(*(row[name] for name in by), row["measure"]): row["measured"] for row in result.rows}


# Duplicates ---------------------------------------------------------------------------------------


def test_a_key_and_two_phase_commit_prevent_everything() -> None:
    """Answers lost, clicks doubled, every node crashing: charged once, in both ledgers, nothing held."""
    result = quickly("duplicates", 4, trouble=[EVERYTHING], commit=[TWO_PHASE], key=[True])
    assert result.met, str(result)
    assert {row["measured"] for row in result.rows} == {0}
    assert {row["sample"] for row in result.rows} == {600}


def test_each_alone_leaves_the_others_trouble() -> None:
    """A key without 2PC has half payments and orphan holds; 2PC without a key charges twice."""
    found = measured(quickly("duplicates", 10, trouble=[EVERYTHING]), "commit", "key")
    assert found[TWO_PHASE, False, "extra_charges"] > 0.5
    assert found[TWO_PHASE, False, "half_payments"] == found[TWO_PHASE, False, "orphan_holds"] == 0
    assert found[INDEPENDENT, True, "extra_charges"] == 0
    assert found[INDEPENDENT, True, "orphan_holds"] > found[INDEPENDENT, True, "half_payments"] > 0.02


@pytest.mark.parametrize("trouble", [trouble for trouble in TROUBLES if trouble != EVERYTHING])
def test_duplicates_meet_their_formulas(trouble: str) -> None:
    """p/(1-p), d, and what crashes do between three calls."""
    result = quickly("duplicates", 10, trouble=[trouble])
    assert result.met, str(result)
    assert len(result.rows) == 12
    assert all(row["expected"] is not None for row in result.rows)


def test_duplicates_at_full_size_are_a_hundred_thousand() -> None:
    """With a key and 2PC, over all troubles."""
    full = find("duplicates").full
    assert full.replications * full.settings["payments"] * len(TROUBLES) >= 100_000


def test_a_coordinator_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts after a crash with nothing remembered: some banks have posted, others are told to abort."""
    broken = replace(DEFAULT, coordinator_core=ForgetsDecisions)
    monkeypatch.setattr(reduced_network, "DEFAULT", broken)
    result = quickly("duplicates", 4, trouble=[EVERYTHING], commit=[TWO_PHASE], key=[True])
    assert not result.met
    assert measured(result)["half_payments",] > 0


# Recovery -----------------------------------------------------------------------------------------


def test_ninety_five_percent_takes_three_means() -> None:
    """63, 86 and 95 % at one, two and three means; a queue in memory stays below one half."""
    shares = [recovered(n * OUTAGE_MEAN_S) for n in (1, 2, 3, 3.5)]
    assert [round(share, 2) for share in shares] == [0.63, 0.87, 0.95, 0.97]
    memory = [recovered_from_memory(n * OUTAGE_MEAN_S) for n in (1, 2, 3)]
    assert memory == sorted(memory)
    assert 0.35 < memory[0] < memory[-1] < 0.5


def test_recovery_meets_its_formula() -> None:
    """Nothing without a queue, less from memory, and a durable one recovers as much when it crashes."""
    result = quickly("recovery", 100, horizon=[1.0])
    assert result.met, str(result)
    found = measured(result, "queue")
    assert found["none", "recovered"] == 0
    assert found["in memory", "recovered"] < found["durable", "recovered"]
    assert abs(found["durable", "recovered"] - found["durable, crashing", "recovered"]) < 0.05


def test_recovery_notices_a_queue_that_gives_up_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the horizon recovers less than the formula says."""
    monkeypatch.setattr(
        "paylab.lab.experiments.catalogue.recovery.SCHEDULE", RetrySchedule(cap_s=200.0, tries_max=6)
    )
    assert not quickly("recovery", 150, horizon=[2.0], queue=["durable"]).met


class PatientQueue(OfflineQueue):
    """Tries for a minute."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.5, cap_s=10.0, horizon_s=60.0))


@pytest.mark.parametrize(("outage_s", "end"), [(20, "COMMITTED"), (60, "COMMITTED"), (75, "DEAD_LETTER")])
def test_the_queue_of_the_nodes_keeps_the_rule_of_the_model(outage_s: int, end: str) -> None:
    """Paid if the outage ends before the horizon, given up otherwise, whatever happens to the queue."""
    with Lab(
        name="recovery", bank_servers=1, auth_servers=1, replace={"node.queue": PatientQueue},
        world="simulated", seed=outage_s,
    ) as lab:  # fmt: skip
        alice, bob = lab.client("alice", bank="alpine", balance="50.00 EUR"), lab.client("bob", bank="boreal")
        lab.crash("boreal-1")
        receipt = alice.pay(bob, "5.00 EUR")
        assert receipt.state == "QUEUED"
        lab.advance(outage_s / 2)
        lab.crash("queue")
        lab.advance(2)
        lab.restart("queue")
        lab.advance(outage_s / 2 - 6)
        lab.restart("boreal-1")
        lab.advance(60)
        assert alice.payment(receipt.payment).state == end


# Coming back, and storms --------------------------------------------------------------------------


def test_jitter_spreads_those_who_come_back() -> None:
    """Without it all come in one second."""
    result = quickly("reconnection", 30)
    assert result.met, str(result)
    found = measured(result, "jitter")
    assert found["none", "busiest_second"] == 1
    assert found["full", "busiest_second"] < 0.2


def test_a_storm_lasts_unless_retries_are_limited() -> None:
    """Ten seconds are enough for naive clients to keep a server down; budget or breaker let it recover."""
    result = quickly("retry-storm", 2)
    assert result.met, str(result)
    found = measured(result, "client")
    assert found["naive", "goodput_after"] == found["backoff", "goodput_after"] == 0
    assert found["budget", "goodput_after"] == found["breaker", "goodput_after"] == 1
    assert found["naive", "tries_after"] == 4


def test_a_budget_that_allows_too_much_does_not_end_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry for every call is a load of 1.4: more than there is."""
    monkeypatch.setitem(MANNERS, "budget", Manner(limit=lambda: RetryBudget(ratio=1.0)))
    result = quickly("retry-storm", 2, client="budget")
    assert not result.met
    assert measured(result)["goodput_after",] < 0.1
