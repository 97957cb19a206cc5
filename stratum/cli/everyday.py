"""What ``mount``, ``unmount``, ``commit`` and ``status`` do; ``cli.mounting`` declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratum.cli.context import App
from stratum.cli.output import safe, short

if TYPE_CHECKING:
    from stratum.api.status import StratumStatus, WorktreeStatus


def mount(app: App, ref: str, mountpoint: str | None, read_only: bool) -> None:
    """``stratum mount``."""
    from stratum.api.mounting import mount as run

    record = run(app.session, ref, mountpoint, read_only=read_only)
    if app.out.json:
        app.out.object(record.to_json())
    else:
        app.out.line(safe(record.mountpoint))


def unmount(app: App, target: str) -> None:
    """``stratum unmount``."""
    from stratum.api.mounting import unmount as run

    for record in run(app.session, target):
        app.out.note(f"{record.ref} is no longer mounted at {safe(record.mountpoint)}")


def commit(app: App, target: str, tag: str | None, force: bool, no_pause: bool, message: str | None) -> None:
    """``stratum commit``."""
    from stratum.api.commits import commit_target

    done = commit_target(app.session, target, tag, force=force, message=message, pause=not no_pause)
    for warning in done.warnings:
        app.out.warn(warning)
    if app.out.json:
        app.out.object(
            {
                "worktree": done.worktree,
                "commit": done.commit,
                "parent": done.parent,
                "changed": done.changed,
                "tag": done.tag,
                "warnings": done.warnings,
            }
        )
        return
    app.out.line(done.commit)
    tagged = f", tagged {done.tag}" if done.tag else ""
    if done.changed:
        app.out.note(f"{done.worktree} committed as {short(done.commit)}{tagged}")
    else:
        app.out.note(f"nothing changed in {done.worktree} since {short(done.commit)}{tagged}")


def status(app: App, target: str | None) -> None:
    """``stratum status``."""
    from stratum.api.status import status as run

    strata = run(app.session, target)
    if app.out.json:
        app.out.object([_stratum_json(stratum) for stratum in strata])
        return
    if not strata:
        app.out.note("the store holds no strata")
    for stratum in strata:
        _print_status(app, stratum)


def _print_status(app: App, stratum: StratumStatus) -> None:
    app.out.line(stratum.name or "(commits without a stratum's name)")
    for tag in stratum.mounted_tags:
        app.out.line(f"  {tag.ref}  read-only at {safe(tag.mountpoint)} ({tag.holder.describe()})")
    for tree in stratum.worktrees:
        app.out.line(f"  +{tree.name}")
        if tree.description:
            app.out.line(f"    description  {safe(tree.description)}")
        app.out.line(f"    base         {short(tree.base)}")
        head = f"{short(tree.head)}  {tree.head_time}" if tree.head else "none made from it yet"
        app.out.line(f"    last commit  {head}")
        app.out.line(f"    changes      {_changes(tree)}")
        for record in tree.mounts:
            app.out.line(
                f"    mounted      {safe(record.mountpoint)} ({record.holder.describe()}, since {record.since})"
            )
        if not tree.mounts:
            app.out.line("    mounted      no")
        if tree.lease_error:
            app.out.line(f"    failed       {safe(tree.lease_error)}")


def _changes(tree: WorktreeStatus) -> str:
    if not (tree.added or tree.modified or tree.deleted):
        return "none since its base"
    return f"{tree.added} added, {tree.modified} modified, {tree.deleted} deleted since its base"


def _stratum_json(stratum: StratumStatus) -> dict[str, Any]:
    return {
        "name": stratum.name,
        "tags": stratum.tags,
        "mounted_tags": [record.to_json() for record in stratum.mounted_tags],
        "worktrees": [
            {
                "name": tree.name,
                "description": tree.description,
                "base": tree.base,
                "head": tree.head,
                "head_time": tree.head_time,
                "added": tree.added,
                "modified": tree.modified,
                "deleted": tree.deleted,
                "mounts": [record.to_json() for record in tree.mounts],
                "failed": tree.lease_error,
            }
            for tree in stratum.worktrees
        ],
    }
