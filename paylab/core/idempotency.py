"""Idempotency keys: the same request is carried out once, another request under its key is refused.

The rules are those of Stripe's API and of draft-ietf-httpapi-idempotency-key-header: a key is scoped
to the caller and bound to a fingerprint of the request.
"""

import hashlib
import json

from paylab.core.money import AMOUNT_MINOR_MAX, Money
from paylab.core.payment import Payment
from paylab.errors import InvalidRequest, KeyReused

KEY_LENGTH_MAX = 255  # Stripe's limit
ACCOUNT_LENGTH_MAX = 129


def fingerprint(*, payer: str, payee: str, money: Money) -> str:
    """SHA-256 over the request's content, the same in every process."""
    content = json.dumps([payer, payee, money.amount_minor, money.currency], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check_request(*, key: str, payer: str, payee: str, money: Money) -> None:
    """Refuse what can never become a payment. Raises InvalidRequest; nothing is saved then."""
    if not key or len(key) > KEY_LENGTH_MAX:
        raise InvalidRequest(
            "KEY_MISSING", f"an idempotency key of 1 to {KEY_LENGTH_MAX} characters is needed"
        )
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
    if not 0 < money.amount_minor <= AMOUNT_MINOR_MAX:
        raise InvalidRequest("INVALID_AMOUNT", f"{money} is not more than zero and at most 10^12 minor units")


def same_request(saved: Payment, request_fingerprint: str) -> Payment:
    """Return the saved payment if the key was used for the same request. Raises KeyReused otherwise."""
    if saved.fingerprint != request_fingerprint:
        raise KeyReused("KEY_REUSED", f"key {saved.key!r} was used for another payment")
    return saved
