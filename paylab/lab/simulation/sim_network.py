"""The simulated network: how long each message takes, and whether it arrives at all."""

import math
from statistics import NormalDist

from paylab.lab.simulation.choices import Choices, Lane
from paylab.lab.simulation.virtual_time import NS_PER_S

# One way, log-normal: half of all messages take less than the median, one in forty more than twice as long.
MEDIAN_NS = 1_000_000
SIGMA = 0.35
LEAST_NS = 100_000
# A latency is one of this many quantiles, so that a choice is a small number and drawing one is cheap.
QUANTILES = 4096
LATENCIES_NS: tuple[int, ...] = tuple(
    max(LEAST_NS, round(MEDIAN_NS * math.exp(SIGMA * NormalDist().inv_cdf((q + 0.5) / QUANTILES))))
    for q in range(QUANTILES)
)
US_PER_S = 1_000_000


class Link:
    """One direction between two nodes."""

    __slots__ = ("_latency", "_network", "calm", "cut", "extra_ns", "loss", "source", "target")

    def __init__(self, network: "Network", source: str, target: str) -> None:
        """Made by the network."""
        self.source = source
        self.target = target
        self.calm = True
        self.cut = False
        self.extra_ns = 0
        self.loss = 0.0
        self._network = network
        self._latency: Lane = network.choices.lane("latency", f"{source}>{target}")

    def transit_ns(self, *, reply: bool = False) -> int | None:
        """How long the next message takes; None when it is lost."""
        delay_ns = LATENCIES_NS[self._latency.below(QUANTILES)]
        return delay_ns if self.calm else self._troubled(delay_ns, reply=reply)

    def _troubled(self, delay_ns: int, *, reply: bool) -> int | None:
        network, place = self._network, f"{self.source}>{self.target}"
        if self.cut:
            return None
        rate = max(self.loss, network.loss_of_replies if reply else network.loss_of_requests)
        if rate and network.choices.lane("loss", place).chance(rate):
            return None
        factor = network.slowness.get(self.source, 1.0) * network.slowness.get(self.target, 1.0)
        delay_ns = round(delay_ns * factor) + self.extra_ns
        if network.reordering and network.choices.lane("reorder", place).chance(network.reordering):
            held_us = network.choices.draw("held", place, max(1, round(network.reorder_s * US_PER_S)))
            delay_ns += held_us * (NS_PER_S // US_PER_S)
        return delay_ns

    def duplicates(self) -> bool:
        """Whether the request that was just sent arrives a second time."""
        rate = self._network.duplication
        place = f"{self.source}>{self.target}"
        return bool(rate) and self._network.choices.lane("duplicate", place).chance(rate)


class Network:
    """The links between all nodes, and what is wrong with them."""

    def __init__(self, choices: Choices) -> None:
        """Everything works."""
        self.choices = choices
        self.loss_of_requests = 0.0
        self.loss_of_replies = 0.0
        self.duplication = 0.0
        self.reordering = 0.0
        self.reorder_s = 0.0
        self.slowness: dict[str, float] = {}
        self._links: dict[tuple[str, str], Link] = {}

    def link(self, source: str, target: str) -> Link:
        """The link from one node to another."""
        known = self._links.get((source, target))
        if known is None:
            known = self._links[source, target] = Link(self, source, target)
            self.refresh()
        return known

    def cut(self, source: str, target: str) -> None:
        """Let nothing through, one way."""
        self.link(source, target).cut = True
        self.refresh()

    def links(self) -> list[Link]:
        """Those over which something was sent, or that somebody has asked for."""
        return list(self._links.values())

    def heal(self) -> None:
        """End every fault but slowness, which is the nodes' own."""
        self.loss_of_requests = self.loss_of_replies = self.duplication = self.reordering = 0.0
        for link in self._links.values():
            link.cut, link.extra_ns, link.loss = False, 0, 0.0
        self.refresh()

    def refresh(self) -> None:
        """Find out which links need a closer look; after every change."""
        everywhere = self.loss_of_requests or self.loss_of_replies or self.reordering or self.duplication
        for link in self._links.values():
            slow = link.source in self.slowness or link.target in self.slowness
            link.calm = not (everywhere or slow or link.cut or link.extra_ns or link.loss)
