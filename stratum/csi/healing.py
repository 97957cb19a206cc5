"""Mending mounts of volumes whose gate nobody serves any more, for as long as the driver runs.

The keeper is another process, which may end with its pod while pods use volumes. Once another is there, the driver puts
new mounts in place of theirs, in the pods too (``api.healing``). The secrets that came with the mounts went with the
keeper: until the volume is staged again, its sources are reached with what the node has; but for what the author of a
pod or a namespace named, which nothing of the node's is for.
"""

from __future__ import annotations

import logging
import threading
import time

from stratum.api.healing import heal_by_the_way
from stratum.csi.attributes import POPULATED
from stratum.csi.driver import Driver
from stratum.csi.gates import node_options
from stratum.csi.provisioning import volume_record
from stratum.csi.records import inline_key
from stratum.errors import StratumError
from stratum.hydrate.reaching import ISOLATED
from stratum.mount.state import Record
from stratum.store.holders import KubernetesVolume

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
            lines = heal_by_the_way(driver.session, node_options(driver), lambda record: _isolation(driver, record))
        except Exception:  # the thread has to live
            _log.exception("mounts are not looked at")
            lines = []
        for line in lines if lines != said else ():  # what fails each time is told once
            _log.warning("%s", line)
        said = lines
        time.sleep(INTERVAL)


def _isolation(driver: Driver, record: Record) -> dict[str, str]:
    """That nothing of the node's is for the mount, where it is of a volume whose source no administrator named."""
    if not isinstance(record.holder, KubernetesVolume):
        return {}
    volume_id = record.holder.id
    try:
        inline = driver.volumes.get(inline_key(volume_id))
        found = inline or volume_record(driver, volume_id)
    except StratumError:  # a damaged record, of which fsck tells: who knows whose it is
        return {ISOLATED: "true"}
    pulled = inline is not None and "/" in inline.origin
    return {ISOLATED: "true"} if pulled or (found is not None and POPULATED in found.attributes) else {}
