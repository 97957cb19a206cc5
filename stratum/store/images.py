"""Images of commits: ``cache/images/<metadata_hash>.cfs``, an EROFS image each (``composefs.erofs``).

An image is a pure function of the commit's dump, so it is a cache: made when a mount needs it, and made again, byte for
byte the same, where it is gone. Nothing else makes one, and nothing else in the store tells of it. It gets its name
when it is complete and durable, so a power cut leaves a whole one or none.

What was not needed for longest goes where images, and the trees that stand in for them (``store.outlines``), take more
than the limit. Never does what a mount shows, be it on record or only known to the kernel, nor what was needed within
``MIN_AGE``: who asked for it may be about to mount it. A mount goes on where its image is removed all the same.

::

    cache/images/lock          flock: shared by who finds an image and notes its use, exclusive for removing any
    cache/images/<hash>.lock   flock: who makes that image; others wait, and find it made
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import BusyError, DamagedError, StratumError
from stratum.frozen import replace
from stratum.refs import is_hash
from stratum.store.imagefile import IMAGE_MODE, is_whole, pieces_of, write_image
from stratum.store.layout import Layout, NoSpaceError, storage_error, storing
from stratum.store.locks import STORE_WAIT, StoreLocks
from stratum.sys.locks import locked

if TYPE_CHECKING:
    from stratum.store.commits import Commits
    from stratum.store.imageroom import Entry, Room, Trimmed
    from stratum.store.outlines import Kept, Outlines, Paths
    from stratum.tree.model import Directory

SUFFIX = ".cfs"
LOCK = "lock"
MIN_AGE = 600.0
"""Seconds that something stays for after it was needed."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FULL = errno.ENOSPC, errno.EDQUOT


class Images:
    """The images of one store. Who uses one that ``ensure`` named holds the store's lock shared until it is mounted."""

    def __init__(self, layout: Layout, locks: StoreLocks, commits: Commits, outlines: Outlines) -> None:
        self._layout = layout
        self._locks = locks
        self._commits = commits
        self.outlines = outlines

    def path(self, commit: str) -> Path:
        """Where the image of a commit is, if it is there."""
        return self._layout.images / (commit + SUFFIX)

    def list(self) -> dict[str, Kept]:
        """The images that are there: commit -> when it was last needed, and bytes on disk."""
        from stratum.store.outlines import Kept

        found = {}
        for name in self._layout.names_in(self._layout.images):
            commit = name.removesuffix(SUFFIX)
            if name.endswith(SUFFIX) and is_hash(commit):
                with contextlib.suppress(FileNotFoundError):
                    info = self.path(commit).lstat()
                    found[commit] = Kept(info.st_mtime, info.st_blocks * 512)
        return found

    def size(self, commit: str) -> int | None:
        """Bytes of the image of a commit; None where there is none."""
        try:
            return self.path(commit).lstat().st_size
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc, f"read {self.path(commit)}") from None

    def ensure(self, commit: str, room: Callable[[], Room] | None = None) -> Path:
        """The path of the commit's image, which is made where it is missing, or not whole; others go then, where
        ``room`` says so.

        Raises ``NotFoundError``, ``DamagedError`` (of the commit's tree), ``StratumError``.
        """
        path = self.path(commit)
        if self._find(path):
            return path
        with self._locks.store():
            try:
                with self._making(commit):
                    if not self._find(path):
                        self._make(commit, path, room)
            except OSError as exc:
                spare = room().spare if room is not None and exc.errno == errno.EROFS else None
                if spare is None:
                    raise storage_error(exc, f"write {path}") from None
                return self._make_elsewhere(commit, spare)
        self._trim_after(room)
        return path

    def find_tree(self, commit: str) -> Path | None:
        """The tree that stands in for the image of a commit, if there is one; it is noted that it was of use."""
        try:
            os.close(self._directory())
            with self._lock():
                return self.outlines.find(commit)
        except OSError as exc:
            if exc.errno == errno.EROFS:  # nobody removes it there
                return self.outlines.find(commit)
            raise storage_error(exc, f"look for the tree of commit {commit}") from None

    def take_in(self, new: Path, commit: str, room: Callable[[], Room]) -> None:
        """Give ``new``, a file of the store that is the commit's image, complete and synced, its name."""
        path = self.path(commit)
        with storing(f"write {path}"):
            directory = self._directory()
            try:
                os.rename(new, path.name, dst_dir_fd=directory)
            finally:
                os.close(directory)
        self._trim_after(room)

    def drop(self, commit: str) -> bool:
        """Remove the image of a commit; whether there was one. What is mounted of it stays as it is."""
        try:
            self.path(commit).unlink()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"remove {self.path(commit)}") from None
        return True

    def check(self, commit: str, root: Directory) -> None:
        """Compare the image with what the commit's tree gives, byte for byte. ``DamagedError`` where it differs,
        ``FileNotFoundError`` where there is none."""
        path = self.path(commit)
        try:
            with self._lock(), os.fdopen(self._layout.open_beneath(path, _READ), "rb", buffering=1 << 20) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DamagedError("it is not a regular file")
                if any(file.read(len(piece)) != piece for piece in pieces_of(root)) or file.read(1):
                    raise DamagedError("it is not the image of the commit's tree")
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None

    def is_in_use(self, commit: str) -> bool | None:
        """Whether somebody has the image open or mounted, in whatever namespace; None where nobody can tell, or there
        is none. The caller holds the lock, so that nobody opens it meanwhile."""
        from stratum.sys.leases import is_in_use

        try:
            fd = self._layout.open_beneath(self.path(commit), _READ)
        except (OSError, DamagedError):
            return None
        try:
            return is_in_use(fd)
        finally:
            os.close(fd)

    def remove_all(self, commit: str, *, dry_run: bool = False) -> int:
        """Remove what is here of a commit that goes: its image and its tree; their bytes on disk. The caller holds the
        store's lock exclusively, or only wants to know."""
        from stratum.sys.usage import disk_usage

        freed = disk_usage(self.path(commit)) + self.outlines.disk(commit)
        if not dry_run:
            self.drop(commit)
            self.outlines.drop(commit)
        return freed

    def others(self) -> Paths:
        """What a collection may remove: all that is neither an image nor a tree of a commit. The caller holds the
        store's lock exclusively, or only wants to know."""
        directory, commits = self._layout.images, set(self._commits.list())
        stay = {LOCK, *(commit + SUFFIX for commit in commits)}
        others = [directory / name for name in self._layout.names_in(directory) if name not in stay]
        return others + self.outlines.others(commits)

    def total(self) -> int:
        """The bytes on disk of all images and trees."""
        return sum(kept.disk for kept in (*self.list().values(), *self.outlines.list().values()))

    def trim(self, room: Room, *, older_than: float = MIN_AGE, dry_run: bool = False) -> Trimmed:
        """Have go what was not needed for longest until the rest is within the limit.

        Nothing that may be mounted goes, nor what was needed in the last ``older_than`` seconds. Raises
        ``StratumError``; does nothing where another process is at it.
        """
        from stratum.store.imageroom import Entry, Removal, Trimmed, trim

        if self.total() <= room.limit:
            return Trimmed()
        shown = room.shown()
        try:
            os.close(self._directory())
            with self._lock(exclusive=True):
                entries = [Entry(*kept, commit, False) for commit, kept in self.list().items()]
                entries += [Entry(*kept, commit, True) for commit, kept in self.outlines.list().items()]
                removal = Removal(self.is_in_use, self._drop_entry)
                return trim(entries, room.limit, shown, removal, older_than=older_than, dry_run=dry_run)
        except BusyError:
            return Trimmed()
        except OSError as exc:
            raise storage_error(exc, f"remove what is old from {self._layout.images}") from None

    def _drop_entry(self, entry: Entry) -> None:
        (self.outlines if entry.is_tree else self).drop(entry.commit)

    def _trim_after(self, room: Callable[[], Room] | None) -> None:
        """``trim``, after something came, which is there whatever goes wrong with others."""
        with contextlib.suppress(StratumError):
            if room is not None:
                self.trim(room())

    def _find(self, path: Path) -> bool:
        """Whether the image is there, and whole; then it is noted that it was of use."""
        try:
            with self._lock():
                if not self._is_whole(path):
                    return False
                with contextlib.suppress(OSError):  # of a store that can only be read
                    os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None
        return True

    def _is_whole(self, path: Path) -> bool:
        """Whether the file is nobody else's, and has as many blocks as it says. ``OSError``."""
        try:
            fd = self._layout.open_beneath(path, _READ)
        except DamagedError:  # a symbolic link: the rename of a new one takes its place
            return False
        try:
            return is_whole(fd)
        finally:
            os.close(fd)

    def _make(self, commit: str, path: Path, room: Callable[[], Room] | None) -> None:
        """Make the image; where the disk is full, others go first. ``StratumError``, and ``OSError`` where the store
        can only be read."""
        root = self._commits.tree(commit)
        try:
            self._write(root, path)
        except OSError as exc:
            error = storage_error(exc, f"write {path}")
            if not isinstance(error, NoSpaceError) or room is None:
                raise
            if not self.trim(replace(room(), limit=0)).count:
                raise error from None
            self._write(root, path)

    def _write(self, root: Directory, path: Path) -> None:
        from stratum.sys.atomic import create_atomic

        directory = self._directory()
        try:
            with create_atomic(Path(f"/proc/self/fd/{directory}/{path.name}"), IMAGE_MODE) as fd:
                write_image(root, fd)
        finally:
            os.close(directory)

    def _make_elsewhere(self, commit: str, spare: Path) -> Path:
        """The image in the directory ``spare`` of this user's, of which those go that nobody has mounted."""
        from stratum.sys.atomic import create_atomic

        path = spare / (commit + SUFFIX)
        with storing(f"write {path}"):
            spare.mkdir(mode=0o700, exist_ok=True)
            with locked(spare / LOCK, timeout=STORE_WAIT, what=str(spare)):
                if _is_there_beside_what_is_old(path):
                    os.utime(path, follow_symlinks=False)
                    return path
                root = self._commits.tree(commit)
                with create_atomic(path, IMAGE_MODE) as fd:
                    write_image(root, fd)
        return path

    def _directory(self) -> int:
        """The directory, open; made where it is missing, and reached without symbolic links. ``OSError``."""
        opened = partial(self._layout.open_beneath, flags=os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        directory = self._layout.images
        for path in (directory.parent, directory):
            above = opened(path.parent)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path.name, 0o700, dir_fd=above)
            finally:
                os.close(above)
        return opened(directory)

    @contextlib.contextmanager
    def _lock(self, *, exclusive: bool = False) -> Iterator[None]:
        """Hold the lock of the directory. Nobody removes anything where no lock can be made. ``FileNotFoundError``
        where there is no directory, ``BusyError``, ``OSError``."""
        directory = self._layout.open_beneath(self._layout.images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.ExitStack() as stack:
                lock = locked(
                    Path(f"/proc/self/fd/{directory}/{LOCK}"),
                    exclusive=exclusive,
                    timeout=0 if exclusive else STORE_WAIT,
                    what=str(self._layout.images),
                )
                try:
                    stack.enter_context(lock)
                except OSError as exc:
                    if exclusive or exc.errno not in (errno.EROFS, *_FULL):
                        raise
                yield
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _making(self, commit: str) -> Iterator[None]:
        """Be the one who makes an image, as far as one can wait for that. ``OSError``."""
        directory = self._directory()
        try:
            path = Path(f"/proc/self/fd/{directory}/{commit}.lock")
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(locked(path, timeout=STORE_WAIT, what=f"the image of commit {commit}"))
                except BusyError:  # two that are made are one in the end
                    pass
                except OSError as exc:
                    if exc.errno not in _FULL:  # for the lock; others may go for the image
                        raise
                else:
                    stack.callback(path.unlink, missing_ok=True)
                yield
        finally:
            os.close(directory)


def _is_there_beside_what_is_old(path: Path) -> bool:
    """Whether the image is there; of the others in its directory those go that were not needed lately and that nobody
    has mounted. ``OSError``."""
    from stratum.sys.leases import is_in_use

    there = False
    for other in path.parent.iterdir():
        fd = os.open(other, _READ)
        try:
            if other == path:
                there = is_whole(fd)
            elif other.suffix == SUFFIX and time.time() - os.fstat(fd).st_mtime > MIN_AGE and is_in_use(fd) is False:
                other.unlink()
        finally:
            os.close(fd)
    return there
