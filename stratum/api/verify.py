"""Verifying one commit, whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stratum.api.session import Session
from stratum.errors import DamagedError, NotFoundError
from stratum.refs import parse_ref
from stratum.tree.model import File, walk

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True, slots=True)
class Verified:
    """A commit that is whole: its hash, the number of distinct objects read, and their bytes."""

    commit: str
    objects: int
    size: int


def verify(session: Session, text: str, *, progress: Progress | None = None) -> Verified:
    """Read everything that makes up the commit that ``text`` names and compare it with its hashes.

    The dump with the commit's name and the Merkle root, the image with the dump, every object with its digest and
    size. ``DamagedError`` names the first thing that does not match, with a path that it hurts.
    """
    from stratum.tree.digest import merkle_summary

    store = session.store
    commit = store.resolve_commit(parse_ref(text))
    meta = store.commits.meta(commit)
    summary = merkle_summary(store.commits.dump(commit))
    if (summary.root, summary.leaf_count, summary.tree_depth) != (meta.merkle_root, meta.leaf_count, meta.tree_depth):
        raise DamagedError(f"the Merkle root of commit {commit} does not match its tree", hint="run 'stratum fsck'")
    store.ensure_image(commit)
    store.commits.verify_image(commit)
    files: dict[bytes, tuple[bytes, int]] = {}
    for path, inode in walk(store.commits.tree(commit)):
        if isinstance(inode, File) and inode.digest is not None:
            files.setdefault(inode.digest, (path, inode.size))
    total = sum(size for _, size in files.values())
    done = 0
    for digest, (path, size) in files.items():
        _verify_object(store.objects.verify, commit, digest, path, size)
        done += size
        if progress is not None:
            progress(done, total)
    return Verified(commit, len(files), total)


def _verify_object(check: Callable[[bytes], int], commit: str, digest: bytes, path: bytes, size: int) -> None:
    where = f"{path.decode('utf-8', 'backslashreplace')} in commit {commit}"
    try:
        found = check(digest)
    except (DamagedError, NotFoundError) as exc:
        raise DamagedError(f"{where}: {exc.message}", hint=exc.hint) from None
    if found != size:
        raise DamagedError(f"{where}: object {digest.hex()} has {found} bytes instead of {size}")
