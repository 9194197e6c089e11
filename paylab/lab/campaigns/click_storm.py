"""A storm of clicks: one order, many requests at once, answers that get lost, and what the shop was paid.

click_storm(5, lost=0.3, same_key=False)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from paylab.core.money import Money, parse_money
from paylab.errors import LabError, OutcomeUnknown
from paylab.lab.clients import LabClient
from paylab.lab.drawing import svg
from paylab.lab.lab import Lab
from paylab.lab.simulation.choices import seeded
from paylab.nodes.events import Event, Kind
from paylab.pb import payment_gateway_pb2

CLICKS_MAX = 10
# Whoever has no answer by then clicks again, so often at most.
PATIENCE_S = 2.0
TRIES_MAX = 8
PRICE = parse_money("12.50 EUR")
LEASE_S = 4.5

# The drawing.
LEFT, TOP, ROW, COLUMN = 74.0, 40.0, 22.0, 66.0
STYLE = """
{id} .row{{stroke:{faint};stroke-width:1}}
{id} .charged{{fill:{vermilion}}} {id} .due{{fill:{green}}}
{id} .joined{{fill:{paper};stroke:{muted};stroke-width:1.6}}
{id} .coin{{font-size:9px;font-weight:700;fill:#fff;stroke:none}}
{id} .lost{{fill:none;stroke:{ink};stroke-width:1.8;stroke-linecap:round}}
{id} .answered{{fill:none;stroke:{green};stroke-width:2.2;stroke-linecap:round;stroke-linejoin:round}}
{id} text.quiet{{fill:{muted}}} {id} text.sum{{font-size:12px;font-weight:600}}
{id} text.bad{{fill:{vermilion}}} {id} text.good{{fill:{green}}}
"""


@dataclass(frozen=True, slots=True)
class Try:
    """One request: the `nth` of a click; whether its answer came, and whether it moved money."""

    click: int
    nth: int
    answered: bool
    charged: bool


@dataclass(frozen=True, slots=True)
class ClickStorm:
    """What became of one order."""

    tries: tuple[Try, ...]
    charges: int
    same_key: bool
    badge: str

    @property
    def paid(self) -> Money:
        """What the shop has, by its bank's ledger."""
        return Money(self.charges * PRICE.amount_minor, PRICE.currency)

    def __str__(self) -> str:
        """Say it in one line."""
        keys = "one key" if self.same_key else "a new key each"
        return f"{len(self.tries)} requests with {keys}: one order of {PRICE}, paid {self.paid}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.figure().html()

    def figure(self) -> svg.Figure:
        """A row a click, a column a try: a coin where money moved, a ring where it had moved already."""
        clicks = max(each.click for each in self.tries)
        columns = max(each.nth for each in self.tries)
        bottom = TOP + ROW * clicks
        parts = [svg.label("One order. Every row is a click.", 3, 11, class_="quiet"), svg.badge(self.badge)]
        for nth in range(1, columns + 1):
            text = "at once" if nth == 1 else f"after {PATIENCE_S * (nth - 1):g} s"
            parts.append(svg.label(text, _x(nth), TOP - 14, class_="quiet", text_anchor="middle"))
        for click in range(1, clicks + 1):
            last = max(each.nth for each in self.tries if each.click == click)
            parts.append(svg.label(f"click {click}", 3, _y(click)))
            parts.append(svg.element("path", d=f"M{LEFT - 14} {_y(click)}H{_x(last)}", class_="row"))
        first = True
        for each in self.tries:
            parts += _mark(each, due=first)
            first = first and not each.charged
        parts += _legend(bottom + 12)
        told = "good" if self.charges == 1 else "bad"
        parts.append(svg.label(f"ordered {PRICE}", LEFT - 14, bottom + 38, class_="sum"))
        parts.append(svg.label(f"paid {self.paid}", LEFT + 130, bottom + 38, class_=f"sum {told}"))
        about = f"{len(self.tries)} requests for one order, of which {self.charges} were charged"
        return svg.Figure("".join(parts), style=STYLE, height=bottom + 52, about=about, shown_px=720)


def click_storm(
    clicks: int = 5,
    *,
    lost: float = 0.3,
    same_key: bool = False,
    seed: int = 7,
) -> ClickStorm:
    """Alice clicks so often at once, and repeats each click until it has an answer.

    `lost` is the share of answers that do not arrive. With `same_key` all requests carry the order's key,
    else each has one of its own; the same answers are lost.
    Raises LabError for more than ten clicks.
    """
    if not 1 <= clicks <= CLICKS_MAX or not 0 <= lost < 1:
        raise LabError("BAD_ARGUMENT", f"clicks is 1 to {CLICKS_MAX}, and lost a share below 1")
    with Lab(world="simulated", seed=seed, auth_servers=1, lease_s=LEASE_S, name="click storm") as lab:
        shop = lab.client("shop", bank="boreal")
        alice = lab.client("alice", bank="alpine", balance="9000.00 EUR")
        devices = {click: lab.device(alice, str(click)) for click in range(1, clicks + 1)}
        answered: dict[tuple[int, int], bool] = {}
        left = list(devices)
        for nth in range(1, TRIES_MAX + 1):
            if not left:
                break
            drawn = {click: seeded(seed, "reply", click, nth).random() < lost for click in left}
            for click in left:
                if drawn[click]:
                    lab.partition("gateway", f"alice-{click}", one_way=True)
            keys = {click: "the order" if same_key else f"click {click}, try {nth}" for click in left}
            heard = _round(devices, shop, keys)
            answered |= {(click, nth): click in heard for click in left}
            left = [click for click in left if click not in heard]
            lab.heal()
        lab.settle()
        charges = len(lab.world.rows("bank-boreal", "SELECT txn FROM postings WHERE account = 'shop'"))
        tries = _tries(answered, list(lab.history))
        return ClickStorm(tries, charges, same_key, lab.badge)


def _round(devices: dict[int, LabClient], shop: LabClient, keys: dict[int, str]) -> set[int]:
    """Send all requests at the same moment; returns the clicks that have an answer."""
    calls = {
        click: devices[click].submit_pay(shop, PRICE, key=key, deadline_s=PATIENCE_S)
        for click, key in keys.items()
    }
    heard = set()
    for click, call in calls.items():
        try:
            call.result()
        except OutcomeUnknown:
            continue
        heard.add(click)
    return heard


def _tries(answered: dict[tuple[int, int], bool], events: Sequence[Event]) -> tuple[Try, ...]:
    """Which request of a key came first, and so moved the money, is in the gateway's history."""
    came: dict[str, int] = {}
    firsts: set[tuple[int, int]] = set()
    seen: set[str] = set()
    for event in events:
        request = event.detail
        if (
            event.node != "gateway"
            or event.kind is not Kind.RECEIVED
            or not isinstance(request, payment_gateway_pb2.PayRequest)
        ):
            continue
        came[event.peer] = came.get(event.peer, 0) + 1
        if request.idempotency_key not in seen:
            seen.add(request.idempotency_key)
            firsts.add((int(event.peer.rpartition("-")[2]), came[event.peer]))
    return tuple(
        Try(click, nth, heard, (click, nth) in firsts) for (click, nth), heard in sorted(answered.items())
    )


def _x(nth: int) -> float:
    return LEFT + 14 + COLUMN * (nth - 1)


def _y(click: int) -> float:
    return TOP + ROW * (click - 0.5)


def _mark(each: Try, *, due: bool) -> list[str]:
    x, y = _x(each.nth), _y(each.click)
    if each.charged:
        parts = [
            svg.element("circle", cx=x, cy=y, r=8, class_="due" if due else "charged", title="charged"),
            svg.label("€", x, y, class_="coin", text_anchor="middle"),
        ]
    else:
        parts = [svg.element("circle", cx=x, cy=y, r=7, class_="joined", title="the same payment")]
    return [*parts, _fate(x + 19, y, answered=each.answered)]


def _fate(x: float, y: float, *, answered: bool) -> str:
    if answered:
        tick = svg.path([(x - 5, y), (x - 1.5, y + 4), (x + 5, y - 5)])
        return svg.element("path", d=tick, class_="answered", title="answered")
    return svg.cross(x, y, class_="lost", title="the answer was lost")


def _legend(y: float) -> list[str]:
    x, parts = LEFT - 7, []
    coins = (("due", "€", "charged"), ("charged", "€", "charged again"), ("joined", "", "nothing new"))
    for class_, sign, text in coins:
        parts += [
            svg.element("circle", cx=x, cy=y, r=6.5, class_=class_),
            svg.label(sign, x, y, class_="coin", text_anchor="middle"),
            svg.label(text, x + 12, y, class_="quiet"),
        ]
        x += 34 + svg.text_width(text, 10.0)
    for answered, text in ((True, "answered"), (False, "answer lost")):
        parts += [_fate(x, y, answered=answered), svg.label(text, x + 11, y, class_="quiet")]
        x += 32 + svg.text_width(text, 10.0)
    return parts
