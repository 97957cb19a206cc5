"""The store on disk: where everything is, and opening or making one.

::

    store/                             0700, owned by the user who runs Stratum or by root
    |-- stratum.toml                   format = 2, id = 32 hex digits; written last, so its presence means a whole store
    |-- cache.toml                     limits (``store.budget``), where somebody set some
    |-- objects/ab/cdef...             file contents by fs-verity digest (``store.objects``)
    |-- commits/<metadata_hash>        metadata.toml, NUL, the record of how the dump is stored (``store.commits``)
    |-- commits/<metadata_hash>.*      ancestors (``store.ancestry``), sources, partial (``store.sources``)
    |-- grounds/<metadata_hash>        such a file of a commit that is no more, as other dumps are stored on its own
    |-- frames/ab/cdef...              zstd frames of dumps (``store.frames``); all of these: ``store.trees``
    |-- refs/<name>/                   tags/, worktrees/, log.jsonl (``store.namespaces``), pins.toml (``store.pins``),
    |                                  residence.toml (``store.keeping``), history/<wt>/ (``store.histories``), moves/
    |                                  (``store.moves``; versions before them leave these alone)
    |-- refs/<name>.lock               flock (``store.locks``)
    |-- mounts/                        mounts that outlive a reboot, where there are any (``store.bootmounts``)
    |-- histories/<name>/<wt>/         histories of strata that were removed (``store.histories``)
    |-- peers/                         key.pem, book.toml, lock (``store.peerbook``)
    |-- csi/, volumes/                 what services keep (``store.records``)
    |-- offers/                        artifacts that are computed for others (``store.offers``)
    |-- blobs/sha256/ab/cdef...        what others pushed (``store.blobs``), and what of it is in which repository:
    |-- repositories/<name>/           (``store.repositories``). Versions that know neither leave both alone
    |-- sources/<manifest's SHA-256>/  catalog of an artifact that commits can be fetched from (``store.sources``)
    |-- landing/                       owner, and objects that were fetched and wait for their names (``hydrate``)
    |-- ahead/                         those of them that nobody has asked for
    |-- moving/<id>/                   directories on their way into the store (``store.moving``)
    |-- cache.toml                     limits of what can be fetched again (``store.budget``)
    |-- profiles/<metadata_hash>       in what order objects were read (``store.profiles``)
    |-- watch.lock                     flock of who writes histories (``store.histories``)
    |-- tmp/                           transactions in progress (``store.transaction``)
    |-- cache/                         may be deleted (``store.cachefile``): ingest/ (``ingest.statcache``), merkle/
    |                                  (``store.merklecache``), c4/ (``store.c4cache``); packs/ (``store.packcache``),
    |                                  runs/ (``store.runs``); images/ (``store.images``) and trees/
    |                                  (``api.workplace``), which may be mounted
    `-- lock                           flock (``store.locks``)

Who may own a store. What is in it gets mounted by the kernel and restored with its owners and modes, so a store is
only used where nobody but the caller and root could have written to it: the directory belongs to the caller or to
root and is not writable by group or others. Root using a user's store would be the user using root, and what root
mounts keeps other attributes than what users mount (``store.upperdirs``). The path to the
store may contain symbolic links (``/var/lib/stratum`` moved to a bigger disk); below it none is ever followed but the
tags, whose only legal target is a commit's file and which are read, not followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from stratum.errors import (
    DamagedError,
    ExistsError,
    NotFoundError,
    StratumError,
    UnsupportedError,
    UsageError,
    os_error_text,
    quoted,
)
from stratum.frozen import frozen
from stratum.sys.atomic import TEMPORARY_PREFIX, append_lines, fsync_dir, write_atomic
from stratum.sys.locks import locked
from stratum.sys.smallfile import READ, UnfitError, read_opened, read_regular
from stratum.sys.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from stratum.sys.userns import OVERFLOW_ID, in_initial_namespace

FORMAT = 2
FORMAT_FILE = "stratum.toml"
LANDING_OWNER = "owner"
"""In ``landing/``: flock'd by the process that fetches into it, for as long as it lives."""
LANDING_PARTS = "parts"
"""In ``landing/``: large objects of which parts are here, each with files beside it whose names begin as its own."""
ANCESTORS = "ancestors"
"""``commits/<hash>.ancestors`` (``store.ancestry``)."""
DIRECTORIES = ("objects", "commits", "refs", "tmp")
SMALL_FILE_MAX = 16 << 20
"""No metadata file of a store (TOML) is read beyond this many bytes."""

_ID = b'id = "'
_FORMAT_MAX = 64 << 10
_HEAD = 4096
_HEAD_BEYOND = 256

Names = list[str]
"""For classes that have a method called ``list``."""

_HINTS = {
    errno.ENOSPC: "free some space on the store's file system, or run 'stratum gc'",
    errno.EDQUOT: "the disk quota is used up: free some space, or run 'stratum gc'",
    errno.EROFS: "the store's file system is read-only: only reading works",
    errno.EACCES: "run the command as the owner of the store",
    errno.EPERM: "run the command as the owner of the store",
    errno.EIO: "the disk reports errors: check it before anything else",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


class NoSpaceError(StratumError):
    """The store's file system, or a quota on it, is full."""


_KINDS = {
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
    errno.EROFS: UnsupportedError,
    errno.EACCES: UnsupportedError,
    errno.EPERM: UnsupportedError,
    errno.EOPNOTSUPP: UnsupportedError,
}


def storage_error(exc: OSError, doing: str) -> StratumError:
    """What to raise for an ``OSError`` met while ``doing`` something to the store, in the kernel's words."""
    kind = _KINDS.get(exc.errno or 0, StratumError)
    return kind(f"cannot {doing}: {os_error_text(exc)}", hint=_HINTS.get(exc.errno or 0, ""))


def signature_of(path: Path) -> tuple[int, int, int] | None:
    """What tells that a file is another one; None where there is none."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise storage_error(exc, f"read {path}") from None
    return info.st_ino, info.st_size, info.st_mtime_ns


@contextmanager
def storing(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into ``storage_error``."""
    try:
        yield
    except OSError as exc:
        raise storage_error(exc, doing) from None


@frozen
class Layout:
    """The paths of one store. ``root`` is absolute and without symbolic links."""

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def commits(self) -> Path:
        return self.root / "commits"

    @property
    def grounds(self) -> Path:
        return self.root / "grounds"

    @property
    def frames(self) -> Path:
        return self.root / "frames"

    @property
    def refs(self) -> Path:
        return self.root / "refs"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def ingest_cache(self) -> Path:
        return self.root / "cache" / "ingest"

    @property
    def merkle_cache(self) -> Path:
        return self.root / "cache" / "merkle"

    @property
    def c4_cache(self) -> Path:
        return self.root / "cache" / "c4"

    @property
    def images(self) -> Path:
        return self.root / "cache" / "images"

    @property
    def trees(self) -> Path:
        return self.root / "cache" / "trees"

    @property
    def runs(self) -> Path:
        return self.root / "cache" / "runs"

    @property
    def boot_mounts(self) -> Path:
        return self.root / "mounts"

    @property
    def sources(self) -> Path:
        return self.root / "sources"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def repositories(self) -> Path:
        return self.root / "repositories"

    @property
    def offers(self) -> Path:
        return self.root / "offers"

    @property
    def profiles(self) -> Path:
        return self.root / "profiles"

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def ahead(self) -> Path:
        return self.root / "ahead"

    @property
    def moving(self) -> Path:
        return self.root / "moving"

    @property
    def pack_cache(self) -> Path:
        return self.root / "cache" / "packs"

    def commit(self, commit: str) -> Path:
        return Path(f"{self.root}/commits/{commit}")  # in a third of the time that '/' takes, for thousands

    def beside(self, commit: str, what: str) -> Path:
        return Path(f"{self.root}/commits/{commit}.{what}")

    def ref(self, name: str) -> Path:
        return self.refs / name

    def ref_lock(self, name: str) -> Path:
        return self.refs / f"{name}.lock"

    def tags(self, name: str) -> Path:
        return self.refs / name / "tags"

    def worktrees(self, name: str) -> Path:
        return self.refs / name / "worktrees"

    def worktree(self, name: str, worktree: str) -> Path:
        return self.refs / name / "worktrees" / worktree

    def worktree_lock(self, name: str, worktree: str) -> Path:
        return self.refs / name / "worktrees" / f"{worktree}.lock"

    def reflog(self, name: str) -> Path:
        return self.refs / name / "log.jsonl"

    def moves(self, name: str) -> Path:
        return self.refs / name / "moves"

    def moves_lock(self, name: str) -> Path:
        return self.refs / name / "moves.lock"

    def history(self, name: str, worktree: str) -> Path:
        return self.refs / name / "history" / worktree

    @property
    def removed_histories(self) -> Path:
        return self.root / "histories"

    @property
    def watch_lock(self) -> Path:
        return self.root / "watch.lock"

    def open_beneath(self, path: Path | str, flags: int = os.O_RDONLY, mode: int = 0) -> int:
        """Open ``path``, which is below the root, following no symbolic link; a close-on-exec descriptor.

        Raises ``OSError`` as open(2) does, and ``DamagedError`` where a symbolic link stands in the way.
        """
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            relative = os.fsencode(self._beneath(path))
            return openat2(root, relative, flags, mode=mode, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.EXDEV):
                raise DamagedError(
                    f"{path} is, or is below, a symbolic link; a store has none there",
                    hint="somebody changed the store by hand; nothing was read from it",
                ) from None
            raise
        finally:
            os.close(root)

    def _beneath(self, path: Path | str) -> str:
        """``path`` relative to the root. As text: ``Path.relative_to`` takes longer than the system call."""
        text, root = os.fspath(path), os.fspath(self.root)
        if not text.startswith(root + "/"):
            if text == root:
                return "."
            raise ValueError(f"{text} is not in the store {root}")
        return text[len(root) + 1 :]

    def read_beneath(self, path: Path, limit: int = SMALL_FILE_MAX) -> bytes:
        """The content of the regular file ``path``; ``OSError`` as read(2), ``DamagedError`` for any other kind of
        file or one of more than ``limit`` bytes."""
        try:
            return read_opened(self.open_beneath(path, READ), limit)[1]
        except UnfitError as exc:
            raise DamagedError(f"cannot read {path}: {exc.strerror}") from None

    def content_of(self, path: Path, limit: int = SMALL_FILE_MAX) -> bytes | None:
        """The same, None where there is no such file, and what the system refuses as a ``StratumError``."""
        try:
            return self.read_beneath(path, limit)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None

    def append_beneath(self, path: Path, lines: bytes) -> None:
        """Add whole lines to the regular file ``path``, which is made where it is not there, durably. ``OSError``."""
        fd = self.open_beneath(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            append_lines(fd, lines)
        finally:
            os.close(fd)

    def head_of(self, path: Path, limit: int, end: bytes = b"\n\0") -> bytes:
        """The beginning of the regular file ``path``, to ``end`` and somewhat further where it has that, else of
        ``limit`` bytes. Raises as ``read_beneath``, and nothing for a file that is larger."""
        fd = self.open_beneath(path, READ)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DamagedError(f"cannot read {path}: not a regular file")
            data = os.pread(fd, _HEAD, 0)
            while (found := data.find(end)) < 0 or found + _HEAD_BEYOND > len(data):
                piece = os.pread(fd, min(16 * _HEAD, max(limit - len(data), 0)), len(data))
                if not piece:
                    break
                data += piece
            return data
        finally:
            os.close(fd)

    def files_in(self, directory: Path) -> set[str]:
        """The names of the regular files in ``directory``, as ``names_in``."""
        try:
            fd = self.open_beneath(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(fd) as entries:
                    return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
            finally:
                os.close(fd)
        except FileNotFoundError:
            return set()
        except OSError as exc:
            raise storage_error(exc, f"list {directory}") from None

    def names_in(self, directory: Path) -> list[str]:
        """The sorted names in ``directory``, which must not be a symbolic link; empty where there is none."""
        try:
            fd = self.open_beneath(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise storage_error(exc, f"list {directory}") from None
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)


def open_layout(path: Path) -> Layout:
    """The store at ``path``.

    Raises ``NotFoundError`` where there is none, ``UnsupportedError`` for a format that this version does not know or
    an owner or mode that cannot be trusted, ``DamagedError`` where parts of a store are missing.
    """
    root = _resolved(path)
    try:
        info = root.lstat()
    except FileNotFoundError:
        raise NotFoundError(f"there is no store at {path}", hint=_MAKE_ONE) from None
    except OSError as exc:
        raise storage_error(exc, f"open the store {path}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise UsageError(f"{path} is not a directory, so it is not a store")
    layout = Layout(root)
    try:
        text = layout.read_beneath(root / FORMAT_FILE, _FORMAT_MAX)
    except FileNotFoundError:
        raise NotFoundError(f"{path} is not a Stratum store: it has no {FORMAT_FILE}", hint=_MAKE_ONE) from None
    except OSError as exc:
        if exc.errno == errno.EACCES:
            _check_trust(path, info)
        raise storage_error(exc, f"open the store {path}") from None
    _check_trust(path, info)
    _check_format(root / FORMAT_FILE, text)
    for name in DIRECTORIES:
        _check_directory(root / name)
    return layout


_MAKE_ONE = "'stratum init NAME MOUNTPOINT' or 'stratum import PATH NAME' makes one; --store names another place"


def _check_trust(path: Path, info: os.stat_result) -> None:
    if info.st_uid not in (0, os.geteuid()):
        raise _another_owner(path, info.st_uid)
    if info.st_mode & 0o022:
        raise UnsupportedError(
            f"the store {path} is writable by others (mode {stat.S_IMODE(info.st_mode):04o})",
            hint=f"make sure nobody tampered with it, then: chmod 0700 {path}",
        )


def _another_owner(path: Path, owner: int) -> UnsupportedError:
    if owner == OVERFLOW_ID and not in_initial_namespace():
        return UnsupportedError(
            f"the store {path} belongs to root, or to somebody else whom this user namespace has no ID for",
            hint="what is root's is used as root: sudo stratum; --store names a store of your own",
        )
    return UnsupportedError(
        f"the store {path} belongs to user {owner}, who could have put anything into it",
        hint="run the command as that user",
    )


def _check_format(path: Path, text: bytes) -> None:
    identity = _noted_id(text)
    if identity is not None and text == _format_text(identity.decode()):
        return
    from stratum import toml

    try:
        table = toml.loads(text.decode("utf-8"))
    except ValueError as exc:
        raise DamagedError(f"{path} is not valid TOML: {exc}") from None
    found = table.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise DamagedError(f"{path} does not say which format the store has", hint=f"it should read: format = {FORMAT}")
    if found != FORMAT:
        raise UnsupportedError(
            f"the store {path.parent} has format {found}; this version of Stratum knows only format {FORMAT}",
            hint=_OLDER if found < FORMAT else "use the version of Stratum that made it, or a newer one",
        )
    for key, value in table.items():
        if key != "format" and not (key == "id" and _is_store_id(value)):
            raise DamagedError(
                f"{path} is damaged: {quoted(key)} is no key of it, or has a damaged value",
                hint=f"remove that line, so that there is: format = {FORMAT}",
            )


_OLDER = (
    "carry its strata over: 'stratum export' with the version of Stratum that made it, then 'stratum import' with this "
    "one, into a store of its own"
)


def _check_directory(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise DamagedError(f"the store has lost its directory {path}", hint="restore it from a backup") from None
    except OSError as exc:
        raise storage_error(exc, f"open {path}") from None
    if not stat.S_ISDIR(mode):
        raise DamagedError(f"{path} is not a directory", hint="somebody changed the store by hand")


def create_layout(path: Path) -> Layout:
    """Make an empty store at ``path``: a new directory, an empty one, or one where making a store was interrupted.

    Raises ``ExistsError`` where there is a store, ``UsageError`` where the directory holds anything else,
    ``StratumError`` in the kernel's words.
    """
    root = _resolved(path)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        owner = root.lstat().st_uid
        if owner != os.geteuid():
            raise UnsupportedError(f"{path} belongs to user {owner}", hint="make the store as its owner")
        _check_unused(path, root)
        with locked(root / "lock", what=f"the store {path}"):
            _check_unused(path, root)
            root.chmod(0o700)
            for leftover in root.glob(TEMPORARY_PREFIX + "*"):
                leftover.unlink()
            for name in DIRECTORIES:
                (root / name).mkdir(exist_ok=True)
                (root / name).chmod(0o755)
            write_atomic(root / FORMAT_FILE, _format_text(new_store_id()))
        fsync_dir(root.parent)
    except FileExistsError:
        raise UsageError(f"{path} is not a directory", hint="give a directory for the store") from None
    except OSError as exc:
        raise storage_error(exc, f"make a store at {path}") from None
    return open_layout(path)


def store_id(root: Path) -> bytes | None:
    """The random ID that the store at ``root`` was given when it was made, which a copy of it has too; None where there
    is none to be read: earlier versions gave none."""
    try:
        return _noted_id(read_regular(root / FORMAT_FILE, _FORMAT_MAX, follow=False)[1])
    except OSError:
        return None


def _noted_id(text: bytes) -> bytes | None:
    """The ID that the first line for one tells."""
    line = next((line for line in text.split(b"\n") if line.startswith(_ID) and len(line) == len(_ID) + 33), b"")
    identity = line[len(_ID) : -1]
    is_one = line[-1:] == b'"' and not identity.strip(b"0123456789abcdef") and _is_store_id(identity.decode())
    return identity if is_one else None


def _format_text(identity: str) -> bytes:
    """What FORMAT_FILE says."""
    return f'format = {FORMAT}\nid = "{identity}"\n'.encode()


def new_store_id() -> str:
    """A random ID for a store: 24 hex digits, and 8 that are made of these. A damaged one must not tell the mounts of a
    store from its own."""
    chosen = os.urandom(12).hex()
    return chosen + _check_digits(chosen)


def _is_store_id(text: object) -> bool:
    return isinstance(text, str) and text[-8:] == _check_digits(text[:-8])


def _check_digits(text: str) -> str:
    return f"{crc32(text.encode()):08x}"


def _check_unused(path: Path, root: Path) -> None:
    """Refuse a directory in use for something else; what an interrupted ``create_layout`` leaves is fine."""
    foreign = [entry.name for entry in os.scandir(root) if not _is_unused(entry)]
    if (root / FORMAT_FILE).exists():
        raise ExistsError(f"{path} is a store already")
    if foreign:
        raise UsageError(
            f"{path} is neither empty nor a Stratum store (it contains {foreign[0]!a})",
            hint="give an empty or a new directory for the store",
        )


def _is_unused(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir(follow_symlinks=False):
        # lost+found is in the root of a fresh ext4.
        return entry.name == "lost+found" or (entry.name in DIRECTORIES and not os.listdir(entry.path))
    return entry.is_file(follow_symlinks=False) and (entry.name == "lock" or entry.name.startswith(TEMPORARY_PREFIX))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as exc:  # a symlink loop is a RuntimeError before Python 3.13
        reason = os_error_text(exc) if isinstance(exc, OSError) else "too many symbolic links"
        raise UsageError(f"cannot use {path} as a store: {reason}") from None
