"""Putting detached mounts into a container that is being made.

At createRuntime the container's own mounts are in place in its mount namespace and nothing of it runs yet. A thread of
this process enters that namespace, finds each destination under the container's root file system and attaches a mount
there. Nothing is attached in the host's namespace, so nothing stays behind when the container is gone.

Destinations are looked up with RESOLVE_IN_ROOT: symlinks of the image, absolute ones too, lead to where the container
would see them and never out of its root. Missing directories are made there, as the container's root user.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from stratum.errors import ConflictError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.frozen import frozen
from stratum.hook.ocistate import BadStateError
from stratum.mount.container import ContainerProcess
from stratum.sys import mountinfo
from stratum.sys.mountapi import MNT_DETACH, move_mount, umount2
from stratum.sys.namespaces import (
    enter_mount_namespace,
    in_own_thread,
    raise_effective_capabilities,
    set_filesystem_ids,
)
from stratum.sys.syscalls import fd_path, mountinfo_id, open_in_root

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MAX_LINKS = 40


@frozen
class Attachment:
    """A detached mount (an fd, which stays the caller's) and the absolute path in the container where it goes."""

    mount: int
    destination: str


def attach_all(container: ContainerProcess, rootfs: Path, attachments: Sequence[Attachment]) -> None:
    """Attach every mount at its destination below ``rootfs`` in the container's mount namespace, or none.

    They are attached in the order given, so one may be nested in another; directories that are made belong to the
    container's root user. Raises ``StratumError`` naming the destination.
    """
    owner = container.owner
    shared = {entry.id for entry in mountinfo.read(container.pid, " shared:") if entry.shared}

    def work() -> None:
        enter_mount_namespace(container.mount_namespace)
        root = _open_rootfs(rootfs)
        os.umask(0o022)
        if owner != (0, 0):
            set_filesystem_ids(*owner)
            raise_effective_capabilities()
        done: list[int] = []
        try:
            for attachment in attachments:
                _attach(root, attachment, shared)
                done.append(attachment.mount)
        except BaseException:
            for mount in reversed(done):
                _detach(mount)
            raise
        finally:
            os.close(root)

    in_own_thread(work)


def _open_rootfs(rootfs: Path) -> int:
    try:
        return os.open(rootfs, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise BadStateError(f"cannot open the container's root {rootfs}: {os_error_text(exc)}") from None


def _attach(root: int, attachment: Attachment, shared: set[int]) -> None:
    destination = attachment.destination
    try:
        target = _open_or_make(root, destination.lstrip("/"))
        try:
            if mountinfo_id(directory=target) in shared:
                raise ConflictError(
                    f"destination {destination} is on a mount that the container shares with the host",
                    hint="a volume there would show up, and stay, on the host; choose another destination",
                )
            move_mount(attachment.mount, target)
        finally:
            os.close(target)
    except NotADirectoryError:
        raise UsageError(f"destination {destination} is not a directory in the container") from None
    except OSError as exc:
        raise StratumError(f"cannot mount at {destination} in the container: {os_error_text(exc)}") from None


def _detach(mount: int) -> None:
    """Unmount an attached mount that is known by its fd only; the thread's working directory is its own."""
    with contextlib.suppress(OSError):
        os.fchdir(mount)
        umount2(".", MNT_DETACH)


def _open_or_make(root: int, path: str, links: int = 0) -> int:
    """The directory ``path`` below ``root`` as an O_PATH fd; what is missing of it is made, mode 0755."""
    with contextlib.suppress(FileNotFoundError):
        return open_in_root(root, path, _DIRECTORY)
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        if _is_directory(root, "/".join(parts[:depth])):
            continue
        target = _make(root, parts[:depth])
        if target is not None:
            if links >= _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return _open_or_make(root, "/".join([target, *parts[depth:]]), links + 1)
    return open_in_root(root, path, _DIRECTORY)


def _is_directory(root: int, path: str) -> bool:
    """Whether ``path`` is there; ``NotADirectoryError`` where it is something else."""
    try:
        os.close(open_in_root(root, path, _DIRECTORY))
    except FileNotFoundError:
        return False
    return True


def _make(root: int, parts: Sequence[str]) -> str | None:
    """Make the last of ``parts``; where a symlink that leads to nothing has that name, return what it leads to."""
    name = parts[-1]
    parent = open_in_root(root, "/".join(parts[:-1]) or ".", _DIRECTORY)
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        try:
            link = os.readlink(name, dir_fd=parent)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # no symlink: somebody else made the directory meanwhile
                return None
            raise
        if link.startswith("/"):
            return link.strip("/") or "."
        inside = os.path.relpath(os.readlink(fd_path(parent)), os.readlink(fd_path(root)))
        if inside.startswith(".."):
            raise NotFoundError("the destination was moved out of the container's root while it was used") from None
        return os.path.join(inside, link)
    finally:
        os.close(parent)
    return None
