"""A day of virtual time, with an outage of three hours in it, takes seconds."""

import sys
from collections import Counter

from paylab.lab.campaigns.orders import OPENING_MINOR, Order
from paylab.lab.campaigns.seed_runs import run_seed
from paylab.lab.faults import at, crash, restart
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

DAY_S, HOUR_S = 86_400.0, 3_600.0
PAYMENTS = 2_000
LEASE_S = 30.0


def day(share: float = 1.0) -> tuple[float, float]:
    """Run it, or a share of it; returns the seconds that it took and the share of heartbeats."""
    payments = round(PAYMENTS * share)
    calls: Counter[bool] = Counter()
    queued: Counter[str] = Counter()

    def count(event: Event) -> None:
        if event.kind is Kind.SENT:
            calls[event.method in HOUSEKEEPING] += 1
        if event.kind is Kind.STATE and " is QUEUED" in str(event.detail):
            queued[event.payments[0]] += 1

    accounts = list(OPENING_MINOR)
    asked = [
        Order(
            round(n * DAY_S / PAYMENTS, 3),
            accounts[n % 4],
            accounts[(n + 1 + n // 4 % 3) % 4],
            1_00,
            f"order-{n}",
        )
        for n in range(payments)
    ]
    outage = [at(8 * HOUR_S * share, crash(server)) for server in ("boreal-1", "boreal-2")]
    outage += [at(11 * HOUR_S * share, restart(server)) for server in ("boreal-1", "boreal-2")]
    result = run_seed(1, orders=asked, schedule=outage, watch=count, lease_s=LEASE_S)
    assert result.violations == ()
    assert (result.payments, result.queued, result.in_doubt) == (payments, 0, 0)
    assert result.virtual_s >= asked[-1].at_s
    assert len(queued) > 100 * share
    return result.wall_s, calls[True] / calls.total()


def test_a_day_with_an_outage_recovers() -> None:
    """Those that were queued while the bank was away are settled; here a short stretch of the day."""
    _, heartbeats = day(share=0.04)
    assert 0.0 < heartbeats < 1.0


if __name__ == "__main__":
    wall_s, share = day()
    sys.stdout.write(f"a day in {wall_s:.1f} s, {share:.0%} of all calls are heartbeats\n")
