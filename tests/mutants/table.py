"""Writes README.md of this folder: the first seed that finds a mutant, and how small its run becomes.

python tests/mutants/table.py [NAME ...]
"""

import importlib
import json
import sys
from pathlib import Path

from paylab.lab.campaigns.minimise import TELLING, minimise
from paylab.lab.campaigns.seed_runs import run_seed
from paylab.lab.planted_bugs import PlantedBug

HERE = Path(__file__).parent
FOUND = HERE / "found.json"
SEEDS_MAX = 500
PAYMENTS = 12
# A small run has at most so many payments and faults; another failing seed is tried when it has more.
PAYMENTS_LEFT, FAULTS_LEFT = 2, 3
MINIMISED_MAX = 5
LOOK_FURTHER = 12
TRIES = 150


def main(names: list[str]) -> None:
    sys.path.insert(0, str(HERE))
    mutants: dict[str, PlantedBug] = importlib.import_module("mutants").MUTANTS

    for name in names or list(mutants):
        rows = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
        known = rows.get(name, {})
        row = known if "small_seed" in known else _row(mutants[name], known.get("seed", 0))
        rows[name] = row
        FOUND.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(name, row, flush=True)  # noqa: T201 - a script
    rows = json.loads(FOUND.read_text(encoding="utf-8"))
    (HERE / "README.md").write_text(_readme(mutants, rows), encoding="utf-8")


def _row(mutant: PlantedBug, start: int) -> dict[str, object]:
    """The first seed that finds it, and the first whose run becomes small."""
    first, best = -1, dict[str, object]()
    tried = 0
    for seed in range(start, SEEDS_MAX):
        result = run_seed(seed, payments=PAYMENTS, replace=mutant.replace)
        if result.ok:
            continue
        first = seed if first < 0 else first
        telling = any(check in TELLING for check in result.broken)
        if not telling and seed < first + LOOK_FURTHER:
            continue  # a later seed may show more than a rule that was not kept
        small = minimise(result, replace=mutant.replace, tries=TRIES)
        story = small.story().splitlines()
        row: dict[str, object] = {"small_seed": seed, "check": small.check, "payments": small.payments}
        row |= {"faults": small.faults, "lines": len(story), "step": story[-2]}
        best = row if not best or small.payments + small.faults < _size(best) else best
        tried += 1
        if tried == MINIMISED_MAX or (small.payments <= PAYMENTS_LEFT and small.faults <= FAULTS_LEFT):
            break
    return {"seed": first, **best}


def _size(row: dict[str, object]) -> int:
    return int(str(row["payments"])) + int(str(row["faults"]))


def _readme(mutants: dict[str, PlantedBug], rows: dict[str, dict[str, object]]) -> str:
    lines = [
        "# Mutants",
        "",
        "Networks with one mistake each. Campaigns of heavy faults with 12 payments a seed find every one.",
        "The first seed that does is shown: so many seeds before it found nothing. `table.py` wrote this.",
        "",
        "| mutant | mistake | first seed | check that fails | payments | faults | lines | faulty step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, mutant in mutants.items():
        row = rows.get(name, {})
        cells = [str(row.get(key, "")) for key in ("seed", "check", "payments", "faults", "lines", "step")]
        lines.append(f"| {name} | {mutant.about} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(sys.argv[1:])
