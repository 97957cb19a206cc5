"""The settings in force, the store and the mount state they lead to: what everything in ``api`` stands on."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from stratum.config import Config
    from stratum.mount.plan import Gate
    from stratum.mount.state import State
    from stratum.progress import Progress
    from stratum.store import Store


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

    def now(self) -> datetime:
        """The time that commits made now carry."""
        from stratum.store.clock import commit_time

        return commit_time(self.config.environment)


def _nobody(_text: str) -> None:
    pass
