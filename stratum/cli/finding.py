"""``ls`` and ``find``: what is in a ref, without a mount."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, local_time, safe, short
from stratum.cli.reading import TYPES, inode_json
from stratum.cli.reftype import IN_REF, REF_OR_PATH

if TYPE_CHECKING:
    from stratum.api.finding import Changed, Entry, Listed

_LETTERS = {"added": "A", "deleted": "D", "modified": "M"}


@verb(
    "ls",
    examples=[
        ("What is in a commit", "stratum ls db:v1"),
        ("A directory of it, with owners and sizes", "stratum ls -l db:v1:/etc"),
        ("All that a worktree shows", "stratum ls -R db+dev"),
    ],
)
@click.argument("ref", metavar="[REF[:/PATH]|MOUNTPOINT]", required=False, type=REF_OR_PATH)
@click.argument("path", metavar="[PATH]", required=False, type=IN_REF)
@click.option("-l", "--long", is_flag=True, help="Also mode, owner, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="All that is below it.")
def ls(app: App, ref: str | None, path: str | None, long: bool, recursive: bool) -> None:
    """List what is in a directory of a commit, of what a worktree shows now (NAME+WORKTREE), or of what it showed after
    an operation of its history (NAME+WORKTREE@CHANGE). Without REF it is 'stratum list': strata, tags and worktrees.
    """
    if ref is None:
        from stratum.cli.refs import list_

        assert list_.callback is not None
        nothing = dict.fromkeys(("name", "remote", "ca_file", "output_format"))
        list_.callback(**nothing, plain_http=False, quiet=False)
        return
    from stratum.api.finding import ls as run

    if "@" not in ref:
        note_uncommitted(app, ref)
    listed = run(app.session, ref, path, recursive=recursive)
    _warn(app, listed)
    if app.out.json:
        app.out.object([_json(entry) for entry in listed.entries])
    elif long:
        app.out.table(("MODE", "OWNER", "SIZE", "TIME", "NAME"), map(_row, listed.entries))
    else:
        for entry in listed.entries:
            app.out.line(safe(entry.name) + ("/" if stat.S_ISDIR(entry.inode.mode) else ""))


@verb(
    "find",
    examples=[
        ("Every configuration file of a commit", "stratum find db:v1 '*.conf'"),
        ("Below a directory, directories only", "stratum find db:v1:/var 'log*' --type d"),
        ("Which commits brought, changed or removed it", "stratum find --history db '/etc/**/db.conf'"),
    ],
)
@click.argument("ref", metavar="REF[:/PATH]|MOUNTPOINT", type=REF_OR_PATH)
@click.argument("globs", metavar="[GLOB]...", nargs=-1)
@click.option(
    "--type",
    "kinds",
    metavar="LETTER",
    multiple=True,
    type=click.Choice(list("fdlpsbc")),
    help="Only files (f), directories (d), symbolic links (l), fifos (p), sockets (s), devices (b, c).",
)
@click.option("--history", is_flag=True, help="What the commit and its ancestors did to such paths, newest first.")
def find(app: App, ref: str, globs: tuple[str, ...], kinds: tuple[str, ...], history: bool) -> None:
    """Print the paths in a commit, or in what a worktree shows now, that fit one of GLOBs.

    A GLOB is one of .gitignore(5): '*.conf' fits names, '/etc/*.conf' the path from the root (or PATH) on, '**/' is any
    directories, and a slash at the end fits directories only.

    With --history: A where a commit brought such a path, D where it removed it, M where it changed it. What is not in
    this store any more, as 'stratum log' tells, is in what the commit after it did.
    """
    if "@" not in ref:
        note_uncommitted(app, ref)
    if history:
        from stratum.api.finding import find_in_history

        changes = find_in_history(app.session, ref, globs, kinds)
        if app.out.json:
            app.out.object([_change_json(change) for change in changes])
            return
        for change in changes:
            meta = change.commit
            start = f"{short(meta.metadata_hash)}  {meta.timestamp}  {_LETTERS[change.change]}"
            app.out.line(f"{start}  {safe(change.path)}")
        return
    from stratum.api.finding import find as run

    listed = run(app.session, ref, globs, kinds)
    _warn(app, listed)
    if app.out.json:
        app.out.object([_json(entry) for entry in listed.entries])
        return
    for entry in listed.entries:
        app.out.line(safe(entry.path))


def _warn(app: App, listed: Listed) -> None:
    from stratum.api.reading import warning_of

    if listed.left_out:
        app.out.warn(warning_of(listed.left_out, "the list"))


def _row(entry: Entry) -> tuple[str, ...]:
    from datetime import datetime, timezone

    from stratum.tree.model import File, Symlink

    inode, seconds = entry.inode, entry.inode.mtime // 10**9
    try:
        time = local_time(datetime.fromtimestamp(seconds, timezone.utc).isoformat())
    except (ValueError, OverflowError, OSError):  # a time that no calendar has
        time = str(seconds)
    size = human_size(inode.size) if isinstance(inode, File) else "-"
    target = f" -> {safe(inode.target)}" if isinstance(inode, Symlink) else ""
    return stat.filemode(inode.mode), f"{inode.uid}:{inode.gid}", size, time, safe(entry.name) + target


def _json(entry: Entry) -> dict[str, Any]:
    return {"path": safe(entry.path), **inode_json(entry.inode)}


def _change_json(change: Changed) -> dict[str, Any]:
    return {
        "commit": change.commit.metadata_hash,
        "timestamp": change.commit.timestamp,
        "change": change.change,
        "path": safe(change.path),
        "type": TYPES.get(stat.S_IFMT(change.mode), "unknown"),
    }
