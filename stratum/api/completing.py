"""What a shell offers where a path in a ref, or a CHANGE of one, is to be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.versions import line_of, path_in, worktree_named
from stratum.errors import UsageError
from stratum.store import Store
from stratum.tree.model import Directory, lookup


def paths_in(session: Session, text: str, incomplete: str) -> Iterator[str]:
    """The paths in what ``text`` names that begin with ``incomplete``, as far as the next slash, which directories end
    in. Of a worktree, those of its last commit. Raises what finding it raises."""
    ref, store = ref_or_mountpoint(session, text), session.store
    tree = store.changes.state(ref).tree if ref.change else store.commits.open_tree(store.resolve_commit(ref))
    above, _, begun = incomplete.rpartition("/")
    directory = lookup(tree, path_in(above))
    if not isinstance(directory, Directory):
        raise UsageError(f"{text} has no directory {above}")
    prefix = incomplete[: len(incomplete) - len(begun)]
    wanted = os.fsencode(begun)
    for name in sorted(name for name in directory.children if name.startswith(wanted)):
        slash = "/" if isinstance(directory.children[name], Directory) else ""
        yield f"{prefix}{os.fsdecode(name)}{slash}"


def refs_in(store: Store, incomplete: str, *, tags: bool, worktrees: bool) -> Iterator[str]:
    """The strata that ``incomplete`` may begin or be, and their ``tags`` and ``worktrees``. Raises what reading them
    raises."""
    name, sign, _ = incomplete.replace("+", ":").partition(":")
    names = store.names()
    for stratum in [each for each in names if each == name] if sign else names:
        if not stratum.startswith(name):
            continue
        yield stratum
        if tags:
            yield from (f"{stratum}:{tag}" for tag in store.tags.names(stratum))
        if worktrees:
            yield from (f"{stratum}+{worktree}" for worktree in store.worktrees.names(stratum))


def changes_of(session: Session, text: str, path: str, limit: int) -> Iterator[tuple[str, str]]:
    """The newest CHANGEs of a path in a worktree, each with its time and what was done. Raises what finding them
    raises."""
    ref, wanted = worktree_named(session, text), path_in(path)
    records = session.store.histories.find(*session.store.changes.worktree_of(ref), wanted)
    for record in islice(reversed([record for record in records if record.path == wanted]), limit):
        line = line_of(record)
        yield str(record.n), f"{line.when} {line.op}"
