"""Commits of worktrees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from stratum.api.inuse import InUse, may_be_in_use
from stratum.api.session import Session
from stratum.api.settling import settle
from stratum.errors import ExistsError, StratumError
from stratum.frozen import field, frozen
from stratum.refs import check_name, parse_ref

if TYPE_CHECKING:
    from stratum.tree.model import Directory


@frozen
class Committed:
    """What a commit did: the worktree, its commit now, the one before, and the tag that was set, if any.

    ``changed`` is False where the worktree showed just what its last commit (or its base) holds.
    """

    worktree: str
    commit: str
    parent: str
    changed: bool
    tag: str | None = None
    warnings: list[str] = field(default_factory=list)


def commit_target(
    session: Session,
    target: str,
    tag: str | None = None,
    *,
    force: bool = False,
    message: str | None = None,
    pause: bool = True,
) -> Committed:
    """Commit the worktree that ``target`` names: a ref (NAME alone is ``main``) or a path at or below its mount.

    With ``pause`` a container that has it is paused while it is read, so that the commit is what a power cut at one
    moment would have left. Raises ``StratumError``, and commits nothing, where the container cannot be paused.
    """
    from stratum.api.history import ref_or_mountpoint

    store = session.store
    found = store.resolve_worktree(ref_or_mountpoint(session, target))
    assert found.name is not None
    assert found.worktree is not None
    return commit_worktree(session, found.name, found.worktree, tag=tag, force=force, message=message, pause=pause)


def commit_worktree(
    session: Session,
    name: str,
    worktree: str,
    *,
    tag: str | None = None,
    force: bool = False,
    message: str | None = None,
    why: str = "commit",
    fast_forward: bool = True,
    settled: bool = False,
    pause: bool = False,
    ended: str | None = None,
) -> Committed:
    """Commit what the worktree shows now, move its head there and point ``tag`` (TAG or NAME:TAG) at it.

    A worktree in use is not disturbed. Where nobody has it (``api.inuse``; ``ended`` is a container that is known to
    have ended), its base becomes the new commit and its upperdir is emptied, in one step, unless ``fast_forward`` is
    False. ``ExistsError`` where the tag names another commit, before anything is written, unless ``force``. Durable
    when it returns. ``settled`` is for callers that hold the lock and have done what ``settle`` does: in the middle of
    a switch it would undo what that does.
    """
    store = session.store
    tag_name = _tag_target(name, tag)
    with store.worktrees.lock(name, worktree):
        if not settled:
            settle(session, name, worktree)
        tree = store.worktrees.get(name, worktree)
        # Asked before the upperdir is read: one that is unmounted meanwhile was still written to after that.
        held, user = may_be_in_use(session, name, worktree, ended=ended)
        fast_forward = fast_forward and not held
        previous = _previous(session, tag_name, force=force)
        base = store.commits.open_tree(tree.base_commit)
        warnings: list[str] = []
        from stratum.ingest.worktree import store_upperdir

        with store.begin(f"committing {tree}") as tx:
            with _held_still(session, user if pause else None):
                root = store_upperdir(tx, store.objects, base, tree.upperdir, warnings.append)
            meta = store.write_commit(
                tx,
                root,
                parent=tree.commit,
                message=message,
                origin={"kind": "worktree", "worktree": str(tree)},
                timestamp=session.now(),
                known=base,
                # As the base, the next mount shows it; a tag promises tags/TAG/commit.cfs.
                image=tag_name is not None or fast_forward,
            )
            commit = meta.metadata_hash
            if fast_forward and tree.base_commit != commit:
                store.worktrees.renew(tx, name, worktree, base_commit=commit, head=commit, why=why)
            elif tree.commit != commit:
                store.worktrees.set_head(name, worktree, commit, why=why)
            if tag_name is not None:
                store.tags.set(*tag_name, commit, expected=previous, why=f"{why} of {tree}")
    full_tag = ":".join(tag_name) if tag_name is not None else None
    return Committed(str(tree), commit, tree.commit, commit != tree.commit, full_tag, warnings)


@contextmanager
def _held_still(session: Session, user: InUse | None) -> Iterator[None]:
    """Pause the container, if any, that has the worktree, or raise what says why that cannot be done."""
    with ExitStack() as held:
        if user is not None and user.container is not None:
            from stratum.podman.pausing import paused

            config = session.config
            try:
                held.enter_context(paused(user.container, config.runtime_dir, config.environment))
            except StratumError as exc:
                raise type(exc)(
                    f"container {user.container[:12]} cannot be paused, so nothing was committed: {exc.message}",
                    hint="try again, or --no-pause to commit while it goes on writing: its files may then be of"
                    " different moments",
                ) from None
        yield


def _tag_target(name: str, tag: str | None) -> tuple[str, str] | None:
    """(stratum, tag) from TAG (in ``name``) or NAME:TAG."""
    if tag is None:
        return None
    if ":" in tag:
        ref = parse_ref(tag)
        assert ref.tag is not None
        return ref.name, check_name(ref.tag, "tag")
    return name, check_name(tag, "tag")


def _previous(session: Session, tag: tuple[str, str] | None, *, force: bool) -> str | None:
    """The commit that the tag names so far; ``ExistsError`` where it names one and may not be moved."""
    previous = session.store.tags.find(*tag) if tag is not None else None
    if tag is not None and previous is not None and not force:
        raise ExistsError(
            f"the tag {':'.join(tag)} exists already and names commit {previous}",
            hint="use another tag, or --force to move this one",
        )
    return previous


def read_worktree(session: Session, name: str, worktree: str) -> tuple[Directory, Directory]:
    """(the tree of its last commit, or of its base where there is none; the tree that it shows now) of a worktree.

    Nothing is stored.
    """
    from stratum.ingest.worktree import hash_upperdir

    store = session.store
    store.worktrees.get(name, worktree)  # or its NotFoundError, before a lock is made for it
    with store.worktrees.lock(name, worktree):
        settle(session, name, worktree)
        tree = store.worktrees.get(name, worktree)
        base = store.commits.open_tree(tree.base_commit)
        committed = base if tree.commit == tree.base_commit else store.commits.open_tree(tree.commit)
        return committed, hash_upperdir(store.objects, base, tree.upperdir, lambda warning: None)
