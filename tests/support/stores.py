"""Small stores and trees for tests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from stratum.composefs.verity import verity_digest
from stratum.refs import is_hash
from stratum.store import Store
from stratum.store.catalog import Blob, NewPack, write_catalog
from stratum.store.residence import Condition
from stratum.store.salvage import RESUME
from stratum.store.sources import CommitSource
from stratum.store.transaction import Transaction
from stratum.store.treerecord import join_file, split_file
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


def source(files: Mapping[bytes, bytes], place: str = "reg.example/app", kind: str = "pull") -> CommitSource:
    """A source that has the contents of these files, by a name of its own."""
    manifest = f"sha256:{hashlib.sha256(repr((place, sorted(files.items()))).encode()).hexdigest()}"
    return CommitSource(f"{place}@{manifest}", manifest, "v1", "2026-01-01T00:00:00Z", kind)


def catalog(files: Mapping[bytes, bytes]) -> bytes:
    """The catalog of an artifact with the contents of these files in one pack of one frame."""
    members, position = [], 0
    for data in dict.fromkeys(data for data in files.values() if len(data) > INLINE_MAX):
        members.append((verity_digest(data), position + 512, len(data)))
        position += 512 + len(data)
    packs = [NewPack(Blob(hashlib.sha256(b"a pack").digest(), 1000), [(1000, position)], members)] if members else []
    return write_catalog(packs)


def partial_commit(store: Store, files: Mapping[bytes, bytes], place: str = "reg.example/app") -> str:
    """The commit of a directory with these files, as a lazy pull leaves it: no object of it is brought here."""
    with store.begin("a test") as tx:
        root = directory({name: _unreal(data) for name, data in files.items()})
        return store.commits.write(tx, root, sources=[(source(files, place), catalog(files))]).metadata_hash


def _unreal(data: bytes) -> File:
    owner = (os.geteuid(), os.getegid())
    if len(data) <= INLINE_MAX:
        return File(0o100644, *owner, 0, size=len(data), content=data or None)
    return File(0o100644, *owner, 0, size=len(data), digest=verity_digest(data))


def leftovers(store: Store) -> list[str]:
    """What is in the store's ``tmp`` besides the lock file."""
    return sorted(set(os.listdir(store.root / "tmp")) - {"lock"})


def abandoned(store: Store) -> list[str]:
    """The ``leftovers`` that no later transaction can take up: what was killed and is of no use."""
    return [name for name in leftovers(store) if not (store.root / "tmp" / name / RESUME).exists()]


def check(store: Store, besides: Collection[str] = ()) -> None:
    """Assert what must hold of every store at any time: each object is what its name says, each commit whole, or
    partial with a source for what is missing, each tag and worktree at a commit that is there. Of the commits
    ``besides`` the trees are not looked at."""
    for digest, size in store.objects.list():
        assert store.objects.verify(digest) == size
    for path in (store.root / "commits").iterdir():
        commit, _, beside = path.name.partition(".")
        assert is_hash(commit)
        assert beside in ("", "sources", "partial", "ancestors")
    for commit_hash in set(store.commits.list()) - set(besides):
        if store.images.size(commit_hash) is not None:
            store.images.check(commit_hash, store.commits.tree(commit_hash))
        for digest, size in _objects(store.commits.tree(commit_hash)).items():
            condition = store.residence.condition(commit_hash, digest, size)
            assert condition is Condition.REAL or (
                condition is Condition.UNREAL and store.sources.is_partial(commit_hash)
            )
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


def spoil_tree(store: Store, commit_hash: str) -> None:
    """Have the tree of a commit be damaged, and its metadata whole."""
    path = store.layout.commit(commit_hash)
    metadata, record = split_file(path.read_bytes(), str(path))
    path.write_bytes(join_file(metadata, record[:-1] + bytes((record[-1] ^ 1,))))
