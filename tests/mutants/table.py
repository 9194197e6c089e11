"""Writes README.md of this folder: the first seed that finds a mutant, and how small its run becomes.

python tests/mutants/table.py [NAME ...]
"""

import importlib
import json
import sys
import time
from pathlib import Path

from paylab.lab.campaigns.minimise import TELLING, Minimal, minimise
from paylab.lab.campaigns.seed_runs import run_seed
from paylab.lab.planted_bugs import PlantedBug

HERE = Path(__file__).parent
FOUND = HERE / "found.json"
SEEDS_MAX = 500
PAYMENTS = 12
# A small run has at most so many payments and faults; another failing seed is tried when it has more.
PAYMENTS_LEFT, FAULTS_LEFT = 2, 3
QUICK_TRIES = 100
MINIMISED_MAX = 5
# From the first seed on; rules that were not kept say less than what comes of it, so they wait a little.
LOOK_FURTHER, WAIT_FOR_TELLING = 100, 12


def main(names: list[str]) -> None:
    sys.path.insert(0, str(HERE))
    mutants: dict[str, PlantedBug] = importlib.import_module("mutants").MUTANTS
    for name in names or list(mutants):
        began_s = time.process_time()
        row = _row(mutants[name])
        print(f"{time.process_time() - began_s:.0f} s  {name}: {row['step']}", flush=True)  # noqa: T201 - a script
        rows = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
        rows = {known: rows[known] for known in mutants if known in rows} | {name: row}
        FOUND.write_text(_json(rows), encoding="utf-8")
    rows = json.loads(FOUND.read_text(encoding="utf-8"))
    (HERE / "README.md").write_text(_readme(mutants, rows), encoding="utf-8")


def _row(mutant: PlantedBug) -> dict[str, object]:
    """The first seed that finds it, and the first whose run becomes small; else the smallest of some."""
    first, made = -1, list[Minimal]()
    for seed in range(SEEDS_MAX):
        if made and seed > first + LOOK_FURTHER:
            break
        result = run_seed(seed, payments=PAYMENTS, replace=mutant.replace)
        if result.ok:
            continue
        first = seed if first < 0 else first
        if not set(result.broken) & set(TELLING) and seed < first + WAIT_FOR_TELLING:
            continue
        made.append(minimise(result, replace=mutant.replace, tries=QUICK_TRIES))
        if _is_small(made[-1]) or len(made) == MINIMISED_MAX:
            break
    for quick in sorted(made, key=_size):
        if not _is_small(made[-1]):
            failing = run_seed(quick.case.seed, payments=PAYMENTS, replace=mutant.replace)
            made.append(minimise(failing, replace=mutant.replace))
    best = min(made, key=_size)
    return {"seed": first, **_minimal(best)}


def _is_small(run: Minimal) -> bool:
    return run.payments <= PAYMENTS_LEFT and run.faults <= FAULTS_LEFT


def _size(run: Minimal) -> int:
    return run.payments + run.faults


def _minimal(small: Minimal) -> dict[str, object]:
    story = small.story().splitlines()
    return {
        "small_seed": small.case.seed,
        "check": small.check,
        "payments": small.payments,
        "faults": small.faults,
        "lines": len(story),
        "tries": small.tries,
        "step": story[-2].removeprefix("What went wrong: "),
        "case": small.case.to_json(),
    }


def _json(rows: dict[str, dict[str, object]]) -> str:
    """One line a value, so that a case takes one, too."""
    values = {
        name: ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in row.items())
        for name, row in rows.items()
    }
    return (
        "{\n" + ",\n".join(f" {json.dumps(name)}: {{\n{row}\n }}" for name, row in values.items()) + "\n}\n"
    )


def _readme(mutants: dict[str, PlantedBug], rows: dict[str, dict[str, object]]) -> str:
    lines = [
        "# Mutants",
        "",
        "Networks with one mistake each. Campaigns of heavy faults with 12 payments a seed find every one;",
        "so many seeds before that one found nothing. A failing run is made small in so many tries and told",
        "in so many lines, one of which names the faulty step. `table.py` wrote this.",
        "",
        "| mutant | mistake | seed | check that fails | payments | faults | lines | tries | faulty step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ("seed", "check", "payments", "faults", "lines", "tries", "step")
    for name, mutant in mutants.items():
        cells = [str(rows.get(name, {}).get(key, "")) for key in columns]
        lines.append(f"| {name} | {mutant.about} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(sys.argv[1:])
