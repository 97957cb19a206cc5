"""Who has a worktree in use, and how that is known: the one place where that is decided.

Three witnesses are asked, and any of them is enough, as each can be lost or not know:

- the **record** of the mount in the runtime directory (``mount.state``): not there where the directory was removed or
  is another one;
- the **lease** in the store (``store.holders``) with a container's first process: it holds until that process is
  proven dead, or the end of the container was reported;
- the **mount** itself, whose source names the worktree, in any mount namespace that can be seen and that belongs to
  this user (a stranger's mount may say what it likes). One of a store with another ID is none of ours; where a store
  has no ID, or is a copy that has the same, the mount has to be looked at.

Where none of them can be seen, as that of a container which has the store is not, the kernel still lets no user mount
an upperdir twice (``mount.build.create_overlay``).

Whoever is about to take a worktree (mount it, move its base, empty its upperdir, remove it) holds its lock and asks
here first.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from stratum.api.workplace import Workplace
from stratum.errors import BusyError
from stratum.frozen import frozen
from stratum.refs import Ref
from stratum.tree.overlay import Dialect

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.store.holders import Holder, Lease
    from stratum.sys.mountinfo import MountEntry

    Mounted = tuple[int, MountEntry]

_LOOKS = 5
_UPPERDIR = r"(?s:(?:^|,)upperdir=(.*?),workdir=)"


@frozen
class InUse:
    """That somebody has a worktree: ``who`` is a sentence about them, ``hint`` says how it is released.

    ``record`` is the mount where it is on record, ``reachable`` whether it can be seen (and so switched) from here;
    ``container`` is the ID of a container that may write to the worktree.
    """

    who: str
    hint: str
    record: Record | None = None
    reachable: bool = False
    container: str | None = None

    def error(self) -> BusyError:
        """The refusal."""
        return BusyError(self.who, hint=self.hint)


def in_use(place: Workplace, name: str, worktree: str, *, ended: Holder | None = None) -> InUse | None:
    """Who has the worktree, or None. ``ended`` is a holder whose end was reported: its lease does not count.

    Raises ``DamagedError`` where a record or the lease cannot be read, because then nobody can tell.
    """
    record = place.state.find_worktree(place.store.root, name, worktree)
    return user_of(place, name, worktree, record, ended=ended)


def user_of(
    place: Workplace, name: str, worktree: str, record: Record | None, *, ended: Holder | None = None
) -> InUse | None:
    """As ``in_use``, where it is known which mount of the worktree is on record."""
    if record is not None:
        return _by_record(record)
    lease = place.store.worktrees.lease(name, worktree)
    if lease is not None and lease.holder == ended:
        lease = None
    from stratum.mount.record import mounts_of

    return without_record(place, name, worktree, lease, lambda: mounts_of(f"{name}+{worktree}"))


def without_record(
    place: Workplace, name: str, worktree: str, lease: Lease | None, mounts: Callable[[], Iterable[Mounted]]
) -> InUse | None:
    """Who has a worktree that no record tells of, by its lease or else by ``mounts``, what ``mounts_of`` finds."""
    found = _by_lease(f"{name}+{worktree}", lease) if lease is not None else None
    return found or _by_mount(place, name, worktree, mounts())


def refuse_in_use(place: Workplace, name: str, worktree: str) -> None:
    """``BusyError`` where anybody has the worktree."""
    found = in_use(place, name, worktree)
    if found is not None:
        raise found.error()


def _by_record(record: Record) -> InUse:
    from stratum.mount.record import find_mount
    from stratum.mount.state import taken

    reachable = record.process.is_numbered_here or find_mount(record) is not None
    container = record.holder.id if record.in_container and not record.read_only else None
    refusal = taken(record)
    who = refusal.message + ("" if reachable else ", which cannot be seen from here")
    return InUse(who, refusal.hint, record, reachable, container)


def _by_lease(ref: str, lease: Lease) -> InUse | None:
    """The container of a lease, unless it is proven dead."""
    runs = lease.process.fate() if lease.process is not None else False
    if runs is False:
        return None
    holder = lease.holder
    who = f"{ref} is held by {holder.words()}, since {lease.since}"
    who += ", though not on record here" if runs else "; whether that still runs cannot be seen from here"
    return InUse(who, holder.how_to_release(""), container=holder.id)


def _by_mount(place: Workplace, name: str, worktree: str, mounts: Iterable[Mounted]) -> InUse | None:
    """A mount of the worktree that is on no record: the runtime directory was removed, or it is another one."""
    from stratum.mount.record import is_of_another_store, shows_ref, store_mark
    from stratum.sys import proc
    from stratum.sys.namespaces import is_own_mount_namespace
    from stratum.sys.userns import is_privileged

    ref = str(Ref(name, worktree=worktree))
    upperdir = place.store.layout.worktree(name, worktree) / "upperdir"
    dialect, mark = place.store.dialect, store_mark(place.store.layout.root)
    for pid, entry in mounts:
        named = shows_ref(entry, ref) and _speaks(entry, dialect) and not is_of_another_store(entry, mark)
        if named and is_over(pid, entry, str(upperdir)):
            by, end = (
                "this host",
                f"unmount it: {'' if is_privileged() else 'stratum unshare -- '}umount {entry.mountpoint}",
            )
            if not is_own_mount_namespace(pid):
                by, end = f"process {pid} ({proc.command_name(pid)})", f"end that process: kill {pid}"
            who = f"{ref} is mounted at {entry.mountpoint} by {by}, though not on record here"
            return InUse(who, f"use the --runtime-dir that it was mounted with, or {end}")
    return None


def _speaks(entry: MountEntry, dialect: Dialect) -> bool:
    """Whether a mount is one of root's or of users', as those of a store are. Of others not even the times can be seen:
    a user's namespace has copies of root's mounts, in directories that are closed."""
    return ("userxattr" in entry.super_options.split(",")) is (dialect is Dialect.USER)


def is_over(pid: int, entry: MountEntry, upperdir: str) -> bool:
    """Whether a mount that names the worktree is over this ``upperdir``, and not another store's.

    The options name the upperdir, but kernels before 6.15 do not tell it, and a store may have been moved since. Then
    the times tell, as the root of an overlay has those of its upperdir; somebody may change both between two looks.
    """
    match = re.search(_UPPERDIR, entry.super_options)
    told = match[1] if match is not None and not match[1].startswith("/proc/self/fd/") else None
    if told == upperdir:
        return True
    if told is not None:
        for path in (told, f"/proc/{pid}/root{told}"):  # a store may be on a disk that only its process sees
            with contextlib.suppress(OSError):
                return os.path.samestat(os.stat(path), os.stat(upperdir))
    for _ in range(_LOOKS):
        try:
            shown, own = os.stat(f"/proc/{pid}/root{entry.mountpoint}"), os.stat(upperdir)
        except OSError:
            return _is_still_there(pid, entry)
        if f"{os.major(shown.st_dev)}:{os.minor(shown.st_dev)}" != entry.device:
            return _is_still_there(pid, entry)  # below another mount, so nobody can tell
        if (shown.st_ctime_ns, shown.st_mtime_ns) == (own.st_ctime_ns, own.st_mtime_ns):
            return True
    return False


def _is_still_there(pid: int, entry: MountEntry) -> bool:
    from stratum.sys import mountinfo

    return any((now.id, now.source) == (entry.id, entry.source) for now in mountinfo.read(pid))
