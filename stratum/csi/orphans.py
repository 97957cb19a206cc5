"""What the kubelet has forgotten: it is looked for while the driver runs, and taken away as the kubelet would have.

A kubelet takes away what it mounted by what it has on disk (``csi.kubelet``). Where that was lost, or where it ended
between two calls and its pods' directories tell nothing of them any more, nobody ever calls:

- ``inline``: an inline volume that is mounted nowhere, of a pod without a directory;
- ``published``: a mount in a pod's directory, where the kubelet has no note of the volume;
- ``staged``: a staged volume that is published nowhere, and that no pod's note names. Where the kubelet does know it,
  it publishes it again as if nothing had happened.

Each has to be seen so for ``age`` without a break, and by this driver: a restart begins anew. What a container has
mounted, or any process uses, is never taken away, and nothing at all is done where the kubelet's directory cannot be
read, or has no pod. Volumes of claims stay, be their PersistentVolume there or not: what they hold is only here. Which
those are is told by the metrics (``csi.claims``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from stratum.csi import csi_pb2 as csi
from stratum.csi import inline, kubelet, mounts
from stratum.csi.driver import Driver
from stratum.csi.kubelet import Known
from stratum.csi.metrics import ORPHANS
from stratum.csi.node import Node
from stratum.errors import StratumError
from stratum.frozen import frozen
from stratum.mount.record import Record
from stratum.store.holders import KubernetesVolume
from stratum.sys import mountinfo

_LOOKS = 12
"""Looks during the age after which something goes."""
_LONGEST = 60.0
"""Seconds between two looks, at most."""

_log = logging.getLogger(__name__)


@frozen
class Orphan:
    """One of ``ORPHANS``: a volume, and where it is mounted, if it is."""

    kind: str
    volume_id: str
    path: str = ""


class _Patient:
    """A caller that waits."""

    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None


class Orphans:
    """Those of one driver, of which those go that were seen for ``age`` seconds."""

    def __init__(self, driver: Driver, age: float) -> None:
        self._driver = driver
        self._node = Node(driver)
        self._age = age
        self._since: dict[Orphan, float] = {}

    def look(self, now: float) -> None:
        """Look for orphans at the time ``now`` (seconds), and take those away whose time has come."""
        found = set(find(self._driver))
        self._since = {orphan: self._since.get(orphan, now) for orphan in found}
        for orphan in [each for each, since in self._since.items() if now - since >= self._age]:
            try:
                if orphan.kind == "published" and _is_in_a_container(self._driver, orphan.path):
                    continue
                self._take_away(orphan)
            except StratumError as exc:
                _log.warning("%s, which no pod has any more, stays: %s", orphan.volume_id, exc.message)
                continue
            del self._since[orphan]
            self._driver.metrics.orphan_removed(orphan.kind)
            fields = {"kind": orphan.kind, "volume": orphan.volume_id, "path": orphan.path}
            _log.warning("what the kubelet had forgotten is taken away", extra={"fields": fields})
        counts = Counter(orphan.kind for orphan in self._since)
        self._driver.metrics.orphans({kind: counts[kind] for kind in ORPHANS})

    def _take_away(self, orphan: Orphan) -> None:
        """As the kubelet's call would have done it."""
        volume_id, caller = orphan.volume_id, _Patient()
        if orphan.kind == "published":
            published = csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=orphan.path)
            self._node.NodeUnpublishVolume(published, caller)
        elif orphan.kind == "staged":
            staged = csi.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=orphan.path)
            self._node.NodeUnstageVolume(staged, caller)
        else:
            with self._driver.locked("volume", volume_id):
                inline.finish(self._driver, volume_id, None, caller)  # its pod is gone: nobody is there to be asked


def find(driver: Driver) -> Iterator[Orphan]:
    """What the kubelet does not know any more. Raises ``StratumError``."""
    known = kubelet.read_known(driver.options.kubelet_dir)
    if known is None:
        return
    mounted = [
        (record, record.holder.id)
        for record in driver.session.state.of_store(driver.session.store.root)
        if isinstance(record.holder, KubernetesVolume)
    ]
    yield from _inline(driver, known, {volume_id for _, volume_id in mounted})
    if mounted:
        entries = mountinfo.read(containing="stratum-")
        for record, volume_id in mounted:
            places = [entry.mountpoint for entry in entries if record.is_mount(entry) and entry.root == "/"]
            yield from _mounted(driver, known, record, volume_id, places)


def _inline(driver: Driver, known: Known, mounted: set[str]) -> Iterator[Orphan]:
    for volume in driver.volumes.scan()[0]:
        pod = volume.attributes.get("pod")
        if not volume.inline or not pod or pod in known.pods or volume.id in known.handles or volume.id in mounted:
            continue
        yield Orphan("inline", volume.id)


def _mounted(driver: Driver, known: Known, record: Record, volume_id: str, places: list[str]) -> Iterator[Orphan]:
    directory, published = driver.options.kubelet_dir, False
    for place in places:
        volume = kubelet.pod_volume_of(directory, place)
        if volume is None:
            continue
        published = True
        if not _has_note(volume):
            yield Orphan("published", volume_id, place)
    is_staged = record.mountpoint.startswith(f"{directory}/plugins/") and record.mountpoint in places
    if is_staged and not published and not mounts.targets(driver, volume_id) and volume_id not in known.handles:
        yield Orphan("staged", volume_id, record.mountpoint)


def _has_note(volume: Path) -> bool:
    """Whether the kubelet has a note of the pod's volume, be it readable or not."""
    try:
        (volume / kubelet.NOTE).lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _is_in_a_container(driver: Driver, path: str) -> bool:
    """Whether the mount at ``path`` was copied to another place than those where the kubelet wants it, in any mount
    namespace, as the runtime of a container does. Namespaces that were copied as a whole have it where it is here, or
    below where they have the kubelet's directory."""
    directory = driver.options.kubelet_dir
    record = mounts.record_of(driver, mountinfo.topmost(Path(path)))
    if record is None:
        return False
    here = [entry.mountpoint for entry in mountinfo.read(containing=record.id) if record.is_mount(entry)]
    wanted = tuple(each for each in here if each == record.mountpoint or kubelet.pod_volume_of(directory, each))
    return any(
        record.is_copy(pid, entry) and not entry.mountpoint.endswith(wanted)
        for pid, entry in mountinfo.everywhere(record.id)
    )


def start(driver: Driver, age: timedelta) -> None:
    """Look for orphans in the background until the process ends; never where ``age`` is 0."""
    if age:
        threading.Thread(target=_loop, args=(driver, age.total_seconds()), daemon=True, name="orphans").start()


def _loop(driver: Driver, age: float, clock: Callable[[], float] = time.monotonic) -> None:
    orphans, said = Orphans(driver, age), ""
    while True:
        try:
            orphans.look(clock())
        except StratumError as exc:
            if exc.message != said:
                _log.warning("what the kubelet has forgotten is not looked for: %s", exc.message)
            said = exc.message
        except Exception:  # the thread has to live
            _log.exception("what the kubelet has forgotten is not looked for")
        time.sleep(min(_LONGEST, age / _LOOKS))
