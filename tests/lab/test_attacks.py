"""The attack matrix: every attack is refused as documented, and succeeds where its one defence is off."""

import json

import pytest

from paylab.__main__ import main
from paylab.core.authorization import Identity, Role
from paylab.errors import LabError
from paylab.lab.attacks.matrix import ATTACKS, Matrix, attacks
from paylab.lab.attacks.weakenings import WEAKENINGS, weakened
from paylab.lab.slots import filled


def test_every_attack_is_stopped_by_its_defence_and_by_nothing_else() -> None:
    """Refused with the documented status as it is; accepted when that one defence is off."""
    matrix = attacks()
    assert [row.to_json() for row in matrix if not row.ok] == []
    assert len(matrix) == len(ATTACKS)


def test_there_are_at_least_thirty() -> None:
    """And every defence that can be switched off is needed against one of them."""
    assert len(ATTACKS) >= 30
    assert {attack.weaken for attack in ATTACKS.values()} == set(WEAKENINGS)


def test_a_weakening_fills_one_slot() -> None:
    """One defence is off, all others are on."""
    for weakening in WEAKENINGS.values():
        assert len(weakening.replace) == 1
        filled(weakening.replace)
        assert weakening.about.endswith(".")


def test_an_attack_that_gets_through_fails_the_matrix() -> None:
    """The matrix notices a defence that is gone, and a weakening that weakens nothing."""
    (row,) = attacks(["wrong-audience"])
    assert Matrix([row]).ok
    swapped = type(row)(row.attack, row.when_weakened, row.when_weakened)
    assert not Matrix([swapped]).ok
    assert "NOT REFUSED" in repr(Matrix([swapped]))
    same = type(row)(row.attack, row.attempt, row.attempt)
    assert not Matrix([same]).ok
    assert "FAILS" in repr(Matrix([same]))


def test_the_command_prints_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, with what the matrix says; its status is 0 when all is well."""
    assert main(["attack", "expired", "no-certificate", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = [[row[key] for key in ("name", "refused", "status", "accepted_when_weakened")] for row in rows]
    assert found == [
        ["expired", True, "UNAUTHENTICATED", True],
        ["no-certificate", True, "UNAVAILABLE", True],
    ]


def test_the_command_knows_its_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    """It lists them, and refuses others in one line."""
    assert main(["attack", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ATTACKS)
    assert main(["attack", "sesame"]) == 2
    assert "'sesame' is no attack" in capsys.readouterr().err
    with pytest.raises(LabError, match="is no defence"):
        weakened("the moat")


def test_a_default_lab_is_as_strict_as_can_be() -> None:
    """No slot is weak by default: the transport asks for certificates and trusts one authority."""
    decisions, _ = filled({})
    transport = decisions.server_transport(Identity("gateway", Role.GATEWAY))
    assert transport.client_certificates
    assert transport.also_trusted_pem == b""
