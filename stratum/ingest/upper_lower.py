"""Where the lower side of an upper entry is: the meaning of overlayfs's redirect attribute. Pure.

As the kernel looks it up (fs/overlayfs/namei.c): without a redirect the lower entry has the same name in the parent's
lower directory, which may itself have been redirected. A redirect that is a plain name is another name in that
directory; one that begins with a slash is a path from the root of the lower layer, here the base tree.
"""

from __future__ import annotations

import os

from stratum.errors import DamagedError
from stratum.tree.model import Directory, Inode, lookup

_IMPOSSIBLE = (b"", b".", b"..")


def lower_entry(
    base: Directory, parent: Directory | None, name: bytes, redirect: bytes | None, path: bytes
) -> Inode | None:
    """The base's inode below the upper entry ``name`` at ``path``; ``parent`` is its parent's lower directory.

    None where there is none and no redirect asks for one. ``DamagedError`` for a redirect that overlayfs cannot have
    written or that leads to nothing: it is never looked for anywhere but in the base tree.
    """
    if redirect is None:
        return parent.children.get(name) if parent is not None else None
    if redirect.startswith(b"/"):
        components = redirect[1:].split(b"/")
        found = None if any(part in _IMPOSSIBLE for part in components) else lookup(base, redirect)
    elif b"/" in redirect or redirect in _IMPOSSIBLE:
        found = None
    else:
        found = parent.children.get(redirect) if parent is not None else None
    if found is None:
        raise damaged(path, f"it is redirected to {os.fsdecode(redirect)!r}, which the base commit does not have")
    return found


def damaged(path: bytes, why: str) -> DamagedError:
    """The error for an upper entry that does not fit the base tree."""
    return DamagedError(
        f"the worktree's entry {os.fsdecode(path)!r} does not fit its base commit: {why}",
        hint="its upper directory was changed by something else than a mount of the worktree",
    )
