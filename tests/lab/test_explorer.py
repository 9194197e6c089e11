"""The explorer: the protocol holds in every state of a space, and every mutant breaks in the fewest steps."""

import importlib
import json
import random
import sys
from pathlib import Path

import pytest

from paylab.__main__ import main
from paylab.core.decisions import DEFAULT
from paylab.errors import LabError
from paylab.lab.exploring.board import BUDGET_MASK, EVERYTHING, FIELDS_AT, Board
from paylab.lab.exploring.explorer import SLOTS, Exploration, explore
from paylab.lab.exploring.invariants import Invariants
from paylab.lab.exploring.model import Open
from paylab.lab.exploring.moves import Move, Moves
from paylab.lab.exploring.search import Search
from paylab.lab.exploring.space import Space
from paylab.lab.exploring.symmetry import Symmetry
from paylab.lab.planted_bugs import PLANTED
from paylab.lab.slots import filled

sys.path.insert(0, str(Path(__file__).parents[1] / "mutants"))
MUTANTS = importlib.import_module("mutants").MUTANTS

NOTHING = {"crashes": 0, "losses": 0, "duplicates": 0}
LOSS, CRASH, DOUBLE = NOTHING | {"losses": 1}, NOTHING | {"crashes": 1}, NOTHING | {"duplicates": 1}
INSIDE = LOSS | {"banks": 1}
# For each mutant the fewest faults that show it, the invariant that breaks, and in how many steps.
FOUND: dict[str, tuple[dict[str, int], str, int]] = {
    "decision-before-force": (CRASH, "the gateway's answer agrees with the ledgers", 7),
    "forgotten-decisions": (CRASH, "decisions never contradict", 7),
    "ended-at-first-ack": (LOSS, "the gateway's answer agrees with the ledgers", 14),
    "one-phase-not-asked": (INSIDE, "decisions never contradict", 4),
    "abort-alone": (LOSS, "both legs or none", 10),
    "vote-without-hold": (DOUBLE, "balances and holds follow from the rows", 3),
    "holds-kept": (LOSS, "balances and holds follow from the rows", 5),
    "credit-at-prepare": (DOUBLE, "balances and holds follow from the rows", 3),
    "late-prepare-accepted": (INSIDE, "decisions never contradict", 6),
    "tombstone-lost": (INSIDE, "decisions never contradict", 6),
    "hold-twice": (DOUBLE, "nothing is overdrawn", 4),
    "post-twice": (DOUBLE, "nothing is overdrawn", 8),
    "commit-alone": (CRASH | LOSS | {"crashes": 1}, "both legs or none", 5),
    "holds-ignored": (LOSS, "nothing is overdrawn", 8),
    "any-epoch": (CRASH | {"duplicates": 1}, "whatever happens, nothing stays in doubt for ever", 14),
    "ended-without-gateway": (CRASH | {"duplicates": 1}, "decisions never contradict", 12),
    "first-yes": (DOUBLE, "both legs or none", 5),
    "presumed-commit": (CRASH, "decisions never contradict", 5),
    "two-attempts": (DOUBLE, "the gateway's answer agrees with the ledgers", 7),
    "timeout-declined": (DOUBLE, "the gateway's answer agrees with the ledgers", 7),
}
# A no that is forgotten does harm only when money comes in meanwhile, and in the model nobody is paid.
OUT_OF_REACH = {"no-forgotten"}


def explored(space: dict[str, int], name: str = "") -> Exploration:
    return explore(Space(**space), replace=MUTANTS[name].replace if name else None, states_max=50_000)


@pytest.mark.parametrize(
    "space",
    [
        LOSS,
        CRASH,
        DOUBLE,
        INSIDE,
        INSIDE | {"crashes": 1, "duplicates": 1},
        NOTHING | {"payments": 2, "attempts": 1},
        LOSS | {"banks": 3, "attempts": 1},
    ],
    ids=lambda space: "-".join(f"{value}{name}" for name, value in space.items() if value),
)
def test_the_protocol_breaks_nowhere(space: dict[str, int]) -> None:
    """Every state of these spaces is visited; each keeps every invariant, and from each there is a way on."""
    found = explored(space)
    assert found.complete
    assert found.violations == ()
    assert found.trace is None
    assert "whatever happens, nothing stays in doubt for ever" in found.covered["invariants"]


def test_every_mutant_of_a_rule_that_the_explorer_asks_is_in_the_table() -> None:
    """At least ten; those whose mistake lies in another node are left to campaigns."""
    mine = {name for name, mutant in MUTANTS.items() if set(mutant.replace) <= set(SLOTS)}
    assert mine == set(FOUND) | OUT_OF_REACH
    assert len(FOUND) >= 10


@pytest.mark.parametrize("name", FOUND)
def test_a_mutant_is_found_by_the_shortest_way(name: str) -> None:
    """The way has as many steps as the search was deep, and only its last state is wrong."""
    space, invariant, steps = FOUND[name]
    found = explored(space, name)
    assert found.violations[0].startswith(f"{invariant}: ")
    assert found.trace is not None
    assert len(found.trace) == steps
    assert "for ever" in invariant or found.depth == steps - 1
    assert (
        found.trace.steps[-1].holds.keys() == {"gateway", "coordinator", "alpine", "boreal"}
        or space is INSIDE
    )


def test_no_state_with_fewer_steps_is_wrong() -> None:
    """Beside the search: every state that so few moves lead to, whatever way, keeps every invariant."""
    space, _, steps = FOUND["decision-before-force"]
    decisions, _ = filled(MUTANTS["decision-before-force"].replace)
    board = Board(Space(**space), decisions)
    moves, invariants = Moves(board), Invariants(board)
    layer = set(board.openings())
    for step in range(steps + 1):
        broken = [packed for packed in layer if invariants.broken(packed)]
        assert bool(broken) == (step == steps)
        layer = {_after(board, invariants, packed, move) for packed in layer for move in moves.of(packed)}


def _after(board: Board, invariants: Invariants, packed: int, move: Move) -> int:
    after = packed & move.keep | move.put
    if packed & BUDGET_MASK and not after & BUDGET_MASK:
        after = board.made_safe(after)
    return after & invariants.keep(after)


# What is looked up is what the rules say ------------------------------------------------------------


def test_what_is_looked_up_is_what_the_rules_say() -> None:
    """On random walks the successors by table are those by rule, and a delivery is what its receiver does."""
    board = Board(Space(), DEFAULT)
    search = Search(board, states_max=0, told=lambda _: None)
    moves, invariants = Moves(board), Invariants(board)
    rng = random.Random(8)  # noqa: S311 - walks hide nothing
    for _ in range(30):
        packed = rng.choice(list(board.openings()))
        for _ in range(40):
            every = list(moves.of(packed))
            fair, faulty = search._successors(packed)
            assert set(fair) == {packed & m.keep | m.put for m in every if not m.fault}
            assert set(faulty) == {packed & m.keep | m.put for m in every if m.fault}
            if not every:
                break
            move = rng.choice(every)
            if move.message and not move.fault and not isinstance(move.message.body, Open):
                own = board.fields[move.node]
                state = own.actor.receive(own.state(packed), move.message)[0].state
                assert own.state(packed & move.keep | move.put) in (
                    state,
                    getattr(own.actor, "safe", id)(state),
                )
            packed = _after(board, invariants, packed, move)


@pytest.mark.parametrize(
    "space", [LOSS, CRASH | {"attempts": 1}, DOUBLE, INSIDE | {"crashes": 1, "duplicates": 1}]
)
def test_messages_that_are_dropped_are_missed_by_nobody(
    space: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether messages of which nothing comes stay on their way or not, the nodes reach the same states."""
    reached = []
    for keep in (Invariants.keep, lambda *_: EVERYTHING):
        monkeypatch.setattr(Invariants, "keep", keep)
        board = Board(Space(**space), DEFAULT)
        found = Search(board, states_max=50_000, told=lambda _: None).run()
        assert found.complete
        fields = board.fields.values()
        reached.append(
            (len(found.order), {tuple(own.state(state) for own in fields) for state in found.order})
        )
    (few, with_drops), (many, without) = reached
    assert few < many
    assert with_drops == without


def test_names_of_what_is_alike_make_no_difference() -> None:
    """Two of three banks and two payments are alike: renamed states have renamed successors."""
    board = Board(Space(banks=3, payments=2, crashes=1, losses=0, duplicates=0), DEFAULT)
    symmetry, moves, invariants = Symmetry(board), Moves(board), Invariants(board)
    rng = random.Random(8)  # noqa: S311 - walks hide nothing
    packed = next(board.openings())
    for _ in range(25):
        after = sorted({_after(board, invariants, packed, move) for move in moves.of(packed)})
        for image in symmetry.images(packed):
            renamed = {_after(board, invariants, image, move) for move in moves.of(image)}
            assert {symmetry.canonical(each) for each in renamed} == {symmetry.canonical(a) for a in after}
        packed = rng.choice(after)


def test_the_same_search_twice_sees_the_same_states_in_the_same_order() -> None:
    """Nothing depends on how sets and dictionaries are laid out."""
    orders = []
    for _ in range(2):
        board = Board(Space(**LOSS), DEFAULT)
        found = Search(board, states_max=10_000, told=lambda _: None).run()
        orders.append([(state >> FIELDS_AT, state) for state in found.order])
    assert orders[0] == orders[1]


# Faces ----------------------------------------------------------------------------------------------


def test_a_trace_is_a_table_and_a_timeline() -> None:
    """Each step says what happened and who holds what; the timeline grows with the steps."""
    trace = explored(CRASH, "forgotten-decisions").trace
    assert trace is not None
    assert trace.steps[6].what == (
        "coordinator gets yes p1/1 from boreal; writes COMMIT p1/1, and dies before the Reply"
    )
    assert trace.steps[6].holds["coordinator"] == "on disk: COMMIT p1/1"
    assert "p1/1 PREPARED" in trace.steps[6].holds["alpine"]
    assert trace.steps[7].on_the_way[-1] == "ABORTED p1/1 → alpine"
    shown = [trace.timeline(step).shown for step in range(len(trace) + 1)]
    assert shown == sorted(shown)
    assert shown[-1] > shown[0]
    assert "<svg" in trace.show(6)._repr_html_()
    assert trace.broken in trace.show(7)._repr_html_()
    assert trace.broken not in trace.show(6)._repr_html_()


def test_a_part_of_a_space_is_called_a_part() -> None:
    """With a bound on states the search says that it is not complete, and that nobody looked for ways out."""
    found = explore(Space(), states_max=10)
    assert not found.complete
    assert found.violations == ()
    assert "whatever happens, nothing stays in doubt for ever" not in found.covered["invariants"]
    assert "a part of the space" in repr(found)


def test_a_core_that_raises_is_found() -> None:
    """Whatever a rule raises breaks an invariant; the search goes on to say how one gets there."""

    def refuses(*_: object, **__: object) -> None:
        raise ValueError("not today")

    found = explore(Space(**NOTHING), replace={"bank.vote": refuses})
    assert found.violations == ("alpine: the rules answer every input: ValueError: not today",)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures as JSON; exit status 0 when nothing is found, 1 when something is, 2 for bad input."""
    arguments = ["explore", "--crashes", "0", "--duplicates", "0"]
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"states", "transitions", "depth", "complete", "violations", "states_per_s", "trace"} <= set(
        figures
    )
    assert figures["complete"] is True
    assert figures["trace"] == []
    assert main([*arguments, "--mutant", "abort-alone"]) == 1
    assert "both legs or none" in capsys.readouterr().out
    for wrong in (
        ["--banks", "9"],
        ["--mutant", "no-such-bug"],
        ["--states", "0"],
        ["--mutant", "replay-differs"],
    ):
        assert main(["explore", *wrong]) == 2
        error = capsys.readouterr().err
        assert error.startswith("paylab: ")
        assert error.count("\n") == 1


def test_slots_that_no_actor_asks_are_refused() -> None:
    """A planted bug of the logger would be explored without effect."""
    with pytest.raises(LabError, match=r"no node that asks logger\.fresh"):
        explore(replace=PLANTED["log-without-dedup"].replace)
