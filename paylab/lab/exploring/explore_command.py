"""`python -m paylab explore`: every order of messages, losses, duplicates and crashes."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from paylab.errors import LabError


def add_to(commands: Any) -> None:
    """Describe the command to a parser."""
    explore = commands.add_parser(
        "explore",
        help="visit every state that messages, timers, losses and crashes can lead to, and check each",
    )
    for name, default, about in (
        ("banks", 2, "banks that take part in a payment"),
        ("payments", 1, "payments at the same time"),
        ("crashes", 2, "of any node, at any point, in one run"),
        ("losses", 1, "messages lost, or later than a deadline, in one run"),
        ("duplicates", 1, "messages that arrive twice in one run"),
        ("attempts", 2, "how often a payment is tried at most"),
    ):
        explore.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{about} ({default})")
    explore.add_argument(
        "--states", type=int, metavar="N", help="stop at so many states, with a part of the space"
    )
    explore.add_argument("--mutant", metavar="NAME", help="with one of paylab's planted bugs")
    explore.add_argument("--json", action="store_true", help="print one JSON object")
    explore.set_defaults(command=lambda options: run(options, print))


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run the command; returns the exit status."""
    from paylab.lab.exploring import explorer  # noqa: PLC0415 - a bad argument is refused before the network is imported
    from paylab.lab.exploring.space import Space  # noqa: PLC0415
    from paylab.lab.planted_bugs import planted  # noqa: PLC0415

    names = ("banks", "payments", "crashes", "losses", "duplicates", "attempts")
    space = Space(**{name: getattr(options, name) for name in names})
    states_max = explorer.STATES_MAX if options.states is None else options.states
    if states_max < 1:
        raise LabError("BAD_ARGUMENT", f"--states must be 1 or more, not {states_max}")
    replace = planted(options.mutant) if options.mutant else None
    found = explorer.explore(space, replace=replace, states_max=states_max, told=_progress())
    say(json.dumps(found.to_json(), indent=2) if options.json else repr(found))
    return 0 if found.ok else 1


def _progress() -> Callable[[Any], None]:
    """Tells on a terminal how far the search is."""
    if not sys.stderr.isatty():
        return lambda _: None
    from tqdm import tqdm  # noqa: PLC0415 - only a terminal wants it

    bar = tqdm(unit=" states", unit_scale=True, leave=False)

    def told(found: Any) -> None:
        bar.n = len(found.order)
        bar.set_description(f"depth {found.depth}", refresh=False)
        bar.refresh()

    return told
