"""Whether a volume is as it should be."""

from __future__ import annotations

from stratum.csi.csi_pb2 import VolumeCondition
from stratum.csi.driver import Driver
from stratum.errors import StratumError


def condition_of(driver: Driver, name: str, worktree: str) -> VolumeCondition:
    """Abnormal where the worktree or its base is damaged, or the commit after the last unpublish failed."""
    store = driver.session.store
    try:
        tree = store.worktrees.get(name, worktree)
        lease = store.worktrees.lease(name, worktree)
        if not store.commits.exists(tree.base_commit):
            return VolumeCondition(abnormal=True, message=f"the base commit {tree.base_commit} is missing")
    except StratumError as exc:
        return VolumeCondition(abnormal=True, message=exc.message)
    if lease is not None and lease.last_error is not None:
        return VolumeCondition(abnormal=True, message=f"the last commit failed: {lease.last_error}")
    return VolumeCondition(abnormal=False, message=f"{tree} is usable")
