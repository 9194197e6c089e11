"""A user of the network, as a notebook holds it: blocking calls, and `submit_` variants that do not block."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from paylab.core.money import Money, parse_money
from paylab.errors import LabError
from paylab.lab.loop import LabFuture
from paylab.nodes.client import PaymentClient, Receipt
from paylab.nodes.client_outbox import Wish

if TYPE_CHECKING:  # the lab makes its clients, so at run time the import goes the other way
    from paylab.lab.network import Network
    from paylab.lab.real_world import World


WHEN_SHORT = ("decline", "wait")


class Life:
    """How a user's client dies and comes back."""

    def __init__(self, network: "Network", node: str, make: Callable[[], Awaitable[PaymentClient]]) -> None:
        """The client runs at `node`; `make` makes it again on a new host."""
        self._network, self._node, self._make = network, node, make

    async def end(self) -> None:
        """Kill the host that it runs on."""
        await self._network.crash_client(self._node)

    async def begin(self) -> PaymentClient:
        """Make the client again on a new host."""
        return await self._make()


class LabClient:
    """One user with one account; `lab.client("alice", bank="alpine")` makes it."""

    def __init__(self, world: "World", client: PaymentClient, *, account: str, life: Life) -> None:
        """Wrap the client library; `life` ends the client's host and begins another."""
        self._life = life
        self.name = client.username
        self.account = account
        self._world = world
        self._client = client

    def __repr__(self) -> str:
        """Name and account, no secret."""
        return f"<client {self.name}, account {self.account}>"

    def pay(
        self,
        payee: "LabClient | str",
        amount: str | Money,
        *,
        key: str = "",
        deadline_s: float = 30.0,
        when_short: str = "decline",
    ) -> Receipt:
        """Pay `amount`, such as "12.50 EUR", to another client or to an account such as "boreal/bob".

        Repeating it with the same `key` charges once. With `when_short="wait"` it is queued, not declined,
        when there is not enough, and tried again now and then.
        Raises a PaylabError that says whether the outcome is known.
        """
        paying = self._paying(payee, amount, key, deadline_s, when_short)
        return self._world.call(paying, timeout_s=deadline_s + 10)

    def submit_pay(
        self,
        payee: "LabClient | str",
        amount: str | Money,
        *,
        key: str = "",
        deadline_s: float = 30.0,
        when_short: str = "decline",
    ) -> LabFuture[Receipt]:
        """Like `pay`, but return at once with a future that can be awaited or asked for its `result()`."""
        return self._world.submit(self._paying(payee, amount, key, deadline_s, when_short))

    def _paying(
        self, payee: "LabClient | str", amount: str | Money, key: str, deadline_s: float, when_short: str
    ) -> Coroutine[Any, Any, Receipt]:
        _check_when_short(when_short)
        account, money = _account(payee), _money(amount)
        return self._client.pay(
            payer=self.account,
            payee=account,
            money=money,
            key=key,
            deadline_s=deadline_s,
            when_short=when_short,
        )

    def pay_later(
        self,
        payee: "LabClient | str",
        amount: str | Money,
        *,
        key: str = "",
        when_short: str = "decline",
    ) -> str:
        """Write a payment into this client's own outbox and return its key at once.

        It is sent until it is answered, so this works while the gateway is away; `outbox()` tells the answer.
        """
        _check_when_short(when_short)
        paying = self._client.pay_later(
            payer=self.account, payee=_account(payee), money=_money(amount), key=key, when_short=when_short
        )
        return self._world.call(paying)

    def outbox(self) -> list[Wish]:
        """What was written down to be paid later, oldest first, and the answer to each."""
        return self._world.call(self._client.outbox.wishes())

    def crash(self) -> None:
        """Kill this client: calls under way and tokens are gone, its outbox is on disk."""
        self._world.call(self._life.end())

    def restart(self) -> None:
        """Start it again; it goes on with its outbox."""
        self._client = self._world.call(self._life.begin())
        self._world.call(self._client.outbox.open())

    def authorise(
        self,
        payee: "LabClient | str",
        amount: str | Money,
        *,
        lifetime_s: float = 0.0,
        key: str = "",
        deadline_s: float = 30.0,
    ) -> Receipt:
        """Set `amount` aside for `payee`, who may capture it for `lifetime_s`: 7 days unless given."""
        authorising = self._client.authorise(
            payer=self.account,
            payee=_account(payee),
            money=_money(amount),
            lifetime_s=lifetime_s,
            key=key,
            deadline_s=deadline_s,
        )
        return self._world.call(authorising, timeout_s=deadline_s + 10)

    def capture(
        self,
        authorisation: Receipt | str,
        amount: str | Money | None = None,
        *,
        key: str = "",
        deadline_s: float = 30.0,
    ) -> Receipt:
        """Take what was authorised for me, or part of it; without `amount` all that is left.

        Raises WrongState when less is left, or nothing.
        """
        money = None if amount is None else _money(amount)
        capturing = self._client.capture(_payment(authorisation), money, key=key, deadline_s=deadline_s)
        return self._world.call(capturing, timeout_s=deadline_s + 10)

    def void(self, authorisation: Receipt | str, *, key: str = "", deadline_s: float = 30.0) -> Receipt:
        """Give back what is left of an authorisation. Raises WrongState."""
        voiding = self._client.void(_payment(authorisation), key=key, deadline_s=deadline_s)
        return self._world.call(voiding, timeout_s=deadline_s + 10)

    def refund(
        self,
        payment: Receipt | str,
        amount: str | Money | None = None,
        *,
        key: str = "",
        deadline_s: float = 30.0,
    ) -> Receipt:
        """Pay back a payment or capture; without `amount` all that is left of it. Raises WrongState."""
        money = None if amount is None else _money(amount)
        refunding = self._client.refund(_payment(payment), money, key=key, deadline_s=deadline_s)
        return self._world.call(refunding, timeout_s=deadline_s + 10)

    def cancel(self, payment: Receipt | str) -> Receipt:
        """Take a payment back that is queued or a dead letter. Raises WrongState when it is neither."""
        return self._world.call(self._client.cancel(_payment(payment)))

    def log_out(self) -> None:
        """End the session: the next call logs in again."""
        self._client.log_out()

    def balance(self) -> Money:
        """What can be spent: posted less held."""
        return self._world.call(self._client.balance(self.account))

    def payment(self, payment: str) -> Receipt:
        """Where one of my payments stands. Raises NotFound."""
        return self._world.call(self._client.payment(payment))

    def payments(self, *, limit: int = 100) -> list[Receipt]:
        """My payments, newest first."""
        return self._world.call(self._client.payments(limit=limit))

    def watch(self, payment: str) -> Iterator[Receipt]:
        """Yield a payment's states until it is terminal or a dead letter."""
        states = self._client.watch(payment)
        while (state := self._world.call(anext(states, None))) is not None:
            yield state


def _check_when_short(when_short: str) -> None:
    if when_short not in WHEN_SHORT:
        raise LabError("BAD_ARGUMENT", f"when_short is decline or wait, not {when_short!r}")


def _account(payee: LabClient | str) -> str:
    return payee.account if isinstance(payee, LabClient) else payee


def _money(amount: str | Money) -> Money:
    return amount if isinstance(amount, Money) else parse_money(amount)


def _payment(receipt: Receipt | str) -> str:
    return receipt.payment if isinstance(receipt, Receipt) else receipt
