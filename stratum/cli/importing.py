"""``import`` and ``init``: where commits come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, message_option, verb
from stratum.cli.output import human_size, short
from stratum.cli.progress import progress_bar
from stratum.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from stratum.api.importing import Imported


@verb("import")
@click.argument("first", metavar="PATH")
@click.argument("second", metavar="NAME[:TAG]")
@click.option("--bare", is_flag=True, help="PATH is a directory whose content becomes a commit.")
@click.option("--devices", is_flag=True, help="Take device nodes too; without this they are refused.")
@message_option
def import_(app: App, first: str, second: str, bare: bool, devices: bool, message: str | None) -> None:
    """Make a commit from PATH and point NAME:TAG (NAME:latest without a TAG) at it.

    The two arguments may be given in either order where just one of them exists as a path.
    """
    path, name = path_and_name(first, second)
    if bare and not os.path.isdir(path):
        raise UsageError(f"--bare takes a directory, and {path} is none")
    from stratum.api.importing import import_directory

    with progress_bar(app.out, "importing", unit="files") as advance:
        done = import_directory(app.session, path, name, message=message, devices=devices, progress=advance)
    report_import(app, done)


@verb("init")
@click.argument("name")
@click.argument("mountpoint")
@click.option("--migrate", is_flag=True, help="Take what is in MOUNTPOINT as the first commit.")
@message_option
def init(app: App, name: str, mountpoint: str, migrate: bool, message: str | None) -> None:
    """Make a new stratum NAME and mount its worktree 'main' at MOUNTPOINT."""
    from stratum.api.importing import init as run

    with progress_bar(app.out, "importing", unit="files") as advance:
        done = run(app.session, name, mountpoint, migrate=migrate, message=message, progress=advance)
    report_import(app, done)


def report_import(app: App, done: Imported) -> None:
    """Print what an import made: the hash on stdout, the rest as notes."""
    for warning in done.warnings:
        app.out.warn(warning)
    meta = done.commit
    if app.out.json:
        app.out.object(
            {
                "ref": done.ref,
                "commit": meta.metadata_hash,
                "changed": done.changed,
                "previous": done.previous,
                "files": meta.file_count,
                "size": meta.total_size,
                "warnings": done.warnings,
            }
        )
        return
    app.out.line(meta.metadata_hash)
    app.out.note(
        f"{done.ref} is {short(meta.metadata_hash)}: {meta.file_count} files, {human_size(meta.total_size)}"
        + ("" if done.changed else ", unchanged")
    )


def path_and_name(first: str, second: str) -> tuple[str, str]:
    """Which of two arguments is the path and which the name, as (path, name).

    A '/' makes an argument a path, for no name contains one; otherwise the one that exists is the path.
    """
    slashes = ("/" in first, "/" in second)
    if slashes in ((True, False), (False, True)):
        path, name = (first, second) if slashes[0] else (second, first)
        if not os.path.lexists(path):
            raise NotFoundError(f"{path} does not exist")
        return path, name
    there = (os.path.lexists(first), os.path.lexists(second))
    if there == (True, False):
        return first, second
    if there == (False, True):
        return second, first
    if there == (True, True):
        raise UsageError(
            f"both {first} and {second} exist as paths, so it is not clear which one is the name",
            hint=f"write the path with a slash: ./{first}",
        )
    raise NotFoundError(f"neither {first} nor {second} exists as a path")
