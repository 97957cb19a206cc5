"""A tree, looked into by paths: symbolic links are followed inside it, and what is there is told as fsspec wants it.

Paths are text without a leading '/', "" for the root; bytes that are not UTF-8 are in it as ``surrogateescape`` has
them, as everywhere in Python. A link whose target is absolute begins at the tree's root, and ``..`` never leads out of
it: no link of a tree can lead to a file of this machine. Pure.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from stratum.composefs.verity import verity_digest
from stratum.fs.words import not_found, shown
from stratum.tree.model import Directory, File, Inode, Symlink

LINKS_MAX = 40
"""Symbolic links that one path may lead through, as in Linux."""

Info = dict[str, Any]
"""What fsspec knows of a file: name, size, type and more."""


class Found(NamedTuple):
    """What a path leads to: ``inode``, which is no symbolic link where those were followed, its real ``path``, and the
    ``link`` that stands at the path itself, if one does."""

    inode: Inode
    path: bytes
    link: Symlink | None = None


def parts_of(path: str) -> list[bytes]:
    """The names in a path. ``FileNotFoundError`` for one with ``..``, which no tree has."""
    try:
        names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    except UnicodeEncodeError:
        raise not_found(path, "it is no text that a file could be called") from None
    if b".." in names:
        raise not_found(path, "a path in a commit has no '..'")
    return names


def find(root: Directory, path: str, *, follow: bool = True) -> Found:
    """What is at ``path``; the last part is followed, where it is a link, unless ``follow`` is false.

    ``FileNotFoundError`` where nothing is, or a link leads nowhere; ``OSError`` (ELOOP) for links in a circle.
    """
    todo = [(name, False) for name in reversed(parts_of(path))]  # (name, whether a link's target has it)
    chain: list[tuple[bytes, Directory]] = []
    here: Directory = root
    link: Symlink | None = None
    hops = 0
    while todo:
        name, told = todo.pop()
        if name == b".." and told:
            if chain:
                chain.pop()
            here = chain[-1][1] if chain else root
            continue
        child = here.children.get(name)
        if child is None:
            raise not_found(path, "it is a symbolic link to what is not in the commit") if hops else not_found(path)
        if isinstance(child, Symlink) and (todo or follow):
            hops += 1
            if hops > LINKS_MAX:
                raise OSError(errno.ELOOP, "symbolic links lead in a circle", shown(path))
            if not todo and not told:
                link = child
            if child.target.startswith(b"/"):
                chain, here = [], root
            todo += [(part, True) for part in reversed(child.target.split(b"/")) if part not in (b"", b".")]
            continue
        if isinstance(child, Directory):
            chain.append((name, child))
            here = child
        elif todo:
            raise not_found(path)
        else:
            return Found(child, b"/".join([*(above for above, _ in chain), name]), link)
    return Found(here, b"/".join(name for name, _ in chain), link)


def digest_of(file: File) -> bytes:
    """The fs-verity digest of a file's content, be it an object or not."""
    return file.digest if file.digest is not None else verity_digest(file.content or b"")


def info_of(name: str, inode: Inode, link: Symlink | None = None) -> Info:
    """What is told of an inode under ``name``; ``link`` is the symbolic link that has the name and leads there.

    ``type`` is "file", "directory", "link" (one that is not followed) or "other". ``mtime`` is in seconds, ``mode`` as
    in ``st_mode``. A file's ``digest`` is that of its content, as fs-verity has it, in hex.
    """
    kind, size = "other", 0
    if isinstance(inode, File):
        kind, size = "file", inode.size
    elif isinstance(inode, Directory):
        kind = "directory"
    elif isinstance(inode, Symlink):
        kind, link = "link", inode
    info: Info = {
        "name": name,
        "size": size,
        "type": kind,
        "mode": inode.mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "mtime": inode.mtime / 1e9,
        "islink": link is not None,
    }
    if link is not None:
        info["destination"] = os.fsdecode(link.target)
    if isinstance(inode, File):
        info["digest"] = digest_of(inode).hex()
    return info


def child_info(root: Directory, path: str, name: bytes, inode: Inode, named: Callable[[str], str]) -> Info:
    """What is told of ``inode``, which is ``name`` in the directory ``path``; a link is told of with what it leads to,
    where that is in the tree. ``named`` makes the name of a path."""
    text = os.fsdecode(name)
    inner = f"{path}/{text}" if path else text
    if isinstance(inode, Symlink):
        try:
            return info_of(named(inner), find(root, inner).inode, inode)
        except OSError:
            return info_of(named(inner), inode)
    return info_of(named(inner), inode)
