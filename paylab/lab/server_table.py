"""What the balancers believe about their servers, as a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from paylab.pb import load_balancer_pb2 as pb

HEAD = (
    "balancer", "server", "weight", "health", "picked", "calls", "in flight", "reported", "latency",
    "ejections", "lease left",
)  # fmt: skip
HEALTH = {
    pb.HEALTH_SERVING: "serving",
    pb.HEALTH_NOT_SERVING: "draining",
    pb.HEALTH_UNREACHABLE: "unreachable",
}


def _health(info: pb.ServerInfo) -> str:
    if info.lease_left_s <= 0:
        return "silent"
    return f"ejected for {info.ejected_for_s:.1f} s" if info.ejected_for_s else HEALTH[info.health]


@dataclass(frozen=True, slots=True)
class ServerTable:
    """A row for each server: `table["alpine-1"].eligible` says whether it is picked at the moment."""

    listed: Mapping[str, Sequence[pb.ServerInfo]]
    lease_s: float

    def __getitem__(self, server: str) -> pb.ServerInfo:
        """What is believed about one server. Raises KeyError."""
        return {info.server: info for info in self}[server]

    def __iter__(self) -> Iterator[pb.ServerInfo]:
        """All servers, balancer by balancer."""
        return (info for servers in self.listed.values() for info in servers)

    @property
    def detection(self) -> str:
        """How long a server that is gone can go on being picked."""
        return (
            "A server that crashes or drains is out as soon as its health check says so; one that hangs is "
            f"out within its lease of {self.lease_s:g} s."
        )

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                balancer,
                info.server,
                str(info.weight),
                _health(info),
                "yes" if info.eligible else "no",
                str(info.forwarded),
                str(info.in_flight),
                str(info.reported_load),
                f"{1000 * info.latency_s:.1f} ms",
                str(info.ejections),
                f"{info.lease_left_s:.1f} s",
            )
            for balancer, servers in self.listed.items()
            for info in servers
        ]

    def __str__(self) -> str:
        """A table for a terminal."""
        rows = [HEAD, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.detection])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = (
            "<tr>" + "".join(f"<{tag} {left}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, cells in (("th", [HEAD]), ("td", self._cells()))
            for row in cells
        )
        return f"<table>{''.join(rows)}</table><p>{escape(self.detection)}</p>"
