"""`python -m paylab attack`: the attack matrix, from the command line."""

import argparse
import json
from collections.abc import Callable
from typing import Any


def add_to(commands: Any) -> None:
    """Describe the command to a parser."""
    attack = commands.add_parser("attack", help="attack a network, and the same network without each defence")
    attack.add_argument("names", metavar="NAME", nargs="*", help="only these attacks; --list names them")
    attack.add_argument("--list", action="store_true", help="say what there is")
    attack.add_argument("--json", action="store_true", help="print one JSON list")
    attack.set_defaults(command=lambda options: attack_command(options, print))


def attack_command(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run the command; returns the exit status."""
    from tqdm import tqdm  # noqa: PLC0415 - only this command needs them

    from paylab.lab.attacks.matrix import ATTACKS, attacks  # noqa: PLC0415

    if options.list:
        if options.json:
            known = [{"name": a.name, "about": a.about, "weaken": a.weaken} for a in ATTACKS.values()]
            say(json.dumps(known, indent=2))
        else:
            say("\n".join(f"{a.name:<34}{a.about}" for a in ATTACKS.values()))
        return 0
    names = options.names or None
    with tqdm(total=2 * len(names or ATTACKS), unit=" attempts", disable=None, leave=False) as bar:

        def progress(what: str) -> None:
            bar.set_description(what)
            bar.update()

        matrix = attacks(names, progress=progress)
    say(json.dumps([row.to_json() for row in matrix], indent=2) if options.json else str(matrix))
    return 0 if matrix.ok else 1
