"""The replaceable decisions of a network, by name: for exercises, planted bugs, mutants and experiments.

`Lab(replace={"bank.vote": mine})` puts your function where the network asks that question.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from html import escape
from typing import Any

from paylab.core.decisions import DEFAULT, Decisions
from paylab.errors import LabError
from paylab.nodes.auth_server import AuthServer
from paylab.nodes.bank_server import BankServer
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.load_balancer import LoadBalancer
from paylab.nodes.node import Node
from paylab.nodes.offline_queue import OfflineQueue
from paylab.nodes.payment_gateway import PaymentGateway
from paylab.nodes.transaction_logger import TransactionLogger

# `paylab.core.ledger.Account` reads better as `Account`.
_MODULES = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Z])")
# A whole node may be replaced by a subclass of it.
NODES: dict[str, type[Node]] = {
    "node.auth": AuthServer,
    "node.balancer": LoadBalancer,
    "node.bank": BankServer,
    "node.coordinator": CoordinatorNode,
    "node.gateway": PaymentGateway,
    "node.logger": TransactionLogger,
    "node.queue": OfflineQueue,
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One replaceable decision: its name, what it decides and what is in it when nobody replaces it."""

    name: str
    about: str
    default: Any

    @property
    def signature(self) -> str:
        """How it is called."""
        signature = inspect.signature(self.default)
        plain = [
            p.replace(default="...") if callable(p.default) and p.default is not p.empty else p
            for p in signature.parameters.values()
        ]
        text = str(signature.replace(parameters=plain)).replace("'...'", "...")
        return str(self.default.__name__) + _MODULES.sub("", text)


class Slots:
    """The table of slots, which prints itself."""

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        """Keep them by name."""
        self._slots = dict(slots)

    def __iter__(self) -> Iterator[Slot]:
        """The slots in order."""
        return iter(self._slots.values())

    def __getitem__(self, name: str) -> Slot:
        """One slot. Raises LabError for a name that no slot has."""
        if name not in self._slots:
            raise LabError("NO_SUCH_SLOT", f"{name!r} is no slot; there are {', '.join(self._slots)}")
        return self._slots[name]

    def __repr__(self) -> str:
        """Three lines a slot."""
        return "\n".join(f"{slot.name}\n    {slot.about}\n    {slot.signature}" for slot in self)

    def _repr_html_(self) -> str:
        left = "style='text-align:left;vertical-align:top'"
        rows = "".join(
            f"<tr><td {left}><code>{escape(slot.name)}</code></td><td {left}>{escape(slot.about)}<br>"
            f"<code style='font-size:85%'>{escape(slot.signature)}</code></td></tr>"
            for slot in self
        )
        head = f"<th {left}>slot</th><th {left}>what it decides, and how it is called</th>"
        return f"<table><tr>{head}</tr>{rows}</table>"


def slots() -> Slots:
    """Every slot: those of single decisions, and those of whole nodes."""
    found: dict[str, Any] = {field.name.replace("_", ".", 1): field.default for field in fields(Decisions)}
    found |= NODES
    return Slots({name: Slot(name, _about(default), default) for name, default in found.items()})


def filled(replacements: Mapping[str, Any]) -> tuple[Decisions, dict[str, Any]]:
    """The decisions and node classes of a network with these replacements. Raises LabError."""
    table, decisions = slots(), dict[str, Any]()
    nodes: dict[str, Any] = dict(NODES)
    for name, mine in replacements.items():
        slot = table[name]
        if not callable(mine):
            raise LabError("BAD_ARGUMENT", f"slot {name} takes {slot.signature}, not {mine!r}")
        if name not in NODES:
            decisions[name.replace(".", "_", 1)] = mine
        elif isinstance(mine, type) and issubclass(mine, NODES[name]):
            nodes[name] = mine
        else:
            raise LabError("BAD_ARGUMENT", f"slot {name} takes a subclass of {NODES[name].__name__}")
    return replace(DEFAULT, **decisions), nodes


def _about(default: Any) -> str:
    return (inspect.getdoc(default) or "").partition("\n")[0]
