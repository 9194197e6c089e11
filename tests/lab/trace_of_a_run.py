"""Prints the SHA-256 of the history of a simulated run with faults: SEED, and "disorder" to plant some."""

import hashlib
import json
import sys

import paylab
from paylab.errors import PaylabError
from paylab.lab.checking.history import as_dict
from paylab.lab.simulation.simulator import SimWorld


def main(seed: int, *, disorder: bool) -> None:
    digest = hashlib.sha256()
    with paylab.Lab(world="simulated", seed=seed, banks=["alpine", "boreal", "cresta"]) as lab:
        lab.history.listen(lambda event: digest.update(json.dumps(as_dict(event), sort_keys=True).encode()))
        names = ["ada", "ben", "cleo", "dora", "emil", "finn"]
        users = {
            name: lab.client(name, bank=lab.banks[n % 3], balance="100.00 EUR")
            for n, name in enumerate(names)
        }
        # The planted fault: the order of a set of strings is another in every process.
        payers = list(set(names)) if disorder else names
        world = lab.world
        assert isinstance(world, SimWorld)
        world.lose(0.02)
        world.duplicate(0.05)
        world.reorder(0.05, 0.2)
        for step in range(3):
            payments = [
                users[payer].submit_pay(users[names[n - 1]], "7.00 EUR", key=f"{step}/{payer}")
                for n, payer in enumerate(payers)
            ]
            if step == 1:
                lab.crash("coordinator")
                world.pause("alpine-1")
                lab.advance("2 s")
                lab.restart("coordinator")
                world.resume("alpine-1")
                world.partition("bank-lb", "boreal-2")
            for payment in payments:
                try:
                    digest.update(payment.result().state.encode())
                except PaylabError as error:
                    digest.update(error.reason.encode())
        world.heal()
        lab.settle(timeout_s=60)
    print(digest.hexdigest())  # noqa: T201 - the test that starts this reads it


if __name__ == "__main__":
    main(int(sys.argv[1]), disorder="disorder" in sys.argv)
