"""The dump of a tree that shares most of its directories with another, made from the other's lines.

A directory that was opened from a dump (``tree.lazy``) and stands in the new tree at the same path has the same lines
there, with all below, as long as it was never looked into and nothing in it has several names: otherwise a change
elsewhere could change a link count or which name comes first. So only the rest is written anew.
"""

from __future__ import annotations

from stratum.tree.dump import write_dump
from stratum.tree.escape import escape
from stratum.tree.lazy import LazyDump, Region
from stratum.tree.model import Directory

Kept = dict[int, memoryview]
"""``id(directory)`` -> its lines with those of everything below."""


def kept_lines(root: Directory, source: LazyDump) -> Kept:
    """The directories of ``root``, topmost ones only, whose lines are those that they have in ``source``."""
    while True:
        kept = _unread(root, source)
        if not any(region.was_read for _, region in kept):
            return {id(directory): region.lines for directory, region in kept}
        # One of them is in the tree at another place too, and was read there.


def _unread(root: Directory, source: LazyDump) -> list[tuple[Directory, Region]]:
    """The directories that can be kept, as far as is known before others are read, and their regions."""
    found = []
    stack = [(b"/", root)]
    while stack:
        prefix, directory = stack.pop()
        region = directory.region
        if region is not None and region.source is source and region.prefix == prefix and region.is_separate:
            found.append((directory, region))
            continue
        stack.extend(
            (prefix + escape(name) + b"/", child)
            for name, child in directory.children.items()
            if isinstance(child, Directory)
        )
    return found


def splice_dump(root: Directory, source: LazyDump) -> bytes:
    """``write_dump(root)``, at the cost of what ``root`` does not share with the tree of ``source``."""
    return write_dump(root, kept_lines(root, source))
