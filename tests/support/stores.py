"""Small stores and trees for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stratum.store import Store
from stratum.store.salvage import RESUME
from stratum.store.transaction import Transaction
from stratum.tree.model import INLINE_MAX, Directory, File, Inode


def directory(children: Mapping[bytes, Inode], *, mode: int = 0o40755, mtime: int = 0) -> Directory:
    """A directory that belongs to the user who runs the tests."""
    return Directory(mode, os.geteuid(), os.getegid(), mtime, children=dict(children))


def file(tx: Transaction, data: bytes) -> File:
    """A regular file, its content inline or stored in ``tx``."""
    owner = (os.geteuid(), os.getegid())
    if len(data) <= INLINE_MAX:
        return File(0o100644, *owner, 0, size=len(data), content=data or None)
    return File(0o100644, *owner, 0, size=len(data), digest=tx.add_bytes(data))


def commit(store: Store, files: Mapping[bytes, bytes]) -> str:
    """The commit of a directory with these files."""
    with store.begin("a test") as tx:
        root = directory({name: file(tx, data) for name, data in files.items()})
        return store.commits.write(tx, root).metadata_hash


def leftovers(store: Store) -> list[str]:
    """What is in the store's ``tmp`` besides the lock file."""
    return sorted(set(os.listdir(store.root / "tmp")) - {"lock"})


def abandoned(store: Store) -> list[str]:
    """The ``leftovers`` that no later transaction can take up: what was killed and is of no use."""
    return [name for name in leftovers(store) if not (store.root / "tmp" / name / RESUME).exists()]


def check(store: Store) -> None:
    """Assert what must hold of every store at any time: each object is what its name says, each commit whole, each tag
    and worktree at a commit that is there."""
    for digest, size in store.objects.list():
        assert store.objects.verify(digest) == size
    assert {path.name for path in (store.root / "commits").iterdir()} == set(store.commits.list())
    for commit_hash in store.commits.list():
        store.commits.verify_image(commit_hash)
        for digest, size in _objects(store.commits.tree(commit_hash)).items():
            assert store.objects.has(digest, size)
    for name in store.names():
        for tagged in store.tags.list(name).values():
            assert store.commits.exists(tagged)
        for worktree in store.worktrees.list(name):
            assert store.commits.exists(worktree.base_commit)
            assert store.commits.exists(worktree.commit)


def _objects(root: Directory) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for child in root.children.values():
        if isinstance(child, Directory):
            found.update(_objects(child))
        elif isinstance(child, File) and child.digest is not None:
            found[child.digest] = child.size
    return found


def snapshot(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below ``path``: mode, inode number and content or link target, to show that nothing changed."""
    found = {}
    for entry in sorted(path.rglob("*")):
        info = entry.lstat()
        content = os.fsencode(os.readlink(entry)) if entry.is_symlink() else b""
        found[str(entry.relative_to(path))] = (
            info.st_mode,
            info.st_ino,
            entry.read_bytes() if entry.is_file() and not entry.is_symlink() else content,
        )
    return found
