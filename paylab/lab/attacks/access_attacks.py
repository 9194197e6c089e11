"""Attacks by callers who are who they say, and want what is not theirs: other accounts, methods, names."""

from paylab.core.authorization import Identity, Role
from paylab.lab.attacks.attack import attack
from paylab.lab.attacks.target import MALLORY, PASSWORD, Attempt, Target
from paylab.nodes.interceptors import BANK_KEY, CALLER_KEY
from paylab.pb import (
    authentication_pb2,
    authentication_pb2_grpc,
    bank_pb2,
    bank_pb2_grpc,
    coordinator_pb2,
    coordinator_pb2_grpc,
    load_balancer_pb2,
    load_balancer_pb2_grpc,
    money_pb2,
    offline_queue_pb2,
    offline_queue_pb2_grpc,
    payment_gateway_pb2,
    payment_gateway_pb2_grpc,
    transaction_logger_pb2,
    transaction_logger_pb2_grpc,
)

DENIED = "PERMISSION_DENIED"
ALPINE = ((BANK_KEY, "alpine"),)


@attack(weaken="access.account", status=DENIED, success="alice pays mallory")
def another_customers_account(target: Target) -> Attempt:
    """Pay from alice's account with one's own good token: NOT_OWNER (OWASP API1)."""
    return target.steal(target.token_of(target.mallory))


@attack(weaken="access.account", status=DENIED, success="mallory reads alice's balance")
def another_customers_balance(target: Target) -> Attempt:
    """Read alice's account at her bank with one's own good token: NOT_OWNER (OWASP API1)."""
    request = bank_pb2.GetAccountRequest(account="alice")
    token = target.token_of(target.mallory)
    stub = bank_pb2_grpc.BankStub
    return target.ask(stub, "GetAccount", request, node="bank-lb", token=token, metadata=ALPINE).attempt()


@attack(weaken="access.payment", status="NOT_FOUND", success="mallory reads a payment of alice's")
def another_customers_payment(target: Target) -> Attempt:
    """Read a payment whose id one has seen. It is answered as if there were none (OWASP API1)."""
    receipt = target.alice.pay(target.alice.account.replace("alice", "nobody"), "1.00 EUR")
    request = payment_gateway_pb2.GetPaymentRequest(payment=receipt.payment)
    stub, token = payment_gateway_pb2_grpc.PaymentGatewayStub, target.token_of(target.mallory)
    return target.ask(stub, "GetPayment", request, node="gateway", token=token).attempt()


@attack(weaken="gateway.key", status="OK", success="alice is charged twice")
def replayed_payment(target: Target) -> Attempt:
    """A recorded request of alice's is sent again. It is answered, and charges nothing: its key is known."""
    token, key = target.token_of(target.alice), target.new_name("order")
    before = target.lab.balances()[target.alice.account]
    target.pay(token=token, key=key, minor=700)
    answer = target.pay(token=token, key=key, minor=700)
    target.lab.settle()  # a receipt comes before the postings
    spent_minor = before.amount_minor - target.lab.balances()[target.alice.account].amount_minor
    return answer.attempt(succeeded=spent_minor > 700)  # noqa: PLR2004 - what the request says


@attack(weaken="access.rule", status=DENIED, success="mallory reads everybody's queued payments")
def customer_on_an_operators_method(target: Target) -> Attempt:
    """A customer with a good token calls what is for operators: ROLE (OWASP API5, broken function level)."""
    request, token = offline_queue_pb2.ListQueuedRequest(), target.token_of(target.mallory)
    return target.ask(
        offline_queue_pb2_grpc.OfflineQueueStub, "List", request, node="queue", token=token
    ).attempt()


@attack(weaken="access.rule", status=DENIED, success="mallory opens an account with a million")
def customer_opens_an_account(target: Target) -> Attempt:
    """A customer opens a rich account for himself, through the balancer: ROLE, at the first door."""
    million = money_pb2.Money(amount_minor=100_000_000, currency="EUR")
    account = bank_pb2.NewAccount(account=target.new_name("rich"), opening_balance=million, owner="mallory")
    request = bank_pb2.OpenAccountsRequest(accounts=[account])
    return target.ask(
        bank_pb2_grpc.BankStub, "OpenAccounts", request, node="bank-lb", metadata=ALPINE
    ).attempt()


@attack(weaken="access.rule", status=DENIED, success="the bank sets alice's money aside for mallory")
def customer_calls_prepare(target: Target) -> Attempt:
    """A customer plays the coordinator at a bank server: ROLE. Only the coordinator may say Prepare."""
    leg = money_pb2.Leg(
        bank="alpine", account="alice", money=money_pb2.Money(amount_minor=-500, currency="EUR")
    )
    txn = money_pb2.Txn(payment=target.new_name("theft"), attempt=1)
    request = bank_pb2.PrepareRequest(items=[bank_pb2.Prepare(txn=txn, legs=[leg])])
    answer = target.ask(bank_pb2_grpc.BankStub, "Prepare", request, node="alpine-1")
    return answer.attempt(succeeded=answer.ok and answer.response.votes[0].yes)


@attack(weaken="access.rule", status=DENIED, success="the coordinator takes the logger's order")
def node_of_the_wrong_role(target: Target) -> Attempt:
    """A logger that was taken over orders a commit: ROLE. Only the gateway may say Commit."""
    legs = [
        money_pb2.Leg(bank=bank, account=who, money=money_pb2.Money(amount_minor=minor, currency="EUR"))
        for bank, who, minor in (("alpine", "alice", -500), ("boreal", "mallory", 500))
    ]
    txn = money_pb2.Txn(payment=target.new_name("theft"), attempt=1)
    request = coordinator_pb2.CommitRequest(items=[coordinator_pb2.Commit(txn=txn, legs=legs)])
    logger = Identity("logger", Role.LOGGER)
    stub = coordinator_pb2_grpc.CoordinatorStub
    return target.ask(stub, "Commit", request, node="coordinator", identity=logger).attempt()


@attack(weaken="access.rule", status=DENIED, success="the log has an event that never happened")
def bank_writes_the_log(target: Target) -> Attempt:
    """A bank server that was taken over writes an entry of its own into the log: ROLE."""
    event = transaction_logger_pb2.LogEvent(event_id=target.new_name("invented"), state="COMMITTED")
    request = transaction_logger_pb2.AppendRequest(events=[event])
    stub, bank = transaction_logger_pb2_grpc.TransactionLoggerStub, Identity("alpine-1", Role.BANK)
    return target.ask(stub, "Append", request, node="logger", identity=bank).attempt()


@attack(weaken="access.server", status=DENIED, success="boreal says when alpine-1's lease ends")
def server_under_anothers_name(target: Target) -> Attempt:
    """A bank's server registers as another bank's: ROLE. A certificate speaks for its own name only."""
    request = load_balancer_pb2.RegisterServerRequest(server="alpine-1", group="alpine", lease_s=1.0)
    stub, boreal = load_balancer_pb2_grpc.LoadBalancerStub, Identity("boreal-1", Role.BANK)
    return target.ask(stub, "Register", request, node="bank-lb", identity=boreal).attempt()


@attack(weaken="access.peer", status=DENIED, success="mallory opens an account as an operator")
def vouching_for_oneself(target: Target) -> Attempt:
    """Metadata says that an operator calls. It counts from a balancer's certificate only (PROTOCOL)."""
    account = bank_pb2.NewAccount(
        account=target.new_name("rich"), opening_balance=money_pb2.Money(amount_minor=1, currency="EUR")
    )
    request = bank_pb2.OpenAccountsRequest(accounts=[account])
    said = ((CALLER_KEY, str(Identity("lab", Role.OPERATOR))),)
    return target.ask(
        bank_pb2_grpc.BankStub, "OpenAccounts", request, node="alpine-1", metadata=said
    ).attempt()


@attack(weaken="auth.rights", status=DENIED, success="eve may pay from alice's account")
def rights_for_oneself(target: Target) -> Attempt:
    """A new user asks for alice's account and an originator's role: ROLE (mass assignment, OWASP API3)."""
    request = authentication_pb2.RegisterRequest(
        username=target.new_name("eve"), password=PASSWORD, accounts=["alpine/alice"], roles=["originator"]
    )
    stub = authentication_pb2_grpc.AuthenticationStub
    return target.ask(stub, "Register", request, node="auth-lb", identity=MALLORY).attempt()
