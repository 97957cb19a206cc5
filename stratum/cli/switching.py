"""``reset`` and ``rebase``: a worktree on another commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.output import safe, short
from stratum.cli.reftype import REF, WORKTREE_OR_PATH

if TYPE_CHECKING:
    from stratum.api.switching import Switched

_discard = click.option("--discard", is_flag=True, help="Do not keep uncommitted changes as a commit.")
_force = click.option("-f", "--force", is_flag=True, help="Go on although files are open for writing there.")
_dry_run = click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")


@verb("reset", short_help="Let a worktree show another commit.")
@click.argument("target", metavar="MOUNTPOINT|NAME+WORKTREE", type=WORKTREE_OR_PATH)
@click.argument("to", metavar="[REF]", required=False, type=REF)
@_discard
@_force
@_dry_run
def reset(app: App, target: str, to: str | None, discard: bool, force: bool, dry_run: bool) -> None:
    """Let a worktree show the commit REF and nothing else; a mounted one is switched live.

    NAME alone is the last commit of its worktree 'main'; without REF, the worktree's own last commit. Uncommitted
    changes are kept as a commit that 'log --reflog' names.
    """
    from stratum.api.switching import reset as run

    _report(app, "reset", run(app.session, target, to, discard=discard, force=force, dry_run=dry_run), dry_run)


@verb("rebase", short_help="Carry a worktree's changes onto another commit.")
@click.argument("target", metavar="MOUNTPOINT|NAME+WORKTREE", type=WORKTREE_OR_PATH)
@click.argument("onto", metavar="REF", type=REF)
@_discard
@_force
@_dry_run
def rebase(app: App, target: str, onto: str, discard: bool, force: bool, dry_run: bool) -> None:
    """Carry a worktree's own changes onto the commit REF; a mounted one is switched live.

    Where both sides changed a path, the worktree's version wins and the path is listed.
    """
    from stratum.api.switching import rebase as run

    done = run(app.session, target, onto, discard=discard, force=force, dry_run=dry_run)
    _report(app, "rebased", done, dry_run)


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
