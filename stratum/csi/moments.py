"""Commits of volumes, one or several, as they are at a moment at which nobody writes to them, or as they are found.

What their pods ask for by annotations is run around it (``quiesce``). Where they are to stand still, all is committed
once before: so what is read while they do is what changed since, and they stand for a moment only. Then nothing in
these pods runs until the last volume is read, but no disk is waited for meanwhile: all volumes are as a power cut at
that moment would have left them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.csi.driver import Driver
from stratum.csi.errors import aborted
from stratum.csi.quiesce import quiesced, still, writers
from stratum.errors import BusyError
from stratum.store.resolve import Resolved, ResolvedWorktree

if TYPE_CHECKING:
    from stratum.api.held import Held


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
    path_of = driver.session.store.layout.worktree_lock
    # One worktree may be a volume by two IDs.
    refs = {path_of(found.name, found.worktree): found.ref for found in worktrees.values()}
    if pause and pods:
        for ref in refs.values():
            with driver.session.hold(ref) as held:
                held.commit(why=f"before {why}"[:200])
    with ExitStack() as around:
        try:
            around.enter_context(quiesced(driver, pods, demanded=demanded))
            holds = {path: around.enter_context(driver.session.hold(ref)) for path, ref in sorted(refs.items())}
            let_go = around.enter_context(ExitStack())
            if pause:
                let_go.enter_context(still(driver, pods))
        except BusyError as exc:
            raise aborted(exc.told) from None
        moment = time.time_ns()
        made = _commit(list(holds.items()), why[:200], let_go.close)
    commits = {each: found.commit for each, found in volumes.items()}
    commits |= {each: made[path_of(found.name, found.worktree)] for each, found in worktrees.items()}
    return Moment(commits, moment)


def _commit(holds: Sequence[tuple[Path, Held]], why: str, once_read: Callable[[], object]) -> dict[Path, str]:
    """Commit all of them, each by the path of its lock.

    The first is read, then all others are committed, then the first is made durable. So ``once_read`` is called when
    all are read, and none is durable before.
    """
    if not holds:
        once_read()
        return {}
    (path, held), *others = holds
    commits: dict[Path, str] = {}

    def commit_others() -> None:
        commits.update(_commit(others, why, once_read))

    commits[path] = held.commit(why=why, once_read=commit_others).commit
    return commits
