"""No secret in anything that a run leaves behind: every secret that is known is looked for in all of it."""

import base64
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from cryptography.hazmat.primitives import serialization
from nbclient import NotebookClient

from paylab import Lab
from paylab.errors import PaylabError
from paylab.lab.attacks.forging import signing_key
from paylab.lab.clients import LabClient
from paylab.lab.faults import at, crash
from paylab.nodes.passwords import PasswordCost

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("0[02]_*.ipynb"))
PUBLIC = {"lab.key"}  # where the lab keeps its secret, for its owner alone


def encodings(secret: bytes) -> Iterator[str]:
    """The ways in which bytes become text by accident."""
    yield secret.hex()
    yield repr(secret)[2:-1]
    yield base64.b64encode(secret).decode().rstrip("=")
    yield base64.urlsafe_b64encode(secret).decode().rstrip("=")


def secrets_of(lab: Lab, clients: list[LabClient]) -> dict[str, str]:
    """Every secret of a network, by text, with its name."""
    _, private = signing_key(lab)
    raw = {"the lab's secret": lab._secret, "the authentication secret": lab.auth_secret}
    raw["the signing key"] = private.private_bytes_raw()
    known = {text: name for name, secret in raw.items() for text in encodings(secret)}
    for client in clients:
        inner = client._client
        known[inner._password] = f"the password of {client.name}"
        known[inner._refresh_token] = f"the refresh token of {client.name}"
        # Everybody may know what a token says; only its signature makes it one.
        known[inner._access_token.split(".")[2]] = f"the access token of {client.name}"
    for name, running in lab.network.nodes.items():
        host: Any = running.host
        if hasattr(host, "_credentials"):
            pem = host._credentials.key_pem
            key = serialization.load_pem_private_key(pem, None)
            number = key.private_numbers().private_value  # type: ignore[union-attr] # elliptic, as trustme makes
            known[pem.decode().splitlines()[2]] = known[str(number)] = f"the TLS key of {name}"
    assert "" not in known
    return known


def found(known: dict[str, str], produced: dict[str, str]) -> list[str]:
    return [
        f"{name} in {where}"
        for where, text in produced.items()
        for secret, name in known.items()
        if secret in text
    ]


def errors_of(lab: Lab, alice: LabClient) -> str:
    """What a user sees when things go wrong: messages and tracebacks, the values of variables included."""
    told = []
    for attempt in (
        lambda: alice.pay("boreal/bob", "0.00 EUR"),
        lambda: alice.payment("nothing"),
        lambda: lab.submit(lab.network.register(alice.name, "another")).result(30),
    ):
        try:
            attempt()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
            told += [str(error), repr(error), "".join(traceback.format_exception(error))]
    assert len(told) == 9
    return "\n".join(told)


def test_a_run_leaves_no_secret_behind(
    tmp_path: Path, cheap: PasswordCost, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Histories, stores, figures, stories, representations, errors, logs and output."""
    caplog.set_level(0)
    out = tmp_path / "out"
    out.mkdir()
    with Lab(name="secrets", data_dir=tmp_path / "books", password_cost=cheap) as lab:
        lab.history.stream_to(out / "history.jsonl")
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal", balance="100.00 EUR")
        receipt = alice.pay(bob, "12.50 EUR", key="order-1")
        bob.pay(alice, "1.00 EUR")
        alice._client._access_token = ""
        alice.balance()
        lab.submit(bob._client._refresh(bob._client._access_token)).result(30)
        lab.inject([at(0, crash("auth-1"))]).result(10)
        bob.balance()
        known = secrets_of(lab, [alice, bob])
        shown = [lab, alice, bob, receipt, lab.check(), lab.history, lab.network, lab.world, lab.graph()]
        shown += [lab.history.events[-1], *lab.network.nodes.values()]
        shown += [
            vars(running.node) for running in lab.network.nodes.values() if running.identity.role != "auth"
        ]
        produced = {
            "a representation": "\n".join(map(repr, shown)),
            "a timeline": str(lab.timeline(receipt)._repr_html_()),
            "a story": lab.explain(receipt),
            "events": "\n".join(map(repr, lab.history)),
            "an error": errors_of(lab, alice),
        }
        lab.history.to_shiviz(out / "shiviz.txt")
        lab.history.to_list_append(out / "elle.jsonl")
        lab.settle()
    for path in (p for p in tmp_path.rglob("*") if p.is_file() and p.name not in PUBLIC):
        produced[path.name] = path.read_bytes().decode("latin-1")
    captured = capfd.readouterr()
    produced |= {"stdout": captured.out, "stderr": captured.err, "the log": caplog.text}
    assert {"history.jsonl", "auth.sqlite"} <= produced.keys()
    assert found(known, produced) == []


def test_the_search_would_find_one(cheap: PasswordCost) -> None:
    """A history that forgot to redact, or an object that shows its fields, is found out."""
    with Lab(name="leak", world="simulated", password_cost=cheap) as lab:
        alice = lab.client("alice", bank="alpine")
        alice.balance()
        known = secrets_of(lab, [alice])
        leaks = {
            "messages": "\n".join(str(event.detail) for event in lab.history),
            "fields": repr(vars(alice._client)),
            "bytes": repr(lab.auth_secret),
        }
        assert {leak.rpartition(" in ")[2] for leak in found(known, leaks)} == set(leaks)
        with pytest.raises(PaylabError):
            alice.payment("nothing")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: str(path.stem))
def test_a_chapter_shows_no_secret(path: Path, tmp_path: Path) -> None:
    """Chapters about tokens show what they say, never one that could be used."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call] # nbformat has no types
    spy = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_secrets import secrets_of\n"
        "from paylab.lab.lab import open_labs\n"
        "known = {}\n"
        "for lab in open_labs():\n"
        "    known |= secrets_of(lab, [c for c in lab._clients.values() if c._client._access_token])\n"
        f"Path({str(tmp_path / 'known.json')!r}).write_text(json.dumps(known))\n"
    )
    v4: Any = nbformat.v4
    notebook.cells.insert(len(notebook.cells) - 1, v4.new_code_cell(spy))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    known: dict[str, str] = json.loads((tmp_path / "known.json").read_text())
    assert len(known) > 10
    outputs = {
        f"cell {n}": json.dumps(cell.outputs)
        for n, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.outputs
    }
    assert found(known, outputs) == []
