"""The workload panel without a page: its traits, what it does when it is asked, and what it shows."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
import traitlets

from paylab import Lab
from paylab.core.balancing import POLICIES
from paylab.errors import LabError
from paylab.lab.load_result import figures
from paylab.lab.panels import workload_panel
from paylab.lab.panels.workload_panel import POINT, POINTS_MAX, WorkloadPanel
from paylab.nodes.passwords import PasswordCost
from tests.conftest import Eventually


@pytest.fixture
def lab(cheap: PasswordCost) -> Iterator[Lab]:
    with Lab(name="workload", password_cost=cheap) as running:
        yield running


def asks(panel: WorkloadPanel, what: str, **about: object) -> None:
    """What a page sends when a reader presses a button."""
    panel._handle_custom_msg({"do": what, **about}, [])


def committed(lab: Lab) -> int:
    """Payments that the gateway's events call committed."""
    payments = lab.history_checks.picture.payments.values()
    return sum(payment.state == "COMMITTED" for payment in payments)


def test_a_reader_starts_a_load_and_reads_its_result(lab: Lab, eventually: Eventually) -> None:
    """Start returns at once; the totals grow, and in the end are those of history, result and table."""
    panel = lab.workload_panel(rate=40, duration_s=600, without_funds=0.2)
    assert (panel.phase, panel.result) == ("ready", None)
    panel.set_state({"rate": 50.0})  # the page moves a slider
    asks(panel, "start")
    eventually(lambda: panel.phase == "sending")
    with pytest.raises(LabError, match="ALREADY_RUNNING"):
        panel.start()
    eventually(lambda: panel.totals.get("answers", {}).get("DECLINED", 0) > 2)
    assert 0 < panel.progress < 1
    asks(panel, "stop")
    eventually(lambda: panel.phase == "done" and panel.result is not None)
    result = panel.result
    assert result is not None
    assert result.answers["COMMITTED"] > 0
    assert panel.progress == 1.0
    assert panel.totals["ended"] == panel.totals["due"] == len(result.paid) == len(result.to_frame())
    assert panel.totals["answers"] == result.answers
    eventually(lambda: committed(lab) == result.answers["COMMITTED"])
    last = dict(zip(POINT, panel.points[-1], strict=True))
    assert (last["under_way"], last["waiting"], last["queued"], last["errors"]) == (0, 0, 0, 0.0)
    eventually(lambda: "result.to_frame()" in panel.notice)


def test_a_load_of_another_cell_is_followed_and_stopped(lab: Lab, eventually: Eventually) -> None:
    """The panel shows what `lab.load` sends, a new rate reaches it, and stop ends it."""
    panel = lab.workload_panel()
    load = lab.load(20, "1 h")
    assert panel.load is load
    eventually(lambda: panel.phase == "sending" and panel.totals.get("ended", 0) > 3)
    panel.rate = 5.0
    panel.without_funds = 1.0
    assert load.rate == 5.0
    assert load.mix.without_funds == 1.0
    eventually(lambda: panel.totals["answers"].get("DECLINED", 0) > 0)
    asks(panel, "stop")
    eventually(lambda: panel.phase == "done")
    assert load.done


def test_faults_and_policies_act_on_the_lab_and_are_marked(lab: Lab, eventually: Eventually) -> None:
    """Each control does what its name says; what goes wrong is said; the load remembers when."""
    panel = lab.workload_panel(rate=10, duration_s=600)
    load = panel.start()
    eventually(lambda: load.now().ended > 0)
    asks(panel, "act", node="alpine-1", action="crash")
    eventually(lambda: panel.nodes["alpine-1"] == "down")
    assert not lab.is_up("alpine-1")
    asks(panel, "act", node="alpine-1", action="crash")
    eventually(lambda: "ALREADY_DOWN" in panel.notice)
    eventually(lambda: "alpine-1 out" in [what for _, what in load.marks])
    asks(panel, "act", node="alpine-1", action="restart")
    eventually(lambda: panel.nodes["alpine-1"] == "up")
    asks(panel, "act", node="boreal-1", action="pause")
    eventually(lambda: panel.nodes["boreal-1"] == "paused")
    asks(panel, "act", node="boreal-1", action="resume")
    asks(panel, "act", node="boreal-2", action="drain")
    eventually(lambda: panel.nodes["boreal-2"] == "out")
    asks(panel, "act", node="boreal-2", action="serve")
    eventually(lambda: panel.nodes["boreal-2"] == "up")
    asks(panel, "act", node="alpine-1", action="close")
    eventually(lambda: "is none of" in panel.notice)
    eventually(lambda: "alpine-1 in" in [what for _, what in load.marks])
    asks(panel, "policy", policy="p2c")
    eventually(lambda: panel.policy == "p2c")
    assert panel.policies == list(POLICIES)
    asks(panel, "lose", rate=0.01)
    eventually(lambda: panel.loss == 0.01)
    assert lab.world.troubles().loss_everywhere == 0.01
    asks(panel, "lose", rate=0)
    eventually(lambda: panel.loss == 0)
    panel.stop()
    eventually(lambda: panel.phase == "done")
    said = [what for _, what in panel.marks]
    for what in ("crash alpine-1", "alpine-1 out", "alpine-1 in", "drain boreal-2", "p2c", "lose 1 %"):
        assert what in said


def test_a_page_that_goes_takes_its_load_with_it(
    lab: Lab, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two pages may close; when the last has, or has been silent for long, the load stops."""
    monkeypatch.setattr(workload_panel, "GONE_S", 0.05)
    panel = lab.workload_panel()
    load = lab.load(10, "1 h")
    asks(panel, "page", page="first", here=True)
    asks(panel, "page", page="second", here=True)
    eventually(lambda: len(panel._pages) == 2)
    asks(panel, "page", page="first", here=False)
    eventually(lambda: len(panel._pages) == 1)
    assert load.sending
    asks(panel, "page", page="second", here=False)
    eventually(lambda: load.done)
    long_ago = time.monotonic() - workload_panel.SILENT_WITHOUT_SUBSHELLS_S - 1
    panel._pages["third"] = long_ago
    load = lab.load(10, "1 h")
    eventually(lambda: load.now().ended > 3)
    assert load.sending  # a page is silent while there is no load
    panel._followed_at = long_ago
    eventually(lambda: load.done)
    load = lab.load(10, "1 h")
    panel.close()
    eventually(lambda: load.done)


def test_a_simulated_load_runs_in_virtual_time(cheap: PasswordCost, eventually: Eventually) -> None:
    """Start is enough: time moves until the load has ended."""
    with Lab(name="workload", password_cost=cheap, world="simulated") as lab:
        panel = lab.workload_panel(rate=20, duration_s=3)
        load = panel.start()
        assert load is panel.load
        eventually(lambda: panel.phase == "done" and panel.result is not None)
        assert panel.totals["answers"] == {"COMMITTED": panel.totals["ended"]}
        assert panel.badge == "simulated, seed 0"


def test_closing_the_lab_ends_the_load_and_keeps_the_picture(
    cheap: PasswordCost, eventually: Eventually
) -> None:
    """What was seen last stays on the panel, and its picture says it in words."""
    lab = Lab(name="workload", password_cost=cheap)
    panel = lab.workload_panel()
    assert "nothing was sent yet" in panel.summary()
    lab.load(20, "1 h")
    eventually(lambda: panel.totals.get("ended", 0) > 5)
    lab.close()
    assert panel.ended
    assert f"{panel.totals['ended']:,} payments ended" in panel.summary()
    picture = ET.fromstring(panel.still().svg("still"))  # noqa: S314 - ours
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"p50", "under way", "real"} <= set(texts)
    assert any(text.startswith("throughput") for text in texts)


def test_a_long_load_is_thinned_out() -> None:
    """An hour of figures becomes a few hundred points, the first and the last among them."""
    ticks = [
        figures([], at_s=n / 4, window_s=2.0, due=n, sent=n, queued=0, answers={}) for n in range(1, 14_401)
    ]
    points = workload_panel._points(ticks)
    assert POINTS_MAX / 2 <= len(points) <= POINTS_MAX + 1
    assert (points[0][0], points[-1][0]) == (0.25, 3_600.0)
    assert points[-1][1] == 4.0  # payments due a second
    assert points[-1][POINT.index("p50")] is None  # a page cannot read NaN


def test_what_makes_no_sense_is_refused(lab: Lab) -> None:
    """A rate that no slider has is an error, in Python as from the page."""
    panel = lab.workload_panel()
    for name, value in (("rate", 0.0), ("inside_bank", 2.0), ("concurrency", 0)):
        with pytest.raises(traitlets.TraitError):
            setattr(panel, name, value)
