"""The kernel's file-descriptor mount API: fsopen, fspick, fsconfig, fsmount, move_mount, open_tree, mount_setattr,
umount2.

A mount made here is **detached**: it belongs to no mount namespace and goes away with its last fd, until
``move_mount`` attaches it. All fds are close-on-exec. Failures are ``OSError``; those of a filesystem context
carry what the kernel wrote to the context's log.
"""

from __future__ import annotations

import errno
import os
import struct
from types import TracebackType

from stratum.sys.syscalls import AT_EMPTY_PATH, AT_FDCWD, fsencode, libc_call, raw_call

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000

MOVE_MOUNT_BENEATH = 0x00000200

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_FSPICK = 433
_NR_MOUNT_SETATTR = 442

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSPICK_CLOEXEC = 1
_FSPICK_SYMLINK_NOFOLLOW = 2
_FSPICK_EMPTY_PATH = 8
_OPEN_TREE_CLONE = 1
_ATTR_ATIME = 0x00000070
"""The field of ``MOUNT_ATTR_*`` that says when access times are updated: one value, not flags."""

_MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
_MOVE_MOUNT_T_EMPTY_PATH = 0x00000040

_SET_FLAG = 0
_SET_STRING = 1
_SET_FD = 5
_CMD_CREATE = 6
_CMD_RECONFIGURE = 7

_MS_REC = 0x4000
_MS_SLAVE = 0x80000
_MS_PRIVATE = 0x40000

_LOG_MESSAGE_MAX = 8192


class FilesystemContext:
    """One filesystem being configured: fsopen(2), any number of parameters, ``create``, then ``mount``.

    Or, of ``picked``, one that is mounted, for ``reconfigure``. A context manager that closes the context; the mount
    lives on by its own fd.
    """

    def __init__(self, fstype: str, fd: int | None = None) -> None:
        self.fstype = fstype
        self.fd = raw_call(_NR_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC, path=fstype) if fd is None else fd

    @classmethod
    def picked(cls, mount: int | str | bytes | os.PathLike[str]) -> FilesystemContext:
        """The filesystem of a mount: an fd of its root, or its path, which may be another process's by
        ``/proc/PID/root``. EINVAL where that is not the root of a mount."""
        if isinstance(mount, int):
            return cls("remount", raw_call(_NR_FSPICK, mount, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH))
        raw = fsencode(mount)
        flags = _FSPICK_CLOEXEC | _FSPICK_SYMLINK_NOFOLLOW
        return cls("remount", raw_call(_NR_FSPICK, AT_FDCWD, raw, flags, path=raw))

    def __enter__(self) -> FilesystemContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def set_flag(self, key: str) -> None:
        """Set a parameter that has no value, such as ``ro``."""
        self._configure(_SET_FLAG, key, None, 0)

    def set_string(self, key: str, value: str | bytes) -> None:
        """Set ``key`` to a string, taken whole whatever it contains; the kernel takes at most 255 bytes."""
        self._configure(_SET_STRING, key, fsencode(value), 0)

    def set_fd(self, key: str, fd: int) -> None:
        """Set ``key`` to an open file."""
        self._configure(_SET_FD, key, None, fd)

    def create(self) -> None:
        """Make the superblock from the parameters."""
        self._configure(_CMD_CREATE, None, None, 0)

    def reconfigure(self) -> None:
        """Give a picked superblock the parameters. All others of it stay."""
        self._configure(_CMD_RECONFIGURE, None, None, 0)

    def mount(self, attributes: int = 0) -> int:
        """A detached mount of the created superblock with ``MOUNT_ATTR_*``, as an fd."""
        try:
            return raw_call(_NR_FSMOUNT, self.fd, _FSMOUNT_CLOEXEC, attributes)
        except OSError as exc:
            raise self._explained(exc, None) from None

    def messages(self) -> list[str]:
        """What the kernel has logged to this context since the last call."""
        found: list[str] = []
        while True:
            try:
                line = os.read(self.fd, _LOG_MESSAGE_MAX)
            except OSError as exc:
                if exc.errno == errno.EMSGSIZE:
                    continue
                return found
            if not line:
                return found
            # Each message starts with its severity: "e ", "w " or "i ".
            found.append(line[2:].decode("utf-8", "replace").strip())

    def _configure(self, command: int, key: str | None, value: bytes | None, aux: int) -> None:
        try:
            raw_call(_NR_FSCONFIG, self.fd, command, key.encode() if key is not None else None, value, aux)
        except OSError as exc:
            raise self._explained(exc, key) from None

    def _explained(self, exc: OSError, key: str | None) -> OSError:
        said = "; ".join(self.messages())
        about = f"{self.fstype}: {key}" if key is not None else self.fstype
        text = f"{os.strerror(exc.errno or 0)} ({said})" if said else os.strerror(exc.errno or 0)
        return OSError(exc.errno, f"{about}: {text}")


def refresh_mount(mount: int | str | bytes | os.PathLike[str]) -> None:
    """Have the filesystem of a mount forget the names and files that nobody has open, without changing it: the next
    look at a file is a first one. Open and mapped files are not disturbed.

    An overlay keeps, with each file, the layer that its content was found in; so this is how it comes to see that an
    object lies elsewhere now, and how the space of one that was removed is freed. ``mount`` as for ``picked``. Raises
    ``OSError``.
    """
    try:
        with FilesystemContext.picked(mount) as context:
            context.reconfigure()
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
        # An overlay that has nothing to write to wants to hear that it stays read-only; others would become so by it.
        with FilesystemContext.picked(mount) as context:
            context.set_flag("ro")
            context.reconfigure()


def move_mount(mount: int, target: int, *, beneath: bool = False) -> None:
    """Attach the mount fd ``mount`` on the directory fd ``target`` (O_PATH will do).

    With ``beneath`` (Linux >= 6.5) it goes below the mount whose root ``target`` is, and shows when that is unmounted.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH | (MOVE_MOUNT_BENEATH if beneath else 0)
    raw_call(_NR_MOVE_MOUNT, mount, b"", target, b"", flags)


def open_tree_clone(directory: int) -> int:
    """A detached bind mount of the directory fd ``directory``, without what is mounted below it, as a mount fd."""
    return raw_call(_NR_OPEN_TREE, directory, b"", _OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH)


def mount_setattr(mount: int, *, attributes: int = 0, clear: int = 0, user_namespace: int | None = None) -> None:
    """Set and clear ``MOUNT_ATTR_*`` of the mount fd; with ``user_namespace`` (an fd) it becomes idmapped by it.

    Only a detached mount that was never idmapped before can be idmapped (Linux >= 5.12, and per filesystem).
    """
    if attributes & _ATTR_ATIME:
        clear |= _ATTR_ATIME  # the kernel takes a new value of this field only where the old one is cleared whole
    if user_namespace is not None:
        attributes |= MOUNT_ATTR_IDMAP
    data = struct.pack("=QQQQ", attributes, clear, 0, user_namespace or 0)
    raw_call(_NR_MOUNT_SETATTR, mount, b"", AT_EMPTY_PATH, data, len(data))


def umount2(path: str | bytes | os.PathLike[str], flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2) of the topmost mount at ``path``; EBUSY where it is in use, unless ``MNT_DETACH`` is given."""
    raw = fsencode(path)
    libc_call("umount2", raw, flags, path=raw)


def make_private() -> None:
    """Stop mounts from propagating, out and in."""
    libc_call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None, path=b"/")


def make_slave() -> None:
    """Have mounts propagate in, and no more out."""
    libc_call("mount", None, b"/", None, _MS_REC | _MS_SLAVE, None, path=b"/")
