"""Deleting directory trees of any depth and content."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path, last: str | None = None) -> None:
    """Delete the directory ``path`` and everything below it, without following symbolic links.

    A container may have left thousands of nested directories, so neither recursion nor one descriptor a level will
    do: every subdirectory is moved up to the top level and emptied there. The file ``path / last``, where given, goes
    after everything else. Raises ``OSError``.
    """
    _allow(None, os.fspath(path))
    top = os.open(path, _DIRECTORY)
    try:
        while subdirectories := _unlink_files(top, last):
            for name in subdirectories:
                _empty_child(top, name)
        if last is not None:
            os.unlink(last, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _unlink_files(directory: int, keep: str | None = None) -> list[str]:
    """Unlink everything in ``directory`` but ``keep`` and its subdirectories, whose names are returned."""
    subdirectories = []
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            subdirectories.append(name)
        elif name != keep:
            os.unlink(name, dir_fd=directory)
    return subdirectories


def _empty_child(top: int, name: str) -> None:
    """Empty the subdirectory ``name`` of ``top``, moving its own subdirectories to ``top``, and remove it."""
    _allow(top, name)
    directory = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for child in _unlink_files(directory):
            _allow(directory, child)
            os.rename(child, os.urandom(8).hex(), src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)


def _allow(parent: int | None, name: str) -> None:
    """Give an owner who is not root the permissions that deleting takes."""
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=parent)
