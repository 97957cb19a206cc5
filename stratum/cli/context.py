"""What a verb gets: the session it works in and the output it prints to."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from stratum.cli.output import TEXT, Output

if TYPE_CHECKING:
    from stratum.api.session import Session


class App:
    """The global options of one run, and the session made from them when a verb first asks."""

    def __init__(
        self,
        *,
        store: str | None = None,
        runtime_dir: str | None = None,
        output_format: str | None = None,
        quiet: bool = False,
    ) -> None:
        self._store = store
        self._runtime_dir = runtime_dir
        self.out = Output(output_format or TEXT, quiet=quiet)

    def override(self, output_format: str | None, *, quiet: bool) -> None:
        """Take the options that were given after the verb, which win."""
        self.out = Output(output_format or self.out.format, quiet=quiet or self.out.quiet)

    @functools.cached_property
    def session(self) -> Session:
        """The session in the configured store; the store itself is opened by the first verb that needs it."""
        from stratum.api.session import Session
        from stratum.config import load_config

        return Session(load_config(store=self._store, runtime_dir=self._runtime_dir))
