"""Files whose content nobody knows, as only the trees of a history have them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stratum.tree.model import Directory, content_unknown

_COMPARED_MAX = 5000
"""Names of a directory; comparing more takes longer than a hint may."""


def unknown_files(root: Directory, ground: Directory) -> list[bytes]:
    """The paths of such files in ``root``, in order. What is an object of ``ground``, a tree without any, is not looked
    into where it is at the same path."""
    found = []
    stack: list[tuple[bytes, Directory, Directory | None]] = [(b"", root, ground)]
    while stack:
        path, directory, below = stack.pop()
        if directory is below:
            continue
        for name, inode in directory.children.items():
            if isinstance(inode, Directory):
                other = below.children.get(name) if below is not None else None
                stack.append((path + b"/" + name, inode, other if isinstance(other, Directory) else None))
            elif content_unknown(inode):
                found.append(path + b"/" + name)
    return sorted(found)


def without(root: Directory, paths: Iterable[bytes]) -> Directory:
    """A copy of ``root`` without ``paths``, each of which it has; the times of the directories stay."""
    names: dict[bytes, set[bytes]] = {}
    for path in paths:
        above, _, name = path.rpartition(b"/")
        names.setdefault(above, set()).add(name)
    for above, gone in names.items():
        chain: list[Directory] = [root]
        steps = [step for step in above.split(b"/") if step]
        for step in steps:
            below = chain[-1].children[step]
            assert isinstance(below, Directory)
            chain.append(below)
        directory = chain.pop()
        directory = directory.with_children({n: i for n, i in directory.children.items() if n not in gone})
        for parent, step in zip(reversed(chain), reversed(steps), strict=True):
            directory = parent.with_children({**parent.children, step: directory})
        root = directory
    return root


def similar_name(names: Collection[bytes], name: bytes) -> bytes | None:
    """That of ``names`` that is most like ``name``, or None where none is, or they are too many to compare."""
    import difflib

    if len(names) > _COMPARED_MAX:
        return None
    texts = {found.decode("utf-8", "surrogateescape"): found for found in names}
    close = difflib.get_close_matches(name.decode("utf-8", "surrogateescape"), texts, n=1, cutoff=0.6)
    return texts[close[0]] if close else None


def similar_path(root: Directory, path: bytes) -> bytes | None:
    """A path of the tree that somebody who wrote ``path`` may have meant, or None."""
    directory, above = root, b""
    for name in (step for step in path.split(b"/") if step):
        child = directory.children.get(name)
        if child is None:
            close = similar_name(directory.children, name)
            return above + b"/" + close if close is not None else None
        above += b"/" + name
        if not isinstance(child, Directory):
            return above
        directory = child
    return above or None
