"""The parameter types of refs, completed by the shell from what the store holds, of paths, and of notes for people.

Refs and paths take any text; what is wrong with them is found by those who use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from stratum.cli.output import safe
from stratum.errors import StratumError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


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
            found = [CompletionItem(ref) for ref in self._refs(ctx) if ref.startswith(incomplete)]
        except (StratumError, OSError):
            found = []
        if self._paths:
            found.append(CompletionItem(incomplete, type="file"))
        return found

    def _refs(self, ctx: click.Context) -> Iterator[str]:
        from stratum.api.session import Session
        from stratum.config import load_config

        options = ctx.find_root().params
        store = Session(load_config(store=options.get("store"), runtime_dir=options.get("runtime_dir"))).store
        for name in store.names():
            yield name
            if self._tags:
                yield from (f"{name}:{tag}" for tag in store.tags.names(name))
            if self._worktrees:
                yield from (f"{name}+{worktree}" for worktree in store.worktrees.names(name))


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
REF = RefType()
WORKTREE = RefType(tags=False)
NAME = RefType(tags=False, worktrees=False)
REF_OR_PATH = RefType(paths=True)
WORKTREE_OR_PATH = RefType(tags=False, paths=True)
PATH = click.Path(readable=False)
