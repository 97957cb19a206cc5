"""Trees that stand in for images where nobody may mount one: ``cache/trees/<metadata_hash>``, a directory each.

::

    cache/trees/<metadata_hash>/       the commit's directories, and its files without content (``composefs.outline``)
    cache/trees/<metadata_hash>.used   bytes on disk, in decimal; its time is when the tree was last needed

As images they are a cache (``store.images`` has the limit of both). A mount shows the very files, so one that may be
mounted never goes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, ExistsError
from stratum.refs import is_hash
from stratum.store.layout import Layout, storage_error, storing
from stratum.sys.atomic import write_atomic
from stratum.sys.usage import disk_usage

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction, Transactions

USED = ".used"
_SIZE_MAX = 20


class Kept(NamedTuple):
    """What of a commit is in the cache: when it was last needed (seconds since the epoch), and its bytes on disk."""

    used: float
    disk: int


Paths = list[Path]
"""For classes that have a method called ``list``."""


class Outlines:
    """The trees of one store. Whoever uses them holds the store's lock shared."""

    def __init__(self, layout: Layout, transactions: Transactions) -> None:
        self._layout = layout
        self._transactions = transactions

    def find(self, commit: str) -> Path | None:
        """The tree of a commit, needed now; None where there is none."""
        path = self._layout.trees / commit
        if not path.is_dir() or path.is_symlink():
            return None
        with contextlib.suppress(OSError):
            os.utime(self._note(commit), follow_symlinks=False)
        return path

    def take_in(self, tx: Transaction, new: Path, commit: str) -> Path:
        """Give the tree ``new``, complete in the transaction, its place. ``StratumError``."""
        place = self._layout.trees / commit
        with storing(f"make {place.parent}"):
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._note(commit), str(disk_usage(new)).encode(), 0o600, durable=False)
        with contextlib.suppress(ExistsError):  # somebody else made it meanwhile
            tx.place(new, place)
        return place

    def list(self) -> dict[str, Kept]:
        """The trees that are there: commit -> what of it is in the cache."""
        names = self._layout.names_in(self._layout.trees)
        return {name: self._of(name) for name in names if is_hash(name)}

    def drop(self, commit: str) -> None:
        """Remove the tree of a commit, which nobody may have mounted. ``StratumError``."""
        if os.path.lexists(self._layout.trees / commit):
            self._transactions.discard(self._layout.trees / commit)
        with contextlib.suppress(OSError):
            self._note(commit).unlink()

    def disk(self, commit: str) -> int:
        """Bytes on disk of the tree of a commit; 0 where there is none."""
        return self._of(commit).disk if os.path.lexists(self._layout.trees / commit) else 0

    def others(self, kept: Collection[str]) -> Paths:
        """What a collection may remove of the directory: everything but the trees of the commits ``kept``."""
        names = self._layout.names_in(self._layout.trees)
        return [self._layout.trees / name for name in names if name.removesuffix(USED) not in kept]

    def _of(self, commit: str) -> Kept:
        note = self._note(commit)
        try:
            text = self._layout.read_beneath(note, _SIZE_MAX)
            return Kept(note.lstat().st_mtime, int(text))
        except (FileNotFoundError, DamagedError, ValueError):  # a kill came between, or somebody removed it
            return Kept(0.0, disk_usage(self._layout.trees / commit))
        except OSError as exc:
            raise storage_error(exc, f"read {note}") from None

    def _note(self, commit: str) -> Path:
        return self._layout.trees / (commit + USED)
