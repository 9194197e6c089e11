"""Attacks on passwords, on refresh tokens, and on what is written down about them."""

from paylab.core.authorization import Identity, Role
from paylab.core.lockout import BY_PEER, BY_USER
from paylab.lab.attacks.attack import attack
from paylab.lab.attacks.target import PASSWORD, Answer, Attempt, Target
from paylab.nodes.auth_server import AuthServer
from paylab.pb import authentication_pb2, authentication_pb2_grpc

LOCKED = "RESOURCE_EXHAUSTED"
REFUSED = "UNAUTHENTICATED"
FORGED_LINE = "lab.operator.paylab unlocked user mallory"


@attack(weaken="auth.lockout", status=LOCKED, success="the password is found")
def brute_force(target: Target) -> Attempt:
    """Guess one user's password, the right one at last. After a few failures nobody looks (CWE-307)."""
    victim, peer = target.new_user(), target.new_name("guesser")
    for n in range(BY_USER.free + 2):
        target.login(victim, f"guess {n}", peer=peer)
    return target.login(victim, PASSWORD, peer=peer).attempt()


@attack(weaken="auth.lockout", status=LOCKED, success="one user's password is found")
def password_spraying(target: Target) -> Attempt:
    """Guess one password for very many users. Failures are counted by peer, too (CWE-307)."""
    victim, peer = target.new_user(), target.new_name("sprayer")
    for n in range(BY_PEER.free + 2):
        target.login(f"somebody-{n}", PASSWORD, peer=peer)
    return target.login(victim, PASSWORD, peer=peer).attempt()


@attack(weaken="auth.decoy", status=REFUSED, success="an unknown user costs less work than a known one")
def enumeration_by_timing(target: Target) -> Attempt:
    """Find out who has an account from how long an answer takes: nobody costs as much Argon2 (CWE-208)."""
    (server,) = [r.node for r in target.lab.network.nodes.values() if isinstance(r.node, AuthServer)]
    assert isinstance(server, AuthServer)
    computed, answer = [], Answer("", "", "")
    for name in (target.new_user(), target.new_name("nobody")):
        before = server.passwords.computed
        answer = target.login(name, "wrong", peer=target.new_name("curious"))
        computed.append(server.passwords.computed - before)
    return answer.attempt(succeeded=computed[0] != computed[1])


@attack(weaken="auth.answer", status=REFUSED, success="the answers for a known and an unknown user differ")
def enumeration_by_message(target: Target) -> Attempt:
    """Find out who has an account from what the answer says: it is the same for nobody (CWE-204)."""
    peer = target.new_name("curious")
    known = target.login(target.new_user(), "wrong", peer=peer)
    unknown = target.login(target.new_name("nobody"), "wrong", peer=peer)
    return unknown.attempt(succeeded=known != unknown)


@attack(weaken="auth.username", status="INVALID_ARGUMENT", success="the audit has a line that nobody wrote")
def log_injection(target: Target) -> Attempt:
    """A user name with a line end and a forged entry behind it. Such a name is none (CWE-117)."""
    name = f"{target.new_name('eve')}\n{FORGED_LINE}\nand"
    peer = Identity(target.new_name("scribe"), Role.CLIENT)
    request = authentication_pb2.RegisterRequest(username=name, password=PASSWORD)
    stub = authentication_pb2_grpc.AuthenticationStub
    answer = target.ask(stub, "Register", request, node="auth-lb", identity=peer)
    for _ in range(BY_USER.free + 1):
        target.login(name, "wrong", peer=peer.node)
    written = "\n".join(what for (what,) in target.world.rows("auth", "SELECT what FROM audit"))
    return answer.attempt(succeeded=FORGED_LINE in written.splitlines())


@attack(weaken="auth.refresh", status=REFUSED, success="the thief gets tokens")
def stolen_refresh_token(target: Target) -> Attempt:
    """A copied refresh token, used after its owner used it: the whole family ends (RFC 9700, 4.14.2)."""
    mine = target.login(target.new_user(), peer=target.new_name("owner"))
    stolen = mine.response.refresh_token
    for _ in range(2):
        mine = refresh(target, mine.response.refresh_token)
    return refresh(target, stolen).attempt()


def refresh(target: Target, token: str) -> Answer:
    """Ask for the next pair."""
    request = authentication_pb2.RefreshRequest(refresh_token=token)
    return target.ask(authentication_pb2_grpc.AuthenticationStub, "Refresh", request, node="auth-lb")
