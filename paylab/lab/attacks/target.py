"""The network under attack, as an attacker sees it: ports that answer, and users whose money he wants."""

from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from paylab.core.authorization import Identity, Role
from paylab.lab.attacks import forging
from paylab.lab.clients import LabClient
from paylab.lab.lab import Lab
from paylab.lab.real_world import RealWorld
from paylab.nodes.host import Credentials
from paylab.pb import (
    authentication_pb2,
    authentication_pb2_grpc,
    money_pb2,
    payment_gateway_pb2,
    payment_gateway_pb2_grpc,
)

TIMEOUT_S = 20.0
MALLORY = Identity("mallory", Role.CLIENT)
# What alice has when the attacks begin.
FORTUNE = "1000.00 EUR"
PASSWORD = "correct horse"  # noqa: S105 - of users that exist to be attacked

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of an attack: whether it succeeded, and the status and reason of the last answer."""

    succeeded: bool
    status: str
    reason: str = ""

    @property
    def answer(self) -> str:
        """Status and reason."""
        return f"{self.status} {self.reason}".strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered."""

    status: str
    reason: str
    message: str
    response: Any = None

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.status == "OK"

    def attempt(self, *, succeeded: bool | None = None) -> Attempt:
        """This answer decides: success is OK, unless it is said otherwise."""
        return Attempt(self.ok if succeeded is None else succeeded, self.status, self.reason)


class Target:
    """A lab with a rich victim, an attacker who is a customer, too, and ways to call any node as anybody."""

    def __init__(self, lab: Lab) -> None:
        """Open accounts."""
        assert isinstance(lab.world, RealWorld)
        self.lab = lab
        self.world = lab.world
        self.alice: LabClient = lab.client("alice", bank="alpine", balance=FORTUNE)
        self.mallory: LabClient = lab.client("mallory", bank="boreal")
        self._channels: list[grpc.Channel] = []
        self._names = count(1)

    def close(self) -> None:
        """Hang up."""
        for channel in self._channels:
            channel.close()

    # Calling ------------------------------------------------------------------------------------

    def credentials(self, identity: Identity) -> Credentials:
        """A good certificate."""
        return self.world.credentials(identity)

    def channel(self, node: str, mine: Credentials | None) -> grpc.Channel:
        """A connection to a node with any certificate, or with none."""
        trusted_pem = self.credentials(MALLORY).ca_pem
        credentials = grpc.ssl_channel_credentials(
            trusted_pem, mine.key_pem if mine else None, mine.certificate_pem if mine else None
        )
        options = (("grpc.ssl_target_name_override", node),)
        self._channels.append(grpc.secure_channel(self.world.address(node), credentials, options))
        return self._channels[-1]

    def ask(
        self,
        stub: Any,
        method: str,
        request: Any,
        *,
        node: str,
        identity: Identity = MALLORY,
        token: str | None = None,
        metadata: Metadata = (),
    ) -> Answer:
        """Call a node as somebody, with any token."""
        channel = self.channel(node, self.credentials(identity))
        return self.call(getattr(stub(channel), method), request, token=token, metadata=metadata)

    def call(self, method: Any, request: Any, *, token: str | None = None, metadata: Metadata = ()) -> Answer:
        """Make one call of a channel."""
        if token is not None:
            metadata = (*metadata, ("authorization", f"Bearer {token}"))
        try:
            response = method(request, metadata=metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            failed: Any = error  # a blocking stub's error is the call itself
            return Answer(failed.code().name, _reason(failed), failed.details() or "")
        return Answer("OK", "", "", response)

    # Users --------------------------------------------------------------------------------------

    def new_name(self, what: str) -> str:
        """A name that no other attack uses."""
        return f"{what}-{next(self._names)}"

    def new_user(self) -> str:
        """A user with the password that everybody guesses at last."""
        name = self.new_name("victim")
        self.lab.submit(self.lab.network.register(name, PASSWORD)).result(TIMEOUT_S)
        return name

    def login(self, username: str, password: str = PASSWORD, *, peer: str = "mallory") -> Answer:
        """Ask for tokens."""
        return self.ask(
            authentication_pb2_grpc.AuthenticationStub,
            "Login",
            authentication_pb2.LoginRequest(username=username, password=password),
            node="auth-lb",
            identity=Identity(peer, Role.CLIENT),
        )

    def token_of(self, client: LabClient) -> str:
        """The token of one of the lab's own users."""
        client.balance()  # logs in, and again if it must
        return client._client._access_token  # noqa: SLF001 - an attacker looks where he can

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a token of alice says."""
        return forging.claims(self.lab, self.alice.name, self.alice.account, **changes)

    # What attackers want ------------------------------------------------------------------------

    def pay_request(self, *, key: str = "", minor: int = 100) -> payment_gateway_pb2.PayRequest:
        """Alice's money for mallory."""
        return payment_gateway_pb2.PayRequest(
            idempotency_key=key or self.new_name("theft"),
            payer=self.alice.account,
            payee=self.mallory.account,
            money=money_pb2.Money(amount_minor=minor, currency="EUR"),
        )

    def pay(self, *, token: str | None, key: str = "", minor: int = 100) -> Answer:
        """Send alice's money to mallory."""
        request = self.pay_request(key=key, minor=minor)
        stub = payment_gateway_pb2_grpc.PaymentGatewayStub
        return self.ask(stub, "Pay", request, node="gateway", token=token)

    def steal(self, token: str | None) -> Attempt:
        """Try to pay with alice's money; it succeeds when the payment is committed."""
        answer = self.pay(token=token)
        committed = answer.ok and answer.response.state == payment_gateway_pb2.COMMITTED
        return answer.attempt(succeeded=committed)


def _reason(error: Any) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return str(info.reason) if status is not None and status.details[0].Unpack(info) else ""
