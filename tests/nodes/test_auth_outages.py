"""Tokens outlive what issues them: authentication servers that are down, and keys that change."""

import asyncio
from typing import Any

import jwt
import pytest

from paylab import Lab
from paylab.core.key_rotation import TIMES
from paylab.core.money import Money
from paylab.core.tokens import ACCESS_LIFETIME_S, RENEW_AHEAD_S
from paylab.errors import OutcomeUnknown
from paylab.lab.clients import LabClient
from paylab.nodes.events import Kind
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.token_verifier import FRESH_FOR_S

ROTATIONS = 20
CENT = Money(1, "EUR")
AUTH = ("auth-1", "auth-2")
# Clients that wait until they are told that a token has expired.
LATE: dict[str, Any] = {"client.renew": lambda **_: False}


def kid_of(client: LabClient) -> str:
    return str(jwt.get_unverified_header(client._client._access_token)["kid"])


def test_payments_go_on_while_every_authentication_server_is_down(lab: Lab) -> None:
    """Who has a token pays; who has none gets no answer, and is let in when one server is back."""
    alice = lab.client("alice", bank="alpine", balance="10.00 EUR")
    bob = lab.client("bob", bank="boreal", balance="10.00 EUR")
    assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
    for node in AUTH:
        lab.crash(node)
    for _ in range(3):
        assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
    with pytest.raises(OutcomeUnknown):
        bob.pay(alice, "1.00 EUR", deadline_s=0.5)
    lab.restart("auth-2")
    assert bob.pay(alice, "1.00 EUR").state == "COMMITTED"
    lab.restart("auth-1")


def test_payments_go_on_when_what_is_known_grows_old(cheap: PasswordCost) -> None:
    """For as long as the token lives, not only until the gateway would like to ask again."""
    with Lab(name="old keys", world="simulated", password_cost=cheap) as lab:
        alice = lab.client("alice", bank="alpine", balance="10.00 EUR")
        bob = lab.client("bob", bank="boreal")
        alice.pay(bob, "1.00 EUR")
        for node in AUTH:
            lab.crash(node)
        for _ in range(5):
            lab.advance(2 * FRESH_FOR_S)
            assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"


def test_a_token_from_before_a_rotation_works_until_it_expires(cheap: PasswordCost) -> None:
    """Also when its key has long ceased to sign; the next token is of the new key."""
    with Lab(name="old token", world="simulated", password_cost=cheap, lease_s=60.0, replace=LATE) as lab:
        alice = lab.client("alice", bank="alpine", balance="10.00 EUR")
        bob = lab.client("bob", bank="boreal")
        alice.pay(bob, "1.00 EUR")
        old, old_kid = alice._client._access_token, kid_of(alice)
        kid, _ = lab.submit(lab.network.rotate_keys()).result(30)
        lab.advance(ACCESS_LIFETIME_S - 10)
        assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
        assert alice._client._access_token == old
        lab.advance(20)
        assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
        assert kid_of(alice) == kid != old_kid
        lab.advance(TIMES.published_ahead_s + TIMES.kept_after_s)
        kids = [kid for (kid,) in lab.world.rows("auth", "SELECT kid FROM signing_keys")]
        assert kids == [kid]


def test_keys_rotate_by_themselves(cheap: PasswordCost) -> None:
    """Every day, without anybody's doing."""
    with Lab(name="by itself", world="simulated", password_cost=cheap, lease_s=3_600.0) as lab:
        kids: list[Any] = []
        for _ in range(2):
            lab.advance(TIMES.signs_for_s)
            kids += lab.world.rows("auth", "SELECT kid FROM signing_keys ORDER BY signs_from_s DESC")[:1]
    assert len(set(kids)) == 2


def test_no_token_is_wrongly_refused_across_twenty_rotations(cheap: PasswordCost) -> None:
    """Under load, tokens are refused for one reason only: that they have expired."""
    with Lab(name="rotations", world="simulated", password_cost=cheap, lease_s=600.0, replace=LATE) as lab:
        bob = lab.client("bob", bank="boreal")
        payers = [lab.client(f"payer-{n}", bank="alpine", balance="1000.00 EUR") for n in range(2)]
        kids: set[str] = set()
        rotated = asyncio.Event()

        async def load(payer: LabClient) -> int:
            paid = 0
            while not rotated.is_set():
                receipt = await payer._client.pay(payer=payer.account, payee=bob.account, money=CENT)
                assert receipt.state == "COMMITTED"
                kids.add(kid_of(payer))
                paid += 1
                await asyncio.sleep(40.0)
            return paid

        async def run() -> list[int]:
            payments = [asyncio.ensure_future(load(payer)) for payer in payers]
            for _ in range(ROTATIONS):
                await lab.network.rotate_keys()
                await asyncio.sleep(ACCESS_LIFETIME_S / 4)
            rotated.set()
            return await asyncio.gather(*payments)

        paid = lab.submit(run()).result(120)
        refusals = [
            str(event.detail)
            for event in lab.history
            if event.node == "gateway" and event.kind is Kind.REFUSED and "TOKEN" in str(event.detail)
        ]
    assert sum(paid) > 200
    assert len(kids) >= 5
    assert refusals
    assert all(refusal.startswith("TOKEN_EXPIRED") for refusal in refusals)


def test_a_client_renews_its_token_in_good_time(cheap: PasswordCost) -> None:
    """So an outage that begins just before a token ends turns nobody away."""
    with Lab(name="in time", world="simulated", password_cost=cheap, lease_s=60.0) as lab:
        alice = lab.client("alice", bank="alpine", balance="10.00 EUR")
        bob = lab.client("bob", bank="boreal")
        alice.pay(bob, "1.00 EUR")
        first = alice._client._access_token
        lab.advance(ACCESS_LIFETIME_S - RENEW_AHEAD_S + 1)
        alice.pay(bob, "1.00 EUR")
        lab.advance(1)
        assert alice._client._access_token != first
        for node in AUTH:
            lab.crash(node)
        lab.advance(RENEW_AHEAD_S)
        assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
