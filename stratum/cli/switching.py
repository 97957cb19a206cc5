"""``reset`` and ``rebase``: a worktree on another commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import safe, short
from stratum.cli.reftype import REF, WORKTREE_OR_PATH
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.rebasing import Prefer, RebaseConflictError
    from stratum.api.switching import Switched

_discard = click.option("--discard", is_flag=True, help="Do not keep uncommitted changes as a commit.")
_force = click.option("-f", "--force", is_flag=True, help="Go on although files are open for writing there.")
_dry_run = click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")


@verb(
    "reset",
    examples=[
        ("Back to the last commit", "stratum reset db+dev"),
        ("To a tag, live", "stratum reset /srv/db db:v1"),
        ("Only say what would change", "stratum reset -n db+dev db:v1"),
    ],
)
@click.argument("target", metavar="MOUNTPOINT|NAME+WORKTREE", type=WORKTREE_OR_PATH)
@click.argument("to", metavar="[REF]", required=False, type=REF)
@_discard
@_force
@_dry_run
def reset(app: App, target: str, to: str | None, discard: bool, force: bool, dry_run: bool) -> None:
    """Let a worktree show the commit REF and nothing else; a mounted one is switched live.

    Where REF is NAME alone, it is the last commit of NAME's worktree 'main'; without REF, it is the worktree's own last
    commit. Uncommitted changes are kept as a commit that 'log --reflog' names.
    """
    from stratum.api.switching import reset as run

    done = run(app.session, target, to, discard=discard, force=force, dry_run=dry_run)
    note_uncommitted(app, to)
    _report(app, "reset", done, dry_run)


@verb(
    "rebase",
    examples=[
        ("Carry the changes of a worktree to a new version", "stratum rebase db+dev db:v2"),
        ("Where both changed a file, take the new version's", "stratum rebase db+dev db:v2 --theirs"),
    ],
)
@click.argument("target", metavar="MOUNTPOINT|NAME+WORKTREE", type=WORKTREE_OR_PATH)
@click.argument("onto", metavar="REF", type=REF)
@click.option("--ours", is_flag=True, help="Where both sides changed a path, keep the worktree's version.")
@click.option("--theirs", is_flag=True, help="Where both sides changed a path, take REF's version.")
@_discard
@_force
@_dry_run
def rebase(
    app: App, target: str, onto: str, ours: bool, theirs: bool, discard: bool, force: bool, dry_run: bool
) -> None:
    """Carry a worktree's own changes onto the commit REF; a mounted one is switched live.

    Its own changes are those since its history and REF's parted, or since the worktree was made, reset or last rebased
    where that was later. Where REF was made on top of its last commit, only uncommitted changes are carried.

    Where both sides changed a path in different ways, nothing at all is changed, the paths are listed, and the exit
    code is 4 (also with -n), unless --ours or --theirs says whose version to take: 'ours' is the worktree that is
    rebased, 'theirs' is REF (git rebase calls them the other way round).
    """
    from stratum.api.rebasing import RebaseConflictError
    from stratum.api.rebasing import rebase as run

    if ours and theirs:
        raise UsageError("--ours and --theirs cannot both be given", hint="say whose version a path is to get")
    prefer: Prefer | None = "ours" if ours else "theirs" if theirs else None
    try:
        done = run(app.session, target, onto, prefer=prefer, discard=discard, force=force, dry_run=dry_run)
    except RebaseConflictError as exc:
        _report_conflicts(app, exc, dry_run)
        raise
    note_uncommitted(app, onto)
    _report(app, "rebased", done, dry_run)


def _report_conflicts(app: App, found: RebaseConflictError, dry_run: bool) -> None:
    """The conflicts as data; the error that says that nothing was done follows on stderr."""
    conflicts = [safe(path) for path in found.conflicts]
    if app.out.json:
        app.out.object({"worktree": found.worktree, "rebased": False, "conflicts": conflicts, "dry_run": dry_run})
        return
    for path in conflicts:
        app.out.line(f"conflict {path}")


def _report(app: App, verb_done: str, done: Switched, dry_run: bool) -> None:
    if app.out.json:
        app.out.object(
            {
                "worktree": done.worktree,
                "old_base": done.old_base,
                "base": done.base,
                "mountpoint": done.mountpoint,
                "kept_commit": done.kept_commit,
                "conflicts": [safe(path) for path in done.conflicts],
                "dry_run": dry_run,
            }
        )
        return
    for path in done.conflicts:
        app.out.line(f"conflict {safe(path)}")
    if done.kept_commit:
        app.out.note(f"the uncommitted changes are kept as commit {short(done.kept_commit)}")
    where = f", live at {safe(done.mountpoint)}" if done.mountpoint else ""
    app.out.note(f"{'would be ' if dry_run else ''}{verb_done}: {done.worktree} on {short(done.base)}{where}")
