"""The gateway over gRPC: a key is charged once, a deadline ends the waiting and not the work."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import grpc
import pytest

from paylab import Lab
from paylab.core.money import Money
from paylab.errors import InvalidRequest, KeyReused, NotFound, OutcomeUnknown, PermissionDenied
from paylab.lab.clients import LabClient
from paylab.nodes import wire
from paylab.pb import payment_gateway_pb2 as pb

NAMES = count(1)


def client(lab: Lab, balance: str = "100.00 EUR") -> LabClient:
    return lab.client(f"payer-{next(NAMES)}", bank="alpine", balance=balance)


def shop(lab: Lab, bank: str = "boreal") -> LabClient:
    return lab.client(f"payee-{next(NAMES)}", bank=bank)


def payments(lab: Lab) -> int:
    return int(lab.world.rows("gateway", "SELECT count(*) FROM payments")[0][0])


async def raw_pay(of: LabClient, /, **request: Any) -> pb.Receipt:
    """One Pay call as it stands, without the client's patience."""
    sender = of._client
    await sender._logged_in()
    receipt: pb.Receipt = await sender._gateway().Pay(
        pb.PayRequest(**request), metadata=sender._metadata(), timeout=20.0, wait_for_ready=True
    )
    return receipt


def pay_fields(of: LabClient, to: str, amount_minor: int = 500, /, **changes: Any) -> dict[str, Any]:
    money = {"amount_minor": amount_minor, "currency": "EUR"}
    fields = {"idempotency_key": "k", "payer": of.account, "payee": to, "money": money}
    return {**fields, **changes}


def test_a_repeated_request_gets_the_same_answer_byte_for_byte(lab: Lab) -> None:
    """Committed or declined, at once or after a restart of the gateway: the answer is frozen."""
    alice, bob = client(lab), shop(lab)
    requests = [
        pay_fields(alice, bob.account, idempotency_key="good"),
        pay_fields(alice, bob.account, 99_999, idempotency_key="too much"),
        pay_fields(alice, "boreal/nobody", idempotency_key="nobody"),
    ]
    first = [lab.submit(raw_pay(alice, **request)).result(30) for request in requests]
    assert [pb.PaymentState.Name(receipt.state) for receipt in first] == ["COMMITTED", "DECLINED", "DECLINED"]
    assert [receipt.reason for receipt in first] == ["", "INSUFFICIENT_FUNDS", "ACCOUNT_NOT_FOUND"]
    lab.crash("gateway")
    lab.restart("gateway")
    again = [lab.submit(raw_pay(alice, **request)).result(30) for request in requests]
    assert [r.SerializeToString(deterministic=True) for r in again] == [
        r.SerializeToString(deterministic=True) for r in first
    ]


def test_another_request_under_a_key_is_refused(lab: Lab) -> None:
    """Another amount or payee is KEY_REUSED; the same key of another caller is another key."""
    alice, bob = client(lab), shop(lab)
    alice.pay(bob, "1.00 EUR", key="order")
    for payee, amount in ((bob.account, "1.01 EUR"), ("boreal/nobody", "1.00 EUR")):
        with pytest.raises(KeyReused) as caught:
            alice.pay(payee, amount, key="order")
        assert caught.value.definite
    assert bob.pay(alice, "1.00 EUR", key="order").state == "COMMITTED"
    assert alice.balance() == Money(10_000, "EUR")
    assert len(alice.payments()) == 1


@pytest.mark.parametrize("bank", ["boreal", "alpine"])
def test_twenty_calls_with_one_key_charge_once(lab: Lab, bank: str) -> None:
    """All at the same time, across banks and inside one: one payment, and everybody gets its receipt."""
    alice, bob = client(lab), shop(lab, bank)
    futures = [alice.submit_pay(bob, "7.00 EUR", key="once") for _ in range(20)]
    receipts = {future.result(60) for future in futures}
    assert [receipt.state for receipt in receipts] == ["COMMITTED"]
    assert (alice.balance(), bob.balance()) == (Money(9_300, "EUR"), Money(700, "EUR"))
    assert len(alice.payments()) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"idempotency_key": ""}, "KEY_MISSING"),
    "a long key": ({"idempotency_key": "k" * 256}, "KEY_MISSING"),
    "nothing": ({"money": {"amount_minor": 0, "currency": "EUR"}}, "INVALID_AMOUNT"),
    "less than nothing": ({"money": {"amount_minor": -5, "currency": "EUR"}}, "INVALID_AMOUNT"),
    "far too much": ({"money": {"amount_minor": 10**13, "currency": "EUR"}}, "INVALID_AMOUNT"),
    "no money": ({"money": None}, "BAD_CURRENCY"),
    "an unknown currency": ({"money": {"amount_minor": 5, "currency": "XXX"}}, "BAD_CURRENCY"),
    "no payee": ({"payee": ""}, "BAD_ACCOUNT"),
    "an internal account": ({"payee": "boreal/@clearing"}, "BAD_ACCOUNT"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_invalid_is_not_saved(lab: Lab, kind: str) -> None:
    """INVALID_ARGUMENT with its reason, no payment, and the key stays free for a better request."""
    changes, reason = BAD[kind]
    alice, bob = client(lab), shop(lab)
    before = payments(lab)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        lab.submit(raw_pay(alice, **pay_fields(alice, bob.account, **changes))).result(30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = wire.status_to_error(caught.value)
    assert isinstance(error, InvalidRequest)
    assert error.reason == reason
    assert payments(lab) == before
    assert alice.pay(bob, "1.00 EUR", key="k").state == "COMMITTED"


def test_only_the_owner_pays_and_looks(lab: Lab) -> None:
    """Neither somebody else's account nor somebody else's payment is within reach."""
    alice, mallory = client(lab), client(lab)
    receipt = alice.pay(mallory, "1.00 EUR")
    before = payments(lab)
    with pytest.raises(PermissionDenied) as caught:
        lab.submit(
            mallory._client.pay(payer=alice.account, payee=mallory.account, money=Money(100, "EUR"))
        ).result(30)
    assert caught.value.reason == "NOT_OWNER"
    assert payments(lab) == before
    with pytest.raises(NotFound):
        mallory.payment(receipt.payment)
    with pytest.raises(NotFound):
        alice.payment("no such payment")
    assert alice.payment(receipt.payment) == receipt
    assert mallory.payments() == []


def test_payments_are_listed_newest_first(lab: Lab) -> None:
    """Only mine, and no more than asked for."""
    alice, bob = client(lab), shop(lab)
    made = [alice.pay(bob, "1.00 EUR", key=f"k{n}").payment for n in range(3)]
    assert [receipt.payment for receipt in alice.payments()] == made[::-1]
    assert [receipt.payment for receipt in alice.payments(limit=2)] == made[:0:-1]


def test_a_terminal_payment_is_watched_once(lab: Lab) -> None:
    """The stream gives the present state and ends, as nothing can follow."""
    alice, bob = client(lab), shop(lab)
    receipt = alice.pay(bob, "1.00 EUR")
    assert list(alice.watch(receipt.payment)) == [receipt]
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        list(alice.watch("no such payment"))


def test_a_deadline_ends_the_waiting_and_not_the_work(lab: Lab) -> None:
    """OUTCOME_UNKNOWN while the coordinator is away; asked again with the same key it has been paid, once."""
    alice, bob = client(lab), shop(lab)
    alice.balance()
    lab.crash("coordinator")
    with pytest.raises(OutcomeUnknown) as caught:
        alice.pay(bob, "3.00 EUR", key="k", deadline_s=0.5)
    assert not caught.value.definite
    lab.restart("coordinator")
    assert alice.pay(bob, "3.00 EUR", key="k").state == "COMMITTED"
    assert alice.balance() == Money(9_700, "EUR")
    assert lab.settle()


def test_the_answer_says_outcome_unknown_on_the_wire(lab: Lab) -> None:
    """Just before the caller stops listening the gateway says so itself: DEADLINE_EXCEEDED with a reason."""
    alice, bob = client(lab), shop(lab)
    alice.balance()

    async def hurried() -> pb.Receipt:
        sender = alice._client
        request = pb.PayRequest(**pay_fields(alice, bob.account))
        receipt: pb.Receipt = await sender._gateway().Pay(request, metadata=sender._metadata(), timeout=1.0)
        return receipt

    lab.crash("coordinator")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        lab.submit(hurried()).result(30)
    lab.restart("coordinator")
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert wire.status_to_error(caught.value).reason == "OUTCOME_UNKNOWN"
    assert lab.settle()
    assert alice.pay(bob, "5.00 EUR", key="k").state == "COMMITTED"


def test_many_threads_pay_at_once(lab: Lab) -> None:
    """The blocking face may be used from any number of threads."""
    alice, bob = client(lab), shop(lab)
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda n: alice.pay(bob, "1.00 EUR", key=f"t{n}"), range(24)))
    assert [receipt.state for receipt in receipts] == ["COMMITTED"] * 24
    assert bob.balance() == Money(2_400, "EUR")


def test_a_hold_is_never_spent_twice(lab: Lab) -> None:
    """Thirty payments at once from an account that can pay ten: ten are committed, twenty declined."""
    alice, bob = client(lab, "10.00 EUR"), shop(lab)
    futures = [alice.submit_pay(bob, "1.00 EUR") for _ in range(30)]
    states = sorted(future.result(60).state for future in futures)
    assert states == ["COMMITTED"] * 10 + ["DECLINED"] * 20
    assert lab.settle()
    assert (alice.balance(), bob.balance()) == (Money(0, "EUR"), Money(1_000, "EUR"))
    assert lab.check().ok, lab.check()


def test_what_the_store_holds_is_no_secret(lab: Lab) -> None:
    """No password, token or key of a user is in the gateway's rows."""
    alice, bob = client(lab), shop(lab)
    alice.pay(bob, "1.00 EUR")
    stored = json.dumps(lab.world.rows("gateway", "SELECT * FROM payments"))
    for secret in (alice._client._password, alice._client._access_token, alice._client._refresh_token):
        assert secret
        assert secret not in stored


@pytest.mark.parametrize(("account", "amount_minor"), [("@clearing", 0), ("a/b", 0), ("", 0), ("poor", -1)])
def test_a_bank_opens_no_such_account(lab: Lab, account: str, amount_minor: int) -> None:
    """Internal names and debts are refused, whoever asks."""
    opening = [(account, Money(amount_minor, "EUR"), "")]
    with pytest.raises(grpc.RpcError) as refused:
        lab.world.call(lab.network.open_accounts("alpine", opening))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
