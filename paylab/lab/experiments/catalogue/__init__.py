"""The experiments that `python -m paylab experiment --list` shows. Each module asks one question."""

from paylab.lab.experiments.catalogue.auth_errors import AUTH_ERRORS
from paylab.lab.experiments.catalogue.backoff import BACKOFF
from paylab.lab.experiments.catalogue.balls_in_bins import BALLS_IN_BINS
from paylab.lab.experiments.catalogue.duplicates import DUPLICATES
from paylab.lab.experiments.catalogue.duplicates_network import DUPLICATES_NETWORK
from paylab.lab.experiments.catalogue.ejection import EJECTION
from paylab.lab.experiments.catalogue.herding import HERDING
from paylab.lab.experiments.catalogue.recovery import RECONNECTION, RECOVERY
from paylab.lab.experiments.catalogue.retry_storm import RETRY_STORM
from paylab.lab.experiments.catalogue.supermarket import SUPERMARKET
from paylab.lab.experiments.catalogue.utilisation import UTILISATION
from paylab.lab.experiments.experiments import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    UTILISATION,
    SUPERMARKET,
    BALLS_IN_BINS,
    HERDING,
    EJECTION,
    BACKOFF,
    DUPLICATES,
    DUPLICATES_NETWORK,
    RECOVERY,
    RECONNECTION,
    RETRY_STORM,
    AUTH_ERRORS,
)
