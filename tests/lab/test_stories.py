"""Stories: what a reader learns about a payment in about ten lines."""

from collections.abc import Iterator

import pytest

import paylab
from paylab.lab.clients import LabClient
from paylab.lab.drawing.stories import Story, tell
from paylab.nodes.events import Event, Kind
from paylab.nodes.load_balancer import LoadBalancer


@pytest.fixture(scope="module")
def lab(unwatchful: type[LoadBalancer]) -> Iterator[paylab.Lab]:
    with paylab.Lab(name="stories", replace={"node.balancer": unwatchful}) as running:
        yield running


@pytest.fixture
def alice(lab: paylab.Lab) -> LabClient:
    return lab.client("alice", bank="alpine", balance="100.00 EUR")


@pytest.fixture
def bob(lab: paylab.Lab) -> LabClient:
    return lab.client("bob", bank="boreal")


def told(lab: paylab.Lab, receipt: object) -> str:
    lab.settle()
    story = str(lab.explain(receipt))  # type: ignore[arg-type] # a receipt, which the package does not export
    lines = story.splitlines()
    assert 6 <= len(lines) <= 12
    assert all(line.endswith(".") for line in lines)
    return story


def test_a_payment_is_told_from_its_request_to_the_log(
    lab: paylab.Lab, alice: LabClient, bob: LabClient
) -> None:
    """Who asked, with which key; holds, votes, the decision, posting, receipt and log."""
    receipt = alice.pay(bob, "12.50 EUR", key="order-1")
    story = told(lab, receipt)
    assert 'alice asked to pay 12.50 EUR from alpine/alice to boreal/bob, with the key "order-1".' in story
    assert f"checked the token of alice and claimed the key for payment {receipt.payment}" in story
    assert "put 12.50 EUR of alpine/alice on hold" in story
    assert "noted 12.50 EUR to come for boreal/bob" in story
    assert "the coordinator forced COMMIT to its log" in story
    assert "alice had the receipt COMMITTED after" in story
    assert "The logger wrote" in story
    order = [
        story.index(word) for word in ("asked", "on hold", "forced COMMIT", "posted", "the receipt", "logger")
    ]
    assert order == sorted(order)


def test_what_follows_a_payment_is_told(lab: paylab.Lab, alice: LabClient, bob: LabClient) -> None:
    """Who asked for what, what banks promised, and what became of hold and money."""
    held = alice.authorise(bob, "20.00 EUR", key="h")
    captured = bob.capture(held, "5.00 EUR", key="c")
    refunded, voided = bob.refund(captured, key="r"), bob.void(held, key="v")
    said = {
        held: (
            'alice asked to set 20.00 EUR of alpine/alice aside for boreal/bob, with the key "h".',
            "put 20.00 EUR of alpine/alice on hold",
            "found boreal/bob fit to be paid 20.00 EUR",
            "the hold stays until a capture, a void or its expiry",
        ),
        captured: (
            f'bob asked to capture 5.00 EUR of authorisation {held.payment}, with the key "c".',
            "took over 5.00 EUR that the authorisation holds on alpine/alice",
            "the hold became a debit",
        ),
        refunded: (
            f'bob asked to refund all that is left of payment {captured.payment}, with the key "r".',
            "put 5.00 EUR of boreal/bob on hold",
        ),
        voided: (
            f'bob asked to give back what is left of authorisation {held.payment}, with the key "v".',
            "took over 15.00 EUR that the authorisation holds on alpine/alice",
            "what was on hold is free again",
        ),
    }
    for receipt, parts in said.items():
        story = told(lab, receipt)
        assert all(part in story for part in parts), story
        assert ("posted" in story) is (receipt in (captured, refunded))


def test_an_expiry_is_told(lab: paylab.Lab, alice: LabClient) -> None:
    """It belongs to the story of the authorisation; inside one bank all was done in a step."""
    shop = lab.client("shop", bank="alpine")
    held = alice.authorise(shop, "20.00 EUR", lifetime_s=0.001)
    assert alice.pay(shop, "1.00 EUR").state == "COMMITTED"
    story = told(lab, held)
    assert "set the money aside in a single step" in story
    assert "let go of what was still on hold" in story


def test_a_repeated_key_is_told(lab: paylab.Lab, alice: LabClient, bob: LabClient) -> None:
    """The same key gives the same receipt and charges nothing."""
    alice.pay(bob, "1.00 EUR", key="twice")
    receipt = alice.pay(bob, "1.00 EUR", key="twice")
    assert (
        "Asked once more with the same key, the gateway gave the same receipt and charged nothing."
        in told(lab, receipt)
    )


def test_a_decline_names_the_bank_and_the_reason(lab: paylab.Lab, alice: LabClient, bob: LabClient) -> None:
    """Which server said no, why, and that no money moved."""
    story = told(lab, alice.pay(bob, "5000.00 EUR"))
    assert "voted no (INSUFFICIENT_FUNDS): the account does not hold that much." in story
    assert any(f"alpine-{n} voted no" in story for n in (1, 2))
    assert "decided ABORT" in story
    assert "no money moved" in story
    assert "saved DECLINED (INSUFFICIENT_FUNDS)" in story
    assert "posted" not in story


def test_one_bank_needs_one_step(lab: paylab.Lab, alice: LabClient) -> None:
    """Within a bank nothing is held and nobody decides but the bank."""
    carol = lab.client("carol", bank="alpine")
    story = told(lab, alice.pay(carol, "1.00 EUR"))
    assert "One bank keeps both accounts, so alpine-" in story
    assert "hold" not in story


def test_a_twin_that_stood_in_is_told(lab: paylab.Lab, alice: LabClient, bob: LabClient) -> None:
    """A crashed server is named, and who did its work."""
    lab.crash("alpine-1")
    try:
        for _ in range(4):
            receipt = alice.pay(bob, "1.00 EUR")
            lab.settle()  # the decision may meet the dead server after the receipt is here
            if any(event.kind is Kind.FAILED for event in lab.history.of_payment(receipt.payment)):
                break
        story = told(lab, receipt)
    finally:
        lab.restart("alpine-1")
    assert "bank-lb could not reach alpine-1, which had crashed, so" in story
    assert "went to its twin alpine-2." in story
    assert "saved COMMITTED" in story


def test_a_queued_payment_says_what_was_out_of_reach() -> None:
    """The failed calls, the queue, and the attempt that succeeded later."""
    with paylab.Lab(name="stories of the queue", bank_servers=1) as lab:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        lab.crash("alpine-1")
        receipt = alice.pay(bob, "1.00 EUR")
        early = lab.explain(receipt)
        lab.restart("alpine-1")
        settled = next(state for state in alice.watch(receipt.payment) if state.state == "COMMITTED")
        lab.settle()
        late = lab.explain(settled)
    assert receipt.state == "QUEUED"
    assert "no server of 'alpine' is up" in early
    assert "saved QUEUED (BANK_UNREACHABLE)" in early
    assert "handed it to the queue" in early
    assert "the queue asked the gateway to try again: attempt " in late
    assert late.index("alice had the receipt QUEUED") < late.index("try again: attempt")
    assert "saved COMMITTED" in late
    assert len(late.splitlines()) <= 20


def test_an_unknown_payment_is_no_error(lab: paylab.Lab) -> None:
    """Nothing is remembered of what never was."""
    assert lab.explain("nonsense") == "Nothing is remembered of payment nonsense."


def test_events_without_a_beginning_are_told_as_far_as_they_go() -> None:
    """What memory has forgotten, and what a file has turned into text, is left out."""
    sent = Event(
        "gateway", 1, 1, 0.0, Kind.SENT, ("p",), "coordinator", "/paylab.v1.Coordinator/Commit", "gateway:1"
    )
    forced = Event("coordinator", 1, 2, 0.5, Kind.FORCED_WRITE, ("p",), detail="COMMIT p/1")
    story = tell("p", [forced, sent])
    assert story.splitlines()[0] == "How payment p began is no longer in memory."
    assert "forced COMMIT to its log after 500 ms" in story


def test_a_notebook_shows_it_as_a_list() -> None:
    """Each line is an item, and markup in it is only text."""
    story = Story("one <script>\ntwo & three")
    assert story._repr_html_() == "<ol><li>one &lt;script&gt;</li><li>two &amp; three</li></ol>"
    assert repr(story) == "one <script>\ntwo & three"
