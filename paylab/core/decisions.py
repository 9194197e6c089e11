"""Every decision that a node takes, in one place, so that each can be replaced by name.

A node asks `host.decisions`; whoever boots a network may put another function or class into a slot: an
exercise, a planted bug, a policy under test.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from paylab.core import (
    authorization,
    backoff,
    follow_ups,
    health,
    idempotency,
    key_rotation,
    lockout,
    participant,
    payment,
    refresh,
    retries,
    revocation,
    tokens,
    transport,
)
from paylab.core.balancing import Policy, RoundRobin
from paylab.core.coordinator import Coordinator
from paylab.core.messages import Outcome


def in_doubt(outcome: Outcome | None) -> bool | None:
    """What a bank does with a long-prepared transaction: True commits, False aborts, None waits on.

    `outcome` is the coordinator's answer, None when it did not answer. Only the coordinator may decide:
    a bank that aborts alone breaks atomicity, however long it has waited.
    """
    if outcome is None or outcome is Outcome.UNDECIDED:
        return None
    return outcome is Outcome.COMMITTED


def fresh_events(event_ids: Sequence[str], known: Collection[str]) -> list[str]:
    """Which of the event ids that an outbox sent are new to the log; outboxes send at least once."""
    return [event_id for event_id in dict.fromkeys(event_ids) if event_id not in known]


@dataclass(frozen=True, slots=True)
class Decisions:
    """The slots and what paylab puts into them; `paylab.slots()` prints the table."""

    bank_vote: Callable[..., str] = participant.vote_reason
    bank_prepare: Callable[..., Any] = participant.prepare
    bank_superseded: Callable[..., Any] = participant.superseded
    bank_decide: Callable[..., Any] = participant.decide
    bank_inquire: Callable[..., Any] = participant.inquire
    bank_in_doubt: Callable[[Outcome | None], bool | None] = in_doubt
    coordinator_core: Callable[..., Coordinator] = Coordinator
    gateway_fingerprint: Callable[..., str] = idempotency.fingerprint
    gateway_same_request: Callable[..., Any] = idempotency.same_request
    gateway_follow: Callable[..., Any] = follow_ups.follow
    gateway_open_attempt: Callable[..., Any] = payment.open_attempt
    gateway_conclude: Callable[..., Any] = payment.conclude
    queue_delay: Callable[..., float] = backoff.full_jitter
    queue_breaker: Callable[[], retries.CircuitBreaker] = retries.CircuitBreaker
    client_delay: Callable[..., float] = backoff.full_jitter
    client_retry: Callable[..., float | None] = retries.wait_s
    client_retry_budget: Callable[[], retries.RetryLimit] = retries.RetryBudget
    client_renew: Callable[..., bool] = tokens.renew_ahead
    balancer_policy: Callable[[], Policy] = RoundRobin
    balancer_eject: Callable[..., Sequence[str]] = health.outliers
    logger_fresh: Callable[[Sequence[str], Collection[str]], list[str]] = fresh_events
    token_header: Callable[..., None] = tokens.check_header
    token_key: Callable[..., Any | None] = tokens.find_key
    token_check: Callable[..., tokens.Caller] = tokens.check_claims
    token_revoked: Callable[..., bool] = revocation.is_revoked
    token_refetch: Callable[..., bool] = transport.may_refetch
    access_rule: Callable[[str], authorization.Rule | None] = authorization.rule_of
    access_peer: Callable[..., authorization.Identity | None] = authorization.seen_through
    access_scope: Callable[..., tokens.Caller] = authorization.check_scope
    access_account: Callable[..., None] = tokens.check_account
    auth_username: Callable[[str], bool] = authorization.is_username
    auth_rights: Callable[[authorization.Role], bool] = authorization.may_give_rights
    auth_lockout: Callable[..., float] = lockout.locked_for_s
    auth_refresh: Callable[..., refresh.Verdict] = refresh.judge
    auth_rotation: Callable[..., key_rotation.Rotation] = key_rotation.rotate
    server_transport: Callable[[authorization.Identity], transport.Transport] = transport.transport


DEFAULT = Decisions()
