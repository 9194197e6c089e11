"""What chance decides in a simulated world, as a list that can be saved, edited and replayed.

Each thing that chance decides about has a lane of its own, such as "latency gateway>coordinator": a choice
that is dropped from one lane changes nothing in the others.
"""

import json
import random
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path


def seeded(*parts: object) -> random.Random:
    """A generator of its own for whatever the parts name, the seed among them."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - chance that can be repeated is the point


class Lane:
    """The choices about one thing, in order. Small is harmless: 0 is the shortest delay, no loss."""

    __slots__ = ("_random", "_replay", "values")

    def __init__(self, rng: random.Random, replay: Sequence[int] = ()) -> None:
        """Take from `replay` while it lasts, then from `rng` as if all before had come from it, too."""
        self.values = array("q")
        self._random = rng.random
        self._replay = replay

    def below(self, count: int) -> int:
        """Choose a number from 0 to below `count`, each as likely as any other."""
        value = int(self._random() * count)
        if len(self.values) < len(self._replay):
            value = min(max(0, self._replay[len(self.values)]), count - 1)
        self.values.append(value)
        return value

    def chance(self, rate: float) -> bool:
        """Choose 1 with probability `rate`, otherwise 0."""
        value = int(self._random() < rate)
        if len(self.values) < len(self._replay):
            value = int(self._replay[len(self.values)] != 0)
        self.values.append(value)
        return bool(value)


class Choices:
    """All lanes of a run."""

    def __init__(self, seed: int, recorded: Mapping[str, Sequence[int]] | None = None) -> None:
        """Draw from `seed`, after what is `recorded` has been used up."""
        self.seed = seed
        self._recorded = recorded or {}
        self._lanes: dict[str, Lane] = {}

    def lane(self, kind: str, place: str) -> Lane:
        """The lane of one kind of choice at one place; asking again gives the same lane."""
        name = f"{kind} {place}"
        if name not in self._lanes:
            self._lanes[name] = Lane(seeded(self.seed, name), self._recorded.get(name, ()))
        return self._lanes[name]

    def draw(self, kind: str, place: str, count: int) -> int:
        """Choose a number from 0 to below `count`."""
        return self.lane(kind, place).below(count)

    @property
    def total(self) -> int:
        """How many choices were made."""
        return sum(len(lane.values) for lane in self._lanes.values())

    def as_dict(self) -> dict[str, list[int]]:
        """The choices so far, by lane; lanes in which nothing was chosen left out."""
        return {name: lane.values.tolist() for name, lane in self._lanes.items() if lane.values}

    def save(self, path: str | Path) -> None:
        """Write seed and choices as JSON, a lane a line."""
        lanes = [f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in self.as_dict().items()]
        text = f'{{\n  "seed": {self.seed},\n  "choices": {{\n' + ",\n".join(lanes) + "\n  }\n}\n"
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Choices":
        """Read what `save` wrote, for a run that repeats it."""
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(saved["seed"], saved["choices"])
