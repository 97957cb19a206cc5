"""Tags: symbolic links ``refs/<name>/tags/<tag> -> ../../../commits/<hash>``, replaced atomically.

A tag is read with readlink(2) and must look exactly like that; it is never followed, so a planted link leads nowhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Set
from contextlib import ExitStack
from typing import TYPE_CHECKING

from stratum.errors import ConflictError, DamagedError, ExistsError, NotFoundError
from stratum.refs import check_name, is_hash, is_name
from stratum.store.layout import Layout, Names, storage_error
from stratum.store.locks import StoreLocks
from stratum.store.namespaces import Namespaces, similar

if TYPE_CHECKING:
    from stratum.store.commits import Commits
    from stratum.store.pins import Pinned
    from stratum.store.reflog import Reflog
    from stratum.store.transaction import Transactions

_TARGET = "../../../commits/"


class _Any:
    """The type of ``ANY``."""


ANY = _Any()
"""For ``Tags.set(expected=...)``: whatever the tag is now."""


class Tags:
    """The tags of one store."""

    def __init__(
        self,
        layout: Layout,
        locks: StoreLocks,
        transactions: Transactions,
        namespaces: Namespaces,
        commits: Commits,
        reflog: Reflog,
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._transactions = transactions
        self._namespaces = namespaces
        self._commits = commits
        self._reflog = reflog

    def list(self, name: str) -> dict[str, str]:
        """Tag -> commit for every tag of stratum ``name``, sorted. ``NotFoundError``, ``DamagedError``."""
        names = self.names(name)
        directory = self._open(name) if names else None
        if directory is None:
            return {}
        try:
            found = ((tag, _read(directory, name, tag)) for tag in names)
            return {tag: commit for tag, commit in found if commit is not None}
        finally:
            os.close(directory)

    def names(self, name: str) -> Names:
        """The tags of stratum ``name``, sorted, without looking at where they point."""
        self._namespaces.check(name)
        return [tag for tag in self._layout.names_in(self._layout.tags(name)) if is_name(tag)]

    def find(self, name: str, tag: str) -> str | None:
        """The commit that the tag names, or None where there is no such tag (or stratum)."""
        check_name(tag, "tag")
        directory = self._open(check_name(name))
        if directory is None:
            return None
        try:
            return _read(directory, name, tag)
        finally:
            os.close(directory)

    def _open(self, name: str) -> int | None:
        """A descriptor of the directory with the stratum's tags; None where there is none."""
        try:
            return self._layout.open_beneath(self._layout.tags(name), os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc, f"read the tags of {name}") from None

    def get(self, name: str, tag: str) -> str:
        """The commit that the tag names; ``NotFoundError``, ``DamagedError``."""
        commit = self.find(name, tag)
        if commit is None:
            known = self.names(name)
            raise NotFoundError(
                f"there is no tag {name}:{tag}", hint=similar(tag, known, f"'stratum list {name}' shows its tags")
            )
        return commit

    def set(
        self,
        name: str,
        tag: str,
        commit: str,
        *,
        force: bool = False,
        expected: str | _Any | None = ANY,
        why: str = "",
    ) -> None:
        """Point the tag at ``commit``, a whole hash, making the stratum where it is missing. Nothing happens where it
        points there already.

        ``expected`` is what the tag was when the caller looked (None: there was none): where it is something else
        now, another writer won and this one gets ``ConflictError``. Without ``expected``, an existing tag is
        ``ExistsError`` unless ``force``. ``NotFoundError`` where there is no such commit.
        """
        check_name(name)
        check_name(tag, "tag")
        with ExitStack() as stack:
            tx = stack.enter_context(self._transactions.begin(f"setting tag {name}:{tag}"))
            if not self._commits.exists(commit):
                raise NotFoundError(f"there is no commit {commit}")
            stack.enter_context(self._locks.ref(name))
            old = self._current(name, tag, force)
            if old == commit:
                return
            if not isinstance(expected, _Any):
                _check_expected(name, tag, old, expected)
            elif old is not None and not force:
                raise ExistsError(
                    f"the tag {name}:{tag} exists already",
                    hint="use another tag, or --force to move this one; "
                    f"'stratum show {name}:{tag}' shows what it names",
                )
            self._namespaces.ensure(tx, name)
            self._reflog.append(name, "tag", tag, old, commit, why)
            tx.place_symlink(f"../../../commits/{commit}", self._layout.tags(name) / tag)

    def remove(
        self, name: str, tag: str, *, expected: str | _Any | None = ANY, why: str = "", unpin: bool = False
    ) -> str | None:
        """Remove the tag; the commit it named (None where the tag was damaged). ``NotFoundError``; ``ConflictError``
        where it is not at ``expected``, or is pinned, unless ``unpin``."""
        from stratum.store.pins import pinned_error, read_pins
        from stratum.store.reflog import remove_logged

        check_name(name)
        check_name(tag, "tag")
        self._namespaces.check(name)
        with self._locks.ref(name):
            old: str | None
            try:
                old = self.get(name, tag)
            except DamagedError:
                old = None
            if not isinstance(expected, _Any):
                _check_expected(name, tag, old, expected)
            path = self._layout.tags(name) / tag
            if not unpin and tag in read_pins(self._layout, name).tags:
                raise pinned_error(f"the tag {name}:{tag}", f"{name}:{tag}")
            remove_logged(self._reflog, self._transactions, path, name, "tag", tag, old, why)
        if unpin and tag in read_pins(self._layout, name).tags:
            self.pin(name, tags={tag}, on=False)
        return old

    def pins(self, name: str) -> Pinned:
        """What is pinned in stratum ``name``. ``NotFoundError``, ``DamagedError``."""
        from stratum.store.pins import read_pins

        self._namespaces.check(name)
        return read_pins(self._layout, name)

    def pin(self, name: str, *, tags: Set[str] = frozenset(), commits: Set[str] = frozenset(), on: bool = True) -> bool:
        """Pin tags or commits of stratum ``name``, or let them go; whether that changed anything. Durable.

        ``NotFoundError`` where a tag or commit to be pinned is not there.
        """
        from stratum.store.pins import Pinned, read_pins, write_pins

        self._namespaces.check(name)
        with self._transactions.begin(f"pinning in {name}") as tx, self._locks.ref(name):
            old = read_pins(self._layout, name)
            for tag in tags if on else ():
                self.get(name, tag)
            for commit in commits if on else ():
                if not self._commits.exists(commit):
                    raise NotFoundError(f"there is no commit {commit}")
            new = (
                Pinned(old.tags | tags, old.commits | commits) if on else Pinned(old.tags - tags, old.commits - commits)
            )
            if new != old:
                write_pins(tx, self._transactions, self._layout, name, new)
            return new != old

    def _current(self, name: str, tag: str, force: bool) -> str | None:
        """What the tag is now; with ``force``, a damaged one counts as none and is replaced."""
        try:
            return self.find(name, tag)
        except DamagedError:
            if force:
                return None
            raise


def _check_expected(name: str, tag: str, found: str | None, expected: str | None) -> None:
    if found != expected:
        what = "removed" if found is None else f"moved to {found}"
        raise ConflictError(
            f"the tag {name}:{tag} was {what} by somebody else meanwhile",
            hint="look at it again, and repeat the command if you still want it",
        )


def _read(directory: int, name: str, tag: str) -> str | None:
    """The commit that the tag in ``directory`` names; None where there is no such tag."""
    try:
        target = os.readlink(tag, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise _damaged(name, tag, "is not a symbolic link") from None
        raise storage_error(exc, f"read tag {name}:{tag}") from None
    commit = target.removeprefix(_TARGET)
    if commit == target or not is_hash(commit):
        raise _damaged(name, tag, f"points to {target!r}, which is no commit")
    return commit


def _damaged(name: str, tag: str, what: str) -> DamagedError:
    return DamagedError(f"the tag {name}:{tag} {what}", hint="set it again with 'stratum tag --force', or remove it")
