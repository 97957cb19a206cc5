"""The parameter types of refs, completed by the shell from what the store holds, of paths, and of notes for people.

Refs and paths take any text; what is wrong with them is found by those who use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from stratum.cli.output import safe
from stratum.errors import StratumError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from stratum.api.session import Session

_CHANGES_MAX = 50
"""How many CHANGEs are offered: the newest."""
_OFFERED_MAX = 1000
"""How many refs or paths are offered; a shell shows no more, and a person reads fewer."""


class RefType(click.ParamType[str]):
    """A ref as text. ``tags`` and ``worktrees`` say what completion offers besides names; ``paths`` adds files."""

    name = "ref"

    def __init__(self, *, tags: bool = True, worktrees: bool = True, paths: bool = False) -> None:
        self._tags = tags
        self._worktrees = worktrees
        self._paths = paths

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The refs of the store that begin with ``incomplete``; none where it cannot be read."""
        from click.shell_completion import CompletionItem

        try:
            found = [CompletionItem(ref) for ref in self._refs(ctx, incomplete) if ref.startswith(incomplete)]
        except (StratumError, OSError):
            found = []
        if self._paths:
            found.append(CompletionItem(incomplete, type="file"))
        return found

    def _refs(self, ctx: click.Context, incomplete: str) -> Iterator[str]:
        from stratum.api.completing import paths_in, refs_in
        from stratum.refs import parse_ref, split_ref_path

        session = session_of(ctx)
        ref, path = split_ref_path(incomplete)
        if path is not None:
            begun = incomplete[len(ref) + 1 :]
            found = (found for found in paths_in(session, ref, begun) if found.isprintable())
            yield from (f"{ref}:{path}" for path in islice(found, _OFFERED_MAX))
            return
        store = session.store
        whose, at, _ = incomplete.partition("@")
        if at:
            newest = store.histories.newest(*store.changes.worktree_of(parse_ref(whose)))
            yield from (f"{whose}@{record.n}" for record in islice(newest, _CHANGES_MAX))
            return
        yield from islice(refs_in(store, incomplete, tags=self._tags, worktrees=self._worktrees), _OFFERED_MAX)


class InRefType(click.ParamType[str]):
    """A path in what the argument before it names; with ``changes``, after one path also a CHANGE of it."""

    name = "path"

    def __init__(self, *, changes: bool = False) -> None:
        self._changes = changes

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The paths that begin with ``incomplete``, a directory at a time; none where that cannot be read."""
        from click.shell_completion import CompletionItem

        try:
            found = [CompletionItem(value, help=told) for value, told in self._values(ctx, param, incomplete)]
        except (StratumError, OSError):
            return []
        return [item for item in found if item.value.startswith(incomplete)]

    def _values(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Iterator[tuple[str, str | None]]:
        from stratum.api.completing import changes_of, paths_in

        text = next(value for value in ctx.params.values() if isinstance(value, str))
        session, given = session_of(ctx), ctx.params.get(param.name or "")
        if self._changes and isinstance(given, tuple) and len(given) == 1:
            yield from changes_of(session, text, given[0], _CHANGES_MAX)
        found = (path for path in paths_in(session, text, incomplete) if path.isprintable())
        yield from ((path, None) for path in islice(found, _OFFERED_MAX))


def session_of(ctx: click.Context) -> Session:
    """The session of the global options before the verb."""
    from stratum.api.session import Session
    from stratum.config import load_config

    options = ctx.find_root().params
    return Session(load_config(store=options.get("store"), runtime_dir=options.get("runtime_dir")))


class BegunType(click.ParamType[str]):
    """Text of which the beginning is a ref, such as a volume of a container."""

    name = "text"

    def __init__(self, ref: RefType) -> None:
        self._ref = ref

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The refs that begin so."""
        return self._ref.shell_complete(ctx, param, incomplete)


class OpType(click.ParamType[str]):
    """A kind of operation of a history, which the shell is told; who takes it says what is none."""

    name = "op"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The kinds that begin so."""
        from click.shell_completion import CompletionItem

        from stratum.api.versions import KINDS

        return [CompletionItem(kind) for kind in KINDS if kind.startswith(incomplete)]


class PathType(click.ParamType[str]):
    """A path of the file system, which the shell completes."""

    name = "path"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What tells the shell to complete it."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class NoteType(click.ParamType[str]):
    """Text for people that is kept in metadata: UTF-8, which a command line need not be."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{safe(value)} is not UTF-8", param, ctx)
        return value


NOTE = NoteType()
IN_REF = InRefType()
PATHS_AND_CHANGE = InRefType(changes=True)
REF = RefType()
WORKTREE = RefType(tags=False)
NAME = RefType(tags=False, worktrees=False)
REF_OR_PATH = RefType(paths=True)
WORKTREE_OR_PATH = RefType(tags=False, paths=True)
VOLUME = BegunType(REF)
OF_STRATUM = BegunType(NAME)
OP = OpType()
PATH = PathType()
