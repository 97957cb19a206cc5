"""What a ref means: which commit, or which worktree.

::

    NAME:TAG       the tag; where there is none, a commit by hash or unique prefix
    NAME+WORKTREE  the worktree; as a commit, its head or else its base
    NAME           the stratum as it is now (``of_name``): the worktree ``main``, made from the tag ``latest`` on first
                   need; as a commit, the last one of ``main``, and ``latest`` only where there is no ``main``
    HASH           a commit by hash or unique prefix, where no stratum has that name
    NAME:WORKTREE  the worktree, where one is meant and no tag has that name
    NAME+WORKTREE@CHANGE, NAME@CHANGE
                   the commit of what the worktree showed after that operation of its history, made on need
    REF@{WHEN}     the commit that the tag, the worktree or NAME named at that moment (``store.past``)
    REF~N          the commit that many generations before

What NAME alone is, is decided by ``of_name`` and nowhere else, so it is the same in every verb.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from stratum.errors import ConflictError, ExistsError, NotFoundError, UsageError
from stratum.frozen import frozen, replace
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, Ref, is_hash_prefix, is_name
from stratum.store.namespaces import Namespaces, similar

if TYPE_CHECKING:
    from stratum.store.changes import Changes
    from stratum.store.commits import Commits
    from stratum.store.past import Past
    from stratum.store.tags import Tags
    from stratum.store.worktrees import Worktrees


@frozen
class ResolvedTag:
    """The tag ``name:tag``, which names ``commit``."""

    commit: str
    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


@frozen
class ResolvedCommit:
    """A commit by its hash, in the stratum ``name``; None where the hash was named without one."""

    commit: str
    name: str | None = None

    def __str__(self) -> str:
        return self.commit if self.name is None else f"{self.name}:{self.commit}"


@frozen
class ResolvedWorktree:
    """The worktree ``name+worktree``; ``commit`` is its head or else its base."""

    commit: str
    name: str
    worktree: str

    @property
    def ref(self) -> Ref:
        """``NAME+WORKTREE``."""
        return Ref(self.name, worktree=self.worktree)

    def __str__(self) -> str:
        return str(self.ref)


Resolved = ResolvedTag | ResolvedCommit | ResolvedWorktree
"""What a ref means; ``commit`` is a whole hash."""


def tag_elsewhere(found: Resolved, ref: Ref) -> str:
    """The tag that what ``ref`` means gets in a registry or archive where none is said.

    ``latest`` of NAME alone; else its own tag, the worktree's name, or the first 12 digits of the hash.
    """
    if isinstance(found, ResolvedCommit):
        return found.commit[:12]
    if ref.bare:
        return DEFAULT_TAG
    return found.tag if isinstance(found, ResolvedTag) else found.worktree


class Refs:
    """The part of a store that knows what its refs mean: a ``Store`` is one."""

    namespaces: Namespaces
    if TYPE_CHECKING:

        @cached_property
        def changes(self) -> Changes: ...

        @cached_property
        def commits(self) -> Commits: ...

        @cached_property
        def past(self) -> Past: ...

        @cached_property
        def tags(self) -> Tags: ...

        @cached_property
        def worktrees(self) -> Worktrees: ...

    def of_name(self, ref: Ref) -> Resolved:
        """What NAME alone is: its worktree ``main``, or the tag ``latest`` where there is no ``main``, or a commit
        where no stratum has that name.

        Raises ``NotFoundError`` where it is none of them, ``ConflictError`` for an ambiguous prefix, ``DamagedError``.
        """
        name = ref.name
        if not self.namespaces.exists_name(name):
            commit = self._commit(name)
            if commit is None:
                raise self._no_stratum(ref)
            return ResolvedCommit(commit)
        if self.worktrees.exists(name, DEFAULT_WORKTREE):
            return self._worktree(name, DEFAULT_WORKTREE)
        commit = self.tags.find(name, DEFAULT_TAG)
        if commit is None:
            raise self._no_current(name)
        return ResolvedTag(commit, name, DEFAULT_TAG)

    def _worktree(self, name: str, worktree: str) -> ResolvedWorktree:
        return ResolvedWorktree(self.worktrees.get(name, worktree).commit, name, worktree)

    def resolve(self, ref: Ref) -> Resolved:
        """What ``ref`` means where a commit is wanted; of a worktree, ``NAME`` alone too, its last commit.

        Raises ``NotFoundError`` with a hint, ``ConflictError`` for an ambiguous prefix, listing the candidates, and
        ``DamagedError`` for a tag or worktree that cannot be read. For a state of a history, as ``Changes.commit``.
        """
        if ref.past:
            return self._of_past(ref)
        if ref.change is not None:
            return ResolvedCommit(self.changes.commit(ref), ref.name)
        if ref.worktree is not None:
            return self._worktree(ref.name, ref.worktree)
        if ref.tag is not None:
            return self._tag_or_commit(ref.name, ref.tag)
        return self.of_name(ref)

    def _of_past(self, ref: Ref) -> ResolvedCommit:
        begin = replace(ref, back=0)
        if ref.when is None:
            found = self.resolve(begin)
            commit, name = found.commit, found.name
        else:
            if not self.namespaces.exists_name(ref.name) or not self.past.knows(ref):
                known = self.resolve(replace(begin, when=None))
                if isinstance(known, ResolvedCommit):
                    raise UsageError(f"{known} is a commit, at any time", hint=f"leave '@{{{ref.when}}}' out")
            commit, name = self.past.named(begin), ref.name
        return ResolvedCommit(self.past.before(commit, ref.back, str(begin)) if ref.back else commit, name)

    def resolve_commit(self, ref: Ref) -> str:
        """The hash of the commit that a ref means, as ``resolve`` says."""
        return self.resolve(ref).commit

    def resolve_worktree(self, ref: Ref, *, create: bool = True) -> tuple[str, str]:
        """(stratum, worktree) that ``ref`` means where a worktree is wanted; it is there. ``NAME`` alone is ``main``.
        That one is made from ``latest`` where it is missing (unless ``create`` is false: ``NotFoundError`` then).

        Raises as ``resolve`` does, and ``UsageError`` for a ref that names a tag or commit.
        """
        if ref.past:
            raise UsageError(
                f"{ref} is a commit; a worktree is needed here",
                hint=f"make one from it: stratum worktree add {ref.name}+WORKTREE '{ref}'",
            )
        if ref.change is not None:
            raise UsageError(
                f"{ref} is a state in a worktree's history; a worktree is needed here",
                hint=f"make one from it: stratum worktree add {ref.name}+WORKTREE {ref}",
            )
        if ref.bare:
            found = self.of_name(ref)
            if isinstance(found, ResolvedCommit):
                raise UsageError(f"{ref} is a commit; a worktree is needed here", hint="name it as NAME+WORKTREE")
            if isinstance(found, ResolvedWorktree):
                return found.name, found.worktree
        elif ref.tag == DEFAULT_WORKTREE and create and self.tags.find(ref.name, ref.tag) is None:
            ref = Ref(ref.name, worktree=DEFAULT_WORKTREE)
        if ref.tag is not None:
            return self._worktree_by_colon(ref.name, ref.tag)
        name, worktree = ref.name, ref.worktree or DEFAULT_WORKTREE
        if worktree == DEFAULT_WORKTREE and create and not self.worktrees.exists(name, worktree):
            self._make_main(name)
        self.worktrees.check(name, worktree)
        return name, worktree

    def resolve_mountable(self, ref: Ref) -> Resolved:
        """What ``ref`` means where either will do and a worktree is preferred: ``NAME`` alone is its worktree
        ``main``."""
        if self.means_worktree(ref):
            return self._worktree(*self.resolve_worktree(ref))
        return self.resolve(ref)

    def means_worktree(self, ref: Ref) -> bool:
        """Whether ``ref``, as ``resolve_mountable`` reads it, can only name a worktree."""
        return ref.live or (ref.bare and self.namespaces.exists_name(ref.name))

    def _tag_or_commit(self, name: str, text: str) -> ResolvedTag | ResolvedCommit:
        commit = self.tags.find(name, text) if is_name(text) else None
        if commit is not None:
            return ResolvedTag(commit, name, text)
        self.namespaces.check(name)
        commit = self._commit(text)
        if commit is not None:
            return ResolvedCommit(commit, name)
        if is_hash_prefix(text):
            raise NotFoundError(
                f"{name} has no tag {text}, and there is no commit {text}", hint=f"'stratum list {name}' shows its tags"
            )
        hint = similar(text, self.tags.names(name), f"'stratum list {name}' shows its tags")
        if text in self.worktrees.names(name):
            hint = f"{text} is a worktree: write {name}+{text}"
        raise NotFoundError(f"there is no tag {name}:{text}", hint=hint)

    def _commit(self, text: str) -> str | None:
        """The commit with this hash or prefix, or None."""
        found = self.commits.find(text)
        if len(found) > 1:
            shown = ", ".join(commit[: max(12, len(text) + 2)] for commit in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise ConflictError(f"{text} is ambiguous: it begins the commits {shown}{more}", hint="give more digits")
        return found[0] if found else None

    def _worktree_by_colon(self, name: str, text: str) -> tuple[str, str]:
        if is_name(text) and self.worktrees.exists(name, text) and self.tags.find(name, text) is None:
            return name, text
        found = self._tag_or_commit(name, text)  # or its NotFoundError
        what = "a tag" if isinstance(found, ResolvedTag) else "a commit"
        raise UsageError(
            f"{name}:{text} is {what}; a worktree is needed here",
            hint=f"name it as {name}+WORKTREE; 'stratum worktree list {name}' shows them",
        )

    def _make_main(self, name: str) -> None:
        commit = self.tags.find(name, DEFAULT_TAG)
        if commit is None:
            raise self._no_current(name)
        try:
            self.worktrees.create(name, DEFAULT_WORKTREE, commit, why=f"made on first use from {name}:{DEFAULT_TAG}")
        except ExistsError:  # another process needed it at the same time
            return

    def _no_stratum(self, ref: Ref) -> NotFoundError:
        what = "stratum or commit" if is_hash_prefix(ref.name) else "stratum"
        return NotFoundError(
            f"there is no {what} {ref.name}", hint=similar(ref.name, self.namespaces.list(), "'stratum list' shows all")
        )

    def _no_current(self, name: str) -> NotFoundError:
        """Of a stratum that has no state of now."""
        tags, make = self.tags.names(name), f"stratum worktree add {name}+{DEFAULT_WORKTREE}"
        if tags:
            named = ", ".join(f"{name}:{tag}" for tag in tags[:5])
            hint = f"name one of its tags ({named}), or make the worktree from one: {make} {name}:{tags[0]}"
        else:
            hint = f"import something as {name}, name a worktree as {name}+WORKTREE, or make one: {make} BASE"
        return NotFoundError(f"{name} has neither a worktree {DEFAULT_WORKTREE} nor a tag {DEFAULT_TAG}", hint=hint)
