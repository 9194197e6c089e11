"""Idempotency keys: the same request is carried out once, another request under its key is refused.

The rules are those of Stripe's API and of draft-ietf-httpapi-idempotency-key-header: a key is scoped
to the caller and bound to a fingerprint of the request. While the payment is not terminal, the same request
gets its present state; then the answer is frozen and replayed. An answer that is frozen says until when the
key is remembered at least, and keys of payments that are not terminal are remembered for ever.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from paylab.core.money import AMOUNT_MINOR_MAX, Money
from paylab.core.payment import TERMINAL, Payment
from paylab.errors import InvalidRequest, KeyReused

KEY_LENGTH_MAX = 255  # Stripe's limit
ACCOUNT_LENGTH_MAX = 129
# From the terminal state on; longer than any client goes on trying. Stripe keeps its keys as long.
KEY_RETENTION_S = 24 * 3600.0


def fingerprint(*, payer: str, payee: str, money: Money, operation: Sequence[str | float] = ()) -> str:
    """SHA-256 over the request's content, the same in every process.

    `operation` is what a request that is no plain payment says besides: which it is, and about what.
    """
    content = json.dumps([payer, payee, money.amount_minor, money.currency, *operation], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check_request(*, key: str, payer: str, payee: str, money: Money) -> None:
    """Refuse what can never become a payment. Raises InvalidRequest; nothing is saved then."""
    check_key(key)
    for role, account in (("payer", payer), ("payee", payee)):
        bank, slash, name = account.partition("/")
        if (
            not (bank and slash and name)
            or "/" in name
            or "@" in account
            or len(account) > ACCOUNT_LENGTH_MAX
        ):
            raise InvalidRequest("BAD_ACCOUNT", f"{role} {account!r} is not an account such as bank/name")
    if payer == payee:
        raise InvalidRequest("BAD_ACCOUNT", f"payer and payee are both {payer!r}")
    check_amount(money)


def check_key(key: str) -> None:
    """Refuse a request without a key that can be kept. Raises InvalidRequest KEY_MISSING."""
    if not key or len(key) > KEY_LENGTH_MAX:
        raise InvalidRequest(
            "KEY_MISSING", f"an idempotency key of 1 to {KEY_LENGTH_MAX} characters is needed"
        )


def check_amount(money: Money) -> None:
    """Refuse nothing, less than nothing and far too much. Raises InvalidRequest INVALID_AMOUNT."""
    if not 0 < money.amount_minor <= AMOUNT_MINOR_MAX:
        raise InvalidRequest("INVALID_AMOUNT", f"{money} is not more than zero and at most 10^12 minor units")


def same_request(saved: Payment, request_fingerprint: str) -> Payment:
    """Return the saved payment if the key was used for the same request. Raises KeyReused otherwise."""
    if saved.fingerprint != request_fingerprint:
        raise KeyReused("KEY_REUSED", f"key {saved.key!r} was used for another payment")
    return saved


def frozen(payment: Payment, *, now: float, retention_s: float) -> Payment:
    """The payment with the expiry of its key, once it is terminal: from then on its answer never changes."""
    if payment.state not in TERMINAL:
        return payment
    return replace(payment, key_until_s=now + retention_s)
