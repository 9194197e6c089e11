"""The frame: a seed gives the same answer anywhere, what theory says is met, and a wrong theory is not."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

import paylab
from paylab.__main__ import main
from paylab.core.balancing import Call, Endpoint, PowerOfChoices
from paylab.errors import LabError
from paylab.lab.attacks.weakenings import weakened
from paylab.lab.experiments import experiments
from paylab.lab.experiments.catalogue import auth_errors
from paylab.lab.experiments.catalogue.balls_in_bins import mean_maximum, throw
from paylab.lab.experiments.catalogue.supermarket import SUPERMARKET, mean_time
from paylab.lab.experiments.catalogue.utilisation import conclude, e_m_1, m_m_1, m_m_c
from paylab.lab.experiments.experiment_results import Result
from paylab.lab.experiments.experiments import (
    AtLeast,
    AtMost,
    Experiment,
    Formula,
    Measurements,
    Never,
    Parameters,
    Published,
    Size,
)
from paylab.lab.experiments.statistics import Controlled, Interval, Tally
from paylab.lab.simulation.choices import seeded

ROW = ["measure", "sample", "measured", "low", "high", "expected", "met"]


def toss(parameters: Parameters, seed: int) -> Measurements:
    """Toss coins; the second treatment shifts what the same coins gave."""
    rng, tosses = seeded(seed), parameters["tosses"]
    heads = sum(rng.random() < parameters["bias"] for _ in range(tosses))
    sixes = sum(rng.random() < 0 for _ in range(tosses))
    return {"heads": heads / tosses, "rate": Tally(heads, tosses), "edges": Tally(sixes, tosses), "free": 1.5}


def coins(expected: Callable[[float], float] = lambda bias: bias) -> Experiment:
    return Experiment(
        name="coins",
        question="How often is it <heads>?",
        expectation="its bias",
        source="J. Bernoulli, Ars Conjectandi, 1713",
        grid={"bias": [0.5, 0.6]},
        trial=toss,
        expect=lambda p: {
            "heads": Formula(expected(p["bias"]), precision=0.2),
            "rate": Published(expected(p["bias"]), tolerance=0.2),
            "edges": Never(),
        },
        full=Size(40, {"tosses": 200}),
        quick=Size(5, {"tosses": 50}),
        units={"heads": "per toss"},
    )


def run(experiment: Experiment, seed: int = 0, *, replications: int | None = None) -> Result:
    return paylab.experiment(experiment, seed=seed, replications=replications, workers=1, progress=False)


def quickly(name: str, replications: int, **parameters: Any) -> Result:
    return paylab.experiment(
        name, quick=True, replications=replications, workers=1, progress=False, **parameters
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """What the command line finds; a test puts in what it needs."""
    found: list[Experiment] = []
    monkeypatch.setattr(experiments, "catalogue", lambda: {one.name: one for one in found})
    return found


# Rows and verdicts --------------------------------------------------------------------------------


def test_a_row_has_parameters_and_what_was_measured_and_expected() -> None:
    """A row for each treatment and measure, in order; measures without an expectation count for nothing."""
    result = run(coins())
    assert [(row["bias"], row["measure"]) for row in result.rows] == [
        (bias, measure) for bias in (0.5, 0.6) for measure in ("heads", "rate", "edges", "free")
    ]
    assert all(list(row) == ["bias", *ROW] for row in result.rows)
    assert all(row["low"] <= row["measured"] <= row["high"] for row in result.rows)
    heads, rate, edges, free = result.rows[:4]
    assert (heads["expected"], heads["sample"], heads["met"]) == (0.5, 40, True)
    assert (rate["measured"], rate["sample"]) == (pytest.approx(heads["measured"]), 8_000)
    assert edges["measured"] == 0 < edges["high"] < 0.01
    assert (free["expected"], free["met"]) == (None, None)
    assert result.met


def test_a_wrong_formula_is_not_met() -> None:
    """The same run beside a formula that is a tenth off says so, in every form."""
    result = run(coins(lambda bias: 1.1 * bias))
    assert not result.met
    assert {row["met"] for row in result.rows if row["measure"] == "heads"} == {False}
    assert "NOT as expected in" in str(result)
    assert "NOT as expected" in result._repr_html_()


@pytest.mark.parametrize(
    ("low", "high", "formula", "published"),
    [
        (0.99, 1.01, True, True),
        (0.90, 1.10, False, False),  # too wide to have disagreed
        (1.01, 1.02, False, True),  # near, but not it
        (1.04, 1.06, False, False),
        (-math.inf, math.inf, False, False),
        (math.nan, math.nan, False, False),
    ],
)
def test_when_an_expectation_is_met(low: float, high: float, *, formula: bool, published: bool) -> None:
    """A formula must lie in a narrow interval; for a published value the whole interval must lie near it."""
    interval = Interval((low + high) / 2, low, high)
    assert Formula(1.0, precision=0.02).met(interval) is formula
    assert Published(1.0, tolerance=0.05).met(interval) is published


def test_never_is_broken_by_one_case() -> None:
    """One in a million is not never."""
    assert Never().met(Interval(0.0, 0.0, 0.3))
    assert not Never().met(Interval(1e-6, 0.0, 0.3))


def test_a_control_makes_the_interval_of_a_trial_narrower() -> None:
    """Trials that return a Controlled are adjusted by what was known."""

    def trial(parameters: Parameters, seed: int) -> Measurements:
        rng = seeded(seed)
        surplus = rng.gauss(0, 1)
        value = 5 + surplus + rng.gauss(0, 0.1)
        return {"value": Controlled(value, surplus) if parameters["controlled"] else value}

    result = run(
        Experiment(
            name="control", question="?", expectation="5", source="", grid={"controlled": [False, True]},
            trial=trial, expect=lambda _: {"value": Formula(5.0, precision=0.05)},
            full=Size(30), quick=Size(3),
        )
    )  # fmt: skip
    assert [row["met"] for row in result.rows] == [False, True]


# Seeds, pairs and executors -----------------------------------------------------------------------


def test_the_seed_decides_everything_and_the_executor_nothing() -> None:
    """Here, in threads and in spawned processes the rows are the same; another seed gives others."""
    here = run(coins(), replications=4)

    def elsewhere(executor: Executor) -> list[dict[str, Any]]:
        with executor:
            return paylab.experiment(coins(), replications=4, executor=executor, progress=False).rows

    assert elsewhere(ThreadPoolExecutor(3)) == here.rows
    assert elsewhere(ProcessPoolExecutor(2, mp_context=get_context("spawn"))) == here.rows
    assert run(coins(), seed=1, replications=4).rows != here.rows


def test_treatments_meet_the_same_chance() -> None:
    """Each replication has one seed for all treatments, so their difference is known better than either."""
    result = run(coins())
    by_bias = [
        [t["seed"] for t in result.trials if t["bias"] == b and t["measure"] == "free"] for b in (0.5, 0.6)
    ]
    assert by_bias[0] == by_bias[1]
    assert len(set(by_bias[0])) == 40
    found = result.difference("heads", {"bias": 0.5}, {"bias": 0.6})
    assert found.low <= 0.1 <= found.high
    alone = result.rows[0]
    assert found.half_width < 0.6 * (alone["high"] - alone["low"]) / 2
    with pytest.raises(LabError, match="no single treatment"):
        result.difference("heads", {"bias": 0.5}, {"bias": 0.7})


def test_parameters_and_settings_can_be_replaced() -> None:
    """Values of the grid, one or several, and settings; anything else is refused by name."""
    result = paylab.experiment(coins(), replications=2, workers=1, progress=False, bias=[0.1], tosses=10)
    assert {row["bias"] for row in result.rows} == {0.1}
    assert (result.settings, result.rows[1]["sample"]) == ({"tosses": 10}, 20)
    with pytest.raises(LabError, match="there are bias, tosses"):
        paylab.experiment(coins(), progress=False, weight=3)
    with pytest.raises(LabError, match="supermarket"):
        paylab.experiment("hypermarket")


def test_a_trial_that_fails_ends_the_experiment() -> None:
    """The error arrives as it was raised, from another thread, too."""

    def broken(_parameters: Parameters, _seed: int) -> Measurements:
        raise LabError("BROKEN", "no coin")

    with pytest.raises(LabError, match="no coin"):
        run(replace(coins(), trial=broken))
    with ThreadPoolExecutor(2) as executor, pytest.raises(LabError, match="no coin"):
        paylab.experiment(replace(coins(), trial=broken), executor=executor, progress=False)


# Results ------------------------------------------------------------------------------------------


def test_a_notebook_gets_a_table_and_a_figure_with_a_badge() -> None:
    """A data frame, and a panel a measure; markup in texts is escaped."""
    result = run(coins(), seed=3, replications=3)
    assert list(result.table.columns) == ["bias", *ROW]
    assert len(result.table) == 8
    figure = result.figure()
    assert [axes.get_ylabel() for axes in figure.axes] == ["heads (per toss)", "rate", "edges", "free"]
    assert figure.get_supxlabel() == "simulated, seed 3"
    assert "How often is it &lt;heads&gt;?" in result._repr_html_()
    assert "simulated, seed 3" in result._repr_html_()


def test_a_folder_gets_table_figure_and_manifest(tmp_path: Path) -> None:
    """Everything that it takes to run the experiment again, and the figure in two formats."""
    result = run(coins(), replications=3)
    paths = result.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["coins.csv", "coins.svg", "coins.png", "coins.json"]
    with paths[0].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["measured"]) for row in rows] == [row["measured"] for row in result.rows]
    assert "<svg" in paths[1].read_text(encoding="utf-8")
    assert image.imread(paths[2]).shape[0] > 300
    manifest = json.loads(paths[3].read_text(encoding="utf-8"))
    assert (manifest["grid"], manifest["settings"]) == ({"bias": [0.5, 0.6]}, {"tosses": 200})
    assert (manifest["seed"], len(manifest["trial_seeds"]), manifest["met"]) == (0, 3, result.met)
    assert {"python", "paylab", "grpcio"} <= manifest["versions"].keys()
    assert manifest["duration_s"] >= 0


# Command line -------------------------------------------------------------------------------------


def test_the_command_prints_json_and_its_status_says_met(
    known: list[Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 when all is met, 1 when not; the JSON has name, rows and met."""
    known.append(coins())
    arguments = ["experiment", "coins", "--json", "--workers", "1", "--seed", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["name"], printed["met"], len(printed["rows"])) == ("coins", True, 8)
    assert (tmp_path / "coins.json").exists()
    known[:] = [coins(lambda bias: bias / 2)]
    assert main(["experiment", "coins", "--workers", "1"]) == 1
    assert "coins: NOT as expected in 4 of 8 rows" in capsys.readouterr().out


def test_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    """With what each asks and expects."""
    assert main(["experiment", "--list"]) == 0
    text = capsys.readouterr().out
    for name, experiment in experiments.catalogue().items():
        assert name in text
        assert experiment.question in text
    assert main(["experiment", "--list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(experiments.catalogue())


@pytest.mark.parametrize(
    "arguments", [["hypermarket"], [], ["coins", "--out", __file__]], ids=["unknown", "none", "not a folder"]
)
def test_bad_input_is_one_line_and_status_2(
    arguments: Sequence[str], known: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any trial."""
    known.append(replace(coins(), trial=lambda *_: pytest.fail("a trial ran")))
    assert main(["experiment", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["--nonsense", "--workers=0", "--seed=x"])
def test_an_unknown_option_is_status_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line names it."""
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "supermarket", option])
    assert stop.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err.splitlines()[-1]


# The catalogue ------------------------------------------------------------------------------------


def test_formulas_give_the_published_values() -> None:
    """Mitzenmacher's 10, 2.61 and 2.03 service times, and 7.8, 3.5 and 3.0 balls."""
    assert [round(mean_time(0.9, choices), 2) for choices in (1, 2, 3)] == [10, 2.61, 2.03]
    assert [round(mean_maximum(100_000, choices), 1) for choices in (1, 2, 3)] == [7.8, 3.5, 3.0]


def test_the_fluid_limit_of_one_choice_is_poisson() -> None:
    """The share of bins with at least k balls is a tail of Poisson's distribution."""
    tails = [1 - sum(math.exp(-1) / math.factorial(j) for j in range(k)) for k in range(1, 15)]
    expected = sum(-math.expm1(-5_000 * tail) for tail in tails)
    assert mean_maximum(5_000, 1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("choices", [1, 2, 3])
def test_balls_fall_as_the_policy_picks(choices: int) -> None:
    """The bare loop and core's policy put every ball into the same bin."""
    bins = [Endpoint(f"bin-{n}", "bins", math.inf, math.inf) for n in range(500)]
    policy, call = PowerOfChoices(choices=choices), Call(seeded("balls"))
    for _ in bins:
        policy.pick(bins, call).in_flight += 1
    assert [one.in_flight for one in bins] == throw(500, choices, rng=seeded("balls"))


def test_the_supermarket_meets_its_formula_and_no_other() -> None:
    """At quick size two choices meet the formula of two, and three do not meet the formula of two."""
    result = run(
        replace(
            SUPERMARKET,
            grid={"choices": [2, 3]},
            expect=lambda _: {"time_in_system": Formula(mean_time(0.9, 2), precision=0.2)},
            full=SUPERMARKET.quick,
        ),
        replications=5,
    )
    assert [row["met"] for row in result.rows] == [True, False]
    assert not result.met


def test_balls_in_bins_meets_the_fluid_limit() -> None:
    """At quick size."""
    assert quickly("balls-in-bins", 40).met


def test_backoff_reproduces_the_article() -> None:
    """Fewer calls with jitter than without, and time only where clients wait in step."""
    result = quickly("backoff", 12, strategy=["exponential", "equal", "full", "decorrelated"])
    assert result.met, str(result)
    calls = {row["strategy"]: row["measured"] for row in result.rows if row["measure"] == "calls"}
    assert calls["full"] < calls["equal"] < calls["decorrelated"] < calls["exponential"]
    assert not quickly("backoff", 2, strategy="full", clients=10).rows[0]["expected"]


def test_a_key_prevents_duplicates_on_the_network() -> None:
    """With most answers lost, a key leaves none, and without one there are many."""
    result = quickly("duplicates-network", 2, payments=5, lost_replies=[0.6])
    extra = {row["key"]: row for row in result.rows if row["measure"] == "extra_charges"}
    assert (extra[True]["measured"], extra[True]["met"], extra[True]["sample"]) == (0, True, 10)
    assert extra[False]["measured"] > 0.3


def test_auth_errors_are_gone_with_every_precaution() -> None:
    """Bare, each trouble turns honest users away; hardened, none. Attackers get in nowhere."""
    result = quickly("auth-errors", 1, users=4, duration_s=400.0)
    rates = {(row["trouble"], row["hardened"], row["measure"]): row["measured"] for row in result.rows}
    assert result.met
    for trouble in ("clock skew", "key rotation", "server crash"):
        assert rates[trouble, False, "spurious_rejections"] > 0.02
        assert rates[trouble, True, "spurious_rejections"] == 0
        assert rates[trouble, True, "attacks_accepted"] == rates[trouble, False, "attacks_accepted"] == 0


def test_auth_errors_notice_a_gateway_that_lets_everybody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody is turned away, and the experiment is not met: the two rates stand side by side."""
    monkeypatch.setattr(auth_errors, "BARE", weakened("token.signature"))
    result = quickly("auth-errors", 1, trouble="clock skew", hardened=False)
    accepted = [row for row in result.rows if row["measure"] == "attacks_accepted"]
    assert accepted[0]["measured"] > 0
    assert not result.met


# Load balancing -----------------------------------------------------------------------------------


def test_queueing_formulas_are_those_of_the_textbook() -> None:
    """One worker of M/M/c is M/M/1; one stage of E/M/1 too; many stages come as regularly as D/M/1."""
    assert m_m_c(0.8, 1) == pytest.approx(m_m_1(0.8)) == pytest.approx(5)
    assert m_m_c(0.75, 2) == pytest.approx(1 + (9 / 14) / (2 * 0.25))
    assert e_m_1(0.9, 1) == pytest.approx(10)
    assert 1 < m_m_c(0.9, 10) < e_m_1(0.9, 10) < m_m_1(0.9)


def test_utilisation_meets_its_formulas() -> None:
    """At quick size and half load, one queue, chance and turns do; the conclusion names where 35 % holds."""
    result = quickly("utilisation", 10, utilisation=[0.5], policy=["one queue", "random", "round_robin"])
    equal = [row for row in result.rows if row["servers"] == "equal"]
    assert [row["met"] for row in equal] == [True] * 3, str(result)
    assert [row["met"] for row in result.rows if row["servers"] != "equal"] == [None] * 3
    assert result.to_json()["conclusion"] in str(result)


def test_the_conclusion_finds_where_a_third_is_saved() -> None:
    """Against round robin at the same utilisation, for the same servers."""
    rows = [
        {"policy": policy, "servers": "equal", "utilisation": u, "measured": time_s}
        for policy, times in {"round_robin": [2.0, 4.0], "p2c": [1.4, 2.6], "random": [3.0, 9.0]}.items()
        for u, time_s in zip([0.5, 0.9], times, strict=True)
    ]
    assert conclude(rows).endswith("holds for p2c, equal servers: from a utilisation of 0.9.")
    assert conclude(rows[:2]).endswith("holds for nowhere here.")


def test_old_reports_are_worse_than_none() -> None:
    """Fresh ones are better than chance, and those of a second ago are worse."""
    result = quickly("herding", 8, report_s=[0, 2])
    assert result.met, str(result)
    rows = {(row["policy"], row["report_s"]): row for row in result.rows}
    assert (
        rows["least load", 2]["measured"] > rows["random", 2]["measured"] > rows["least load", 0]["measured"]
    )


@pytest.mark.parametrize(("protection", "most"), [("nothing", 1.0), ("both", 0.2)])
def test_ejection_spares_calls(protection: str, most: float) -> None:
    """Half of all calls fail without it, and hardly any with it; found within five calls to that server."""
    result = quickly("ejection", 3, fault="fails 100 %", protection=protection)
    rows = {row["measure"]: row["measured"] for row in result.rows}
    assert rows["failures"] < most
    assert (rows["failures"] > 0.4) is (protection == "nothing")
    assert (rows["time_to_detect"] < 1.0) is (protection == "both")


def test_bounds_are_met_with_all_uncertainty() -> None:
    """An interval that touches the other side has not met them."""
    below, across = Interval(1.0, 0.5, 1.5), Interval(1.9, 1.5, 2.3)
    assert AtMost(2.0).met(below)
    assert not AtMost(2.0).met(across)
    assert AtLeast(0.4).met(below)
    assert not AtLeast(2.0).met(across)
