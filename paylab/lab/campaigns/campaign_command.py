"""`python -m paylab simulate`: one seed or many, from the command line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paylab.lab.campaigns.nemesis import INTENSITIES

# Runs need not be longer for a campaign to find more: more seeds find more.
PAYMENTS_DEFAULT = 50
# What a shell expects of a command that Ctrl-C ended.
INTERRUPTED = 130


def add_to(commands: Any, command: Callable[[argparse.Namespace], int]) -> None:
    """Describe the command to a parser."""
    simulate = commands.add_parser("simulate", help="run the network in virtual time under faults, and check")
    which = simulate.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="run this one seed (0 unless given)")
    which.add_argument("--seeds", type=_seeds, metavar="N", help="run the seeds 0 to N-1, or A to B-1 as A:B")
    simulate.add_argument(
        "--payments", type=_positive, default=PAYMENTS_DEFAULT, metavar="N", help="for a seed"
    )
    simulate.add_argument("--faults", choices=sorted(INTENSITIES), default="heavy")
    simulate.add_argument("--workers", type=_positive, metavar="N", help="processes; all cores unless given")
    simulate.add_argument("--bug", metavar="NAME", help="with one of paylab's planted bugs")
    simulate.add_argument("--history", metavar="FILE", help="write every event of the one seed as JSON lines")
    simulate.add_argument("--stop-at-first", action="store_true", help="stop at the first violation")
    simulate.add_argument(
        "--minimise", action="store_true", help="make the first failing run small and tell it"
    )
    simulate.add_argument("--out", metavar="DIR", help="write failing runs into folders here")
    simulate.add_argument("--json", action="store_true", help="print one JSON object")
    simulate.set_defaults(command=command)


def _seeds(text: str) -> range:
    first, colon, behind = text.rpartition(":")
    if colon and not first.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of seeds, nor A:B")
    start = int(first or 0)
    if not behind.isdecimal() or int(behind) <= start:
        raise argparse.ArgumentTypeError(f"{text} names no seed: give a number, or A:B with A below B")
    return range(start, int(behind))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def simulate(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run the command; returns the exit status."""
    from paylab.errors import LabError  # noqa: PLC0415 - a bad argument is refused before the network is imported
    from paylab.lab.planted_bugs import planted  # noqa: PLC0415

    replace = planted(options.bug) if options.bug else None
    if options.history and options.seeds:
        raise LabError("BAD_ARGUMENT", "--history writes one run: give --seed, not --seeds")
    for path in (options.history and Path(options.history).parent, options.out and Path(options.out).parent):
        if path and not path.is_dir():
            raise LabError("BAD_ARGUMENT", f"there is no folder {path}")
    if options.seeds:
        return _many(options, replace, say)
    return _one(options, replace, say)


def _one(options: argparse.Namespace, replace: Any, say: Callable[[str], None]) -> int:
    from paylab.lab.campaigns.campaigns import run_seed, save_case  # noqa: PLC0415

    result = run_seed(
        options.seed or 0,
        payments=options.payments,
        faults=options.faults,
        replace=replace,
        history=options.history,
        trace=True,
    )
    if options.json:
        say(json.dumps(result.to_json(), indent=2))
    else:
        say(
            "\n".join(
                f"{name:<14}{value}" for name, value in result.to_json().items() if name != "violations"
            )
        )
        say("\n".join(f"BROKEN  {line}" for line in result.violations) or "every invariant holds")
    if not result.ok:
        if options.out:
            save_case(result, Path(options.out) / f"seed-{result.seed}", replace=replace)
        _tell(options, result, replace, say)
    return 0 if result.ok else 1


def _many(options: argparse.Namespace, replace: Any, say: Callable[[str], None]) -> int:
    from paylab.lab.campaigns.campaigns import campaign  # noqa: PLC0415

    found = campaign(
        options.seeds,
        payments=options.payments,
        faults=options.faults,
        replace=replace,
        workers=options.workers,
        stop_at_first=options.stop_at_first,
        out=options.out,
        progress=sys.stderr.isatty(),
    )
    say(json.dumps(found.to_json(), indent=2) if options.json else str(found))
    if found.seeds < len(options.seeds) and not options.stop_at_first:
        return INTERRUPTED
    if found.failing:
        _tell(options, found.failing[0], replace, say)
    return 0 if found.ok else 1


def _tell(options: argparse.Namespace, result: Any, replace: Any, say: Callable[[str], None]) -> None:
    """The smallest failing run, if it is asked for and no JSON is."""
    from paylab.lab.campaigns.minimise import minimise  # noqa: PLC0415

    if options.minimise and not options.json:
        say(f"\n{minimise(result, replace=replace)}")
