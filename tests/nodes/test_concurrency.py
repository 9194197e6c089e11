"""Many at once: one account that cannot pay for all, two drivers of one payment, a server that was paused."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from paylab import Lab
from paylab.core.authorization import Identity, Role
from paylab.core.coordinator import Timing
from paylab.core.ledger import Account
from paylab.core.money import Money
from paylab.core.payment import Payment, State
from paylab.errors import LabError
from paylab.nodes import payment_store, wire
from paylab.nodes.bank_server import BankServer
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.host import Host
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.payment_store import PaymentStore, Replacement
from paylab.pb import bank_pb2

ASKED, AFFORDABLE = 200, 120
LEASE_S = 0.9


class PatientCoordinator(CoordinatorNode):
    """Does not give a bank up while a busy machine is slow."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=20.0))


@pytest.mark.parametrize("bank", ["boreal", "alpine"])
def test_an_account_pays_exactly_what_it_affords(world: str, cheap: PasswordCost, bank: str) -> None:
    """200 payments at the same time from an account that affords 120: 120 commit, 80 are declined."""
    slots = {"node.coordinator": PatientCoordinator}
    with Lab(name="many", world=world, password_cost=cheap, replace=slots) as lab:
        alice = lab.client("alice", bank="alpine", balance=f"{AFFORDABLE}.00 EUR")
        bob = lab.client("bob", bank=bank)
        futures = [alice.submit_pay(bob, "1.00 EUR", key=f"k{n}", deadline_s=60) for n in range(ASKED)]
        ends = Counter((future.result(90).state, future.result().reason) for future in futures)
        assert ends == {
            ("COMMITTED", ""): AFFORDABLE,
            ("DECLINED", "INSUFFICIENT_FUNDS"): ASKED - AFFORDABLE,
        }
        assert lab.settle(timeout_s=30)
        assert (str(alice.balance()), str(bob.balance())) == ("0.00 EUR", f"{AFFORDABLE}.00 EUR")
        assert lab.check().ok


# Two drivers of one payment -------------------------------------------------------------------------


def payment_of_two_drivers(lab: Lab, name: str) -> list[Payment]:
    """Two drivers conclude the same open attempt at the same time: what each finds there, and what stays."""

    async def drive() -> list[Payment]:
        store = PaymentStore(lab.world.host(Identity(name, Role.GATEWAY)))
        await store.create_tables()
        fields = (name, "alice", name, "", "alpine/alice", "boreal/bob")
        created = Payment(*fields, Money(100, "EUR"))
        opened = replace(created, state=State.PREPARING, attempt=1)
        await store.claim(opened)
        ends = [replace(opened, state=State.COMMITTED), replace(opened, state=State.QUEUED)]
        found = [await store.replace(opened, end, []) for end in ends]
        stays = await store.read(name)
        assert stays is not None
        return [*found, stays]

    return lab.world.call(drive())


def replace_without_comparing(connection: Connection, changes: Sequence[Replacement]) -> list[Payment]:
    """Write what the driver believes, whatever stands there."""
    for change in changes:
        row = {f"_{name}": value for name, value in payment_store._row(change.after).items()}
        payment_store._UPDATE.run(connection, [row])
    return [change.after for change in changes]


def test_of_two_drivers_the_second_changes_nothing(world: str, cheap: PasswordCost) -> None:
    """The row is compared and set: whoever comes second gets what the first has written."""
    lab = Lab(name="drivers", world=world, password_cost=cheap)
    assert [payment.state for payment in payment_of_two_drivers(lab, "p1")] == [State.COMMITTED] * 3
    with pytest.raises(LabError, match="p1"):
        lab.close()  # no bank has posted it


def test_without_comparing_the_second_driver_undoes_the_first(
    cheap: PasswordCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same two drivers: a committed payment is queued, and would be paid once more."""
    monkeypatch.setattr(payment_store, "_replace_all", replace_without_comparing)
    lab = Lab(name="drivers", world="simulated", password_cost=cheap)
    assert payment_of_two_drivers(lab, "p1")[-1].state is State.QUEUED
    with pytest.raises(LabError, match="was COMMITTED and became QUEUED"):
        lab.close()


# A paused server that resumes -----------------------------------------------------------------------


def paused_server(lab: Lab) -> list[str]:
    """One server stands still while its twin spends the money; then it goes on and is asked for more."""
    alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
    bob = lab.client("bob", bank="boreal")
    states = [alice.pay(bob, "1.00 EUR").state for _ in range(4)]  # both servers have seen the account
    lab.pause("alpine-1")
    lab.advance(1.5 * LEASE_S)  # the balancer misses it
    states.append(alice.pay(bob, "60.00 EUR", deadline_s=60).state)
    lab.resume("alpine-1")
    lab.advance(LEASE_S)
    states += [alice.pay(bob, "50.00 EUR", deadline_s=60).state for _ in range(4)]
    lab.settle(timeout_s=30)
    return states


def test_a_paused_server_that_resumes_cannot_accept_what_its_twin_has_spent(
    world: str, cheap: PasswordCost
) -> None:
    """A server keeps nothing between calls, so it reads what its twin has written."""
    slots = {"node.coordinator": PatientCoordinator}
    with Lab(name="paused", world=world, password_cost=cheap, replace=slots, lease_s=LEASE_S) as lab:
        assert paused_server(lab) == ["COMMITTED"] * 5 + ["DECLINED"] * 4
        assert lab.balances()["alpine/alice"] == Money(3_600, "EUR")
        assert lab.check().ok


class Remembers(BankServer):
    """Votes by the balances that it saw last: reading them at every call seemed a waste."""

    async def Prepare(self, request: Any, context: Any) -> bank_pb2.PrepareResponse:  # noqa: ARG002, N802 - gRPC's
        known: dict[str, Account] = self.__dict__.setdefault("known", {})
        rule: Callable[..., Any] = self.host.decisions.bank_prepare

        def prepare(books: Any, item: Any) -> Any:
            accounts = {name: known.get(name, account) for name, account in books.accounts.items()}
            vote, change = rule(books.rows.get(item.txn), accounts, item, vote=self.host.decisions.bank_vote)
            known.update(books.accounts)
            return vote, change

        votes = await self._apply([wire.prepare_from_pb(item) for item in request.items], prepare)
        return bank_pb2.PrepareResponse(votes=[wire.vote_to_pb(vote) for vote in votes])


def test_a_server_that_remembers_accepts_twice(cheap: PasswordCost) -> None:
    """The same schedule: it spends what its twin has spent, and the checks see it."""
    slots = {"node.coordinator": PatientCoordinator, "node.bank": Remembers}
    lab = Lab(name="paused", world="simulated", password_cost=cheap, replace=slots, lease_s=LEASE_S)
    assert paused_server(lab)[5:].count("COMMITTED") >= 1
    with pytest.raises(LabError, match="BROKEN"):
        lab.close()
