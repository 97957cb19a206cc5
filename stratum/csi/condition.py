"""Whether a volume is as it should be."""

from __future__ import annotations

from stratum.csi.csi_pb2 import VolumeCondition
from stratum.csi.driver import Driver
from stratum.errors import StratumError


def condition_of(driver: Driver, name: str, worktree: str, *, history: bool = False) -> VolumeCondition:
    """Abnormal where the worktree or its base is damaged, the commit after the last unpublish failed or, where its
    ``history`` is asked about, too, that is on and not kept."""
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
    if history and (problem := _unkept(driver, name, worktree)) is not None:
        return VolumeCondition(abnormal=True, message=problem)
    return VolumeCondition(abnormal=False, message=f"{tree} is usable")


def _unkept(driver: Driver, name: str, worktree: str) -> str | None:
    """Why the history of a worktree, if it is on, is not kept at this moment."""
    if driver.session.store.histories.settings(name, worktree) is None:
        return None
    from stratum.api.historystatus import history_status
    from stratum.api.watcher import watch_status

    found = history_status(driver.session, name, worktree, lambda: watch_status(driver.session), whole=False)
    if found is None or (found.watched and found.trouble is None):
        return None
    return f"its history is not kept now: {found.trouble or 'nobody watches it'}"
