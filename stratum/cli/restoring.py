"""``restore``: files out of commits."""

from __future__ import annotations

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import safe
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import REF, WORKTREE_OR_PATH


@verb("restore", short_help="Bring files of a commit back.")
@click.argument("ref", metavar="REF|HASH", type=REF)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--to",
    metavar="DIR|NAME+WORKTREE",
    type=WORKTREE_OR_PATH,
    help="Where to; default: the worktree mounted at this directory.",
)
@click.option("-f", "--force", is_flag=True, help="Replace what exists in DIR.")
@click.option("--devices", is_flag=True, help="Make device nodes in DIR; without this they are left out.")
@click.option("--setuid", is_flag=True, help="Keep set-user-ID and set-group-ID bits and capabilities of files in DIR.")
@click.option("--offline", is_flag=True, help="Fetch nothing: what is not here is an error.")
def restore(
    app: App,
    ref: str,
    paths: tuple[str, ...],
    to: str | None,
    force: bool,
    devices: bool,
    setuid: bool,
    offline: bool,
) -> None:
    """Bring files or directories of a commit back, into a directory or a worktree.

    PATH is a path in the commit ('/' is all of it). NAME+WORKTREE is what the worktree shows now, NAME alone the last
    commit of its worktree 'main'. In DIR each path gets its last name; in a worktree it goes back to its place. No
    mount is needed, and no root for a directory of one's own.

    A restore to DIR that was interrupted can be run again: what is there already, and is what is restored, stays; what
    is something else is refused without --force. No symbolic link below DIR is followed. Device nodes and what makes a
    program run as somebody else are restored to DIR where they are asked for; a worktree gets everything.
    """
    from stratum.api.restoring import restore as run

    note_uncommitted(app, ref)
    with progress_bar(app.out, "fetching", late=True) as advance:
        done = run(
            app.session,
            ref,
            list(paths),
            to,
            force=force,
            devices=devices,
            setuid=setuid,
            offline=offline,
            progress=advance,
        )
    for warning in done.warnings:
        app.out.warn(warning)
    if app.out.json:
        app.out.object({"places": done.places, "worktree": done.worktree, "warnings": done.warnings})
        return
    for place in done.places:
        app.out.line(safe(place))
