"""Mending mounts of volumes whose gate nobody serves any more, for as long as the driver runs.

The keeper is another process, which may end with its pod while pods use volumes. Once another is there, the driver puts
new mounts in place of theirs, in the pods too (``api.healing``). The secrets that came with the mounts went with the
keeper: until the volume is staged again, its sources are reached with what the node has.
"""

from __future__ import annotations

import logging
import threading
import time

from stratum.api.healing import heal_by_the_way
from stratum.csi.driver import Driver
from stratum.csi.gates import node_options

INTERVAL = 10.0
"""Seconds between looks, which cost next to nothing where all volumes are on the node whole."""

_log = logging.getLogger(__name__)


def start(driver: Driver) -> None:
    """Mend in the background until the process ends."""
    threading.Thread(target=_loop, args=(driver,), daemon=True, name="heal").start()


def _loop(driver: Driver) -> None:
    said: list[str] = []
    while True:
        try:
            lines = heal_by_the_way(driver.session, node_options(driver))
        except Exception:  # the thread has to live
            _log.exception("mounts are not looked at")
            lines = []
        for line in lines if lines != said else ():  # what fails each time is told once
            _log.warning("%s", line)
        said = lines
        time.sleep(INTERVAL)
