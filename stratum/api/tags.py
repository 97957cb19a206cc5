"""Tags and the listing and removal of strata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.api.bootmounts import forget_removed, rename
from stratum.api.inuse import refuse_in_use
from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.worktrees import remove_worktree
from stratum.errors import UsageError
from stratum.frozen import field, frozen
from stratum.refs import Ref, check_name, parse_lasting, parse_new_tag
from stratum.store.pins import pinned_error
from stratum.store.resolve import ResolvedTag

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.store.worktree import Worktree


@frozen
class Tagged:
    """A tag that was set: its full name, the commit, what it named before, and the tag that a move removed."""

    ref: str
    commit: str
    previous: str | None
    removed: str | None


def tag(
    session: Session, source: str, new: str, *, move: bool = False, force: bool = False, by: str | None = None
) -> Tagged:
    """Point ``new`` (TAG in the same stratum, or NAME:TAG) at the commit that ``source`` names.

    A bare hash as ``source`` with a plain TAG needs to belong to just one stratum: one whose tags or worktrees name the
    commit. ``move`` removes the old tag afterwards. ``ExistsError`` where ``new`` names another commit, unless
    ``force``. ``by`` is who is said to do it, where that is not who runs this process.
    """
    with session.store.locks.store():  # so that no garbage collection takes a commit that is made for it
        return _tag(session, source, new, move, force, f"tag {source}{f' by {by}' if by else ''}")


def _tag(session: Session, source: str, new: str, move: bool, force: bool, why: str) -> Tagged:
    store = session.store
    ref = ref_or_mountpoint(session, source)
    found = store.resolve(ref)
    commit = found.commit
    old_tag = (found.name, found.tag) if isinstance(found, ResolvedTag) else None
    if move and old_tag is None:
        raise UsageError(f"--move renames a tag, and {source} is {found}")
    name, new_tag = _target(session, ref, new, commit)
    previous = store.tags.find(name, new_tag)
    store.tags.set(name, new_tag, commit, force=force, why=why)
    removed = None
    if move and old_tag is not None and old_tag != (name, new_tag):
        if old_tag[1] in store.tags.pins(old_tag[0]).tags:  # a pin goes with what it is on
            store.tags.pin(name, tags={new_tag})
        store.tags.remove(*old_tag, expected=commit, why=f"renamed to {name}:{new_tag}", unpin=True)
        removed = ":".join(old_tag)
        rename(session, removed, f"{name}:{new_tag}")
    return Tagged(f"{name}:{new_tag}", commit, previous, removed)


def pin(session: Session, text: str, *, on: bool = True) -> tuple[str, bool]:
    """Pin what ``text`` names, or let it go: a tag, else the commit, in its stratum. What that is, and whether it
    changed anything.

    What is pinned is removed by no collection, and by nobody who does not ask for just that. A bare hash needs to
    belong to just one stratum. ``NotFoundError``, ``UsageError``.
    """
    store = session.store
    ref = ref_or_mountpoint(session, text)
    if not on and ref.tag is not None and not ref.past and store.namespaces.exists(ref.name):
        pins = store.tags.pins(ref.name)
        if ref.tag in pins.tags or ref.tag in pins.commits:  # also where the tag or commit itself is not there any more
            return f"{ref.name}:{ref.tag}", store.tags.pin(ref.name, tags={ref.tag}, commits={ref.tag}, on=False)
    found = store.resolve(ref)
    if isinstance(found, ResolvedTag):
        return str(found), store.tags.pin(found.name, tags={found.tag}, on=on)
    name = found.name if found.name is not None else owner_of(session, found.commit, f"NAME:{text}")
    return f"{name}:{found.commit}", store.tags.pin(name, commits={found.commit}, on=on)


def _target(session: Session, source: Ref, new: str, commit: str) -> tuple[str, str]:
    name, tag = parse_new_tag(new)
    if name is None and session.store.namespaces.exists_name(source.name):
        name = source.name
    return name or owner_of(session, commit, f"NAME:{new}"), tag


def owner_of(session: Session, commit: str, better: str) -> str:
    """The one stratum whose tags or worktrees name the commit; ``better`` is what to write where it is not just one.
    ``UsageError``."""
    owners = sorted({user.partition(":")[0].partition("+")[0] for user in session.store.users_of(commit)})
    if len(owners) != 1:
        found = "no stratum refers" if not owners else f"several strata refer ({', '.join(owners)})"
        raise UsageError(f"{found} to commit {commit}", hint=f"say which one it is about: {better}")
    return owners[0]


@frozen
class StratumSummary:
    """One stratum in the list of all."""

    name: str
    tags: list[str]
    worktrees: list[str]


@frozen
class ListedTag:
    """One tag of a stratum: commit, its time (RFC 3339), number of files and their bytes, whether it is pinned, and
    whether some of its content may not be here."""

    tag: str
    commit: str
    timestamp: str
    files: int
    size: int
    pinned: bool = False
    partial: bool = False


@frozen
class ListedStratum:
    """A stratum with its tags and worktrees, and the commits that are pinned in it: (commit, its time)."""

    name: str
    tags: list[ListedTag]
    worktrees: list[Worktree]
    pinned_commits: list[tuple[str, str]] = field(default_factory=list)


def list_strata(session: Session) -> list[StratumSummary]:
    """All strata, by name."""
    if session.no_store_yet:
        return []
    store = session.store
    return [StratumSummary(name, store.tags.names(name), store.worktrees.names(name)) for name in store.names()]


def list_stratum(session: Session, name: str) -> ListedStratum:
    """The tags (by name) and worktrees of one stratum. ``NotFoundError`` where there is none."""
    store = session.store
    check_name(name)
    tags, pins = [], store.tags.pins(name)
    seen: dict[str, tuple[CommitMeta, bool]] = {}
    for tag_name, commit in store.tags.list(name).items():
        if commit not in seen:
            seen[commit] = store.commits.meta(commit), store.sources.is_partial(commit)
        (meta, partial), pinned = seen[commit], tag_name in pins.tags
        tags.append(ListedTag(tag_name, commit, meta.timestamp, meta.file_count, meta.total_size, pinned, partial))
    pinned_commits = [(commit, store.commits.meta(commit).timestamp) for commit in sorted(pins.commits)]
    return ListedStratum(name, tags, store.worktrees.list(name), pinned_commits)


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


def plan_removal(session: Session, text: str, *, force: bool = False) -> Removal:
    """What removing ``text`` means. ``NotFoundError`` where it does not exist, ``BusyError`` where it is mounted,
    ``ConflictError`` where it, or something in it, is pinned, unless ``force``."""
    store = session.store
    ref = parse_lasting(text)
    if ref.worktree is not None:
        store.worktrees.check(ref.name, ref.worktree)
        refuse_in_use(session, ref.name, ref.worktree)
        return Removal(ref, [str(ref)])
    if ref.tag is not None:
        if ref.tag not in store.tags.names(ref.name):  # one that cannot be read can be removed
            store.tags.get(ref.name, ref.tag)  # its NotFoundError, with a hint
        if not force and ref.tag in store.tags.pins(ref.name).tags:
            raise pinned_error(f"the tag {ref}", str(ref))
        return Removal(ref, [str(ref)])
    store.namespaces.check(ref.name)
    if not force:
        _refuse_pinned(store, ref.name)
    worktrees = store.worktrees.names(ref.name)
    for worktree in worktrees:
        refuse_in_use(session, ref.name, worktree)
    items = [f"{ref.name}+{w}" for w in worktrees] + [f"{ref.name}:{t}" for t in store.tags.names(ref.name)]
    return Removal(ref, [*items, ref.name])


def _refuse_pinned(store: Store, name: str) -> None:
    pins = store.tags.pins(name)
    if pins:
        what = [*sorted(pins.tags), *sorted(pins.commits)]
        shown = ", ".join(text[:12] if text in pins.commits else text for text in what[:5])
        raise pinned_error(f"{shown}{' and others' if len(what) > 5 else ''} of {name}", f"{name}:{what[0]}")


def remove(
    session: Session, plan: Removal, *, discard: bool = False, force: bool = False
) -> tuple[list[str], list[str]]:
    """Carry out a removal: (the commits that keep uncommitted changes of worktrees, none with ``discard``; the
    mountpoints where nothing is mounted at every start any more).

    Raises ``ConflictError`` where it was pinned meanwhile, unless ``force``.
    """
    kept = _remove(session, plan, discard, force)
    return kept, forget_removed(session, plan.ref)


def _remove(session: Session, plan: Removal, discard: bool, force: bool) -> list[str]:
    store, ref = session.store, plan.ref
    if ref.tag is not None:
        store.tags.remove(ref.name, ref.tag, why="remove", unpin=force)
        return []
    if ref.worktree is not None:
        kept = [remove_worktree(session, ref, discard=discard)]
    else:
        # Held throughout, so that nobody makes and mounts another worktree before the stratum goes.
        with store.locks.store(exclusive=True):
            if not force:
                _refuse_pinned(store, ref.name)
            names = store.worktrees.names(ref.name)
            kept = [remove_worktree(session, Ref(ref.name, worktree=name), discard=discard) for name in names]
            store.namespaces.remove(ref.name)
    return [commit for commit in kept if commit is not None]
