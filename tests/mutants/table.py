"""Writes README.md of this folder: the first seed that finds a mutant, and how small its run becomes.

python tests/mutants/table.py [NAME ...]
"""

import importlib
import json
import sys
from pathlib import Path

from paylab.lab.minimise import minimise
from paylab.lab.planted_bugs import PlantedBug
from paylab.lab.seed_runs import SeedResult, run_seed

HERE = Path(__file__).parent
FOUND = HERE / "found.json"
SEEDS_MAX = 500
PAYMENTS = 12


def main(names: list[str]) -> None:
    sys.path.insert(0, str(HERE))
    mutants: dict[str, PlantedBug] = importlib.import_module("mutants").MUTANTS

    for name in names or list(mutants):
        rows = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
        known = rows.get(name, {})
        row = known if "lines" in known else _row(mutants[name], known.get("seed", 0), known.get("check", ""))
        rows[name] = row
        FOUND.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(name, row, flush=True)  # noqa: T201 - a script
    rows = json.loads(FOUND.read_text(encoding="utf-8"))
    (HERE / "README.md").write_text(_readme(mutants, rows), encoding="utf-8")


def _row(mutant: PlantedBug, start: int, check: str) -> dict[str, object]:
    replace = mutant.replace
    for seed in range(start, SEEDS_MAX):
        result: SeedResult = run_seed(seed, payments=PAYMENTS, replace=replace)
        if not result.ok and (not check or check in result.broken):
            break
    else:
        return {"seed": -1}
    small = minimise(result, replace=replace, check=check, tries=120)
    return {
        "seed": seed,
        "check": small.check,
        "tries": small.tries,
        "payments": small.payments,
        "faults": small.faults,
        "lines": len(small.story().splitlines()),
        "step": small.story().splitlines()[-2],
    }


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
