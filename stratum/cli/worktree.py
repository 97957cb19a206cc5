"""``worktree add|list|remove|switch``: named writable layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, VerbsBelow, root_options, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import safe, short
from stratum.cli.reftype import NAME, NOTE, REF, WORKTREE, WORKTREE_OR_PATH

if TYPE_CHECKING:
    from stratum.tree.rootchange import RootChange


@click.group("worktree", cls=VerbsBelow)
def worktree() -> None:
    """Make, list, remove and switch worktrees: named writable layers over a commit."""


@verb(
    "add",
    short_help="Make a worktree.",
    examples=[
        ("A worktree over what db is now", "stratum worktree add db+dev"),
        ("Over an old tag", "stratum worktree add db+fix db:v1"),
        ("One that takes 10 GiB of the disk at most", "stratum worktree add db+dev --limit 10G"),
    ],
)
@click.argument("first", metavar="NAME+WORKTREE|BASE", type=REF)
@click.argument("second", metavar="[BASE|WORKTREE]", required=False, type=REF)
@click.option("--description", type=NOTE, default="", help="Shown by 'worktree list' and 'status'.")
@click.option("--limit", metavar="SIZE", help="What it may take of the disk beyond its base, as 10G.")
@root_options
def add(app: App, first: str, second: str | None, description: str, limit: str | None, root: RootChange) -> None:
    """Make a worktree: 'worktree add NAME+WORKTREE [BASE]' or 'worktree add BASE WORKTREE'.

    BASE is a tag, a commit, or another worktree (its last commit). Without it, it is NAME alone: the last commit of
    NAME's worktree 'main', or the tag 'latest' where there is no 'main'.

    --uid, --gid and --mode change its root directory, as a container needs that does not run as root. That is an
    uncommitted change, and in the first commit.

    --limit needs a store on XFS or ext4 with project quotas (mount option prjquota). Programs that write more get 'Disk
    quota exceeded' or 'No space left on device'; a commit makes room when the worktree is not in use.
    """
    from stratum.api.worktrees import add as run
    from stratum.config import NO_LIMIT, parse_bytes

    name, with_worktree, _ = first.partition("+")
    note_uncommitted(app, second if with_worktree and second is not None else name)
    size = parse_bytes(limit, "--limit") % NO_LIMIT if limit is not None else None
    made = run(app.session, first, second, description=description, root=root, limit=size)
    if app.out.json:
        app.out.object({"worktree": str(made.ref), "base": made.base_commit, "description": made.description})
    else:
        app.out.line(str(made.ref))
        app.out.note(f"{made.ref} is based on {short(made.base_commit)}")


@verb(
    "list",
    examples=[
        ("Of one stratum", "stratum worktree list db"),
    ],
)
@click.argument("name", metavar="[NAME]", required=False, type=NAME)
def list_(app: App, name: str | None) -> None:
    """List the worktrees of NAME, or of every stratum."""
    from stratum.api.bootmounts import at_boot
    from stratum.api.worktrees import list_worktrees

    kept = at_boot(app.session)
    trees = list_worktrees(app.session, name)
    if app.out.json:
        app.out.object(
            [
                {
                    "worktree": str(tree.ref),
                    "base": tree.base_commit,
                    "head": tree.head,
                    "created": tree.created,
                    "last_modified": tree.last_modified,
                    "description": tree.description,
                    "limit": tree.limit or None,
                    "mountpoints": [record.mountpoint for record in records],
                    "at_boot": kept.get(str(tree.ref), []),
                }
                for tree, records in trees
            ]
        )
        return
    app.out.table(
        ("WORKTREE", "BASE", "LAST COMMIT", "MOUNTED", "DESCRIPTION"),
        [
            (
                str(tree.ref),
                short(tree.base_commit),
                short(tree.head) if tree.head else "-",
                _where([record.mountpoint for record in records], kept.get(str(tree.ref), [])),
                safe(tree.description),
            )
            for tree, records in trees
        ],
    )


def _where(mounted: list[str], kept: list[str]) -> str:
    """Where a worktree is mounted, and where it is at every start of the machine."""
    places = [safe(place) + (" (at boot too)" if place in kept else "") for place in mounted]
    places += [f"{safe(place)} (at boot)" for place in kept if place not in mounted]
    return ", ".join(places) or "-"


@verb(
    "remove",
    examples=[
        ("Remove it; uncommitted changes are kept as a commit", "stratum worktree remove db+dev"),
    ],
)
@click.argument("ref", metavar="NAME+WORKTREE", type=WORKTREE)
@click.option("--discard", is_flag=True, help="Throw uncommitted changes and the history away.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
def remove(app: App, ref: str, discard: bool, dry_run: bool) -> None:
    """Remove a worktree that is not mounted. What it holds uncommitted is committed first; the reflog names it.
    Its history goes 30 days later ('stratum gc'), or comes back with a worktree of that name."""
    from stratum.api.worktrees import remove as run

    removed = run(app.session, ref, discard=discard, dry_run=dry_run)
    if app.out.json:
        app.out.object(
            {
                "removed": removed.ref,
                "kept_commit": removed.kept_commit,
                "forgotten_mounts": removed.forgotten,
                "dry_run": dry_run,
            }
        )
        return
    if removed.kept_commit:
        app.out.note(f"its uncommitted changes are kept as commit {short(removed.kept_commit)}")
    app.out.note(f"{'would remove' if dry_run else 'removed'} {removed.ref}")
    for mountpoint in removed.forgotten:
        app.out.note(f"{safe(mountpoint)} is not mounted at the next start")


@verb(
    "switch",
    short_help="Let a live mount show another worktree.",
    examples=[
        ("Let a mount show another worktree, under whoever uses it", "stratum worktree switch db+fix /srv/db"),
    ],
)
@click.argument("ref", metavar="NAME+WORKTREE", type=WORKTREE)
@click.argument("target", metavar="MOUNTPOINT|OLD+WORKTREE", type=WORKTREE_OR_PATH)
@click.option("-f", "--force", is_flag=True, help="Go on although files are open for writing there.")
def switch(app: App, ref: str, target: str, force: bool) -> None:
    """Let a live MOUNTPOINT show another worktree. The one that it showed keeps its changes.

    The mount can be named by the worktree that it shows now, which reaches the mounts of running containers too.
    """
    from stratum.volumes.grant import switch as run

    record = run(app.session, ref, target, force=force)
    if app.out.json:
        app.out.object(record.to_json())
    else:
        app.out.line(safe(record.mountpoint))
        app.out.note(f"{safe(record.mountpoint)} shows {record.ref}")


for _command in (add, list_, remove, switch):
    worktree.add_command(_command)
