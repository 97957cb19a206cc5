"""The tree in which a conflict is settled. Pure."""

from __future__ import annotations

from stratum.tree.limits import NAME_MAX
from stratum.tree.model import Directory, Inode, lookup


def settled(tree: Directory, other: Directory, path: bytes, *, both: bool, host: str) -> Directory:
    """``tree`` with the version that ``other`` has of a path in conflict (``sync.merging.Conflict``), or with ``both``
    beside its own, as NAME.conflict-HOST; where one side has nothing there, both is what the other one has."""
    now, then = lookup(tree, path), lookup(other, path)
    only_itself = isinstance(now, Directory) and isinstance(then, Directory) and not path.endswith(b"/")
    if both and now is not None:
        if then is None or only_itself or not path.strip(b"/"):
            return tree
        return _put(tree, _beside(tree, path, host), then, other)
    if only_itself and isinstance(now, Directory) and isinstance(then, Directory):
        then = then.with_children(now.children)  # what is below has conflicts of its own
    return _put(tree, path, then, other)


def _beside(tree: Directory, path: bytes, host: str) -> bytes:
    """A path beside this one that is not taken."""
    parent, _, name = path.rstrip(b"/").rpartition(b"/")
    number = 1
    while True:
        end = f".conflict-{host}{f'-{number}' if number > 1 else ''}".encode()
        beside = parent + b"/" + name[: NAME_MAX - len(end)] + end
        if lookup(tree, beside) is None:
            return beside
        number += 1


def _put(tree: Directory, path: bytes, inode: Inode | None, like: Directory) -> Directory:
    """The tree with ``inode`` (None: nothing) at ``path``; directories on the way there that it lacks are as those of
    the tree ``like``."""
    names = [name for name in path.split(b"/") if name]
    if not names:
        return inode if isinstance(inode, Directory) else tree
    chain, pattern = [tree], like
    for name in names[:-1]:
        found, below = chain[-1].children.get(name), pattern.children.get(name)
        pattern = below if isinstance(below, Directory) else pattern.with_children({})
        if isinstance(found, Directory):
            chain.append(found)
        elif inode is None:
            return tree
        else:
            chain.append(pattern.with_children({}))
    made: Inode | None = inode
    for name, directory in zip(reversed(names), reversed(chain), strict=True):
        children = dict(directory.children)
        if made is None:
            children.pop(name, None)
        else:
            children[name] = made
        made = directory.with_children(children)
    assert isinstance(made, Directory)
    return made
