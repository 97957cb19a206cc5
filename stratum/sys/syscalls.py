"""System calls that Python has no function for, called through ctypes.

Every failure is an ``OSError`` with the kernel's errno, the kernel's text and the file it is about. The C library is
opened at the first call, not at import. Numbers from 424 on are the same on every architecture that Stratum runs
on; older calls go through the C library's own wrappers (glibc >= 2.28).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from functools import cache

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_NR_OPENAT2 = 437

_STATX_BTIME = 0x800
_STATX_BTIME_OFFSET = 0x50
_STATX_MNT_ID = 0x1000
_STATX_MNT_ID_UNIQUE = 0x4000
_STATX_SIZE = 256
_STATX_MNT_ID_OFFSET = 0x90

# openat2 with RESOLVE_BENEATH or RESOLVE_IN_ROOT answers EAGAIN when a rename or mount raced with ".." in the path.
_OPENAT2_TRIES = 100

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9  # without loading signal, which defines an enum of all of them

Argument = int | bytes | ctypes.Array[ctypes.c_char] | None


@cache
def libc() -> ctypes.CDLL:
    """The C library of this process, with errno kept per thread."""
    return ctypes.CDLL(None, use_errno=True)


def fsencode(path: str | bytes | os.PathLike[str]) -> bytes:
    """``path`` as the bytes that a system call takes; ``ValueError`` where it contains a NUL."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("a path cannot contain a NUL byte")
    return raw


def libc_call(name: str, *args: Argument, path: str | bytes | None = None) -> int:
    """Call the C library function ``name``; raise ``OSError`` about ``path`` where it returns -1."""
    result = int(getattr(libc(), name)(*map(_as_c, args)))
    if result == -1:
        raise_errno(ctypes.get_errno(), path=path)
    return result


def raw_call(number: int, *args: Argument, path: str | bytes | None = None) -> int:
    """Make system call ``number``; raise ``OSError`` about ``path`` where it fails."""
    function = libc().syscall
    function.restype = ctypes.c_long
    result = int(function(ctypes.c_long(number), *map(_as_c, args)))
    if result == -1:
        raise_errno(ctypes.get_errno(), path=path)
    return result


def raise_errno(code: int, text: str = "", path: str | bytes | None = None) -> None:
    """Raise ``OSError(code)`` with ``text`` or the system's text for it."""
    shown = os.fsdecode(path) if path is not None else None
    raise OSError(code, text or os.strerror(code), shown)


def _as_c(value: Argument) -> object:
    # Plain ints would be passed as 32-bit int, with undefined upper halves.
    return ctypes.c_long(value) if isinstance(value, int) else value


def openat2(
    directory: int,
    path: str | bytes,
    flags: int,
    mode: int = 0,
    resolve: int = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
) -> int:
    """openat2(2): open ``path`` relative to the directory fd ``directory`` under the ``resolve`` rules.

    The fd is close-on-exec. EAGAIN (a rename raced with the walk) and EINTR are retried a bounded number of times.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    raw = fsencode(path)
    for _ in range(_OPENAT2_TRIES - 1):
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return raw_call(_NR_OPENAT2, directory, raw, how, len(how), path=path)
    return raw_call(_NR_OPENAT2, directory, raw, how, len(how), path=path)


def open_beneath(directory: int, path: str | bytes, flags: int) -> int:
    """Open ``path`` strictly below the directory fd: no absolute path, no ``..`` or symlink out of it (EXDEV)."""
    return openat2(directory, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)


def open_in_root(root: int, path: str | bytes, flags: int) -> int:
    """Open ``path`` as if the directory fd ``root`` were ``/``: absolute symlinks and ``..`` stay inside it."""
    return openat2(root, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_nofollow(path: str | bytes | os.PathLike[str], flags: int, *, directory: int | None = None) -> int:
    """open(2) with O_NOFOLLOW and O_CLOEXEC: a final symlink is ELOOP (ENOTDIR with O_DIRECTORY)."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def fd_path(fd: int) -> str:
    """The ``/proc`` path that reaches the file behind ``fd``, for calls that only take a path."""
    return f"/proc/self/fd/{fd}"


def renameat2(
    source_directory: int,
    source: str | bytes | os.PathLike[str],
    target_directory: int,
    target: str | bytes | os.PathLike[str],
    flags: int,
) -> None:
    """renameat2(2) with RENAME_NOREPLACE (EEXIST where the target exists) or RENAME_EXCHANGE.

    Names are relative to the directory fds; ``AT_FDCWD`` is the working directory.
    """
    old, new = fsencode(source), fsencode(target)
    libc_call("renameat2", source_directory, old, target_directory, new, flags, path=new)


def syncfs(fd: int) -> None:
    """syncfs(2): write back the whole filesystem that ``fd`` is on; write errors since its open are reported."""
    libc_call("syncfs", fd)


def statx_mount_id(path: str | bytes | os.PathLike[str] = b"", *, directory: int = AT_FDCWD) -> int:
    """The ID of the mount that ``path`` is on; an empty path asks about the fd ``directory`` itself.

    Since Linux 6.8 it is unique until reboot (and above 2**31); before, it is the number in ``/proc/PID/mountinfo``,
    which the kernel gives out again after an unmount.
    """
    found = _statx(path, directory, False, _STATX_MNT_ID_UNIQUE)
    return _mount_id(found) if found is not None else mountinfo_id(path, directory=directory)


def mountinfo_id(path: str | bytes | os.PathLike[str] = b"", *, directory: int = AT_FDCWD, follow: bool = False) -> int:
    """As ``statx_mount_id``, but always the recycled number that ``/proc/PID/mountinfo`` and fdinfo show."""
    found = _statx(path, directory, follow, _STATX_MNT_ID)
    if found is None:
        raise_errno(errno.ENOSYS, "this kernel does not tell mount IDs (Linux >= 5.8 does)", fsencode(path))
    assert found is not None
    return _mount_id(found)


def birth_time(fd: int) -> int | None:
    """When the inode that ``fd`` is open on, which may be O_PATH, was made, in ns since the epoch; None where its file
    system does not tell."""
    found = _statx(b"", fd, False, _STATX_BTIME)
    if found is None:
        return None
    seconds, nanoseconds = struct.unpack_from("=qI", found, _STATX_BTIME_OFFSET)
    return int(seconds * 1_000_000_000 + nanoseconds)


def _mount_id(found: bytes) -> int:
    (mount_id,) = struct.unpack_from("=Q", found, _STATX_MNT_ID_OFFSET)
    return int(mount_id)


def _statx(path: str | bytes | os.PathLike[str], directory: int, follow: bool, wanted: int) -> bytes | None:
    """statx(2): its ``struct statx``; None where the kernel does not tell what is ``wanted``."""
    raw = fsencode(path)
    flags = (0 if raw else AT_EMPTY_PATH) | (0 if follow else AT_SYMLINK_NOFOLLOW)
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    libc_call("statx", directory, raw, flags, wanted, buffer, path=raw or None)
    (mask,) = struct.unpack_from("=I", buffer, 0)
    return buffer.raw if mask & wanted else None


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    libc_call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
