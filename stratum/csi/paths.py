"""Staging and target paths: only below the kubelet's directory, never through a symbolic link.

The kubelet chooses these paths, but pods own directories below the kubelet's too (emptyDir volumes), so no component
is trusted: each path is opened from the kubelet's directory downwards by openat2(2), which refuses links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stratum.csi.errors import invalid, precondition
from stratum.errors import StratumError, os_error_text
from stratum.sys.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

_PATH_MAX = 4096
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that is or will be a mountpoint. ``path`` is absolute, without links and dots."""

    kubelet_dir: Path
    path: Path

    @contextlib.contextmanager
    def parent(self) -> Iterator[int | None]:
        """The directory above, as an O_PATH fd; None where it does not exist. INVALID_ARGUMENT for a link."""
        with _opened(self.kubelet_dir, os.path.relpath(self.path.parent, self.kubelet_dir)) as fd:
            yield fd

    def make(self) -> bool:
        """Make the directory where it is missing, and return whether it was. FAILED_PRECONDITION without a parent."""
        with self.parent() as parent:
            if parent is None:
                raise precondition(f"{self.path.parent} does not exist")
            try:
                os.mkdir(self.path.name, 0o750, dir_fd=parent)
            except FileExistsError:
                with self.opened():  # refuses what is no directory
                    return False
            except OSError as exc:
                raise StratumError(f"cannot make {self.path}: {os_error_text(exc)}") from None
            return True

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """The directory (of the topmost mount there) as an O_PATH fd. INVALID_ARGUMENT where it is none."""
        with _opened(self.kubelet_dir, os.path.relpath(self.path, self.kubelet_dir)) as fd:
            if fd is None:
                raise precondition(f"{self.path} does not exist")
            yield fd

    def remove(self) -> None:
        """Remove the directory, which is empty and no mountpoint; one that is gone is no error."""
        with self.parent() as parent:
            if parent is None:
                return
            try:
                if stat.S_ISLNK(os.stat(self.path.name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise invalid(f"{self.path} is a symbolic link")
                os.rmdir(self.path.name, dir_fd=parent)
            except FileNotFoundError:
                return
            except OSError as exc:
                raise precondition(f"cannot remove {self.path}: {os_error_text(exc)}") from None


def place(kubelet_dir: Path, text: str, what: str) -> Place:
    """The place that a request's path ``text`` names; ``what`` is the field. INVALID_ARGUMENT where it may not be."""
    if not text:
        raise invalid(f"no {what} is given")
    if len(text) > _PATH_MAX or "\0" in text or not text.startswith("/"):
        raise invalid(f"{what} {text[:140]!r} is not an absolute path")
    parts = text.strip("/").split("/")
    if ".." in parts or "." in parts:
        raise invalid(f"{what} {text[:140]!r} has '.' or '..' in it")
    path = Path("/", *(part for part in parts if part))
    try:
        below = path.relative_to(kubelet_dir)
    except ValueError:
        below = Path()
    if below == Path():
        raise invalid(
            f"{what} {text[:140]!r} is not below the kubelet's directory {kubelet_dir}",
            hint="--kubelet-dir says where that is",
        )
    return Place(kubelet_dir, path)


@contextlib.contextmanager
def _opened(kubelet_dir: Path, below: str) -> Iterator[int | None]:
    try:
        root = os.open(kubelet_dir, _DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise precondition(f"cannot open the kubelet's directory {kubelet_dir}: {os_error_text(exc)}") from None
    try:
        fd = _open_below(root, kubelet_dir, below)
    finally:
        os.close(root)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _open_below(root: int, kubelet_dir: Path, below: str) -> int | None:
    try:
        return openat2(root, below, _DIRECTORY, resolve=_RESOLVE)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
            raise invalid(f"{kubelet_dir}/{below} leads through something that is not a directory") from None
        raise StratumError(f"cannot open {kubelet_dir}/{below}: {os_error_text(exc)}") from None
