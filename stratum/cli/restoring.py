"""``restore``: files out of commits and earlier states."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import safe
from stratum.cli.progress import progress_bars
from stratum.cli.reftype import PATHS_AND_CHANGE, REF_OR_PATH, WORKTREE_OR_PATH
from stratum.errors import UsageError


@verb(
    "restore",
    examples=[
        ("A file of a commit, to here", "stratum restore db:v1 /etc/db.conf --to ."),
        ("Undo what was done to a file, by a number that 'history' shows", "stratum restore db+dev /etc/db.conf 4711"),
        ("A directory as it was", "stratum restore db+dev /etc --at yesterday"),
    ],
)
@click.argument("ref", metavar="REF|HASH|MOUNTPOINT/PATH", type=REF_OR_PATH)
@click.argument("paths", metavar="[PATH]... [CHANGE]", nargs=-1, type=PATHS_AND_CHANGE)
@click.option(
    "--to",
    metavar="DIR|NAME+WORKTREE|-",
    type=WORKTREE_OR_PATH,
    help="Where to; '-' prints a file. Default: the worktree whose state it is, or the one mounted at this directory.",
)
@click.option("--at", metavar="WHEN", help="As it was then: '10 minutes ago', '14:05', 'yesterday 14:05', RFC 3339.")
@click.option("-f", "--force", is_flag=True, help="Replace what exists in DIR.")
@click.option("--devices", is_flag=True, help="Make device nodes in DIR; without this they are left out.")
@click.option("--setuid", is_flag=True, help="Keep set-user-ID and set-group-ID bits and capabilities of files in DIR.")
@click.option("--offline", is_flag=True, help="Fetch nothing: what is not here is an error.")
def restore(
    app: App,
    ref: str,
    paths: tuple[str, ...],
    to: str | None,
    at: str | None,
    force: bool,
    devices: bool,
    setuid: bool,
    offline: bool,
) -> None:
    """Bring files or directories of a commit or an earlier state back, into a directory or a worktree.

    PATH is a path in the commit ('/' is all of it). NAME+WORKTREE is what the worktree shows now, NAME alone the last
    commit of its worktree 'main'. In DIR each path gets its last name; in a worktree it goes back to its place. No
    mount is needed, and no root for a directory of one's own.

    'restore NAME+WORKTREE PATH CHANGE', which is 'restore NAME+WORKTREE@CHANGE PATH', brings back what PATH was after
    that operation of the worktree's history ('stratum history NAME+WORKTREE PATH' lists them), and --at what it was at
    a moment, to the worktree itself where --to says nothing else. That is one more operation there, and can be undone
    like any other. Where the worktree is mounted, MOUNTPOINT/PATH says both: 'restore ./app.conf 4711'. A number after
    one PATH is a CHANGE; a file of such a name is written ./4711.

    A restore to DIR that was interrupted can be run again: what is there already, and is what is restored, stays; what
    is something else is refused without --force. No symbolic link below DIR is followed. Device nodes and what makes a
    program run as somebody else are restored to DIR where they are asked for; a worktree gets everything.
    """
    from stratum.api.restoring import restore as run

    ref, given = _source(app, ref, paths, at)
    if to == "-":
        _print(app, ref, given, offline=offline)
        return
    if "@" not in ref:
        note_uncommitted(app, ref)
    options = {"force": force, "devices": devices, "setuid": setuid, "offline": offline}
    with progress_bars(app, "fetching", "restoring", late=True) as (fetching, writing):
        done = run(app.session, ref, given, to, progress=fetching, writing=writing, **options)
    for warning in done.warnings:
        app.out.warn(warning)
    if app.out.json:
        document = {"places": done.places, "worktree": done.worktree, "warnings": done.warnings, "source": done.source}
        app.out.object(document)
        return
    for place in done.places:
        app.out.line(safe(place))
    if at is not None:
        app.out.note(f"this is what was there at {done.source}")


def _source(app: App, ref: str, paths: Sequence[str], at: str | None) -> tuple[str, list[str]]:
    """(the ref to restore from, the paths): with a CHANGE among the paths, or a moment, the state that is meant."""
    from stratum.api.naming import with_paths
    from stratum.api.restoring import state_at, with_change

    if at is None:
        ref, given = with_paths(app.session, *with_change(app.session, ref, paths))
    else:
        whose, given = with_paths(app.session, ref, paths)
        ref, notes = state_at(app.session, whose, at)
        for note in notes:
            app.out.warn(note)
    if not given:
        raise UsageError("it is not said what to restore", hint="name a PATH; '/' is all of it")
    return ref, given


def _print(app: App, ref: str, paths: Sequence[str], *, offline: bool) -> None:
    from stratum.cli.reading import print_file

    if len(paths) != 1:
        raise UsageError("'--to -' prints one file", hint="name one PATH, or a directory after --to")
    print_file(app, ref, paths[0], offline=offline)
