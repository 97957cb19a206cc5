"""What one path of a ref holds: a state of a history, a commit, or what a worktree shows now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.unreal import bring_inodes
from stratum.api.versions import has_content, path_in, up_to_date
from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError, path_text
from stratum.frozen import frozen
from stratum.progress import Progress
from stratum.refs import Ref
from stratum.tree.model import Directory, File, Inode, Symlink, content_unknown, lookup
from stratum.tree.unknown import similar_path, unknown_files, without

if TYPE_CHECKING:
    from stratum.store.changes import State

_PIECE = 1 << 20
_LISTED_MAX = 5
_UNKNOWN = {
    "open": "it was open for writing, and not closed yet",
    "large": "it was larger than this history keeps (max_file)",
    "space": "there was no space left for it",
    "thinned": "it was thinned out by age",
    "unreadable": "it could not be read",
}


@frozen
class Found:
    """An inode at ``path``; ``commit`` is whose sources have what of its content is not in the store, and ``left_out``
    are paths in it whose content nobody knows, which ``inode`` does not have."""

    path: bytes
    inode: Inode
    commit: str
    left_out: list[bytes]


def warning_of(left_out: list[bytes], what: str) -> str:
    """One line about files that are not part of ``what``."""
    shown = ", ".join(map(path_text, left_out[:_LISTED_MAX]))
    more = f" and {len(left_out) - _LISTED_MAX} more" if len(left_out) > _LISTED_MAX else ""
    files = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
    return f"{files} left out of {what}, as nobody knows the content: {shown}{more}"


@contextmanager
def found_in(session: Session, text: str, paths: list[str]) -> Iterator[list[Found]]:
    """What ``paths`` are in what ``text`` names. Within the block no garbage collection takes what no commit holds.

    ``NotFoundError`` for a path that is not there, ``StratumError`` for a file whose content nobody knows: why, and
    which older CHANGE has one.
    """
    ref = ref_or_mountpoint(session, text)
    with ExitStack() as locks:
        if ref.change is not None:
            # Asked without the store's lock, so that who writes the history can have it.
            up_to_date(session, *session.store.changes.worktree_of(ref))
            locks.enter_context(session.store.locks.store())
            yield [_of_change(session, ref, path_in(path)) for path in paths]
            return
        tree, commit = _tree_of(session, ref, locks)
        yield [_of_tree(tree, commit, text, path_in(path)) for path in paths]


def _tree_of(session: Session, ref: Ref, locks: ExitStack) -> tuple[Directory, str]:
    """The tree that a tag or commit is, or a worktree shows now, and the commit whose sources have what of it is not in
    the store."""
    store = session.store
    if not ref.live:
        commit = store.resolve_commit(ref)
        return store.commits.open_tree(commit), commit
    locks.enter_context(store.locks.store())
    with session.hold(ref) as held, store.begin(f"reading {held}") as tx:
        root = held.shown(tx)
        tx.publish_objects()
        return root, held.worktree.base_commit


def _of_tree(tree: Directory, commit: str, text: str, path: bytes) -> Found:
    inode = lookup(tree, path)
    if inode is None:
        raise _not_in(text, tree, path)
    return Found(path, inode, commit, [])


def _of_change(session: Session, ref: Ref, path: bytes) -> Found:
    found = session.store.changes.traced(ref, path)
    if found is not None and not content_unknown(found[0]):
        return Found(path, *found, [])
    return _of_state(session, session.store.changes.state(ref), path)


def _of_state(session: Session, state: State, path: bytes) -> Found:
    inode = lookup(state.tree, path)
    if inode is None and state.record.op == "version" and state.record.path == path:
        from stratum.tree.oplog import inode_of

        assert state.record.entry is not None  # its directory went with it
        inode = inode_of(state.record.entry)
    if inode is None:
        error = _not_in(str(state), state.tree, path)
        raise NotFoundError(error.message, hint=_when_there(session, state, path) or error.hint)
    if content_unknown(inode):
        raise _unknown(session, state, path)
    if not isinstance(inode, Directory):
        return Found(path, inode, state.base, [])
    ground = lookup(state.ground, path)
    nothing = Directory(inode.mode, inode.uid, inode.gid, inode.mtime)
    missing = unknown_files(inode, ground if isinstance(ground, Directory) else nothing)
    above = path if path != b"/" else b""
    return Found(path, without(inode, missing), state.base, [above + below for below in missing])


def _not_in(text: str, tree: Directory, path: bytes) -> NotFoundError:
    similar = similar_path(tree, path)
    hint = f"did you mean {path_text(similar)}?" if similar is not None else ""
    return NotFoundError(f"{text} has no {path_text(path)}", hint=hint)


def _when_there(session: Session, state: State, path: bytes) -> str:
    """When the path was there, or was to come."""
    name, worktree = state.name, state.worktree
    records = [r for r in session.store.histories.find(name, worktree, path) if r.path == path]
    last = next((r for r in reversed(records) if r.n < state.record.n and r.op != "delete"), None)
    if last is not None:
        return f"it was there at CHANGE {last.n}: 'stratum history {name}+{worktree} PATH' lists what became of it"
    first = next((r for r in records if r.n > state.record.n and r.op != "delete"), None)
    return f"it came with CHANGE {first.n}" if first is not None else ""


def _unknown(session: Session, state: State, path: bytes) -> StratumError:
    """Why nobody knows the content of a file, and when somebody did."""
    name, worktree, n = state.name, state.worktree, state.record.n
    records = [r for r in session.store.histories.find(name, worktree, path) if r.path == path and r.n <= n]
    why = next((r.why for r in reversed(records) if r.why is not None), None) or "open"
    older = next((r.n for r in reversed(records) if has_content(r)), None)
    if older is None and isinstance(lookup(state.ground, path), File):
        older = next(session.store.histories.epoch(name, worktree, n)).n
    hint = f"CHANGE {older} is the last before that has its content" if older is not None else ""
    return StratumError(
        f"nobody knows the content of {path_text(path)} at {state}: {_UNKNOWN.get(why, why)}", hint=hint
    )


def content(
    session: Session,
    text: str,
    path: str,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    take: Callable[[File, Iterator[bytes]], None],
) -> None:
    """Give ``take`` the file that ``path`` is in what ``text`` names, and its content in pieces.

    Raises as ``opened``.
    """
    with opened(session, text, path, offline=offline, progress=progress) as (inode, fd):
        take(inode, pieces(inode, fd))


@contextmanager
def opened(
    session: Session, text: str, path: str, *, offline: bool = False, progress: Progress | None = None
) -> Iterator[tuple[File, int]]:
    """The file that ``path`` is in what ``text`` names, and its object, open for the block; -1 where it has none.

    What is not here is fetched first, with ``offline`` it is an error. ``UsageError`` for what is no regular file.
    Raises as ``found_in``.
    """
    fd = -1
    with found_in(session, text, [path]) as (found,):
        inode = found.inode
        if not isinstance(inode, File):
            raise UsageError(f"{path_text(found.path)} is {kind_of(inode)}", hint=_instead(inode, text, found.path))
        bring_inodes(session, [found.commit], [inode], offline=offline, progress=progress)
        if inode.digest is not None:
            fd = session.store.objects.open(inode.digest)
    # Without the store's lock: who takes it may take it slowly, and what is open stays.
    try:
        yield inode, fd
    finally:
        if fd >= 0:
            os.close(fd)


def kind_of(inode: Inode) -> str:
    """What an inode is, with an article."""
    import stat

    if isinstance(inode, Symlink):
        return f"a symbolic link to {path_text(inode.target)}"
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(inode.mode), "a device")


def _instead(inode: Inode, text: str, path: bytes) -> str:
    if isinstance(inode, Directory):
        return f"'stratum ls {text} PATH' lists what is in it"
    if isinstance(inode, Symlink):
        target = os.path.normpath(os.path.join(os.path.dirname(path), inode.target))
        return f"what it points to is {path_text(target)}"
    return "only regular files have content"


def pieces(file: File, fd: int) -> Iterator[bytes]:
    """The content of a file, whose object is open as ``fd``. ``DamagedError`` behind the last piece, where it is not
    what it should be."""
    if file.digest is None:
        yield file.content or b""
        return
    from stratum.composefs.verity import VerityHasher

    hasher = VerityHasher()
    while piece := os.read(fd, _PIECE):
        hasher.update(piece)
        yield piece
    if hasher.digest() != file.digest:
        raise DamagedError(f"object {file.digest.hex()} does not match its digest", hint="run 'stratum fsck'")
