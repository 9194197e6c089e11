"""A gateway with a planted bug, and one order that is paid while faults happen, however often it takes.

The bug: a key is saved with the answer, after the work, as a cache would do it. Until then the gateway does
not recognise a request that comes again.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select, update

from paylab.core.payment import TERMINAL, Payment
from paylab.errors import LabError, OutcomeUnknown
from paylab.lab import faults
from paylab.lab.campaigns.drills import LEASE_S, Drill, repair, settled
from paylab.lab.checking.ledger_checks import read_books
from paylab.lab.clients import LabClient
from paylab.lab.drawing import facts as events_of
from paylab.lab.lab import Lab
from paylab.nodes.client import Receipt
from paylab.nodes.host import Host
from paylab.nodes.payment_gateway import PaymentGateway
from paylab.nodes.payment_store import PAYMENTS, PaymentStore

# Alice waits so long for an answer, rests, and asks again under the same key.
PATIENCE_S = 2.5
REST_S = 0.5
TRIES_MAX = 6
KEY, PRICE = "order-1", "10.00 EUR"


class LateKeys:
    """The gateway's payments, each under no key at all until it has come to its end."""

    def __init__(self, payments: PaymentStore) -> None:
        """Everything else is done by `payments`."""
        self._payments = payments
        self._keys: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        """Whatever is not about keys is as it was."""
        return getattr(self._payments, name)

    async def claim(self, wanted: Payment) -> Any:
        """Find a payment that has ended under this key; otherwise begin another one."""
        same_key = (PAYMENTS.c.caller == wanted.caller) & (PAYMENTS.c.key == wanted.key)
        if await self._payments.store.rows(select(PAYMENTS.c.payment).where(same_key)):
            return await self._payments.claim(wanted)
        self._keys[wanted.payment] = wanted.key
        return await self._payments.claim(replace(wanted, key=f"none yet, {wanted.payment}"))

    async def replace(self, before: Payment, after: Payment, outbox: Sequence[tuple[str, bytes]]) -> Payment:
        """Save the outcome, and then the key."""
        present = await self._payments.replace(before, after, outbox)
        key = self._keys.pop(before.payment, None) if present.state in TERMINAL else None
        if key is not None:
            await self._payments.store.run(lambda connection: _save_key(connection, present, key))
        return present


def _save_key(connection: Connection, payment: Payment, key: str) -> None:
    taken = select(PAYMENTS.c.payment).where(PAYMENTS.c.caller == payment.caller, PAYMENTS.c.key == key)
    if connection.execute(taken).first() is None:
        connection.execute(update(PAYMENTS).where(PAYMENTS.c.payment == payment.payment).values(key=key))


class SavesKeysLate(PaymentGateway):
    """The gateway with the bug."""

    def __init__(self, host: Host) -> None:
        """Put the late keys before its payments."""
        super().__init__(host)
        self._payments = LateKeys(self._payments)  # type: ignore[assignment] # it stands in for them


def one_order(
    seed: int, *, schedule: faults.Schedule = (), replace: Mapping[str, Any] | None = None
) -> tuple[int, Drill]:
    """How often an order was charged, and what it looked like; violations say what else is broken.

    Alice asks under one key until she has an answer while the schedule runs; then everything is repaired, and
    she asks once more. Raises LabError for a schedule that names no node or no fault.
    """
    lab = Lab(
        world="simulated",
        seed=seed,
        bank_servers=1,
        auth_servers=1,
        lease_s=LEASE_S,
        replace=replace,
        name="one order",
    )
    try:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        shop = lab.client("shop", bank="boreal")
        running = lab.inject(schedule)
        _until_answered(lab, alice, shop)
        lab.advance(max([timed.at_s for timed in schedule], default=0.0))
        if running.done():
            running.result()
        running.cancel()
        repair(lab)
        _until_answered(lab, alice, shop)
        rest = [] if settled(lab) else ["it does not come to rest"]
        violations = [*lab.check().violations, *rest]
        books = read_books(lab.world, lab.banks)
        charges = sum(account == "shop" for _, _, account, _, _ in books.postings["boreal"])
        events = [event for payment in books.payments for event in lab.history.of_payment(payment)]
        events += events_of.around_payment(lab.history, "")
        found = Drill(
            seed, tuple(violations), next(iter(books.payments), ""), tuple(events), lab.nodes, lab.badge
        )
    finally:
        with suppress(LabError):  # what is broken has been told
            lab.close()
    return charges, found


def _until_answered(lab: Lab, alice: LabClient, shop: LabClient) -> Receipt | None:
    for _ in range(TRIES_MAX):
        try:
            return alice.pay(shop, PRICE, key=KEY, deadline_s=PATIENCE_S)
        except OutcomeUnknown:
            lab.advance(REST_S)
    return None
