"""Profiles: ``profiles/<commit>``, in what order the objects of a commit were read, so that they can be fetched before
they are asked for (``hydrate.profile`` has the form). A profile may be deleted, and one that is damaged is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stratum.errors import DamagedError
from stratum.refs import is_hash
from stratum.store.layout import Layout, storing
from stratum.sys.atomic import write_atomic

PROFILE_MAX = 4 << 20
"""Bytes."""


class Profiles:
    """The profiles of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.profiles

    def path(self, commit: str) -> Path:
        """Where the commit's profile is or would be."""
        return self._directory / commit

    def read(self, commit: str) -> bytes | None:
        """The commit's profile, unchecked; None where there is none that can be read."""
        try:
            return self._layout.read_beneath(self.path(commit), PROFILE_MAX)
        except (OSError, DamagedError):
            return None

    def write(self, commit: str, data: bytes) -> None:
        """Have ``data`` be the commit's profile, in one durable step. ``StratumError``, ``DamagedError``."""
        with storing(f"write the profile of commit {commit}"):
            self._directory.mkdir(mode=0o755, exist_ok=True)
            os.close(self._layout.open_beneath(self._directory, os.O_PATH | os.O_DIRECTORY))  # or that it is a link
            write_atomic(self.path(commit), data)

    def remove(self, commit: str) -> None:
        """Remove it, where there is one."""
        with storing(f"remove the profile of commit {commit}"), suppress(FileNotFoundError):
            os.unlink(self.path(commit))

    def commits(self) -> Iterator[str]:
        """The commits that have one, sorted."""
        return filter(is_hash, self._layout.names_in(self._directory))
