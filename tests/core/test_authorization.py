"""Who may call what, by the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.authorization import (
    RULES,
    Identity,
    Role,
    Rule,
    check_scope,
    is_username,
    needs_token,
    parse_identity,
    seen_through,
)
from paylab.core.tokens import CUSTOMER_SCOPES, Caller
from paylab.errors import PermissionDenied, Unauthenticated

ROLES = st.sampled_from(list(Role))
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
METHODS = st.sampled_from(sorted(RULES))


@given(NAMES, ROLES)
def test_an_identity_survives_the_certificate(node: str, role: Role) -> None:
    """What is written into a certificate is read back."""
    assert parse_identity(str(Identity(node, role))) == Identity(node, role)


@pytest.mark.parametrize(
    "name", ["", "alpine-1", ".bank.paylab", "a.king.paylab", "a.bank.example", "a.bank", "a.bank.paylab.org"]
)
def test_other_names_are_nobody(name: str) -> None:
    """A certificate that does not say node, role and domain names nobody."""
    assert parse_identity(name) is None


@given(st.text())
def test_no_name_crashes_the_reader(name: str) -> None:
    """A name is an identity that is written like that, or none."""
    identity = parse_identity(name)
    assert identity is None or str(identity) == name


@given(METHODS, ROLES)
def test_a_role_outside_the_rule_needs_a_token_or_is_refused(method: str, role: Role) -> None:
    """A certificate alone opens exactly the methods whose rule names its role."""
    rule = RULES[method]
    if rule.peers is None or role in rule.peers:
        assert needs_token(rule, Identity("n", role)) is False
    elif rule.scope:
        assert needs_token(rule, Identity("n", role)) is True
    else:
        with pytest.raises(PermissionDenied) as caught:
            needs_token(rule, Identity("n", role))
        assert caught.value.reason == "ROLE"


def test_what_no_rule_allows_is_refused() -> None:
    """A method that the table forgot is closed, to an operator too."""
    with pytest.raises(PermissionDenied):
        needs_token(None, Identity("lab", Role.OPERATOR))


@given(METHODS)
def test_nobody_may_call_nothing(method: str) -> None:
    """A certificate that names nobody opens no method, not even those for anybody."""
    with pytest.raises(PermissionDenied):
        needs_token(RULES[method], None)


def test_an_empty_rule_lets_nobody_in() -> None:
    """The default of a rule is the safe one."""
    for role in Role:
        with pytest.raises(PermissionDenied):
            needs_token(Rule(), Identity("n", role))


def test_money_moves_by_the_right_roles_only() -> None:
    """Only the coordinator decides at banks, only the gateway commits, only queue and operators redrive."""
    expected: dict[str, set[Role] | None] = {
        "Bank/Prepare": {Role.COORDINATOR},
        "Bank/Decide": {Role.COORDINATOR},
        "Bank/Inquire": {Role.COORDINATOR},
        "Coordinator/Commit": {Role.GATEWAY},
        "Coordinator/Acknowledge": {Role.GATEWAY},
        "PaymentGateway/Redrive": {Role.QUEUE, Role.OPERATOR},
        "PaymentGateway/GiveUp": {Role.QUEUE, Role.OPERATOR},
        "OfflineQueue/Enqueue": {Role.GATEWAY},
        "TransactionLogger/Append": {Role.GATEWAY},
        "Bank/OpenAccounts": {Role.OPERATOR},
    }
    assert {name: set(RULES[f"/paylab.v1.{name}"].peers or ()) for name in expected} == expected


def test_a_payment_is_never_repeated_by_a_balancer() -> None:
    """What must not happen twice is not repeatable."""
    once = ("PaymentGateway/Pay", "Authentication/Refresh", "Coordinator/Commit")
    assert not any(RULES[f"/paylab.v1.{name}"].repeatable for name in once)


@given(METHODS, st.sets(st.sampled_from(CUSTOMER_SCOPES)))
def test_a_token_needs_the_scope(method: str, scopes: set[str]) -> None:
    """A token without the method's scope is refused as SCOPE; no token at all as TOKEN_INVALID."""
    rule = RULES[method]
    if not rule.scope:
        return
    with pytest.raises(Unauthenticated):
        check_scope(rule, None)
    caller = Caller("alice", tuple(scopes), (), ())
    if rule.scope in scopes:
        check_scope(rule, caller)
    else:
        with pytest.raises(PermissionDenied) as caught:
            check_scope(rule, caller)
        assert caught.value.reason == "SCOPE"


@given(ROLES, st.one_of(st.none(), st.text(), st.builds(lambda r: str(Identity("lab", r)), ROLES)))
def test_only_a_balancer_vouches(role: Role, said: str | None) -> None:
    """Whatever metadata says, everybody else is who his certificate says; without one he is nobody."""
    holder = Identity("n", role)
    expected = parse_identity(said) if role is Role.BALANCER and said is not None else holder
    assert seen_through(holder, said) == expected
    assert seen_through(None, said) is None


@given(st.text())
def test_a_username_stays_on_its_line(name: str) -> None:
    """No name breaks a line, closes a quote or hides what stands behind it."""
    if is_username(name):
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set(" \"'`<>&;,\\")
        assert 1 <= len(name) <= 64
