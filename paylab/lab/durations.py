"""Lengths of time as people write them."""

import re

from paylab.errors import LabError

SECONDS_OF_UNIT = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


def seconds(duration: float | str) -> float:
    """Seconds as they are, or text such as "3 h", "20 ms", "1.5 min". Raises LabError for anything else."""
    if isinstance(duration, str):
        match = DURATION.fullmatch(duration)
        if match is not None and match[2] in SECONDS_OF_UNIT:
            return float(match[1]) * SECONDS_OF_UNIT[match[2]]
    elif duration >= 0:
        return float(duration)
    units = ", ".join(SECONDS_OF_UNIT)
    raise LabError(
        "BAD_ARGUMENT", f"{duration!r} is no length of time: seconds, or a number and one of {units}"
    )
