"""Draws the README's pictures from a run of the real network: `python notebooks/pictures.py`.

Who pays whom and how much is drawn with a fixed seed; the times in the pictures are those of the run.
"""

import random
from pathlib import Path

import paylab

IMAGES = Path(__file__).parent / "images"
PAYMENTS = 40
SEED = 7
AMOUNT_MINOR_MAX = 2_000


def main() -> None:
    """Write network.svg and timeline.svg."""
    rng = random.Random(SEED)  # noqa: S311 - nothing here is secret
    IMAGES.mkdir(exist_ok=True)
    with paylab.Lab(name="pictures") as lab:
        alice = lab.client("alice", bank="alpine", balance="1000.00 EUR")
        bob = lab.client("bob", bank="boreal", balance="1000.00 EUR")
        for number in range(PAYMENTS):
            payer, payee = rng.sample([alice, bob], 2)
            money = paylab.Money(rng.randint(1, AMOUNT_MINOR_MAX), "EUR")
            receipt = payer.pay(payee, money, key=f"order-{number}")
        lab.settle()
        lab.graph().save(IMAGES / "network.svg")
        lab.timeline(receipt).save(IMAGES / "timeline.svg")
    print(f"Wrote {IMAGES}/network.svg and {IMAGES}/timeline.svg.")


if __name__ == "__main__":
    main()
