"""Whether a volume is as it should be."""

from __future__ import annotations

from stratum.csi.csi_pb2 import VolumeCondition
from stratum.csi.driver import Driver
from stratum.errors import StratumError


def condition_of(
    driver: Driver, name: str, worktree: str, *, source: str | None = None, history: bool = False
) -> VolumeCondition:
    """Abnormal where the worktree or its base is damaged, the commit after the last unpublish failed, what is not here
    of a lazy volume cannot be had, the disk is full or, where its ``history`` is asked about, too, that is on and not
    kept. ``source`` is that of its mount, where it has one."""
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
    return condition_over(driver, str(tree), tree.base_commit, source)


def condition_over(driver: Driver, what: str, commit: str, source: str | None) -> VolumeCondition:
    """That of a volume that shows the ``commit``, below what was written in it, and is fine apart from that."""
    try:
        lazily = driver.lazy.of(commit, source)
        full = driver.room.trouble()
    except StratumError as exc:
        return VolumeCondition(abnormal=True, message=exc.message)
    message = f"{what} is usable" + (f"; {lazily.note}" if lazily is not None else "")
    trouble = [each for each in (lazily.trouble if lazily is not None else None, full) if each is not None]
    return VolumeCondition(abnormal=bool(trouble), message="; ".join([message, *trouble]))


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
