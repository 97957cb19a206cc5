"""``du``: what uses the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import REF

if TYPE_CHECKING:
    from stratum.api.shares import CommitUsage, Share, Size, StoreUsage, StratumUsage, WorktreeUsage

_COLUMNS = ("TOTAL", "EXCLUSIVE", "SHARED", "REMOTE", "GC")


@verb(
    "du",
    examples=[
        ("what each stratum takes", "stratum du"),
        ("the parts of the whole store", "stratum du -s"),
        ("which commits of one stratum hold the most for themselves", "stratum du --commits db"),
        ("what one worktree takes", "stratum du db+main"),
    ],
)
@click.argument("refs", metavar="[REF]...", nargs=-1, type=REF)
@click.option("-s", "--summary", is_flag=True, help="Only the parts of the whole store.")
@click.option("--commits", is_flag=True, help="The commits: of the strata that are given, or of all.")
@click.option("--worktrees", is_flag=True, help="The worktrees: of the strata that are given, or of all.")
@click.option("--apparent-size", is_flag=True, help="Sizes of files instead of the room that they take on disk.")
def du(app: App, refs: tuple[str, ...], summary: bool, commits: bool, worktrees: bool, apparent_size: bool) -> None:
    """Show what strata, commits and worktrees take on disk, what each has for itself, and what gc would free.

    TOTAL is all that something needs: objects, commits with their images, what was written in worktrees, histories.
    EXCLUSIVE is what would be freed in the end if it went, SHARED what others need too: for a stratum other strata, for
    a commit other commits and histories, for a worktree all else but the reflog, which lets go after 30 days. REMOTE is
    what is not here and would be fetched, which counts nowhere else. GC is what 'stratum gc' would free now.

    NAME alone is the stratum. Sizes are the room that files take on disk. In JSON, sizes are bytes, both on disk and
    apparent; 'remote' is apparent, and 'gc' on disk.
    """
    from stratum.api.usage import disk_usage

    if summary and (refs or commits or worktrees):
        raise click.UsageError("--summary is of the whole store, so it goes with no REF, --commits or --worktrees")
    done = disk_usage(app.session, refs, commits=commits, worktrees=worktrees, strata=not summary)
    for what, problem in sorted(done.store.damaged.items()):
        app.out.warn(f"{what} does not count whole: {problem}")
    if app.out.json:
        app.out.object(
            {
                "store": _store_json(done.store),
                "strata": [_stratum_json(row) for row in done.strata],
                "commits": [_commit_json(row) for row in done.commits],
                "worktrees": [_worktree_json(row) for row in done.worktrees],
            }
        )
        return

    def size(found: Size) -> str:
        return human_size(found.apparent if apparent_size else found.disk)

    def share(found: Share) -> tuple[str, ...]:
        remote, freed = (human_size(n) if n else "-" for n in (found.remote, found.gc))
        return (size(found.total), size(found.exclusive), size(found.shared), remote, freed)

    if summary:
        _print_store(app, done.store, apparent_size)
    if done.strata:
        rows = [(row.name, str(row.commits), str(row.worktrees), *share(row.share)) for row in done.strata]
        app.out.table(("STRATUM", "COMMITS", "WORKTREES", *_COLUMNS), rows)
    if done.commits:
        commit_rows = [(short(row.commit), _refs(row), *share(row.share)) for row in done.commits]
        app.out.table(("COMMIT", "REFS", *_COLUMNS), commit_rows)
    if done.worktrees:
        tree_rows = [(row.ref, size(row.written), size(row.history), *share(row.share)) for row in done.worktrees]
        app.out.table(("WORKTREE", "WRITTEN", "HISTORY", *_COLUMNS), tree_rows)
    if not summary:
        freed = f"gc would free {human_size(done.store.gc)}" if done.store.gc else "gc would free nothing"
        app.out.note(f"the store takes {size(done.store.total)}, {freed}; 'stratum du -s' tells its parts")


def _refs(row: CommitUsage) -> str:
    """The refs of a commit, not too many; why it is kept that has none."""
    if row.refs:
        more = f" and {len(row.refs) - 2} more" if len(row.refs) > 2 else ""
        return ", ".join(row.refs[:2]) + more
    return safe(f"({row.why or 'garbage'})")


def _print_store(app: App, store: StoreUsage, apparent_size: bool) -> None:
    def size(found: Size) -> str:
        return human_size(found.apparent if apparent_size else found.disk)

    counts = {"objects": f"{store.objects} objects", "metadata": f"{store.commits} commits"}
    rows = [(part, size(found), counts.get(part, "")) for part, found in store.parts.items() if found.disk]
    rows.append(("total", size(store.total), ""))
    if store.remote_objects:
        rows.append(("not here", human_size(store.remote), f"{store.remote_objects} objects"))
    rows.append(("gc would free", human_size(store.gc), ""))
    rows.append(("free on disk", human_size(store.free), ""))
    app.out.table(("PART", "SIZE", ""), rows)


def _size_json(size: Size) -> dict[str, int]:
    return {"disk": size.disk, "apparent": size.apparent}


def _share_json(share: Share) -> dict[str, Any]:
    return {
        "total": _size_json(share.total),
        "exclusive": _size_json(share.exclusive),
        "shared": _size_json(share.shared),
        "objects": share.objects,
        "remote": share.remote,
        "gc": share.gc,
    }


def _store_json(store: StoreUsage) -> dict[str, Any]:
    return {
        "parts": {part: _size_json(size) for part, size in store.parts.items()},
        "total": _size_json(store.total),
        "objects": store.objects,
        "commits": store.commits,
        "remote": store.remote,
        "remote_objects": store.remote_objects,
        "gc": store.gc,
        "free": store.free,
        "damaged": {what: safe(problem) for what, problem in sorted(store.damaged.items())},
    }


def _stratum_json(row: StratumUsage) -> dict[str, Any]:
    return {"name": row.name, "commits": row.commits, "worktrees": row.worktrees, **_share_json(row.share)}


def _commit_json(row: CommitUsage) -> dict[str, Any]:
    why = safe(row.why) if row.why is not None else None
    head = {"commit": row.commit, "refs": row.refs, "timestamp": row.time or None, "kept": why}
    return {**head, "image": _size_json(row.image), **_share_json(row.share)}


def _worktree_json(row: WorktreeUsage) -> dict[str, Any]:
    head = {"worktree": row.ref, "written": _size_json(row.written), "history": _size_json(row.history)}
    return {**head, **_share_json(row.share)}
