"""Tags and the listing and removal of strata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.api.bootmounts import forget_removed
from stratum.api.session import Session
from stratum.api.worktrees import refuse_mounted, remove_worktree
from stratum.errors import UsageError
from stratum.frozen import field, frozen
from stratum.refs import DEFAULT_TAG, Ref, check_name, parse_ref

if TYPE_CHECKING:
    from stratum.store.worktrees import Worktree


@frozen
class Tagged:
    """A tag that was set: its full name, the commit, what it named before, and the tag that a move removed."""

    ref: str
    commit: str
    previous: str | None
    removed: str | None


def tag(session: Session, source: str, new: str, *, move: bool = False, force: bool = False) -> Tagged:
    """Point ``new`` (TAG in the same stratum, or NAME:TAG) at the commit that ``source`` names.

    A bare hash as ``source`` with a plain TAG needs to belong to just one stratum: one whose tags or worktrees name the
    commit. ``move`` removes the old tag afterwards. ``ExistsError`` where ``new`` names another commit, unless
    ``force``.
    """
    store = session.store
    ref = parse_ref(source)
    commit = store.resolve_commit(ref)
    old_tag = _tag_of(session, ref)
    if move and old_tag is None:
        raise UsageError(f"--move renames a tag, and {source} is none")
    name, new_tag = _target(session, ref, new, commit)
    previous = store.tags.find(name, new_tag)
    store.ensure_image(commit)  # whoever follows the tag's symlink finds it there
    store.tags.set(name, new_tag, commit, force=force, why=f"tag {source}")
    removed = None
    if move and old_tag is not None and old_tag != (name, new_tag):
        store.tags.remove(*old_tag, expected=commit, why=f"renamed to {name}:{new_tag}")
        removed = ":".join(old_tag)
    return Tagged(f"{name}:{new_tag}", commit, previous, removed)


def _tag_of(session: Session, ref: Ref) -> tuple[str, str] | None:
    """(name, tag) where ``ref`` means a tag that exists."""
    wanted = DEFAULT_TAG if ref.bare else ref.tag
    if wanted is None or ref.worktree is not None:
        return None
    store = session.store
    there = store.namespaces.exists_name(ref.name) and wanted in store.tags.names(ref.name)
    return (ref.name, wanted) if there else None


def _target(session: Session, source: Ref, new: str, commit: str) -> tuple[str, str]:
    if ":" in new:
        ref = parse_ref(new)
        assert ref.tag is not None
        return ref.name, check_name(ref.tag, "tag")
    check_name(new, "tag")
    store = session.store
    if store.namespaces.exists_name(source.name):
        return source.name, new
    owners = sorted({user.partition(":")[0].partition("+")[0] for user in store.users_of(commit)})
    if len(owners) != 1:
        found = "no stratum refers" if not owners else f"several strata refer ({', '.join(owners)})"
        raise UsageError(f"{found} to commit {commit}", hint=f"say which one gets the tag: NAME:{new}")
    return owners[0], new


@frozen
class StratumSummary:
    """One stratum in the list of all."""

    name: str
    tags: list[str]
    worktrees: list[str]


@frozen
class ListedTag:
    """One tag of a stratum: commit, its time (RFC 3339), number of files and their bytes."""

    tag: str
    commit: str
    timestamp: str
    files: int
    size: int


@frozen
class ListedStratum:
    """A stratum with its tags and worktrees."""

    name: str
    tags: list[ListedTag]
    worktrees: list[Worktree]


def list_strata(session: Session) -> list[StratumSummary]:
    """All strata, by name."""
    store = session.store
    return [StratumSummary(name, store.tags.names(name), store.worktrees.names(name)) for name in store.names()]


def list_stratum(session: Session, name: str) -> ListedStratum:
    """The tags (by name) and worktrees of one stratum. ``NotFoundError`` where there is none."""
    store = session.store
    check_name(name)
    tags = []
    for tag_name, commit in store.tags.list(name).items():
        meta = store.commits.meta(commit)
        tags.append(ListedTag(tag_name, commit, meta.timestamp, meta.file_count, meta.total_size))
    return ListedStratum(name, tags, store.worktrees.list(name))


@frozen
class Removal:
    """What a removal would take away: refs as text, in the order of their removal."""

    ref: Ref
    removes: list[str] = field(default_factory=list)

    @property
    def whole_stratum(self) -> bool:
        """Whether the stratum itself goes."""
        return self.ref.bare

    @property
    def description(self) -> str:
        """For a question or a message."""
        if not self.whole_stratum:
            return str(self.ref)
        parts = len(self.removes) - 1
        return f"the stratum {self.ref.name}" + (f" with its {parts} tags and worktrees" if parts else "")


def plan_removal(session: Session, text: str) -> Removal:
    """What removing ``text`` means. ``NotFoundError`` where it does not exist, ``BusyError`` where it is mounted."""
    store = session.store
    ref = parse_ref(text)
    if ref.worktree is not None:
        store.worktrees.get(ref.name, ref.worktree)
        refuse_mounted(session, ref.name, ref.worktree)
        return Removal(ref, [str(ref)])
    if ref.tag is not None:
        if ref.tag not in store.tags.names(ref.name):
            store.tags.get(ref.name, ref.tag)
        return Removal(ref, [str(ref)])
    store.namespaces.check(ref.name)
    worktrees = store.worktrees.names(ref.name)
    for worktree in worktrees:
        refuse_mounted(session, ref.name, worktree)
    items = [f"{ref.name}+{w}" for w in worktrees] + [f"{ref.name}:{t}" for t in store.tags.names(ref.name)]
    return Removal(ref, [*items, ref.name])


def remove(session: Session, plan: Removal, *, discard: bool = False) -> tuple[list[str], list[str]]:
    """Carry out a removal: (the commits that keep uncommitted changes of worktrees, none with ``discard``; the
    mountpoints where nothing is mounted at every start any more)."""
    kept = _remove(session, plan, discard)
    return kept, forget_removed(session, plan.ref)


def _remove(session: Session, plan: Removal, discard: bool) -> list[str]:
    store, ref = session.store, plan.ref
    if ref.tag is not None:
        store.tags.remove(ref.name, ref.tag, why="remove")
        return []
    if ref.worktree is not None:
        kept = [remove_worktree(session, ref.name, ref.worktree, discard=discard)]
    else:
        # Held throughout, so that nobody makes and mounts another worktree before the stratum goes.
        with store.locks.store(exclusive=True):
            names = store.worktrees.names(ref.name)
            kept = [remove_worktree(session, ref.name, worktree, discard=discard) for worktree in names]
            store.namespaces.remove(ref.name)
    return [commit for commit in kept if commit is not None]
