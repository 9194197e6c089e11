"""paylab: a distributed, secure payment gateway that runs inside a notebook kernel.

The map of a payment, top to bottom:

1. `nodes/client.py`              Alice's client logs in and asks the gateway to pay, with a key of hers.
2. `nodes/payment_gateway.py`     The gateway checks the token, claims the key, opens an attempt.
3. `nodes/coordinator.py`         The coordinator asks both banks to prepare (`core/coordinator.py` decides).
4. `nodes/load_balancer.py`       The bank load balancer forwards to one of each bank's servers.
5. `nodes/bank_server.py`         A bank server places a hold and votes (`core/participant.py` decides).
6. `nodes/coordinator.py`         The decision is forced to the log, then sent until every bank acknowledges.
7. `nodes/payment_gateway.py`     The outcome is saved under the key, with an outbox row for the log.
8. `nodes/transaction_logger.py`  The log gets its entry; a payment whose bank is away goes to
   `nodes/offline_queue.py`       the queue, which asks the gateway for another attempt later.

`core/` decides, `nodes/` act, `lab/` watches and breaks.
"""

import os

# Otherwise C-core tells every notebook of each connection that a crashed node breaks.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from paylab.core.money import Money
from paylab.errors import OutcomeUnknown, PaylabError
from paylab.lab.experiments.experiments import experiment
from paylab.lab.judging.exercises import exercises
from paylab.lab.judging.judge import judge, replay
from paylab.lab.lab import Lab
from paylab.lab.predictions import guesses, predict
from paylab.lab.reading import source
from paylab.lab.slots import slots
from paylab.nodes.client import Receipt

__version__ = "0.1.0"
__all__ = [
    "Lab",
    "Money",
    "OutcomeUnknown",
    "PaylabError",
    "Receipt",
    "exercises",
    "experiment",
    "guesses",
    "judge",
    "predict",
    "replay",
    "slots",
    "source",
]
