"""The real cores under every mishap: chance chooses, then all is quiet and must have come right."""

from hypothesis import given, settings
from hypothesis import strategies as st

from paylab.core.payment import State as PaymentState
from tests.core.model_network import ACROSS, INSIDE, ModelNetwork

STEPS = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=20, max_size=150)
PAYMENTS = st.lists(
    st.tuples(st.sampled_from([ACROSS, INSIDE]), st.sampled_from([30, 60, 90])), min_size=1, max_size=3
)


@given(PAYMENTS, STEPS)
@settings(max_examples=150)
def test_whatever_happens_every_payment_has_one_end(
    payments: list[tuple[tuple[str, str], int]], steps: list[tuple[int, int]]
) -> None:
    """Messages lost, doubled, late and out of order, and crashes at every point between two effects.

    At every moment nothing is overdrawn, no transaction has two outcomes and each bank's lines sum to zero.
    When it is quiet nothing is in doubt, both legs are posted or none, exactly the payments that the gateway
    calls committed are in the ledgers, each once, and no commit record is left.
    """
    network = ModelNetwork(*[(payer, payee, minor) for (payer, payee), minor in payments])
    for name in network.gateway.rows:
        network.gateway.open(name)
        network.gateway.ask(name)
    for what, which in steps:
        network.act(what, which)
    network.quiet()
    network.check_end()


def test_without_mishaps_every_payment_that_can_be_paid_is() -> None:
    """Two of three fit the funds, across banks and inside one."""
    network = ModelNetwork((*ACROSS, 60), (*INSIDE, 30), (*ACROSS, 90))
    network.quiet()
    network.check_end()
    states = [row.state for row in network.gateway.rows.values()]
    assert states == [PaymentState.COMMITTED, PaymentState.COMMITTED, PaymentState.DECLINED]
