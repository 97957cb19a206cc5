"""What a run of a verb works with: the settings, the session made from them, and the output."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from stratum.cli.output import TEXT, Output

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.config import Config


class Work:
    """The global options of one run, and the session made from them when a verb first asks. ``words`` are those of the
    verb."""

    def __init__(
        self,
        words: str = "",
        *,
        store: str | None = None,
        runtime_dir: str | None = None,
        output_format: str | None = None,
        quiet: bool = False,
    ) -> None:
        self._words = words
        self._store = store
        self._runtime_dir = runtime_dir
        self.out = Output(output_format or TEXT, quiet=quiet)

    @property
    def words(self) -> str:
        """The words of the verb that is called, such as ``worktree add``."""
        return self._words

    @functools.cached_property
    def session(self) -> Session:
        """The session in the configured store; the store itself is opened by the first verb that needs it.

        An ordinary user's process is in the session namespace from here on: before, it must not make threads.
        """
        from stratum.api.session import Session

        session = Session(self.enter())
        session.tell = self.out.warn
        return session

    def enter(self) -> Config:
        """Read the settings, and enter the session namespace, where the verb is one that works there."""
        from stratum.cli.entering import enter_session
        from stratum.config import load_config

        config = load_config(store=self._store, runtime_dir=self._runtime_dir)
        return enter_session(config, self.words, self.out.warn)

    @functools.cached_property
    def session_outside(self) -> Session:
        """The same of a process that stays in the namespaces that it was started in, for mounts that all see."""
        from stratum.api.session import Session
        from stratum.config import load_config

        session = Session(load_config(store=self._store, runtime_dir=self._runtime_dir))
        session.tell = self.out.warn
        return session
