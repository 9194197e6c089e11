"""What a commit costs is counted from the history and equals the theory; another protocol costs otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from paylab import Lab
from paylab.core import participant
from paylab.core.coordinator import Coordinator
from paylab.core.effects import Append, Effect, Send
from paylab.core.messages import Ack, Prepare
from paylab.lab.checking import counting
from paylab.nodes import wire
from paylab.nodes.bank_server import BankServer
from paylab.pb import bank_pb2

COMMIT = {1: (2, 1), 2: (8, 5), 3: (12, 7), 4: (16, 9), 5: (20, 11)}
ABORT = {1: (2, 1), 2: (5, 1), 3: (8, 2), 4: (11, 3), 5: (14, 4)}


def test_counts_equal_theory(world: str) -> None:
    """For one to five banks, committed and aborted: messages and forced writes of presumed abort."""
    table = counting.table(world=world)
    counted = {
        (row.outcome, row.banks): (row.counted.messages, row.counted.forced_writes) for row in table.rows
    }
    assert counted == {("COMMITTED", n): costs for n, costs in COMMIT.items()} | {
        ("ABORTED", n): costs for n, costs in ABORT.items()
    }
    assert table.ok


def test_a_payment_is_counted_from_the_labs_history(lab: Lab) -> None:
    """Two banks, one bank, and a decline: each kind of message as often as the protocol says."""
    alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
    bob, shop = lab.client("bob", bank="boreal"), lab.client("shop", bank="alpine")
    across, inside = alice.pay(bob, "1.00 EUR"), alice.pay(shop, "1.00 EUR")
    declined = alice.pay("boreal/nobody", "1.00 EUR")
    assert lab.settle()
    assert counting.count(lab.history, across.payment) == counting.Count(2, 2, 2, 2, 0, 5)
    assert counting.count(lab.history, inside.payment) == counting.Count(1, 1, 0, 0, 0, 1)
    assert counting.count(lab.history, declined.payment) == counting.Count(2, 2, 1, 0, 0, 1)
    assert str(counting.count(lab.history, across.payment)) == "8 messages, 5 forced writes"


class LazyRecord(Coordinator):
    """Does not wait for its commit record."""

    def _commit(self, attempt: Any) -> list[Effect]:
        return [
            replace(effect, forced=False) if isinstance(effect, Append) else effect
            for effect in super()._commit(attempt)
        ]


class AskTwice(Coordinator):
    """Sends every Prepare twice."""

    def commit(self, request: Any, *, now: float) -> list[Effect]:
        effects = super().commit(request, now=now)
        return [*effects, *(e for e in effects if isinstance(e, Send) and isinstance(e.message, Prepare))]


class TellEverybody(Coordinator):
    """Tells also the bank that said no."""

    def _abort(self, attempt: Any, reason: str, *, tell: Any) -> list[Effect]:  # noqa: ARG002 - that is the point
        return super()._abort(attempt, reason, tell=attempt.banks)


class Polite(BankServer):
    """Acknowledges aborts, too."""

    async def Decide(self, request: Any, context: Any) -> bank_pb2.DecideResponse:  # noqa: ARG002, N802 - gRPC's
        acks: Sequence[Ack] = await self._decide([wire.decide_from_pb(item) for item in request.items])
        return bank_pb2.DecideResponse(acks=[wire.ack_to_pb(ack) for ack in acks])


def forced_abort(*arguments: Any) -> Any:
    """Presumed nothing: an abort is forced like a commit."""
    ack, change = participant.decide(*arguments)
    return ack, replace(change, forced=change.transaction is not None)


@pytest.mark.parametrize(
    ("slot", "mine", "outcome"),
    [
        ("coordinator.core", LazyRecord, "COMMITTED"),
        ("coordinator.core", AskTwice, "COMMITTED"),
        ("coordinator.core", TellEverybody, "ABORTED"),
        ("node.bank", Polite, "ABORTED"),
        ("bank.decide", forced_abort, "ABORTED"),
    ],
)
def test_another_protocol_costs_otherwise(slot: str, mine: Any, outcome: str) -> None:
    """A protocol that was changed is counted as it is, and the table says that it differs."""
    table = counting.table(banks=2, replace={slot: mine})
    assert not table.ok
    assert [row.outcome for row in table.rows if row.banks == 2 and not row.ok] in (
        [outcome],
        ["COMMITTED", "ABORTED"],
    )
    assert "differs" in str(table)
    assert "✘" in table._repr_html_()


def test_the_table_says_by_which_convention() -> None:
    """In text, in a notebook and for programs."""
    table = counting.table(banks=2)
    for text in (" ".join(str(table).split()), table._repr_html_(), table.to_json()["convention"]):
        assert "acknowledgements included" in text
    assert "4N = 8" in table._repr_html_()
    (row,) = [row for row in table.to_json()["rows"] if row["banks"] == 2 and row["outcome"] == "COMMITTED"]
    assert (row["messages"], row["messages_in_theory"], row["ok"]) == (8, 8, True)
