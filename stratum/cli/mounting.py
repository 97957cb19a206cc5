"""``mount``, ``unmount``, ``commit`` and ``status``: worktrees in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, message_option, verb
from stratum.cli.output import safe, short
from stratum.cli.reftype import PATH, REF, REF_OR_PATH, WORKTREE_OR_PATH

if TYPE_CHECKING:
    from stratum.api.status import StratumStatus, WorktreeStatus


@verb("mount", short_help="Mount a worktree, tag or commit.")
@click.argument("ref", metavar="REF", type=REF)
@click.argument("mountpoint", required=False, type=PATH)
@click.option("--read-only", is_flag=True, help="Mount a worktree without letting anyone write to it.")
def mount(app: App, ref: str, mountpoint: str | None, read_only: bool) -> None:
    """Mount a worktree (writable) or a tag or commit (read-only) and print where.

    NAME alone is its worktree 'main'. Without a MOUNTPOINT one is made in the runtime directory.
    """
    from stratum.api.mounting import mount as run

    record = run(app.session, ref, mountpoint, read_only=read_only)
    if app.out.json:
        app.out.object(record.to_json())
    else:
        app.out.line(safe(record.mountpoint))


@verb("unmount", short_help="Unmount a stratum.")
@click.argument("target", metavar="MOUNTPOINT|REF", type=REF_OR_PATH)
def unmount(app: App, target: str) -> None:
    """Unmount what Stratum mounted at MOUNTPOINT, or wherever REF is mounted."""
    from stratum.api.mounting import unmount as run

    for record in run(app.session, target):
        app.out.note(f"{record.ref} is no longer mounted at {safe(record.mountpoint)}")


@verb("commit", short_help="Commit what a worktree shows now.")
@click.argument("target", metavar="REF|PATH", type=WORKTREE_OR_PATH)
@click.argument("tag", required=False)
@click.option("-f", "--force", is_flag=True, help="Move TAG if it exists.")
@click.option("--no-pause", is_flag=True, help="Do not pause the container that has the worktree meanwhile.")
@message_option
def commit(app: App, target: str, tag: str | None, force: bool, no_pause: bool, message: str | None) -> None:
    """Make a commit of what a worktree shows now, and point TAG at it.

    The worktree is given as NAME+WORKTREE (NAME alone: 'main') or as a path at or below where it is mounted. A mounted
    worktree stays mounted and is not disturbed, but a container that has it is paused while it is read. A TAG that
    exists is an error unless --force moves it.
    """
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


@verb("status", short_help="Show mounts, holders, commits and changes.")
@click.argument("target", metavar="[REF|MOUNTPOINT]", required=False, type=REF_OR_PATH)
def status(app: App, target: str | None) -> None:
    """Show mounts, holders, commits and changes of a worktree, a stratum, or everything."""
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
