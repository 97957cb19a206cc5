"""The settings in force, the store and the mount state they lead to: what everything in ``api`` stands on."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING

from stratum.errors import StratumError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from stratum.config import Config
    from stratum.mount.plan import Gate, Method, MountPlan
    from stratum.mount.state import State
    from stratum.progress import Progress
    from stratum.store import Store
    from stratum.store.imageroom import Room


class Workplace:
    """The store and the state are opened when they are first asked for. ``api.session`` adds worktrees in the hand."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tell: Callable[[str], None] = _nobody
        """Gets what did not work and keeps nobody from going on; for who talks with people to set."""
        self.progress: Progress | None = None
        """Is told how far the commit of a worktree is; for who talks with people to set."""
        self.starts_watchers = True
        """Whether who watches the store is started where it is needed, or by others."""
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store, which must exist (``NotFoundError`` otherwise)."""
        if self._store is None:
            from stratum.store import Store

            self._store = Store.open(self.config.store)
        return self._store

    @property
    def no_store_yet(self) -> bool:
        """Whether where the store is to be there is an empty directory: all that reads finds nothing then."""
        try:
            with os.scandir(self.config.store) as entries:
                return next(entries, None) is None
        except OSError:
            return False

    def create_store(self) -> Store:
        """The store, made first where there is none: for verbs that bring content in."""
        if self._store is None:
            from stratum.store import Store

            self._store = Store.open_or_create(self.config.store)
        return self._store

    @functools.cached_property
    def state(self) -> State:
        """The record of what is mounted."""
        from stratum.mount.state import State

        return State(self.config.runtime_dir)

    def gate(self, commit: str, options: Mapping[str, str] | None = None) -> Gate | None:
        """What a mount of ``commit`` needs to fetch what is read of it; None where the commit is here whole.

        ``options``: ``prefetch`` (none, profile or all), ``wait`` (forever: for sources that are away), ``start``
        (never: others start the keeper), and how the sources are reached for this mount. Without any, those of the
        mount in whose place it comes stay.
        """
        if not self.store.sources.is_partial(commit):
            return None
        from stratum.config import carried
        from stratum.mount.plan import Gate

        config, layout = self.config, self.store.layout
        settings = carried(config.environment)
        places = layout.landing, layout.ahead, config.runtime_dir
        return Gate(layout.root, commit, *places, settings, dict(options or {}))

    def plan(
        self,
        commit: str,
        upperdir: Path | None = None,
        workdir: Path | None = None,
        *,
        read_only: bool = False,
        source: str = "stratum",
        extra: int = 0,
        options: Mapping[str, str] | None = None,
    ) -> MountPlan:
        """The plan of a mount of ``commit``, which is about to be made (``mount.plan.MountPlan``); ``options`` as for
        ``gate``. What the mount needs of the commit is made where it is missing.

        Raises what ``mount_method`` raises, and ``UnsupportedError`` where nobody but root can mount the commit.
        """
        from stratum.mount.plan import Lower, MountPlan

        store, method = self.store, self.mount_method
        by_tree = method is not None and method.lower is Lower.DIRECTORY
        return MountPlan(
            store.images.path(commit) if by_tree else self.image(commit),
            store.objects.layers,
            upperdir,
            workdir,
            read_only=read_only,
            source=source,
            extra=extra,
            gate=self.gate(commit, options),
            dialect=store.dialect,
            method=method,
            tree=self._outline(commit) if by_tree else None,
        )

    def image(self, commit: str) -> Path:
        """The commit's image, made where it is missing (``store.images``)."""
        return self.store.images.ensure(commit, self.image_room)

    def image_room(self) -> Room:
        """The room that images have."""
        from stratum.api.images import image_room

        return image_room(self.store, self.state, self.config)

    @functools.cached_property
    def mount_method(self) -> Method | None:
        """The way to make mounts; None for root, who needs no other than the kernel's. ``UnsupportedError`` where there
        is none."""
        from stratum.sys import userns

        if userns.is_privileged():
            return None
        from stratum.mount.probe import users_method

        self.state.make_runtime_dir()
        return users_method(self.config.user_mounts, self.config.runtime_dir)

    def _outline(self, commit: str) -> Path:
        """A directory that shows the commit without contents, made where it is missing."""
        store = self.store
        found = store.images.find_tree(commit)
        if found is not None:
            return found
        from stratum.composefs.outline import outline
        from stratum.ingest.restore import make_outline

        tree = outline(store.commits.tree(commit), _has_ids)
        with store.begin(f"laying out commit {commit}") as tx:
            new = tx.new_path("tree")
            make_outline(store.objects, tree, new)
            place = store.images.outlines.take_in(tx, new, commit)
        with contextlib.suppress(StratumError):  # what is here is here, whatever goes wrong with others
            store.images.trim(self.image_room())
        return place

    def now(self) -> datetime:
        """The time that commits made now carry."""
        from stratum.store.clock import commit_time

        return commit_time(self.config.environment)


def _has_ids(user: int, group: int) -> bool:
    """Whether both are IDs of this process's user namespace."""
    from stratum.sys.userns import is_mapped

    return is_mapped(user) and is_mapped(group, "gid_map")


def _nobody(_text: str) -> None:
    pass
