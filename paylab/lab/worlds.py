"""The two worlds that a network can be booted in, by name."""

from pathlib import Path

from paylab.errors import LabError
from paylab.lab.checking.history import History
from paylab.lab.real_world import RealWorld, World
from paylab.lab.simulation.choices import Choices
from paylab.lab.simulation.simulator import SimWorld


def open_world(
    world: str,
    name: str,
    *,
    history: History,
    data_dir: str | Path | None = None,
    seed: int = 0,
    choices: Choices | None = None,
    processes: bool = False,
) -> World:
    """An empty world of that kind, whose nodes' events go to `history`. Raises LabError BAD_ARGUMENT."""
    if world == "real":
        folder = Path(data_dir) if data_dir else None
        return RealWorld(name, data_dir=folder, sink=history.add, processes=processes)
    if world != "simulated":
        raise LabError("BAD_ARGUMENT", f"world is real or simulated, not {world!r}")
    if data_dir is not None:
        raise LabError("BAD_ARGUMENT", "a simulated world keeps its files in memory: leave data_dir out")
    return SimWorld(name, seed=seed, sink=history.add, choices=choices)
