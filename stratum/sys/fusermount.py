"""fusermount3(1): how anybody mounts a FUSE filesystem where all their programs see it, on a directory of their own.

The program belongs to libfuse and is set-user-ID, so it is of use in the user namespace of the machine only. It is
given a socket (``_FUSE_COMMFD``), opens /dev/fuse, mounts, and sends the descriptor to serve the filesystem by. Its
option ``auto_unmount`` is of no use here: several versions look as root whether the mount is dead, and root is told
nothing of a user's mount.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
from typing import BinaryIO

from stratum.errors import BusyError, StratumError, UnsupportedError, one_line, os_error_text

_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin")
_NAMES = ("fusermount3", "fusermount")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_FD = 3
_HIGH = 64
_PATIENCE = 20.0
"""Seconds that it gets to mount: the directory may be on a disk that answers late."""
_WORDS_MAX = 4096
_BUSY = "Device or resource busy"


def program() -> str:
    """Where fusermount3 is. ``UnsupportedError`` where there is none that may mount."""
    for name in _NAMES:
        for place in _PLACES:
            path = f"{place}/{name}"
            if os.access(path, os.X_OK):
                return path
    raise UnsupportedError(
        "a mount that all your programs see needs fusermount3, and it is not here",
        hint="install it (apt install fuse3; dnf install fuse3), or mount without --host",
    )


def mount(mountpoint: str, source: str, kind: str) -> int:
    """A FUSE filesystem, read-only, on the directory ``mountpoint`` (absolute); the descriptor to serve it by, which
    does not block.

    ``source`` is what mountinfo shows of it, and ``fuse.KIND`` as its type. Other users see nothing of it. Raises
    ``UnsupportedError`` without the program, ``StratumError`` with what it says.
    """
    asked = program()
    options = f"ro,nosuid,nodev,default_permissions,subtype={kind},fsname={_escaped(source)}"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            pid, said = _started([asked, "-o", options, "--", mountpoint], theirs.fileno())
        device = _received(ours)
    with said:
        text = _ended(pid, said)
    if device is None:
        raise _refusal(text, f"cannot mount on {mountpoint}")
    os.set_blocking(device, False)
    return device


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount what ``mount`` mounted; with ``lazy`` also while it is in use. ``BusyError`` where it is in use,
    ``StratumError`` with what fusermount3 says."""
    pid, said = _started([program(), "-u", *(["-z"] if lazy else []), "--", mountpoint])
    with said:
        text = said.read(_WORDS_MAX)
    _, status = os.waitpid(pid, 0)
    if status:
        raise _refusal(text, f"cannot unmount {mountpoint}")


def _escaped(text: str) -> str:
    """``text`` as the value of an option."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _started(command: list[str], channel: int | None = None) -> tuple[int, BinaryIO]:
    """Start fusermount3 with the socket ``channel``: its process ID, and what it says."""
    words, said = os.pipe2(os.O_CLOEXEC)
    files = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), said]
    actions = [(os.POSIX_SPAWN_DUP2, files[number], to) for number, to in ((0, 0), (0, 1), (1, 2))]
    environment = dict(_ENVIRONMENT)
    try:
        if channel is not None:  # from a number that it is not to get, or it would stay close-on-exec
            files.append(fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, _HIGH))
            actions.append((os.POSIX_SPAWN_DUP2, files[-1], _FD))
            environment["_FUSE_COMMFD"] = str(_FD)
        pid = os.posix_spawn(command[0], command, environment, file_actions=actions, setsigmask=())
    except OSError as exc:
        os.close(words)
        raise StratumError(f"cannot start {command[0]}: {os_error_text(exc)}") from None
    finally:
        for fd in files:
            os.close(fd)
    return pid, os.fdopen(words, "rb")


def _received(channel: socket.socket) -> int | None:
    """The descriptor that fusermount3 sends; None where it ends without, or takes too long."""
    numbers = array.array("i")
    channel.settimeout(_PATIENCE)
    try:
        _, rights, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(numbers.itemsize), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    finally:
        channel.setblocking(True)
    for level, kind, content in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: numbers.itemsize])
    return numbers[0] if numbers else None


def _ended(pid: int, said: BinaryIO) -> bytes:
    """What one said that has mounted, or was not to be waited for any longer, once it has ended."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)
    text = said.read(_WORDS_MAX)
    os.waitpid(pid, 0)
    return text


def _refusal(said: bytes, what: str) -> StratumError:
    """The error for what fusermount3 said; ``what`` says what it did not do."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    words = one_line(lines[-1].partition(": ")[2] or lines[-1]) if lines else "it gave no reason"
    if words.endswith(_BUSY):
        return BusyError(f"{what}: it is in use", hint="leave it, and end what uses it")
    kind = UnsupportedError if "/dev/fuse" in words or "Operation not permitted" in words else StratumError
    return kind(f"{what}: fusermount3 says: {words}", hint=_hint(words))


def _hint(words: str) -> str:
    if "/dev/fuse" in words and "Permission denied" in words:
        return "as root: chmod 666 /dev/fuse, as udev does; 'stratum restore REF / --to DIR' writes the files out"
    if "/dev/fuse" in words:
        return "the kernel needs FUSE (modprobe fuse)"
    if "write access" in words or "not owned" in words:
        return "name a directory of your own"
    if "too many FUSE" in words:
        return "unmount others first, or raise mount_max in /etc/fuse.conf"
    return ""
