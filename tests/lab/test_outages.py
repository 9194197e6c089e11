"""A painted outage: what waits while the bank is away, and that all of it arrives."""

from paylab.lab.campaigns.outages import outage


def test_nothing_painted_nothing_waits() -> None:
    """Without an outage no payment is queued."""
    seen = outage([False, False])
    assert (seen.payments, seen.committed) == (10, 10)
    assert (seen.away, seen.tries, seen.waits_s) == ((), (), ())
    assert max(depth for _, depth in seen.depth) == 0


def test_what_had_to_wait_arrives_after_the_outage() -> None:
    """Slots that touch are one outage; who paid in it waits, and everything commits in the end."""
    seen = outage([False, True, True, False])
    assert seen.away == ((20.0, 60.0),)
    assert seen.committed == seen.payments == 20
    assert 5 < max(depth for _, depth in seen.depth) <= len(seen.waits_s)
    assert seen.depth[-1][1] == 0
    assert min(seen.tries) > 20.0
    assert any(at_s < 60.0 for at_s in seen.tries)
    assert any(at_s > 60.0 for at_s in seen.tries)
    assert seen._repr_png_().startswith(b"\x89PNG")


def test_another_delay_is_used() -> None:
    """A queue that waits a constant second tries more often."""
    painted = [True, True, False]
    usual, constant = outage(painted), outage(painted, replace={"queue.delay": lambda _attempt, **_: 1.0})
    assert len(constant.tries) > len(usual.tries)
