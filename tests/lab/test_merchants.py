"""Merchants' payments under crashes do what a model in memory says, and the checks hold."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from paylab import Lab, Receipt
from paylab.core import follow_ups, ledger
from paylab.core.coordinator import Timing
from paylab.core.ledger import Account, refusal
from paylab.core.messages import Leg
from paylab.core.money import Money
from paylab.core.payment import Operation, Payment
from paylab.core.retry_schedule import RetrySchedule
from paylab.errors import KeyReused, LabError, WrongState
from paylab.lab import faults
from paylab.lab.campaigns.campaign_checks import waiting
from paylab.nodes.client import PaymentClient
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue
from tests.lab.merchant_model import Made, Model

BANKS = ("alpine", "boreal")
ACCOUNTS = {"alpine/ada": 10_000, "boreal/ben": 5_000, "alpine/cleo": 0}
NODES = ("gateway", "gateway-2", "coordinator", "alpine-1", "boreal-1")
# An authorisation of LONG_S outlives the test; no request under a crash takes as long as SHORT_S.
SHORT_S, LONG_S, WAIT_S = 600.0, 1e6, 700.0
PATIENCE_S = 300.0
NAMES = count(1)


class HastyQueue(OfflineQueue):
    """Tries again soon."""

    def __init__(self, host: Host, *, gateways: Sequence[str]) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.5, cap_s=2.0), gateways=gateways)


class HastyCoordinator(CoordinatorNode):
    """Asks again soon."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=3.0, resend_first_s=0.3, resend_cap_s=1.0))


@dataclass(frozen=True)
class Crash:
    """A node dies at its nth write from now, and is down for so long."""

    node: str
    point: str
    nth: int
    down_s: float


@dataclass(frozen=True)
class Step:
    """One thing that somebody asks for, by the names of the model; `which` counts what was made before."""

    what: str
    payer: int = 0
    # So many places after the payer.
    payee: int = 1
    minor: int | None = 1
    which: int = 0
    short: bool = False
    crash: Crash | None = None


MINORS = st.sampled_from([1, 700, 2_500, 4_999, 10_000])
CRASHES = st.builds(
    Crash,
    st.sampled_from(NODES),
    st.sampled_from(["before", "unanswered", "after"]),
    st.integers(1, 3),
    st.sampled_from([0.5, 7.0]),
)
STEPS = st.builds(
    Step,
    st.sampled_from(
        ["PAY", "AUTHORISE", "AUTHORISE", "CAPTURE", "CAPTURE", "VOID", "REFUND", "AGAIN", "OTHER", "WAIT"]
    ),
    payer=st.integers(0, 2),
    payee=st.integers(1, 2),
    minor=st.none() | MINORS,
    which=st.integers(0, 5),
    short=st.booleans(),
    crash=st.none() | CRASHES,
)


@dataclass
class Saved:
    """A request that became a payment, and how it is asked for: with a key, and by how much more."""

    made: Made
    receipt: Receipt
    ask: Callable[[int], Awaitable[Receipt]]


@dataclass
class Play:
    """One run: the network, the model, and what both have made."""

    lab: Lab
    model: Model = field(default_factory=lambda: Model(dict(ACCOUNTS)))
    clients: dict[str, PaymentClient] = field(default_factory=dict)
    saved: list[Saved] = field(default_factory=list)
    down_s: float = 0.5
    keys: Any = field(default_factory=count)

    async def run(self, steps: list[Step]) -> None:
        """Ask for one after the other, and compare after each."""
        for account, minor in ACCOUNTS.items():
            bank, _, name = account.partition("/")
            await self.lab.network.open_accounts(bank, [(name, Money(minor, "EUR"), name)])
            self.clients[account] = await self.lab._user(name, accounts=[account])
        caretaker = asyncio.ensure_future(self._take_care())
        for step in steps:
            if step.crash is not None:
                self.down_s = step.crash.down_s
                crash = faults.crash_at_commit(step.crash.node, step.crash.point, step.crash.nth)
                await faults.apply(self.lab.network, crash)
            await self._do(step)
            await self._rest()
            await self._compare()
        caretaker.cancel()
        self.lab.network.say_quiet()

    async def _do(self, step: Step) -> None:
        if step.what == "WAIT":
            await asyncio.sleep(WAIT_S)
        elif step.what in ("PAY", "AUTHORISE"):
            await self._ask(step)
        elif self.saved:
            saved = self.saved[-1 - step.which % len(self.saved)]
            if step.what == "AGAIN":
                again = await saved.ask(0)
                assert again == saved.receipt
                assert again.replayed
            elif step.what == "OTHER":
                if saved.made.operation != "VOID":  # it has no amount that could be another
                    with pytest.raises(KeyReused):
                        await saved.ask(1)
            else:
                await self._follow(step, saved)

    async def _ask(self, step: Step) -> None:
        names = list(ACCOUNTS)
        payer, payee = names[step.payer], names[(step.payer + step.payee) % len(names)]
        minor = step.minor or 300
        key, client = f"k{next(self.keys)}", self.clients[payer]
        lifetime_s = SHORT_S if step.short else LONG_S

        async def ask(more: int) -> Receipt:
            about: dict[str, Any] = {"payer": payer, "payee": payee, "money": Money(minor + more, "EUR")}
            about |= {"key": key, "deadline_s": PATIENCE_S}
            if step.what == "PAY":
                return await client.pay(**about)
            return await client.authorise(**about, lifetime_s=lifetime_s)

        now = self.lab.world.now()
        until_s = now + lifetime_s
        made = self.model.ask(step.what, payer, payee, minor, until_s=until_s, now=now)
        await self._expect(made, ask)

    async def _follow(self, step: Step, saved: Saved) -> None:
        key, client = f"k{next(self.keys)}", self.clients[saved.made.payee]
        payment, minor = saved.receipt.payment, None if step.what == "VOID" else step.minor

        async def ask(more: int) -> Receipt:
            money = None if minor is None and not more else Money((minor or 0) + more, "EUR")
            about: dict[str, Any] = {"key": key, "deadline_s": PATIENCE_S}
            if step.what == "VOID":
                return await client.void(payment, **about)
            asking = client.capture if step.what == "CAPTURE" else client.refund
            return await asking(payment, money, **about)

        made = self.model.follow(step.what, saved.made, minor, now=self.lab.world.now())
        if made is None:
            with pytest.raises(WrongState):
                await ask(0)
        else:
            await self._expect(made, ask)

    async def _expect(self, made: Made, ask: Callable[[int], Awaitable[Receipt]]) -> None:
        receipt = await ask(0)
        while receipt.state in ("QUEUED", "PREPARING"):
            await asyncio.sleep(1.0)
            receipt = await ask(0)
        about = next((each.receipt.payment for each in self.saved if each.made is made.about), "")
        assert (receipt.state, receipt.reason) == (made.state, made.reason)
        assert (receipt.operation, receipt.about) == (made.operation, about)
        assert (receipt.payer, receipt.payee) == (made.payer, made.payee)
        assert receipt.money == Money(made.minor, "EUR")
        self.saved.append(Saved(made, receipt, ask))

    async def _take_care(self) -> None:
        """Start what is down, some time after it was seen to be."""
        while True:
            await asyncio.sleep(0.2)
            down = [node for node in NODES if not self.lab.network.is_up(node)]
            if down:
                await asyncio.sleep(self.down_s)
            for node in down:
                await self.lab.network.restart(node)

    async def _rest(self) -> None:
        until_s = asyncio.get_running_loop().time() + PATIENCE_S
        while any(waiting(self.lab.world, BANKS).values()):
            assert asyncio.get_running_loop().time() < until_s, waiting(self.lab.world, BANKS)
            await asyncio.sleep(0.5)

    async def _compare(self) -> None:
        """Posted from the ledgers, what can be spent from the banks; nobody else has ever been paid."""
        now = self.lab.world.now()
        posted = {
            f"{bank}/{row[0]}": row[1]
            for bank in BANKS
            for row in self.lab.world.rows(f"bank-{bank}", "SELECT account, posted_minor FROM accounts")
        }
        assert posted == self.model.posted
        for account, client in self.clients.items():
            available = await client.balance(account, deadline_s=PATIENCE_S)
            assert available.amount_minor == self.model.available(account, now), account


def played(steps: list[Step], **replaced: Any) -> None:
    """Play the steps in a network of their own, and check it."""
    replace_ = {"node.queue": HastyQueue, "node.coordinator": HastyCoordinator, **replaced}
    lab = Lab(
        world="simulated",
        seed=7,
        bank_servers=1,
        auth_servers=1,
        gateways=2,
        lease_s=10.0,
        replace=replace_,
        name=f"merchants-{next(NAMES)}",
    )
    with lab:
        lab.world.call(Play(lab).run(steps), timeout_s=120)
        report = lab.check()
        assert report.ok, report
        assert lab.log.reconcile().ok


# A capture takes over what an authorisation holds, then the bank dies and misses the abort: the next attempt
# of the same payment finds it held by the one before.
ORPHANED = [
    Step("AUTHORISE", payer=1, minor=300),
    Step("CAPTURE", minor=None, crash=Crash("boreal-1", "unanswered", 1, 7.0)),
]
MERCHANT = [
    Step("AUTHORISE", minor=4_999),
    Step("CAPTURE", minor=700),
    Step("CAPTURE", minor=2_500, which=1),
    Step("VOID", which=2),
    Step("CAPTURE", minor=1, which=3),
    Step("REFUND", minor=1, which=1),
    Step("REFUND", minor=None, which=2),
    Step("REFUND", minor=1, which=3),
]
EXPIRY = [
    Step("AUTHORISE", payer=1, minor=4_999, short=True),
    Step("CAPTURE", minor=700),
    Step("PAY", payer=1, minor=700),
    Step("WAIT"),
    Step("CAPTURE", minor=1, which=2),
    Step("VOID", which=3),
    Step("PAY", payer=1, minor=700),
]


@settings(max_examples=20, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(STEPS, min_size=6, max_size=14))
@example(MERCHANT)
@example(EXPIRY)
@example(ORPHANED)
def test_merchants_payments_do_what_the_model_says(steps: list[Step]) -> None:
    """Pay, authorise, capture, void, refund, retries, other requests under a key, waiting and crashes."""
    played(steps)


def refunds_unchecked(wanted: Payment, about: Payment, others: Iterable[Payment]) -> Payment:
    """Pay back whatever is asked for."""
    return wanted if wanted.operation is Operation.REFUND else follow_ups.follow(wanted, about, others)


def expiry_forgotten(account: Account | None, leg: Leg) -> str:
    """Let an authorisation that has expired be captured."""
    reason = refusal(account, leg)
    return "" if reason == "AUTHORISATION_EXPIRED" else reason


def abort_unheard(*_: object) -> list[object]:
    """Learn nothing from a later attempt."""
    return []


def bound_to_nobody(**_: object) -> str:
    """Take every request under a key for the same."""
    return ""


@pytest.mark.parametrize(
    ("steps", "broken"),
    [
        (MERCHANT, {"gateway.follow": refunds_unchecked}),
        (ORPHANED, {"bank.superseded": abort_unheard}),
        ([Step("PAY"), Step("OTHER")], {"gateway.fingerprint": bound_to_nobody}),
    ],
    ids=["too much is paid back", "an abort is not learned of", "a key is bound to nothing"],
)
def test_the_model_sees_what_is_broken(steps: list[Step], broken: dict[str, Any]) -> None:
    """With one rule broken the same steps differ from the model."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        played(steps, **broken)


def test_the_model_sees_a_capture_after_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank that lets it pass moves money that it no longer holds, and says so itself."""
    monkeypatch.setattr(ledger, "refusal", expiry_forgotten)
    with pytest.raises((AssertionError, LabError)):
        played(EXPIRY)
