"""The face of a lab: callable from anywhere, closed once, honest about what went wrong, no secret shown."""

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from paylab import Lab, Receipt
from paylab.core.coordinator import Coordinator
from paylab.core.effects import Effect, Reply
from paylab.core.messages import Answer, Commit, Outcome
from paylab.core.money import Money
from paylab.errors import InvalidRequest, LabError
from paylab.lab.checking.history import detail_text
from paylab.lab.clients import LabClient
from paylab.nodes.passwords import PasswordCost

NAMES = count(1)
SMALL: dict[str, Any] = {"bank_servers": 1, "auth_servers": 1, "password_cost": PasswordCost(1, 8, 1)}


def pair(lab: Lab) -> tuple[LabClient, LabClient]:
    n = next(NAMES)
    return lab.client(f"alice-{n}", bank="alpine", balance="50.00 EUR"), lab.client(f"bob-{n}", bank="boreal")


# From everywhere ------------------------------------------------------------------------------------


def test_a_plain_call_works(lab: Lab) -> None:
    """As in a script, or in a cell."""
    alice, bob = pair(lab)
    receipt = alice.pay(bob, "12.50 EUR", key="order-1")
    assert receipt.state == "COMMITTED"
    assert str(receipt).startswith(f"COMMITTED: 12.50 EUR from {alice.account} to {bob.account}, payment ")
    assert lab.settle()
    assert lab.balances()[bob.account] == Money(1_250, "EUR")
    assert alice.balance() == Money(3_750, "EUR")


def test_a_blocking_call_works_inside_a_running_loop(lab: Lab) -> None:
    """A notebook's cells run inside the kernel's loop: the lab has a loop and a thread of its own."""
    alice, bob = pair(lab)

    async def cell() -> Receipt:
        return alice.pay(bob, "1.00 EUR")

    assert asyncio.run(cell()).state == "COMMITTED"


def test_a_future_can_be_awaited_on_any_loop(lab: Lab) -> None:
    """`await` gives the receipt, and many of them at once; what it raises is raised here."""
    alice, bob = pair(lab)

    async def cell() -> list[Receipt]:
        await alice.submit_pay(bob, "1.00 EUR")
        with pytest.raises(InvalidRequest):
            await alice.submit_pay("nowhere", "1.00 EUR")
        return await asyncio.gather(*(_await(alice.submit_pay(bob, "1.00 EUR")) for _ in range(3)))

    assert [receipt.state for receipt in asyncio.run(cell())] == ["COMMITTED"] * 3


async def _await(future: Any) -> Receipt:
    receipt: Receipt = await future
    return receipt


def test_other_threads_may_call(lab: Lab) -> None:
    """As a widget's callback does, on whatever thread it runs."""
    alice, bob = pair(lab)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: alice.pay(bob, "1.00 EUR").state, range(8)))
    assert states == ["COMMITTED"] * 8


@pytest.mark.parametrize("what", ["pay", "balance", "crash", "settle", "client"])
def test_the_loops_own_thread_may_not_block(lab: Lab, what: str) -> None:
    """It would wait for itself: the call raises at once instead."""
    alice, bob = pair(lab)
    blocking: dict[str, Callable[[], object]] = {
        "pay": lambda: alice.pay(bob, "1.00 EUR"),
        "balance": alice.balance,
        "crash": lambda: lab.crash("logger"),
        "settle": lab.settle,
        "client": lambda: lab.client("carol"),
    }

    async def on_the_loop() -> None:
        blocking[what]()

    with pytest.raises(LabError, match="WOULD_DEADLOCK"):
        lab.submit(on_the_loop()).result(30)


def test_the_same_name_is_the_same_user(lab: Lab) -> None:
    """Asking again opens nothing and loses nothing."""
    alice, _ = pair(lab)
    assert lab.client(alice.name, bank="boreal", balance="999.00 EUR") is alice


# Life -----------------------------------------------------------------------------------------------


def test_a_second_lab_of_the_same_name_closes_the_first() -> None:
    """Running a cell again leaves one network, and the old one says that it is closed."""
    first = Lab(name="cell", **SMALL)
    alice = first.client("alice", balance="1.00 EUR")
    with Lab(name="cell", **SMALL) as second:
        for use in (alice.balance, lambda: first.client("bob"), lambda: alice.submit_pay("a/b", "1.00 EUR")):
            with pytest.raises(LabError, match="CLOSED"):
                use()
        assert second.client("alice", balance="2.00 EUR").balance() == Money(200, "EUR")
        first.close()
        assert second.is_up("gateway")


def test_closing_twice_is_closing_once() -> None:
    """The second time does nothing."""
    lab = Lab(name="twice", **SMALL)
    lab.close()
    lab.close()


def test_closing_raises_what_failed_in_the_background() -> None:
    """A task of a node that raised is not lost; the lab is closed all the same."""
    lab = Lab(name="failing", **SMALL)

    async def fail() -> None:
        raise ValueError("boom")

    async def spawn() -> None:
        gateway: Any = lab.network.nodes["gateway"].host
        gateway.spawn(fail())

    lab.submit(spawn()).result(30)
    with pytest.raises(LabError, match="BROKEN: ValueError: boom"):
        lab.close()
    lab.close()


def test_an_error_in_the_block_is_not_hidden() -> None:
    """What the with block raised comes out, even when closing had something to say."""

    async def fail() -> None:
        raise ValueError("boom")

    async def spawn(lab: Lab) -> None:
        gateway: Any = lab.network.nodes["gateway"].host
        gateway.spawn(fail())

    def use() -> None:
        with Lab(name="hidden", **SMALL) as lab:
            lab.submit(spawn(lab)).result(30)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()


def test_nobody_waits_for_a_closed_lab() -> None:
    """A future that was never finished ends when the lab closes."""
    lab = Lab(name="waited", **SMALL)
    future = lab.submit(_forever())
    lab.close()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(30)


async def _forever() -> None:
    await asyncio.Event().wait()


def test_reset_starts_over() -> None:
    """The same lab with the same banks, and nobody in it."""
    with Lab(name="reset", banks=["cedar"], **SMALL) as lab:
        lab.client("alice", balance="5.00 EUR")
        lab.crash("logger")
        lab.reset()
        assert lab.balances() == {}
        assert lab.is_up("logger")
        assert lab.banks == ("cedar",)
        assert lab.client("alice", balance="7.00 EUR").balance() == Money(700, "EUR")


def test_a_second_boot_continues_where_the_first_ended(tmp_path: Path) -> None:
    """Same folder: same accounts, same users, same keys; nobody is charged twice."""
    with Lab(name="folder", data_dir=tmp_path, **SMALL) as lab:
        alice = lab.client("alice", bank="alpine", balance="50.00 EUR")
        bob = lab.client("bob", bank="boreal")
        first = alice.pay(bob, "12.50 EUR", key="order-1")
    with Lab(name="folder", data_dir=tmp_path, **SMALL) as lab:
        alice = lab.client("alice", bank="alpine", balance="50.00 EUR")
        bob = lab.client("bob", bank="boreal")
        assert alice.pay(bob, "12.50 EUR", key="order-1") == first
        assert alice.pay(bob, "1.00 EUR", key="order-2").state == "COMMITTED"
        assert (alice.balance(), bob.balance()) == (Money(3_650, "EUR"), Money(1_350, "EUR"))
        assert lab.settle()
        assert lab.check().ok
        assert lab.world.rows("coordinator", "SELECT epoch FROM epochs") == [(2,)]


def test_a_second_boot_finishes_what_the_first_began(tmp_path: Path) -> None:
    """A payment that was under way when its lab was closed is carried out by the next."""
    with Lab(name="folder", data_dir=tmp_path, **SMALL) as lab:
        alice = lab.client("alice", bank="alpine", balance="50.00 EUR")
        bob = lab.client("bob", bank="boreal")
        alice.balance()
        lab.crash("coordinator")
        with pytest.raises(Exception, match=r"UNKNOWN|DEADLINE"):
            alice.pay(bob, "5.00 EUR", key="k", deadline_s=0.5)
    with Lab(name="folder", data_dir=tmp_path, **SMALL) as lab:
        assert lab.settle()
        alice = lab.client("alice", bank="alpine")
        assert alice.pay("boreal/bob", "5.00 EUR", key="k").state == "COMMITTED"
        assert alice.balance() == Money(4_500, "EUR")


def test_a_temporary_folder_vanishes() -> None:
    """Without data_dir nothing is left behind."""
    lab = Lab(name="fleeting", **SMALL)
    folder = Path(lab.world.folder)  # type: ignore[attr-defined] # the real world has a folder
    assert folder.exists()
    lab.close()
    assert not folder.exists()


# Bad arguments --------------------------------------------------------------------------------------

BAD_LABS: dict[str, dict[str, Any]] = {
    "no bank": {"banks": []},
    "banks as text": {"banks": "alpine"},
    "a bank twice": {"banks": ["alpine", "alpine"]},
    "a bank's name": {"banks": ["Alpine Bank"]},
    "a bank with a slash": {"banks": ["alpine/1"]},
    "no server": {"bank_servers": 0},
    "many servers": {"auth_servers": 10},
    "a policy": {"policy": "best"},
    "a world": {"world": "imaginary"},
    "a slot": {"replace": {"bank.mood": str}},
    "a slot's content": {"replace": {"queue.delay": 3}},
    "a node's class": {"replace": {"node.queue": dict}},
    "a simulated folder": {"world": "simulated", "data_dir": "somewhere"},
}


@pytest.mark.parametrize("kind", BAD_LABS)
def test_bad_arguments_are_refused_in_one_line(kind: str) -> None:
    """Nothing is booted, and the line says what is wrong."""
    threads = threading.active_count()
    with pytest.raises(LabError) as caught:
        Lab(name="bad", **BAD_LABS[kind])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20
    assert threading.active_count() <= threads


BAD_USES: dict[str, Callable[[Lab], object]] = {
    "crash nobody": lambda lab: lab.crash("nobody"),
    "restart what runs": lambda lab: lab.restart("gateway"),
    "ask for nobody": lambda lab: lab.is_up("nobody"),
    "a client's name": lambda lab: lab.client("Alice Smith"),
    "a client's bank": lambda lab: lab.client("alice", bank="nowhere"),
}


@pytest.mark.parametrize("kind", BAD_USES)
def test_bad_uses_are_refused_in_one_line(lab: Lab, kind: str) -> None:
    """Each with what there is instead."""
    with pytest.raises(LabError) as caught:
        BAD_USES[kind](lab)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("amount", ["12,50 EUR", "12.505 EUR", "-1.00 EUR", "1.00", "", 12.5, 12])
def test_bad_amounts_are_refused_before_anything_is_sent(lab: Lab, amount: Any) -> None:
    """Floats, commas and missing currencies never reach the network."""
    alice, bob = pair(lab)
    for use in (alice.pay, alice.submit_pay):
        with pytest.raises(InvalidRequest):
            use(bob, amount)
    assert alice.payments() == []


def test_a_node_cannot_die_twice(lab: Lab) -> None:
    """The second crash is refused; after a restart all is well."""
    lab.crash("logger")
    with pytest.raises(LabError, match="ALREADY_DOWN"):
        lab.crash("logger")
    lab.restart("logger")
    assert lab.is_up("logger")


# Secrets --------------------------------------------------------------------------------------------


def test_no_secret_is_shown(lab: Lab) -> None:
    """Passwords, tokens and keys are in no repr and no line of the history, nor in forwarded bytes."""
    alice, bob = pair(lab)
    alice.pay(bob, "1.00 EUR")
    client = alice._client
    shown = [repr(each) for each in (lab, alice, client, lab.history, lab.network, lab.world, lab.check())]
    shown += [repr(node) for node in lab.network.nodes.values()]
    shown += [repr(event) + detail_text(event) for event in lab.history]
    text = "\n".join(shown)
    assert detail_text(next(iter(lab.history))) in text
    for secret in (client._password, client._access_token, client._refresh_token, lab._secret.hex()):
        assert secret
        assert secret not in text
    assert repr(alice) == f"<client {alice.name}, account {alice.account}>"
    assert "PRIVATE KEY" not in text


class NobodyPays(Coordinator):
    """Another commit protocol: it asks no bank and aborts everything."""

    def commit(self, request: Commit, *, now: float) -> list[Effect]:
        """Say no at once."""
        del now
        return [Reply(Answer(request.txn, Outcome.ABORTED, "INSUFFICIENT_FUNDS"))]


def test_another_commit_protocol_can_take_over(world: str, cheap: PasswordCost) -> None:
    """The network runs with it, also after a reset."""
    with Lab(name="other-protocol", world=world, password_cost=cheap, commit=NobodyPays) as lab:
        for _ in range(2):
            alice = lab.client("alice", balance="10.00 EUR")
            receipt = alice.pay(lab.client("bob", bank="boreal"), "1.00 EUR")
            assert (receipt.state, receipt.reason) == ("DECLINED", "INSUFFICIENT_FUNDS")
            lab.reset()


def test_a_boot_that_fails_leaves_nothing_serving() -> None:
    """Servers that nobody stopped would complain when the garbage collector finds them behind their loop."""
    with pytest.raises(LabError, match="there is no node 'nobody'"):
        Lab(processes=["nobody"])
    gc.collect()


def test_a_user_has_more_than_one_device(lab: Lab) -> None:
    """Each is a node of its own, and all are the same user: they share account, payments and keys."""
    carla = lab.client("carla", balance="10.00 EUR")
    phone = lab.device(carla, "phone")
    dora = lab.client("dora", bank="boreal")
    assert phone.account == carla.account
    assert carla.pay(dora, "1.00 EUR", key="book") == phone.pay(dora, "1.00 EUR", key="book")
    assert len(phone.payments()) == 1
    assert "carla-phone" in {event.node for event in lab.history}
