"""An independent reading of a directory tree, by system calls alone: it shares no code with Stratum."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

Entry = tuple[object, ...]
"""Everything about one path that a copy must keep."""


def walk(root: Path) -> dict[bytes, Entry]:
    """Path relative to ``root`` -> type, mode, owner, mtime, size, device, link target, xattrs and SHA-256.

    Names of one file (hard links) name the first of them, in byte order, so that links are compared too.
    """
    found: dict[bytes, Entry] = {}
    first_name: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)
    for path, status in sorted(_entries(top)):
        name = os.path.relpath(path, top)
        kind = stat.S_IFMT(status.st_mode)
        same_file = b""
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            same_file = first_name.setdefault((status.st_dev, status.st_ino), name)
        xattrs = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in _xattr_names(path))
        found[name] = (
            kind,
            stat.S_IMODE(status.st_mode),
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            status.st_size if kind == stat.S_IFREG else None,
            status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
            os.readlink(path) if kind == stat.S_IFLNK else None,
            xattrs,
            same_file,
            _sha256(path) if kind == stat.S_IFREG else None,
        )
    return found


def differences(first: dict[bytes, Entry], second: dict[bytes, Entry]) -> list[bytes]:
    """Paths that only one of two trees has, or that differ in anything ``walk`` reads."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def count(root: Path) -> int:
    """Number of entries below ``root``."""
    return sum(1 for _ in _entries(os.fsencode(root))) - 1


def _entries(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    yield top, os.lstat(top)
    stack = [top]
    while stack:
        with os.scandir(stack.pop()) as children:
            for child in children:
                yield child.path, child.stat(follow_symlinks=False)
                if child.is_dir(follow_symlinks=False):
                    stack.append(child.path)


def _xattr_names(path: bytes) -> list[str]:
    """All but SELinux labels, which belong to the machine and not to the tree."""
    return sorted(set(os.listxattr(path, follow_symlinks=False)) - {"security.selinux"})


def _sha256(path: bytes) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
