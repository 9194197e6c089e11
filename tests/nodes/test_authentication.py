"""Users and tokens over gRPC: what is used up stays used up, and an expired token is renewed by itself."""

from itertools import count
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from paylab import Lab
from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S, TYPE, access_claims
from paylab.errors import PaylabError, PermissionDenied, Unauthenticated
from paylab.lab.clients import LabClient
from paylab.nodes import wire
from paylab.nodes.client import PaymentClient
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
    ((kid, private),) = lab.world.rows("auth", "SELECT kid, private_bytes FROM signing_keys")
    now = lab.world.now()
    claims = access_claims(subject=alice.name, accounts=[alice.account], roles=[], token_id="t", now=now)
    return jwt.encode(
        {**claims, **changes},
        Ed25519PrivateKey.from_private_bytes(private),
        "EdDSA",
        headers={"kid": kid, "typ": TYPE, **(headers or {})},
    )


async def refresh(client: PaymentClient, token: str) -> pb.TokenResponse:
    response: pb.TokenResponse = await client._auth().Refresh(pb.RefreshRequest(refresh_token=token))
    return response


def refused(lab: Lab, work: Any) -> PaylabError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        lab.submit(work).result(30)
    return wire.status_to_error(caught.value)


def test_a_refresh_token_is_good_for_one_refresh(lab: Lab, alice: LabClient) -> None:
    """It gives a new pair; used again, by whoever stole it, it is refused, and the new one works."""
    client = alice._client
    used = client._refresh_token
    pair = lab.submit(refresh(client, used)).result(30)
    assert pair.access_token
    assert pair.refresh_token != used
    assert pair.expires_in_s == ACCESS_LIFETIME_S
    error = refused(lab, refresh(client, used))
    assert isinstance(error, Unauthenticated)
    assert error.reason == "TOKEN_INVALID"
    assert lab.submit(refresh(client, pair.refresh_token)).result(30).access_token


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
    ((kid, _),) = lab.world.rows("auth", "SELECT kid, private_bytes FROM signing_keys")
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
