"""Whose file it is that was closed, of all the worktrees that are watched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stratum.sys.handles import identity

if TYPE_CHECKING:
    from stratum.history.epoch import Common, Epoch
    from stratum.history.versions import Closed
    from stratum.history.watched import Watched

_DELETED = b" (deleted)"


class Owners:
    """Finds the worktree, among those in ``watched``, which may change."""

    def __init__(self, common: Common, watched: Mapping[str, Watched]) -> None:
        self._common = common
        self._watched = watched
        self._known: dict[int, Watched] = {}

    def of(self, closed: Closed) -> Watched | None:
        """Whose file it is by what was told of it; its path is noted."""
        place = self._common.place(closed.handle)
        if place is not None:
            epoch, directory, name = place
            closed.hint = directory.path().rstrip(b"/") + b"/" + name
            closed.place = (directory, name)
        elif (linked := self._common.linked.get(closed.handle)) is not None:
            epoch = linked
            closed.hint = epoch.path_of_linked(closed.handle) or b""
            closed.place = closed.handle
        else:
            return None
        return self.with_epoch(epoch)

    def with_epoch(self, epoch: Epoch) -> Watched | None:
        """The worktree whose upperdir that is."""
        watched = self._known.get(id(epoch))
        if watched is None or watched.epoch is not epoch:
            self._known = {id(watched.epoch): watched for watched in self._watched.values()}
            watched = self._known.get(id(epoch))
        return watched

    def by_path(self, closed: Closed) -> Watched | None:
        """Whose file it is by the path that the open file has."""
        path = os.readlink(os.fsencode(f"/proc/self/fd/{closed.fd}"))
        is_gone = os.fstat(closed.fd).st_nlink == 0  # it may have been there when its close was read
        if is_gone:
            path = path.removesuffix(_DELETED)
        closed.hint = closed.place = path
        if is_gone and len(self._watched) == 1:
            return next(iter(self._watched.values()))
        return self.having(path, identity(closed.info))

    def having(self, path: bytes, key: tuple[int, int]) -> Watched | None:
        """The worktree that has this very file at ``path``."""
        for watched in self._watched.values():
            if watched.epoch is not None and watched.epoch.has(path, key):
                return watched
        return None
