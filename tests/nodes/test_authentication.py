"""Users and tokens over gRPC: what is used up stays used up, and an expired token is renewed by itself."""

import asyncio
from itertools import count
from typing import Any

import grpc
import jwt
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from paylab import Lab
from paylab.core.lockout import BY_USER
from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S, TYPE, access_claims
from paylab.errors import InvalidRequest, Overloaded, PaylabError, PermissionDenied, Unauthenticated
from paylab.lab.attacks.forging import signing_key
from paylab.lab.clients import LabClient
from paylab.nodes import wire
from paylab.nodes.client import PaymentClient
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.signing_keys import unseal
from paylab.pb import authentication_pb2 as pb

NAMES = count(1)


@pytest.fixture
def alice(lab: Lab) -> LabClient:
    """A user who has logged in."""
    alice = lab.client(f"user-{next(NAMES)}", bank="alpine", balance="10.00 EUR")
    alice.balance()
    return alice


def signed(lab: Lab, alice: LabClient, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token as an authentication server would sign it, with other claims."""
    kid, private = signing_key(lab)
    now = lab.world.now()
    claims = access_claims(subject=alice.name, accounts=[alice.account], roles=[], token_id="t", now=now)
    return jwt.encode(
        {**claims, **changes},
        private,
        "EdDSA",
        headers={"kid": kid, "typ": TYPE, **(headers or {})},
    )


async def refresh(client: PaymentClient, token: str) -> pb.TokenResponse:
    response: pb.TokenResponse = await client._auth().Refresh(pb.RefreshRequest(refresh_token=token))
    return response


def claim(pair: pb.TokenResponse, name: str) -> Any:
    return jwt.decode(pair.access_token, options={"verify_signature": False})[name]


def restart_gateway(lab: Lab) -> None:
    """A gateway that has just started asks for keys and revocations at once."""
    lab.crash("gateway")
    lab.restart("gateway")


def refused(lab: Lab, work: Any) -> PaylabError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        lab.submit(work).result(30)
    return wire.status_to_error(caught.value)


def test_a_refresh_token_is_good_for_one_refresh(lab: Lab, alice: LabClient) -> None:
    """It gives a new pair. Should the answer be lost, the same request gets the same successor."""
    client = alice._client
    used = client._refresh_token
    pair = lab.submit(refresh(client, used)).result(30)
    assert pair.access_token
    assert pair.refresh_token != used
    assert pair.expires_in_s == ACCESS_LIFETIME_S
    again = lab.submit(refresh(client, used)).result(30)
    assert again.refresh_token == pair.refresh_token
    assert claim(again, "jti") == claim(pair, "jti")
    assert lab.submit(refresh(client, pair.refresh_token)).result(30).access_token


def test_a_refresh_token_that_comes_back_ends_its_family(lab: Lab, alice: LabClient) -> None:
    """Whoever stole it gets nothing, its owner must log in again, and the access tokens are revoked."""
    client = alice._client
    stolen = client._refresh_token
    first = lab.submit(refresh(client, stolen)).result(30)
    second = lab.submit(refresh(client, first.refresh_token)).result(30)
    for token in (stolen, first.refresh_token, second.refresh_token):
        error = refused(lab, refresh(client, token))
        assert isinstance(error, Unauthenticated)
        assert error.reason == "TOKEN_INVALID"
    revoked = {token_id for (token_id,) in lab.world.rows("auth", "SELECT token_id FROM revocations")}
    assert {claim(first, "jti"), claim(second, "jti")} <= revoked
    audit = [what for (what,) in lab.world.rows("auth", "SELECT what FROM audit")]
    assert sum(f"of {alice.name} came back" in what for what in audit) == 1
    client._access_token = second.access_token
    restart_gateway(lab)
    bob = lab.client("bob", bank="boreal")
    with pytest.raises(Unauthenticated, match="revoked"):
        alice.pay(bob, "1.00 EUR")
    client._access_token = ""


def test_signing_keys_are_sealed_at_rest(lab: Lab) -> None:
    """The store does not contain the key that signs, and without the lab's secret it cannot be opened."""
    kid, private = signing_key(lab)
    sealed = dict(lab.world.rows("auth", "SELECT kid, sealed FROM signing_keys"))[kid]
    assert private.private_bytes_raw() not in sealed
    with pytest.raises(InvalidTag):
        unseal(sealed, kid=kid, seal_key=bytes(32))


def test_an_access_token_can_be_revoked(lab: Lab, alice: LabClient) -> None:
    """Its holder ends it; a gateway that asks for the list refuses it, and goes on with the next one."""
    bob = lab.client("bob", bank="boreal")
    client = alice._client
    alice.pay(bob, "1.00 EUR")
    before = client._access_token

    async def revoke(token: str) -> None:
        await client._auth().Revoke(pb.RevokeRequest(token=token))

    for token in ("nonsense", "a.b.c", before):
        lab.submit(revoke(token)).result(30)
    restart_gateway(lab)
    with pytest.raises(Unauthenticated, match="revoked"):
        alice.pay(bob, "1.00 EUR")
    client._access_token = ""
    assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"


def test_guessing_takes_ever_longer_until_an_operator_unlocks(lab: Lab, alice: LabClient) -> None:
    """After five failures even the right password waits; who asks for nobody is told the same."""
    peer = alice._client

    async def login(name: str, password: str) -> Any:
        return await peer._auth().Login(pb.LoginRequest(username=name, password=password))

    for name in (alice.name, f"nobody-{alice.name}"):
        for _ in range(BY_USER.free):
            assert isinstance(refused(lab, login(name, "wrong")), Unauthenticated)
        error = refused(lab, login(name, peer._password))
        assert isinstance(error, Overloaded)
        assert error.reason == "LOCKED_OUT"
        assert 0 < error.pushback_s <= BY_USER.base_s
    lab.submit(lab.network.unlock(alice.name, peer=alice.name)).result(30)
    assert lab.submit(login(alice.name, peer._password)).result(30).access_token
    audit = [what for (what,) in lab.world.rows("auth", "SELECT what FROM audit ORDER BY seq")]
    assert any(f"user {alice.name} is locked" in what for what in audit)
    assert f"lab.operator.paylab unlocked user {alice.name}" in audit


def test_many_guesses_at_once_are_counted_before_they_are_looked_at(lab: Lab, alice: LabClient) -> None:
    """Of thirty that arrive together no more are tried than of thirty that wait for each other."""

    async def guess() -> int:
        stub = alice._client._auth()
        calls = [stub.Login(pb.LoginRequest(username=alice.name, password=f"{n}")) for n in range(30)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return sum("TOKEN_INVALID" in str(answer) for answer in answers)

    assert lab.submit(guess()).result(30) == BY_USER.free


def test_a_password_is_hashed_again_when_that_costs_more_now(world: str, cheap: PasswordCost) -> None:
    """At the next login; a lower cost changes nothing."""
    dearer = PasswordCost(time_cost=2, memory_kib=16, parallelism=1)
    with Lab(name=f"rehash {world}", world=world, password_cost=cheap, auth_servers=1) as lab:
        alice = lab.client("alice", bank="alpine")
        for cost, expected in ((dearer, "m=16,t=2"), (cheap, "m=16,t=2")):
            lab.crash("auth-1")
            lab.network.nodes["auth-1"].make.keywords["cost"] = cost  # type: ignore[attr-defined] # a partial
            lab.restart("auth-1")
            alice._client._access_token = ""
            alice.balance()
            ((stored,),) = lab.world.rows("auth", "SELECT password_hash FROM users")
            assert f"$argon2id$v=19${expected},p=1$" in stored


@pytest.mark.parametrize("name", ["", "a b", "eve\nlab unlocked", "-x", "é", "x" * 65])
def test_a_name_that_would_not_stay_on_its_line_is_none(lab: Lab, alice: LabClient, name: str) -> None:
    """Names go into logs and tokens."""

    async def register() -> Any:
        return await alice._client._auth().Register(pb.RegisterRequest(username=name, password="x"))

    error = refused(lab, register())
    assert isinstance(error, InvalidRequest)
    assert error.reason == "BAD_NAME"


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_a_made_up_refresh_token_is_refused(lab: Lab, alice: LabClient, token: str) -> None:
    """Only what was handed out counts."""
    assert isinstance(refused(lab, refresh(alice._client, token)), Unauthenticated)


def test_refresh_tokens_are_stored_as_hashes(lab: Lab, alice: LabClient) -> None:
    """Who reads the store can use none of them."""
    stored = str(lab.world.rows("auth", "SELECT * FROM refresh_tokens"))
    assert alice._client._refresh_token not in stored


def test_passwords_are_stored_as_argon2id(lab: Lab, alice: LabClient) -> None:
    """The hash names its algorithm; the password is nowhere."""
    rows = lab.world.rows("auth", "SELECT username, password_hash FROM users")
    assert dict(rows)[alice.name].startswith("$argon2id$")
    assert alice._client._password not in str(rows)


def test_the_client_renews_an_expired_token(lab: Lab, alice: LabClient) -> None:
    """The caller notices nothing: the payment goes through with a fresh token."""
    bob = lab.client("bob", bank="boreal")
    past = lab.world.now() - LEEWAY_S - 1
    stale = signed(lab, alice, exp=int(past), iat=int(past) - 900)
    alice._client._access_token = stale
    assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
    assert alice._client._access_token != stale


def test_the_client_logs_in_again_when_the_refresh_token_is_gone(lab: Lab, alice: LabClient) -> None:
    """As after a long absence."""
    past = lab.world.now() - LEEWAY_S - 1
    alice._client._access_token = signed(lab, alice, exp=int(past), iat=int(past) - 900)
    alice._client._refresh_token = "used up"
    assert str(alice.balance()) == "10.00 EUR"


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"typ": "JWT"}},
        {"headers": {"kid": "another"}},
        {"iss": "https://auth.elsewhere.test"},
        {"aud": "elsewhere"},
        {"jti": None, "scope": ""},
    ],
)
def test_a_good_signature_is_not_enough(lab: Lab, alice: LabClient, wrong: dict[str, Any]) -> None:
    """A token for another purpose, signed by the same key, opens nothing."""
    alice._client._access_token = signed(lab, alice, **wrong)
    with pytest.raises((Unauthenticated, PermissionDenied)):
        alice.balance()
    alice._client._access_token = ""


def test_another_key_signs_nothing(lab: Lab, alice: LabClient) -> None:
    """A token signed by a key of one's own, under the known key's id, is refused."""
    kid, _ = signing_key(lab)
    claims = access_claims(
        subject=alice.name, accounts=[alice.account], roles=[], token_id="t", now=lab.world.now()
    )
    headers = {"kid": kid, "typ": TYPE}
    alice._client._access_token = jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers=headers)
    with pytest.raises(Unauthenticated):
        alice.balance()
    alice._client._access_token = ""


@pytest.mark.parametrize("name", ["", "no such user"])
def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(
    lab: Lab, alice: LabClient, name: str
) -> None:
    """So nobody can find out who has an account."""
    client = alice._client
    known = pb.LoginRequest(username=alice.name, password="wrong")
    unknown = pb.LoginRequest(username=name, password="wrong")

    async def login(request: pb.LoginRequest) -> pb.TokenResponse:
        response: pb.TokenResponse = await client._auth().Login(request)
        return response

    answers = [str(refused(lab, login(request))) for request in (known, unknown)]
    assert answers == ["TOKEN_INVALID: wrong name or password"] * 2


def test_registering_again_needs_the_password(lab: Lab, alice: LabClient) -> None:
    """Nobody takes a name over."""

    async def register(password: str) -> bool:
        response = await alice._client._auth().Register(
            pb.RegisterRequest(username=alice.name, password=password)
        )
        return bool(response.created)

    assert isinstance(refused(lab, register("mine now")), Unauthenticated)
    assert lab.submit(register(alice._client._password)).result(30) is False


def test_any_authentication_server_will_do(lab: Lab, alice: LabClient) -> None:
    """Users, keys and refresh tokens are in the shared store, so the twin serves on."""
    bob = lab.client("bob", bank="boreal")
    for node in ("auth-1", "auth-2"):
        lab.crash(node)
        alice._client._access_token = ""
        assert alice.pay(bob, "1.00 EUR").state == "COMMITTED"
        lab.restart(node)
