"""Open-loop load through `lab.load`: what is sent, what is measured, and how it ends."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
from matplotlib.patches import Rectangle

from paylab import Lab
from paylab.errors import LabError
from paylab.lab import faults
from paylab.lab.load_mix import Mix
from paylab.lab.load_result import figures
from paylab.lab.simulation.choices import seeded
from paylab.nodes.passwords import PasswordCost


@pytest.fixture(scope="module")
def virtual(cheap: PasswordCost) -> Iterator[Lab]:
    with Lab(name="virtual load", password_cost=cheap, world="simulated") as lab:
        yield lab


def test_it_returns_at_once_and_can_be_watched_and_stopped(cheap: PasswordCost) -> None:
    """The call does not wait, figures grow meanwhile, and a stop ends it early, with every answer."""
    with Lab(name="load", password_cost=cheap) as lab:
        load = lab.load(20, "1 h")
        assert not load.future.done()
        while load.now().ended < 5:
            lab.advance(0.02)
        alice = lab.client("alice", balance="1.00 EUR")  # the lab serves others, too
        assert alice.pay("boreal/load-1", "0.50 EUR").state == "COMMITTED"
        seen = load.now()
        assert seen.due >= seen.sent >= seen.ended >= 5
        load.stop()
        result = load.result(30)
        assert load.done
        last = load.now()
        assert last.due == last.sent == last.ended == len(result.paid) == sum(result.answers.values())
        assert result.answers == result.states == {"COMMITTED": len(result.paid)}
        assert lab.world.rows("gateway", "SELECT count(*) FROM payments") == [(len(result.paid) + 1,)]


def test_a_lab_that_closes_ends_its_load(cheap: PasswordCost) -> None:
    """Closing does not wait for a load that has an hour to go, and complains of nothing."""
    lab = Lab(name="load", password_cost=cheap)
    load = lab.load(20, "1 h")
    while load.now().ended < 3:
        lab.advance(0.02)
    lab.close()
    assert load.done


def test_latency_counts_from_the_moment_at_which_a_payment_was_due(virtual: Lab) -> None:
    """With one payment at a time and slow messages, each waits for those before it, and says so."""
    virtual.inject([faults.at(0, faults.slow("gateway", 20))]).result()
    try:
        load = virtual.load(200, "250 ms", concurrency=1, arrivals="steady")
        virtual.advance("200 ms")  # some of it passes before the first is due
        assert load.now().waiting >= 10
        assert load.now().under_way == 1
        result = load.result(60)
    finally:
        virtual.inject([faults.at(0, faults.slow("gateway", 1))]).result()
    assert len(result.paid) == 50
    assert [round(one.due_s, 3) for one in result.paid] == [round(n * 0.005, 3) for n in range(50)]
    service_s = min(one.ended_s - one.sent_s for one in result.paid)
    assert service_s > 0.01  # slower than they become due
    assert result.paid[-1].latency_s > 40 * service_s - 0.25
    for before, one in pairwise(result.paid):
        assert one.sent_s >= before.ended_s


def test_the_mix_is_what_was_asked_for(virtual: Lab) -> None:
    """Shares inside one bank and without funds, amounts, and the rate, within what chance allows."""
    result = virtual.load(
        100, "2 s", inside_bank=0.3, without_funds=0.2, amounts=("1.00 EUR", "1.09 EUR"), people=3
    ).result(60)
    table = result.to_frame()
    assert list(table.columns[:3]) == ["key", "payer", "payee"]
    assert abs(len(table) - 200) < 5 * math.sqrt(200)
    spread = 5 * math.sqrt(len(table) * 0.25)
    inside = table.payer.str.split("/").str[0] == table.payee.str.split("/").str[0]
    assert abs(inside.sum() - 0.3 * len(table)) < spread
    poor = table.payer.str.endswith("/load-empty")
    assert abs(poor.sum() - 0.2 * len(table)) < spread
    assert set(table[poor].answer) == {"DECLINED"}
    assert set(table[poor].reason) == {"INSUFFICIENT_FUNDS"}
    assert set(table[~poor].answer) == {"COMMITTED"}
    assert set(table.amount_minor) == set(range(100, 110))
    assert not (table.payer == table.payee).any()
    assert (table.latency_ms > 0).all()
    assert table.key.is_unique


def test_what_is_not_known_is_asked_again_by_its_key(virtual: Lab) -> None:
    """A payment without an answer in time ends as what it became, and is charged once."""
    load = virtual.load(20, "1 s", deadline_s=0.5)
    virtual.advance("300 ms")
    virtual.pause("gateway")
    virtual.advance("2 s")
    virtual.resume("gateway")
    result = load.result(60)
    unknown = [one for one in result.paid if one.answer == "OUTCOME_UNKNOWN" or one.failed]
    assert unknown
    assert {one.state for one in result.paid} == {"COMMITTED"}
    assert load.now().answers == result.answers
    assert "later COMMITTED" in str(result)
    assert virtual.settle()
    assert virtual.check().ok


def test_a_new_rate_counts_at_once(virtual: Lab) -> None:
    """Payments are 100 ms apart, and 10 ms from the change on."""
    load = virtual.load(10, "1 s", arrivals="steady")
    virtual.advance("500 ms")
    load.rate = 100
    due_s = [one.due_s for one in load.result(60).paid]
    gaps_ms = [round(1000 * (after - before)) for before, after in pairwise(due_s)]
    slow = gaps_ms.count(100)
    assert 2 <= slow <= 5
    assert gaps_ms == [100] * slow + [10] * (len(gaps_ms) - slow)


def test_a_seed_repeats_a_simulated_load(cheap: PasswordCost) -> None:
    """Every moment, answer and account is the same the second time, and others with another seed."""
    tables = []
    for seed in (1, 1, 2):
        with Lab(name="seeded", password_cost=cheap, world="simulated", seed=seed) as lab:
            tables.append(lab.load(50, "1 s", seed=seed).result(60).to_frame())
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_its_picture_shows_rates_latencies_and_depths(virtual: Lab) -> None:
    """Bars add up to the payments; a crash that happened meanwhile is marked."""
    load = virtual.load(50, "2 s")
    virtual.advance("500 ms")
    load.note("crash")
    virtual.crash("alpine-1")
    virtual.advance("500 ms")
    virtual.restart("alpine-1")
    result = load.result(60)
    rates, latencies, depths = result.figure().axes
    bars = sum(bar.get_height() * bar.get_width() for bar in rates.patches if isinstance(bar, Rectangle))
    assert round(bars) == len(result.paid)
    assert [line.get_label() for line in latencies.lines][:3] == ["p50", "p95", "p99"]
    assert [line.get_label() for line in depths.lines][:3] == ["under way", "waiting", "queued"]
    notes = [text.get_text() for text in rates.texts]
    assert notes == ["crash", "alpine-1 out", "alpine-1 in"]
    assert "simulated, seed 0" in result._repr_html_()


def test_figures_look_at_their_window_only() -> None:
    """Nothing has ended: no latency, no rate, no division by zero."""
    empty = figures([], at_s=0.0, window_s=2.0, due=0, sent=0, queued=0, answers={})
    assert (empty.per_s, empty.error_rate, empty.under_way, empty.waiting) == (0.0, 0.0, 0, 0)
    assert all(math.isnan(value) for value in empty.latency_ms.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"rate": 1e9},
        {"concurrency": 0},
        {"concurrency": 10_000},
        {"arrivals": "sometimes"},
        {"inside_bank": 1.5},
        {"without_funds": -0.1},
        {"people": 1},
        {"amounts": ("2.00 EUR", "1.00 EUR")},
        {"amounts": ("0.00 EUR", "1.00 EUR")},
        {"amounts": ("1.00 EUR", "2.00 USD")},
        {"duration": "soon"},
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(virtual: Lab, wrong: dict[str, object]) -> None:
    """LabError BAD_ARGUMENT, and nothing is sent."""
    arguments: dict[str, object] = {"rate": 10, "duration": "1 s"} | wrong
    with pytest.raises(LabError, match="BAD_ARGUMENT"):
        virtual.load(**arguments)  # type: ignore[arg-type] # they are wrong on purpose


def test_one_bank_pays_inside_itself() -> None:
    """With a single bank every payment stays there, whatever the share."""
    mix = Mix(inside_bank=0.0)
    for n in range(50):
        payer, payee, _ = mix.draw(["alpine"], seeded(n))
        assert payer != payee
        assert payer.startswith("alpine/")
        assert payee.startswith("alpine/")
