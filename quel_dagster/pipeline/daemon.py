"""Dagster's daemon, with a sensor loop quick enough for a queue (docs/decisions/daemon-loop.md).

    python -m quel_dagster.pipeline.daemon run …      the same command line as dagster-daemon

The sensor daemon looks for due sensors every 5 s, whatever their own interval. A tick of our queue sensor blocks
on Redis, so the first id of a quiet queue is seen at once; but the tick that it ends is followed by the rest of
those 5 s, and an id that comes meanwhile waits. The pause is a constant of a private module: this lowers it.
"""

from __future__ import annotations

import logging

from dagster._daemon import sensor
from dagster._daemon.cli import main

#: seconds from the start of one look for due sensors to the start of the next
SENSOR_LOOP_SECONDS = 0.2
_CONSTANT = "MIN_INTERVAL_LOOP_TIME"


def quicken_sensor_loop(seconds: float = SENSOR_LOOP_SECONDS) -> bool:
    """Set the pause of the sensor daemon's loop; False, with a warning, when this Dagster has no such constant."""
    if not isinstance(getattr(sensor, _CONSTANT, None), int | float):
        logging.getLogger(__name__).warning(
            "dagster._daemon.sensor.%s is gone in this version of Dagster, so its own pause between sensor ticks "
            "stays: an id pushed right after another may wait about 5 s.",
            _CONSTANT,
        )
        return False
    setattr(sensor, _CONSTANT, seconds)
    return True


if __name__ == "__main__":
    quicken_sensor_loop()
    main()
