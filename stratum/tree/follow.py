"""Where a path leads in a tree, through its symbolic links. Pure."""

from __future__ import annotations

from collections import deque

from stratum.errors import UsageError, path_text
from stratum.tree.model import Directory, Inode, Symlink

LINKS_MAX = 40
"""Symbolic links on the way to one inode; the kernel follows as many."""


def follow(root: Directory, path: bytes, *, last: bool = True) -> Inode | None:
    """The inode that ``path`` leads to, or None. The tree is all there is: its root is ``/`` of every link, and has
    itself as ``..``. ``last``: a link that has the last name is followed too, as one always is before a slash.
    ``UsageError`` for links without an end."""
    last = last or path.endswith((b"/", b"/."))
    links = 0
    above: list[Directory] = []
    here: Inode = root
    names = deque(name for name in path.split(b"/") if name not in (b"", b"."))
    while names:
        name = names.popleft()
        if not isinstance(here, Directory):
            return None
        if name == b"..":
            here = above.pop() if above else here
            continue
        child = here.children.get(name)
        if child is None:
            return None
        if isinstance(child, Symlink) and (names or last):
            links += 1
            if links > LINKS_MAX:
                raise UsageError(f"{path_text(path)} leads through more than {LINKS_MAX} symbolic links")
            if child.target.startswith(b"/"):
                above, here = [], root
            names.extendleft(step for step in reversed(child.target.split(b"/")) if step not in (b"", b"."))
            continue
        if isinstance(child, Directory):
            above.append(here)
        here = child
    return here
