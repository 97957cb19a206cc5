"""How much volumes may take: the size of a claim is the limit of its worktree, where the store's file system can hold
it to that (``store.quotas``). Where it cannot, sizes are numbers that nobody enforces, and volumes are not expanded.

A size grows on the node that has the volume (NodeExpandVolume): csi-resizer has no more to do for it than to write the
new size down, so one of these, wherever it runs, serves the volumes of all nodes.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from stratum.api.folding import fold_after_use
from stratum.csi import csi_pb2 as csi
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, Code, invalid, precondition
from stratum.csi.jobs import Caller, Task
from stratum.csi.provisioning import volume_record
from stratum.csi.records import VolumeRecord
from stratum.errors import UnsupportedError
from stratum.store.resolve import ResolvedWorktree

_log = logging.getLogger(__name__)


def are_enforced(driver: Driver) -> bool:
    """Whether volumes can be held to their sizes on this node."""
    return driver.session.store.worktrees.quotas.missing is None


def tell(driver: Driver) -> None:
    """Say in the log whether they are, and why not."""
    missing = driver.session.store.worktrees.quotas.missing
    if missing is None:
        _log.info("volumes are held to their sizes, and can be expanded")
    else:
        _log.info("sizes of volumes are not enforced, and volumes cannot be expanded: %s", missing)


def capacity(wanted: csi.CapacityRange) -> tuple[int, int]:
    """(required bytes, limit or 0). INVALID_ARGUMENT, or OUT_OF_RANGE where none fits."""
    required, limit = wanted.required_bytes, wanted.limit_bytes
    if required < 0 or limit < 0:
        raise invalid("a capacity cannot be negative")
    if limit and required > limit:
        raise CallError(Code.OUT_OF_RANGE, f"no capacity is at least {required} and at most {limit} bytes")
    return required, limit


def hold(driver: Driver, volume_id: str, found: ResolvedWorktree) -> None:
    """Before the worktree of a volume that the driver made is mounted, have it held to its size: it need not be, if it
    was made by an earlier version, or where the file system was mounted without quotas."""
    record = volume_record(driver, volume_id)
    if record is None or not are_enforced(driver):
        return
    try:
        driver.session.store.worktrees.set_limit(found.name, found.worktree, record.capacity)
    except UnsupportedError as exc:
        _log.warning("volume %s is not held to its size: %s", volume_id, exc.told)


def make_room(driver: Driver, volume_id: str, caller: Caller) -> None:
    """Once a volume is not mounted any more, have what is in its last commit be the store's alone, so that nothing of
    it counts for the volume (``api.folding``). A job: ABORTED while it is under way."""
    record = volume_record(driver, volume_id)
    if record is None:
        return
    tree = driver.session.store.worktrees.get(record.stratum, record.key)
    if tree.limit is None or tree.commit == tree.base_commit:
        return

    def fold() -> None:
        note = fold_after_use(driver.session, record.stratum, record.key)
        if note is not None:
            _log.warning("%s", note)

    driver.jobs.run(Task(f"folding of {volume_id}"), fold, caller)


def expand(driver: Driver, record: VolumeRecord, required: int, limit: int) -> int:
    """Have a volume that the driver made take ``required`` bytes, and ``limit`` (0 for no bound) at most, from now on;
    the size that it has. One that is bigger already stays as it is. The volume's lock is held.

    OUT_OF_RANGE where it would have to shrink, FAILED_PRECONDITION where sizes are not enforced.
    """
    size = max(required, record.capacity)
    if limit and size > limit:
        raise CallError(Code.OUT_OF_RANGE, f"volume {record.id} has {size} bytes, and volumes do not get smaller")
    if not record.capacity:
        raise precondition(f"volume {record.id} was made without a size, and takes what the disk has")
    # The limit first: whoever is told of the new size can use it, also where this is cut short and comes again.
    driver.session.store.worktrees.set_limit(record.stratum, record.key, size)
    if size != record.capacity:
        driver.volumes.put(replace(record, capacity=size))
    return size
