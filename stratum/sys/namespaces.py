"""Namespaces and credentials of one thread: setns, unshare, filesystem IDs, effective capabilities.

The kernel keeps root, working directory, mount namespace and credentials per thread. ``in_own_thread`` uses that: the
work runs in a thread of its own with its own copies, so neither the caller nor any other thread notices, and
nothing has to be undone. File descriptors stay shared, so a mount fd made there is the caller's to use.

What runs there must import nothing: after a setns or chroot an import would load code from the other root.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import TypeVar

from stratum.sys import mountapi
from stratum.sys.syscalls import libc, libc_call

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000

_CAPABILITIES_OF_THREAD = struct.pack("=Ii", 0x20080522, 0)  # version 3
_NS_GET_USERNS = 0xB701
_NS_GET_OWNER_UID = 0xB704

T = TypeVar("T")


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread."""
    libc_call("unshare", flags)


def setns(fd: int, kind: int) -> None:
    """setns(2): move the calling thread into the namespace ``fd`` of type ``kind`` (CLONE_NEW*).

    For a mount namespace the thread must not share its root and working directory: call it ``in_own_thread``.
    """
    libc_call("setns", fd, kind)


def leave_mounts() -> None:
    """Move this process, which must have one thread, to a mount namespace in which there is nothing but an empty
    directory, its root and working directory: so that it keeps no mount namespace of others alive, nor what is mounted
    there. What it has open stays so.

    Raises ``OSError``: EPERM without privilege in its user namespace.
    """
    unshare(CLONE_NEWNS)
    mountapi.make_private()
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with mountapi.FilesystemContext("tmpfs") as context:
        context.create()
        new = context.mount(mountapi.MOUNT_ATTR_RDONLY)
    mountapi.move_mount(new, old)
    os.fchdir(new)
    libc_call("pivot_root", b".", b".")
    os.fchdir(old)
    mountapi.umount2(".", mountapi.MNT_DETACH)
    os.fchdir(new)
    os.close(old)
    os.close(new)


def set_filesystem_ids(uid: int, gid: int) -> None:
    """Make the calling thread act on files as ``uid`` and ``gid``; raises ``PermissionError`` where refused.

    The kernel drops the file capabilities from the effective set when the user becomes other than 0: see
    ``raise_effective_capabilities``.
    """
    for name, wanted in (("setfsgid", gid), ("setfsuid", uid)):
        function = getattr(libc(), name)
        function.restype = ctypes.c_uint
        function(ctypes.c_uint(wanted))
        # Neither call reports failure; asking with an invalid ID tells what is in force.
        if function(ctypes.c_uint(0xFFFFFFFF)) != wanted:
            raise OSError(errno.EPERM, f"{name}({wanted}): {os.strerror(errno.EPERM)}")


def raise_effective_capabilities() -> None:
    """capset(2): make every permitted capability of the calling thread effective again."""
    sets = _capabilities()
    sets[0], sets[3] = sets[1], sets[4]
    _set_capabilities(sets)


def without_capability(number: int) -> None:
    """capset(2): have a capability not be effective for the calling thread, which keeps it: see
    ``raise_effective_capabilities``."""
    sets = _capabilities()
    sets[number // 32 * 3] &= ~(1 << number % 32)
    _set_capabilities(sets)


def _capabilities() -> list[int]:
    """Effective, permitted and inheritable ones from 0 to 31, then those from 32 on."""
    data = ctypes.create_string_buffer(24)
    libc_call("capget", _CAPABILITIES_OF_THREAD, data)
    return list(struct.unpack("=6I", data.raw))


def _set_capabilities(sets: list[int]) -> None:
    libc_call("capset", _CAPABILITIES_OF_THREAD, struct.pack("=6I", *sets))


def is_own_mount_namespace(pid: int | str) -> bool:
    """Whether process ``pid`` is in the mount namespace of this one. False where it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def is_mount_namespace_of_ours(pid: int | str) -> bool:
    """Whether the mount namespace of ``pid`` belongs to the user namespace of this process (or one above it).

    What is mounted in such a one was mounted with privileges over this user's files. In any other, whoever made its
    user namespace may mount what they like, with whatever source. False where the process is gone.
    """
    return _asked_of_users(pid, _is_own)


def is_mount_namespace_made_by_us(pid: int | str) -> bool:
    """Whether the mount namespace of ``pid`` belongs to a user namespace that root or this user made, as engines make
    those of containers. False where the process is gone."""
    return _asked_of_users(pid, _made_by_us)


def hides_mount_namespace(pid: int | str) -> bool:
    """Whether the kernel does not tell this process which mount namespace ``pid`` is in."""
    try:
        os.readlink(f"/proc/{pid}/ns/mnt")
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _asked_of_users(pid: int | str, question: Callable[[int], bool]) -> bool:
    """The answer about the user namespace (an fd) that the mount namespace of ``pid`` belongs to; True where it is none
    of those below ours, which the kernel does not open."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    except PermissionError:
        return True
    except OSError:
        return False
    finally:
        os.close(namespace)
    try:
        return question(owner)
    finally:
        os.close(owner)


def _is_own(users: int) -> bool:
    return os.path.samestat(os.fstat(users), os.stat("/proc/self/ns/user"))


def _made_by_us(users: int) -> bool:
    (maker,) = struct.unpack("=I", fcntl.ioctl(users, _NS_GET_OWNER_UID, bytes(4)))
    return maker in (0, os.geteuid())


def enter_mount_namespace(namespace: int) -> None:
    """Move the calling thread (``in_own_thread``) into the mount namespace ``namespace`` (an fd)."""
    setns(namespace, CLONE_NEWNS)


def in_own_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a new thread with its own root, directory and credentials.

    Returns its result, or raises its error here.
    """
    import threading

    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            unshare(CLONE_FS)
            results.append(work())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, name="stratum-namespace", daemon=False)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
