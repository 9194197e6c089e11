"""A run as data: seed, faults, payments and what chance decided, to be shortened, saved and run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from paylab.lab.campaigns.orders import Order
from paylab.lab.campaigns.seed_runs import SeedResult, run_seed
from paylab.lab.faults import Fault, Timed


class Calm(dict[str, Sequence[int]]):
    """Recorded choices after which chance chooses 0: the shortest delay, no loss."""

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - a dict's interface
        """The choices of a lane, zeros without end behind them."""
        return ThenZeros(super().get(name, ()))


class ThenZeros(Sequence[int]):
    """Some numbers, and then zeros for as long as anybody asks."""

    def __init__(self, values: Sequence[int]) -> None:
        self._values = values

    def __getitem__(self, index: Any) -> Any:
        """The number at that place."""
        return self._values[index] if index < len(self._values) else 0

    def __len__(self) -> int:
        """More than anybody asks for."""
        return 1 << 60


@dataclass(frozen=True, slots=True)
class Case:
    """All that a run follows from; without `choices` from the seed's own chance."""

    seed: int
    schedule: tuple[Timed, ...]
    orders: tuple[Order, ...]
    choices: Mapping[str, Sequence[int]] | None = None

    def run(self, replace: Mapping[str, Any] | None, **options: Any) -> SeedResult:
        """Run it."""
        chosen = None if self.choices is None else Calm(self.choices)
        return run_seed(
            self.seed, schedule=self.schedule, orders=self.orders, choices=chosen, replace=replace, **options
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        choices = None if self.choices is None else {name: list(made) for name, made in self.choices.items()}
        return {
            "seed": self.seed,
            "orders": [[o.at_s, o.payer, o.payee, o.amount_minor, o.key, o.patience_s] for o in self.orders],
            "schedule": [
                [timed.at_s, timed.fault.kind, list(timed.fault.arguments), timed.period_s]
                for timed in self.schedule
            ],
            "choices": choices,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What `to_json` has written."""
        schedule = (
            Timed(at_s, Fault(kind, tuple(rest)), period) for at_s, kind, rest, period in saved["schedule"]
        )
        asked = (Order(*fields) for fields in saved["orders"])
        return cls(saved["seed"], tuple(schedule), tuple(asked), saved["choices"])
