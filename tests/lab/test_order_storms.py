"""One order asked for many times: a storm of clicks, and keys and two-phase commit each switched off."""

import pytest

from paylab.errors import LabError
from paylab.lab.campaigns.click_storm import TRIES_MAX, ClickStorm, click_storm
from paylab.lab.campaigns.four_networks import FourNetworks, four_networks


@pytest.fixture(scope="module")
def storms() -> dict[bool, ClickStorm]:
    return {same_key: click_storm(6, lost=0.5, same_key=same_key) for same_key in (True, False)}


@pytest.fixture(scope="module")
def four() -> FourNetworks:
    return four_networks(16, lost=0.3)


def test_one_key_is_one_charge(storms: dict[bool, ClickStorm]) -> None:
    """However many requests carry it, at once and later."""
    storm = storms[True]
    assert len(storm.tries) > 6
    assert storm.charges == sum(each.charged for each in storm.tries) == 1
    assert str(storm.paid) == "12.50 EUR"


def test_a_key_for_every_try_is_a_charge_for_every_try(storms: dict[bool, ClickStorm]) -> None:
    """Also for those whose answer got lost; and the same answers got lost in both storms."""
    with_one, without = storms[True], storms[False]
    assert without.charges == len(without.tries) == sum(each.charged for each in without.tries)
    fates = [[(each.click, each.nth, each.answered) for each in storm.tries] for storm in (with_one, without)]
    assert fates[0] == fates[1]
    assert not all(each.answered for each in without.tries)


def test_a_storm_is_drawn(storms: dict[bool, ClickStorm]) -> None:
    """A coin a charge, a tick an answer; the sum is told."""
    html = storms[False]._repr_html_()
    tries = len(storms[False].tries)
    assert html.count('class="due"') + html.count('class="charged"') == tries + 2
    assert "paid 137.50 EUR" in html
    assert "one order of 12.50 EUR, paid 12.50 EUR" in str(storms[True])


def test_a_storm_ends_when_no_answer_ever_comes() -> None:
    """After so many tries each."""
    assert len(click_storm(1, lost=0.999).tries) == TRIES_MAX


@pytest.mark.parametrize(("clicks", "lost"), [(0, 0.0), (11, 0.0), (1, 1.0), (1, -0.1)])
def test_a_storm_has_bounds(clicks: int, lost: float) -> None:
    """Up to ten clicks, and a share below 1."""
    with pytest.raises(LabError, match="clicks is 1 to 10"):
        click_storm(clicks, lost=lost)


def test_keys_remove_duplicates_and_two_phases_half_payments(four: FourNetworks) -> None:
    """Neither does the other's work."""
    both, no_phases = four[True, True], four[True, False]
    no_keys, nothing = four[False, True], four[False, False]
    assert (both.charged_again, both.half_payments) == (0, 0)
    assert no_phases.charged_again == 0
    assert no_phases.half_payments == 16 // 8
    assert no_keys.charged_again > 0
    assert no_keys.half_payments == 0
    assert nothing.charged_again == no_keys.charged_again
    assert nothing.half_payments >= no_phases.half_payments


def test_the_four_are_told_side_by_side(four: FourNetworks) -> None:
    """In lines, and as a table."""
    assert len(str(four).splitlines()) == 4
    assert four._repr_html_().count("charged again") == 4
    with pytest.raises(LabError, match="orders is 1 or more"):
        four_networks(0)
