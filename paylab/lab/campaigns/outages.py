"""A bank that is away now and then, as painted on a time axis: what waits, who tries again, how it ends.

outage([False, True, True, False])
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from paylab.lab import faults
from paylab.lab.lab import Lab
from paylab.nodes.events import Kind
from paylab.pb import payment_gateway_pb2 as pb

if TYPE_CHECKING:  # only drawing needs it
    from matplotlib.figure import Figure

PAYERS = ("alice", "anna", "amir", "ada")
BANK, SERVER = "boreal", "boreal-1"
# Long, as nobody here is interested in leases, and every renewal is a call.
LEASE_S = 3_600.0
SAMPLE_S = 2.0
# After the last slot we look until nothing waits, and a little longer.
AFTER_S, CALM_S = 150.0, 20.0
TRIES_BIN_S = 5.0
DEPTH, TRIES = "#0072b2", "#d55e00"
DPI = 110


@dataclass(frozen=True, slots=True)
class Outage:
    """What was seen; times in seconds from the first slot on."""

    # From when to when the bank was away.
    away: tuple[tuple[float, float], ...]
    # When, and how many waited in the queue.
    depth: tuple[tuple[float, int], ...]
    # When the queue asked for another attempt.
    tries: tuple[float, ...]
    payments: int
    committed: int
    # How long each payment that had to wait was queued until it was tried with success.
    waits_s: tuple[float, ...]
    badge: str

    def __str__(self) -> str:
        """In one line."""
        waited = f"{len(self.waits_s)} had to wait"
        if self.waits_s:
            waited += (
                f", half of them over {median(self.waits_s):.0f} s, the longest {max(self.waits_s):.0f} s"
            )
        return f"{self.committed} of {self.payments} payments committed; {waited}; {len(self.tries)} tries"

    def figure(self) -> "Figure":
        """What waits, above the tries of every five seconds; grey while the bank is away."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for drawing

        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        times, depths = zip(*self.depth, strict=True)
        above.fill_between(times, depths, step="post", color=DEPTH, alpha=0.75, linewidth=0)
        below.hist(self.tries, bins=_bins(times[-1]), color=TRIES)
        above.set(ylabel="queued payments", xlim=(0, times[-1]), ylim=(0, max(4, *depths) * 1.1))
        below.set(ylabel=f"tries in {TRIES_BIN_S:g} s", xlabel=f"seconds ({self.badge})")
        below.set_ylim(bottom=0, top=max(4.0, below.get_ylim()[1]))
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.get_major_locator().set_params(integer=True)
            for begin_s, end_s in self.away:
                axes.axvspan(begin_s, end_s, color="#e4e4e4", zorder=0, linewidth=0)
        above.set_title(str(self), fontsize=9, loc="left")
        return figure

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.figure().savefig(picture, format="png", dpi=DPI)
        return picture.getvalue()


def outage(
    painted: Sequence[bool],
    *,
    slot_s: float = 20.0,
    every_s: float = 4.0,
    replace: Mapping[str, Any] | None = None,
    seed: int = 7,
) -> Outage:
    """Four payers pay by turns, one payment every `every_s`, while boreal is away in the painted slots.

    `replace` fills slots of the network, such as "queue.delay".
    """
    away = _spans(painted, slot_s)
    schedule = [fault for begin_s, end_s in away for fault in _absence(begin_s, end_s)]
    length_s = len(painted) * slot_s
    lab = Lab(
        world="simulated",
        seed=seed,
        bank_servers=1,
        auth_servers=1,
        lease_s=LEASE_S,
        replace=replace,
        name="outage",
    )
    with lab:
        payers = [lab.client(name, bank="alpine", balance="900.00 EUR") for name in PAYERS]
        shop = lab.client("shop", bank=BANK)
        began_s = lab.world.now()
        lab.inject(schedule)
        depth, due_s, sent = list[tuple[float, int]](), 0.0, 0
        while (at_s := lab.world.now() - began_s) < length_s + AFTER_S:
            if at_s >= due_s and at_s < length_s:
                payers[sent % len(payers)].submit_pay(shop, "1.00 EUR", key=f"order-{sent}")
                due_s, sent = due_s + every_s, sent + 1
            depth.append((at_s, _waiting(lab)))
            if at_s > length_s + CALM_S and not depth[-1][1]:
                break
            lab.advance(SAMPLE_S)
        return _told(lab, began_s, away, tuple(depth))


def _absence(begin_s: float, end_s: float) -> list[faults.Timed]:
    return [faults.at(begin_s, faults.crash(SERVER)), faults.at(end_s, faults.restart(SERVER))]


def _spans(painted: Sequence[bool], slot_s: float) -> tuple[tuple[float, float], ...]:
    """Painted slots that touch are one outage."""
    edges = [n for n, (before, now) in enumerate(pairwise([False, *painted, False])) if before != now]
    return tuple((a * slot_s, b * slot_s) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _waiting(lab: Lab) -> int:
    rows = lab.world.rows("queue", "SELECT COUNT(*) FROM entries WHERE place <> 'DEAD'")
    return int(rows[0][0]) if rows else 0


def _told(
    lab: Lab, began_s: float, away: tuple[tuple[float, float], ...], depth: tuple[tuple[float, int], ...]
) -> Outage:
    states = [row[0] for row in lab.world.rows("gateway", "SELECT state FROM payments")]
    tries: list[float] = []
    queued_s: dict[str, float] = {}
    waits_s: list[float] = []
    for event in list(lab.history):
        if event.node != "queue" or not event.method.endswith(("/Enqueue", "/Redrive")):
            continue
        if event.kind is Kind.RECEIVED:
            queued_s |= {name: event.at_s for name in event.payments if name not in queued_s}
        elif event.kind is Kind.SENT:
            tries.append(event.at_s - began_s)
        elif event.kind is Kind.RETURNED and event.detail.state == pb.COMMITTED:
            waits_s.append(event.at_s - queued_s[event.payments[0]])
    return Outage(
        away, depth, tuple(tries), len(states), states.count("COMMITTED"), tuple(waits_s), lab.badge
    )


def _bins(end_s: float) -> list[float]:
    return [n * TRIES_BIN_S for n in range(int(end_s / TRIES_BIN_S) + 2)]
