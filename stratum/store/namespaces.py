"""Strata: the directories ``refs/<name>`` with ``tags/``, ``worktrees/`` and ``log.jsonl`` (``store.reflog``)."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.refs import check_name, is_name
from stratum.store.layout import Layout, Names, storage_error
from stratum.store.locks import StoreLocks

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction, Transactions


class Namespaces:
    """The strata of one store."""

    def __init__(self, layout: Layout, locks: StoreLocks, transactions: Transactions) -> None:
        self._layout = layout
        self._locks = locks
        self._transactions = transactions

    def list(self) -> Names:
        """The names of all strata, sorted."""
        return [name for name in self._layout.names_in(self._layout.refs) if is_name(name)]

    def exists(self, name: str) -> bool:
        """Whether there is a stratum of this name. ``DamagedError`` where something else has it."""
        path = self._layout.ref(check_name(name))
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"look for stratum {name}") from None
        if not stat.S_ISDIR(mode):
            raise DamagedError(f"{path} is not a directory", hint="run 'stratum fsck'")
        return True

    def exists_name(self, text: str) -> bool:
        """Whether a stratum has this name, for text that may be no name at all, such as a commit's hash."""
        return is_name(text) and self.exists(text)

    def check(self, name: str) -> None:
        """``NotFoundError`` where there is no stratum of this name, with those of similar names."""
        if not self.exists(name):
            raise NotFoundError(
                f"there is no stratum {name}", hint=similar(name, self.list(), "'stratum list' shows all")
            )

    def ensure(self, tx: Transaction, name: str) -> None:
        """Make the stratum, empty, where it is missing. The caller holds its lock."""
        if self.exists(name):
            return
        directory = tx.new_path("ref")
        tx.make_directory(directory)
        for part in ("tags", "worktrees"):
            tx.make_directory(directory / part)
        tx.write_file(directory / "log.jsonl", b"")
        tx.place(directory, self._layout.ref(name))
        from stratum.store.histories import take_back

        take_back(self._layout, name)

    def remove(self, name: str) -> None:
        """Remove the stratum with its tags, worktrees and reflog, in one step, then what was pushed to it; its commits
        stay until gc, and so do the histories of its worktrees. It is shared with no peer any more.

        That none of its worktrees is mounted is the caller's to check. ``NotFoundError``, ``BusyError``.
        """
        check_name(name)
        with self._locks.store(exclusive=True):
            self.check(name)
            from stratum.store.histories import keep_of_removed
            from stratum.store.peerbook import PeerBook

            PeerBook(self._layout).forget(name)
            keep_of_removed(self._layout, name)
            self._transactions.discard(self._layout.ref(name))
            pushed = self._layout.repositories / name
            if pushed.is_dir():
                self._transactions.discard(pushed)
            with suppress(OSError):
                self._layout.ref_lock(name).unlink()  # who waits for it holds the store's lock, so nobody does


def similar(name: str, names: Sequence[str], otherwise: str = "") -> str:
    """A hint with the names most like ``name``, or ``otherwise`` where none is."""
    from difflib import get_close_matches

    close = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(close)}?" if close else otherwise
