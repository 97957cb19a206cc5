"""What a ref means: which commit, or which worktree.

::

    NAME:TAG       the tag; where there is none, a commit by hash or unique prefix
    NAME+WORKTREE  the worktree; as a commit, its head or else its base
    NAME           the stratum as it is now (``of_name``): the worktree ``main``, made from the tag ``latest`` on first
                   need; as a commit, the last one of ``main``, and ``latest`` only where there is no ``main``
    HASH           a commit by hash or unique prefix, where no stratum has that name
    NAME:WORKTREE  the worktree, where one is meant and no tag has that name

What NAME alone is, is decided by ``of_name`` and nowhere else, so it is the same in every verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stratum.errors import ConflictError, ExistsError, NotFoundError, UsageError
from stratum.frozen import frozen
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, Ref, is_hash_prefix, is_name
from stratum.store.namespaces import similar

if TYPE_CHECKING:
    from stratum.store.store import Store


@frozen
class Resolved:
    """What a ref means. ``commit`` is a whole hash; of a worktree, its head or else its base.

    ``name`` is None for a bare commit hash, which is written as itself; a stratum's commit is NAME:HASH. ``tag`` and
    ``worktree`` are set for that kind only.
    """

    kind: Literal["tag", "commit", "worktree"]
    commit: str
    name: str | None = None
    tag: str | None = None
    worktree: str | None = None

    def tag_elsewhere(self, ref: Ref) -> str:
        """The tag that it gets in a registry or archive where none is said.

        ``latest`` where ``ref``, which means it, is NAME alone; else its own tag, the worktree's name, or the first 12
        digits of the hash.
        """
        if ref.bare and self.name is not None:
            return DEFAULT_TAG
        return self.tag or self.worktree or self.commit[:12]

    @property
    def as_commit(self) -> str:
        """How its commit is written where no worktree may be meant."""
        return f"{self.name}:{self.commit}" if self.kind == "worktree" else str(self)

    def __str__(self) -> str:
        if self.kind == "worktree":
            return f"{self.name}+{self.worktree}"
        if self.name is None:
            return self.commit
        return f"{self.name}:{self.tag or self.commit}"


def of_name(store: Store, ref: Ref) -> Resolved:
    """What NAME alone is: its worktree ``main``, or the tag ``latest`` where there is no ``main``, or a commit where no
    stratum has that name.

    Raises ``NotFoundError`` where it is none of them, ``ConflictError`` for an ambiguous prefix, ``DamagedError``.
    """
    name = ref.name
    if not store.namespaces.exists_name(name):
        commit = _commit(store, name)
        if commit is None:
            raise _no_stratum(store, ref)
        return Resolved("commit", commit)
    if store.worktrees.exists(name, DEFAULT_WORKTREE):
        main = store.worktrees.get(name, DEFAULT_WORKTREE)
        return Resolved("worktree", main.commit, name, worktree=DEFAULT_WORKTREE)
    commit = store.tags.find(name, DEFAULT_TAG)
    if commit is None:
        raise _no_current(store, name)
    return Resolved("tag", commit, name, tag=DEFAULT_TAG)


def resolve(store: Store, ref: Ref) -> Resolved:
    """What ``ref`` means where a commit is wanted; of a worktree, ``NAME`` alone too, its last commit.

    Raises ``NotFoundError`` with a hint, ``ConflictError`` for an ambiguous prefix, listing the candidates, and
    ``DamagedError`` for a tag or worktree that cannot be read.
    """
    if ref.worktree is not None:
        worktree = store.worktrees.get(ref.name, ref.worktree)
        return Resolved("worktree", worktree.commit, ref.name, worktree=ref.worktree)
    if ref.tag is not None:
        return _tag_or_commit(store, ref.name, ref.tag)
    return of_name(store, ref)


def resolve_worktree(store: Store, ref: Ref, *, create: bool = True) -> Resolved:
    """What ``ref`` means where a worktree is wanted; ``NAME`` alone is ``main``. That one is made from ``latest`` where
    it is missing (unless ``create`` is false: ``NotFoundError`` then).

    Raises as ``resolve`` does, and ``UsageError`` for a ref that names a tag or commit.
    """
    if ref.bare:
        found = of_name(store, ref)
        if found.kind == "commit":
            raise UsageError(f"{ref} is a commit; a worktree is needed here", hint="name it as NAME+WORKTREE")
        if found.kind == "worktree":
            return found
    elif ref.tag == DEFAULT_WORKTREE and create and store.tags.find(ref.name, ref.tag) is None:
        ref = Ref(ref.name, worktree=DEFAULT_WORKTREE)
    if ref.tag is not None:
        return _worktree_by_colon(store, ref.name, ref.tag)
    name, worktree = ref.name, ref.worktree or DEFAULT_WORKTREE
    if worktree == DEFAULT_WORKTREE and create and not store.worktrees.exists(name, worktree):
        _make_main(store, name)
    commit = store.worktrees.get(name, worktree).commit
    return Resolved("worktree", commit, name, worktree=worktree)


def resolve_mountable(store: Store, ref: Ref) -> Resolved:
    """What ``ref`` means where either will do and a worktree is preferred: ``NAME`` alone is its worktree ``main``."""
    if ref.worktree is not None or (ref.bare and store.namespaces.exists_name(ref.name)):
        return resolve_worktree(store, ref)
    return resolve(store, ref)


def _tag_or_commit(store: Store, name: str, text: str) -> Resolved:
    commit = store.tags.find(name, text) if is_name(text) else None
    if commit is not None:
        return Resolved("tag", commit, name, tag=text)
    store.namespaces.check(name)
    commit = _commit(store, text)
    if commit is not None:
        return Resolved("commit", commit, name)
    if is_hash_prefix(text):
        raise NotFoundError(f"{name} has no tag {text}, and there is no commit {text}")
    hint = similar(text, store.tags.names(name), f"'stratum list {name}' shows its tags")
    if text in store.worktrees.names(name):
        hint = f"{text} is a worktree: write {name}+{text}"
    raise NotFoundError(f"there is no tag {name}:{text}", hint=hint)


def _commit(store: Store, text: str) -> str | None:
    """The commit with this hash or prefix, or None."""
    found = store.commits.find(text)
    if len(found) > 1:
        shown = ", ".join(commit[: max(12, len(text) + 2)] for commit in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ConflictError(f"{text} is ambiguous: it begins the commits {shown}{more}", hint="give more digits")
    return found[0] if found else None


def _worktree_by_colon(store: Store, name: str, text: str) -> Resolved:
    if is_name(text) and store.worktrees.exists(name, text) and store.tags.find(name, text) is None:
        return Resolved("worktree", store.worktrees.get(name, text).commit, name, worktree=text)
    resolved = _tag_or_commit(store, name, text)  # or its NotFoundError
    what = "a tag" if resolved.kind == "tag" else "a commit"
    raise UsageError(f"{name}:{text} is {what}; a worktree is needed here", hint=f"name it as {name}+WORKTREE")


def _make_main(store: Store, name: str) -> None:
    commit = store.tags.find(name, DEFAULT_TAG)
    if commit is None:
        raise _no_current(store, name)
    try:
        store.worktrees.create(name, DEFAULT_WORKTREE, commit, why=f"made on first use from {name}:{DEFAULT_TAG}")
    except ExistsError:  # another process needed it at the same time
        return


def _no_stratum(store: Store, ref: Ref) -> NotFoundError:
    what = "stratum or commit" if is_hash_prefix(ref.name) else "stratum"
    return NotFoundError(
        f"there is no {what} {ref.name}", hint=similar(ref.name, store.names(), "'stratum list' shows all")
    )


def _no_current(store: Store, name: str) -> NotFoundError:
    """Of a stratum that has no state of now."""
    tags, make = store.tags.names(name), f"stratum worktree add {name}+{DEFAULT_WORKTREE}"
    if tags:
        named = ", ".join(f"{name}:{tag}" for tag in tags[:5])
        hint = f"name one of its tags ({named}), or make the worktree from one: {make} {name}:{tags[0]}"
    else:
        hint = f"import something as {name}, name a worktree as {name}+WORKTREE, or make one: {make} BASE"
    return NotFoundError(f"{name} has neither a worktree {DEFAULT_WORKTREE} nor a tag {DEFAULT_TAG}", hint=hint)
