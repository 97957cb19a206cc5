"""Shortening the reflog of a stratum whose worktrees come and go, so that it does not grow for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from stratum.store.reflog import Place, ReflogEntry, parse_entry

if TYPE_CHECKING:
    from stratum.store.store import Store


def trim(store: Store, name: str, before: datetime, *, only: Callable[[ReflogEntry], bool] = lambda entry: True) -> int:
    """Drop ``only`` such entries of stratum ``name`` as are from before ``before`` (timezone-aware); how many.

    What tells where a ref is now stays, and so does every line that is damaged. The commits that only the dropped
    entries mention are garbage afterwards. In one step: a crash leaves the old file or the new one.
    """
    with store.begin(f"shortening the history of {name}") as tx, store.locks.ref(name):
        refs: list[Place] = [("tag", tag, commit) for tag, commit in store.tags.list(name).items()]
        refs += [("worktree", tree.worktree, tree.commit) for tree in store.worktrees.list(name)]
        lines = store.reflog.lines(name)
        kept = trimmed(lines, before, refs, only)
        if len(kept) < len(lines):
            tx.place_file(b"\n".join(kept), store.layout.reflog(name))
        return len(lines) - len(kept)


def trimmed(
    lines: Sequence[bytes], before: datetime, refs: Iterable[Place], only: Callable[[ReflogEntry], bool]
) -> list[bytes]:
    """The lines of a reflog that are kept. Pure."""
    entries = [parse_entry(line) for line in lines]
    needed: set[int] = set()
    there = {(kind, which): commit for kind, which, commit in refs}
    last: dict[tuple[str, str], int] = {}
    telling: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries):
        if entry is None or (entry.kind, entry.which) not in there:
            continue
        last[entry.kind, entry.which] = number
        if entry.new == there[entry.kind, entry.which]:
            telling[entry.kind, entry.which] = number
    needed.update(last.values(), telling.values())
    return [
        line
        for number, (line, entry) in enumerate(zip(lines, entries, strict=True))
        if entry is None or number in needed or not only(entry) or not _is_before(entry, before)
    ]


def _is_before(entry: ReflogEntry, before: datetime) -> bool:
    """Whether the entry is older; one whose time cannot be read is not."""
    try:
        time = datetime.fromisoformat(entry.when.replace("Z", "+00:00"))
        return time < before
    except (ValueError, TypeError):
        return False
