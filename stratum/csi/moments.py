"""Commits of volumes, one or several, as they are at a moment at which nobody writes to them, or as they are found.

What their pods ask for by annotations is run around it (``quiesce``). Where they are to stand still, all is committed
once before: so what is read while they do is what changed since, and they stand for a moment only. Then nothing in
these pods runs until the last volume is read; all volumes are as a power cut at that moment would have left them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from stratum.csi.driver import Driver
from stratum.csi.errors import aborted
from stratum.csi.quiesce import quiesced, still, writers
from stratum.errors import BusyError
from stratum.store.resolve import Resolved, ResolvedWorktree


@dataclass(frozen=True, slots=True)
class Moment:
    """What volumes, by their IDs, held at ``time`` (nanoseconds since the epoch): their commits."""

    commits: dict[str, str]
    time: int


def commit_all(
    driver: Driver, volumes: Mapping[str, Resolved], why: str, *, pause: bool, demanded: bool = False
) -> Moment:
    """Commit ``volumes``, volume ID -> what that is here. Durable when it returns.

    With ``pause`` their pods stand still meanwhile; with ``demanded`` each pod that writes has to have a command that
    runs before. Raises what ``quiesce`` raises, ABORTED where somebody else works on one of the volumes or pods.
    """
    worktrees = {each: found for each, found in volumes.items() if isinstance(found, ResolvedWorktree)}
    pods = {uid for each in worktrees for uid in writers(driver, each)}
    commits = {each: found.commit for each, found in volumes.items()}
    if pause and pods:
        for found in worktrees.values():
            with driver.session.hold(found.ref) as held:
                held.commit(why=f"before {why}"[:200])
    path_of = driver.session.store.layout.worktree_lock
    order = sorted(worktrees.items(), key=lambda item: path_of(item[1].name, item[1].worktree))
    with ExitStack() as around:
        try:
            around.enter_context(quiesced(driver, pods, demanded=demanded))
            holds = {each: around.enter_context(driver.session.hold(found.ref)) for each, found in order}
            if pause:
                around.enter_context(still(driver, pods))
        except BusyError as exc:
            raise aborted(exc.told) from None
        moment = time.time_ns()
        for each, held in holds.items():
            commits[each] = held.commit(why=why[:200]).commit
    return Moment(commits, moment)
