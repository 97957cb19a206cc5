"""Verifying one commit, whole or one path of it, and proving that a path is in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.unreal import bring
from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.progress import Progress
from stratum.tree.model import Directory, File, Inode, walk

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.tree.blocks import Blocks
    from stratum.tree.digest import InclusionProof


@dataclass(frozen=True, slots=True)
class Verified:
    """A commit of which all that is here is as it should be: its hash, the number of distinct objects read, and their
    bytes; ``unreal`` are those that are not here, which a source has: (number, bytes)."""

    commit: str
    objects: int
    size: int
    unreal: tuple[int, int] = (0, 0)


def verify(
    session: Session,
    text: str,
    path: str | None = None,
    *,
    realize: bool = False,
    progress: Progress | None = None,
) -> Verified:
    """Read everything that makes up the commit that ``text`` names and compare it with its hashes.

    The dump with the commit's name and the Merkle root, the image with the dump, every object with its digest and
    size. With ``path``, the objects of that file, or of what is below that directory, only. Objects that are unreal are
    counted, and nothing else, or with ``realize`` fetched first. ``DamagedError`` names the first thing that does not
    match, with a path that it hurts; ``NotFoundError`` where the commit has no such path.
    """
    store = session.store
    commit = store.resolve_commit(ref_or_mountpoint(session, text))
    meta = store.commits.meta(commit)
    dump = store.commits.dump(commit)
    _verify_tree(meta, dump)
    _verify_metadata(store, commit, dump)
    files: dict[bytes, tuple[bytes, int]] = {}
    for where, inode in _below(store, commit, path):
        if isinstance(inode, File) and inode.digest is not None:
            files.setdefault(inode.digest, (where, inode.size))
    unreal = _unreal(store, commit, {digest: size for digest, (_, size) in files.items()})
    if realize:
        bring(session, [commit], unreal, progress=progress)
        unreal = {}
    files = {digest: found for digest, found in files.items() if digest not in unreal}
    total = sum(size for _, size in files.values())
    done = 0
    for number, (digest, (where, size)) in enumerate(files.items(), 1):
        if not _verify_object(store, commit, digest, where, size):
            unreal[digest] = size
            continue
        done += size
        if progress is not None:
            progress(done, total, files=number)
    return Verified(commit, len(files.keys() - unreal.keys()), done, (len(unreal), sum(unreal.values())))


def _unreal(store: Store, commit: str, needed: dict[bytes, int]) -> dict[bytes, int]:
    """Those of the objects of a partial commit that are not here and that a source has."""
    if not store.sources.is_partial(commit):
        return {}
    missing = store.residence.missing(needed)
    lost = store.residence.lost([commit], missing)
    # One that is here with another size is damaged, whoever else has it.
    return {d: size for d, size in missing.items() if d not in lost and store.objects.size(d) is None}


def _verify_tree(meta: CommitMeta, dump: Blocks) -> None:
    from stratum.tree.digest import merkle_summary

    summary = merkle_summary(dump)
    if (summary.root, summary.leaf_count, summary.tree_depth) != (meta.merkle_root, meta.leaf_count, meta.tree_depth):
        raise DamagedError(
            f"the Merkle root of commit {meta.metadata_hash} does not match its tree", hint="run 'stratum fsck'"
        )


def _verify_metadata(store: Store, commit: str, dump: Blocks) -> None:
    """What metadata.toml says must be what the dump gives; so must the image, where there is one."""
    from stratum.store.facts import facts_of

    if not facts_of(dump).agrees(store.commits.meta(commit)):
        raise DamagedError(f"the metadata of commit {commit} does not match its tree", hint="run 'stratum fsck'")
    try:
        store.images.check(commit, store.commits.tree(commit))
    except FileNotFoundError:
        pass
    except DamagedError as exc:
        raise DamagedError(
            f"the image of commit {commit}: {exc.message}", hint="'stratum fsck --repair' has it made again"
        ) from None


def _below(store: Store, commit: str, path: str | None) -> Iterable[tuple[bytes, Inode]]:
    """Every (path, inode) at and below ``path``."""
    tree = store.commits.tree(commit)
    if path is None:
        return walk(tree)
    names = _names(path)
    inode: Inode = tree
    for name in names:
        below = inode.children.get(name) if isinstance(inode, Directory) else None
        if below is None:
            raise NotFoundError(f"commit {commit} has no path {path}")
        inode = below
    top = b"/" + b"/".join(names)
    if not isinstance(inode, Directory):
        return [(top, inode)]
    return ((top.rstrip(b"/") + where, inode) for where, inode in walk(inode))


def _names(path: str) -> list[bytes]:
    """The components of a path in a commit, from its root; ``..`` has no meaning there."""
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise UsageError(f"{path} is no path in a commit", hint="write it from the root of the commit, without '..'")
    return names


@dataclass(frozen=True, slots=True)
class Proof:
    """That ``path`` is in the commit: ``entry`` proves its line of the dump. For a further name of a hard-linked file,
    which says no more than where the first is, ``target`` proves the first name's line."""

    commit: str
    path: str
    entry: InclusionProof
    target: InclusionProof | None = None


def prove(session: Session, text: str, path: str) -> Proof:
    """The proof that the commit which ``text`` names has ``path``, after checking the tree against the commit's hashes.

    ``NotFoundError`` where it has not, ``DamagedError``.
    """
    from stratum.tree.contents import link_target
    from stratum.tree.digest import inclusion_proof
    from stratum.tree.escape import escape

    store = session.store
    commit = store.resolve_commit(ref_or_mountpoint(session, text))
    dump = store.commits.dump(commit)
    _verify_tree(store.commits.meta(commit), dump)
    escaped = b"/" + b"/".join(map(escape, _names(path)))
    position = _line_of(dump, escaped)
    if position is None:
        raise NotFoundError(f"commit {commit} has no path {path}")
    entry, target = inclusion_proof(dump, position), None
    if (first_name := link_target(entry.line)) is not None:
        first = _line_of(dump, first_name)
        assert first is not None
        target = inclusion_proof(dump, first)
    return Proof(commit, escaped.decode("ascii"), entry, target)


def _line_of(dump: Blocks, escaped: bytes) -> int | None:
    from stratum.tree.blocks import lines_of

    wanted = escaped + b" "
    return next((number for number, line in enumerate(lines_of(dump)) if line.startswith(wanted)), None)


def _verify_object(store: Store, commit: str, digest: bytes, path: bytes, size: int) -> bool:
    """Read an object; False where it was let go at this moment, as a source has it."""
    try:
        store.residence.verify(digest, size)
    except DamagedError as exc:
        hint = exc.hint
        if not store.residence.lost([commit], {digest: size}):
            if store.objects.size(digest) is None and store.sources.is_partial(commit):
                return False
            hint = "run 'stratum fsck --repair': it is fetched from a source of the commit then"
        where = f"{path.decode('utf-8', 'backslashreplace')} in commit {commit}"
        raise DamagedError(f"{where}: {exc.message}", hint=hint) from None
    return True
