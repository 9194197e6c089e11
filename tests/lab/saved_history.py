"""Saved histories for the tests: a small run of either world, and what it takes to break them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paylab
from paylab.lab.checking.history_file import seal

Entry = dict[str, Any]


def save(path: Path, *, world: str, seed: int = 7) -> str:
    """A run with every kind of payment and commit, a decline, a repeated key, an expiry and a crash.

    Returns the SHA-256.
    """
    with paylab.Lab(world=world, seed=seed, name=f"saved-{world}") as lab:
        writer = lab.history.stream_to(path)
        ada = lab.client("ada", bank="alpine", balance="100.00 EUR")
        ben = lab.client("ben", bank="boreal")
        cleo = lab.client("cleo", bank="alpine")
        assert ada.pay(ben, "12.50 EUR", key="one").state == "COMMITTED"
        assert ada.pay(ben, "12.50 EUR", key="one").state == "COMMITTED"
        assert ben.pay(cleo, "2.50 EUR", key="two").state == "COMMITTED"
        assert ada.pay(cleo, "7.00 EUR", key="three").state == "COMMITTED"
        assert ben.pay(ada, "5000.00 EUR", key="four").state == "DECLINED"
        lab.crash("alpine-1")
        assert ada.pay(ben, "3.00 EUR", key="five").state == "COMMITTED"
        lab.restart("alpine-1")
        held = ada.authorise(ben, "10.00 EUR", key="six")
        captured = ben.capture(held, "4.00 EUR", key="seven")
        assert ben.void(held, key="eight").state == "COMMITTED"
        assert ben.refund(captured, "1.00 EUR", key="nine").state == "COMMITTED"
        assert ada.authorise(ben, "5.00 EUR", lifetime_s=0.01, key="ten").state == "COMMITTED"
        lab.advance(0.05)
        assert ada.pay(cleo, "1.00 EUR", key="eleven").state == "COMMITTED"
        assert lab.settle()
        assert lab.check().ok
    return writer.close()


def entries(path: Path) -> list[Entry]:
    """The lines of a file, without their chain."""
    lines: list[Entry] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["chain"]
    return lines


def write(path: Path, lines: list[Entry]) -> Path:
    """A file with these lines whose chain fits, as somebody would make it who knows how."""
    lines[-1]["events"] = len(lines) - 2
    path.write_text(seal(lines), encoding="utf-8")
    return path


def of(
    lines: list[Entry], at: str, wanted: Callable[[Entry], bool] = lambda _: True
) -> Iterator[tuple[int, Entry]]:
    """Line number and facts of every line whose facts are of that kind."""
    for number, line in enumerate(lines, start=1):
        facts = line.get("facts")
        if facts is not None and facts["at"] == at and wanted(facts):
            yield number, facts
