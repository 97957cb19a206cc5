"""``import`` and ``init``: where commits come from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stratum.api.sources import REFERENCE_PREFIXES, STDIN
from stratum.cli.app import App, message_option, root_options, verb
from stratum.cli.excluding import exclude_options, left_out_json, left_out_text
from stratum.cli.notes import note_main, note_uncommitted
from stratum.cli.output import human_size, safe, short
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import PATH, REF_OR_PATH
from stratum.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from stratum.api.importing import Imported
    from stratum.ingest.selection import Excludes
    from stratum.tree.rootchange import RootChange


@verb(
    "import",
    examples=[
        ("Make a stratum of a directory", "stratum import ./app app"),
        ("Lay changes over the newest commit of app", "stratum import --patch app app:v2 ./changes"),
        ("Leave something out", "stratum import . home --exclude .cache/ --one-file-system"),
        (
            "Move a directory into the store, with a tag and a message",
            "stratum import --move /srv/old-site site:v1 -m 'as it was'",
        ),
        ("Take what 'stratum export' wrote, or an image's files", "stratum import app.stratum.tar app"),
    ],
)
@click.argument(
    "arguments", metavar="PATH NAME[:TAG]  |  --patch [BASE] REF PATH", nargs=-1, required=True, type=REF_OR_PATH
)
@click.option("--bare", is_flag=True, help="PATH is a directory whose content becomes a commit.")
@click.option("--patch", is_flag=True, help="PATH holds changes to make to the commit BASE (default: REF itself).")
@click.option("--tag", metavar="TAG", help="Which one to take of the tags in an export or OCI image layout.")
@click.option("--devices", is_flag=True, help="Take device nodes too; without this they are refused.")
@click.option("--move", is_flag=True, help="Move the directory PATH into the store instead of copying it.")
@click.option("-f", "--force", is_flag=True, help="Move the tag if it exists.")
@exclude_options
@message_option
def import_(
    app: App,
    arguments: tuple[str, ...],
    bare: bool,
    patch: bool,
    tag: str | None,
    devices: bool,
    move: bool,
    force: bool,
    message: str | None,
    excludes: Excludes,
) -> None:
    """Make a commit from PATH and point NAME:TAG (NAME:latest without a TAG) at it.

    PATH is a directory, a tar archive (plain or compressed with gzip, xz or zstd), a zip or 7z archive (7z with the
    Python package py7zr), a file written by 'stratum export', an OCI image layout (oci:DIRECTORY[:TAG] or
    oci-archive:FILE[:TAG]), an image in a registry (docker://HOST/REPOSITORY[:TAG]), what is in an object store
    (s3://BUCKET[/PREFIX][:TAG], or an archive that is an object there, s3://BUCKET/FILE.tar), or '-' for a file that
    comes through standard input. Of an ordinary container image the layers are put together.

    PATH may stand before or after the names, where just one of the arguments exists as a path.

    With --patch, PATH is laid over the commit BASE as overlayfs would: what it holds is added or replaced, what it
    does not hold stays, and whiteouts (.wh.NAME files or overlayfs's own) delete. REF then names the result. BASE as
    NAME alone is the last commit of its worktree 'main'.

    A new commit is made on top of the one that the tag names, or of BASE. The tag 'latest' moves to what was made on
    top of it, be it now or in an export; every other tag that names another commit is an error unless --force moves it.

    Of a directory, what fits a PATTERN is left out: a name anywhere below, or a path from the directory on where
    PATTERN has a slash at its beginning or inside; a slash at the end is for directories, '**' for any number of them,
    and '!PATTERN' takes what a pattern before it left out. The last one that fits decides, --exclude after
    --exclude-from. After them come the lines of files '.stratumignore' in the directory, each for where it lies and
    below.

    An import of a directory that was interrupted or killed goes on where it was when it is run again within a day.

    With --move, a directory is gone afterwards, as with mv(1). Where it is on the store's file system and mount, its
    files become the store's own, without being copied; elsewhere they are copied and then removed. Nobody may work in
    it or write to it meanwhile. What fails or is interrupted has it put back; after a kill or a power cut, the same
    command finishes that, or puts it back and begins anew.
    """
    path, names = path_and_names(arguments)
    if len(names) > (2 if patch else 1):
        raise UsageError(f"too many names: {' '.join(names)}", hint="see 'stratum import --help'")
    if bare and not os.path.isdir(path):
        raise UsageError(f"--bare takes a directory, and {path} is none")
    if move and (patch or tag is not None):
        raise UsageError("--move is for a directory that becomes a commit, and goes with neither --patch nor --tag")
    from stratum.api import importing

    with progress_bar(app, "importing") as advance:
        options = importing.Options(tag, bare, message, devices, advance, force, excludes, move)
        if patch:
            note_uncommitted(app, names[0])
            done = importing.import_patch(app.session, path, names[-1], names[0], options)
        else:
            done = importing.import_(app.session, path, names[0], options)
    report_import(app, done)
    note_main(app, done.ref, done.commit.metadata_hash)


@verb(
    "init",
    examples=[
        ("Make an empty stratum for a service's data", "stratum init db /srv/db"),
        ("Take a directory that is in use under control, where it is", "stratum init site /srv/site --migrate"),
        ("The same, without keeping the files twice", "stratum init site /srv/site --migrate --move"),
        ("For a container that runs as user 1000", "stratum init db /srv/db --uid 1000 --gid 1000"),
    ],
)
@click.argument("name")
@click.argument("mountpoint", type=PATH)
@click.option("--migrate", is_flag=True, help="Take what is in MOUNTPOINT as the first commit.")
@click.option("--move", is_flag=True, help="With --migrate: move what is in MOUNTPOINT into the store.")
@click.option("--originals", metavar="DIR", type=PATH, help="With --migrate: move what was in MOUNTPOINT to DIR.")
@click.option(
    "--persist/--no-persist",
    default=None,
    help="Mount it there at every start of the machine. With --migrate that is so without being said.",
)
@root_options
@message_option
def init(
    app: App,
    name: str,
    mountpoint: str,
    migrate: bool,
    move: bool,
    originals: str | None,
    persist: bool | None,
    root: RootChange,
    message: str | None,
) -> None:
    """Make a new stratum NAME and mount its worktree 'main' at MOUNTPOINT.

    With --migrate, what MOUNTPOINT holds becomes the first commit, and stays where it is, below the mount. It can be
    seen there by whoever unmounts, and takes its space twice; --originals moves it to DIR, a new directory on the same
    file system, once it is committed, mounted and on record. Nothing is left out, whatever a '.stratumignore' says.
    Stop programs that write there first.

    With --move, nothing stays below the mount: the files become the store's own, as with 'stratum import --move'.
    """
    from stratum.api.importing import init as run

    kept = migrate if persist is None else persist
    if originals is not None and not (migrate and kept):
        raise UsageError("--originals needs --migrate, and a mount that comes back at every start")
    if move and (not migrate or originals is not None):
        raise UsageError("--move is for --migrate, and leaves no originals for --originals")
    if root and migrate:
        raise UsageError("--uid, --gid and --mode are for an empty stratum; --migrate takes those of MOUNTPOINT")
    with progress_bar(app, "importing") as advance:
        done = run(
            app.session,
            name,
            mountpoint,
            migrate=migrate,
            message=message,
            progress=advance,
            persist=kept,
            originals=originals,
            root=root,
            move=move,
        )
    if app.out.json:
        _init_json(app, done, migrate and not move)
        return
    report_import(app, done)
    _tell_init(app, done, migrate and not move)


def _tell_init(app: App, done: Imported, migrated: bool) -> None:
    assert done.mount is not None
    place = done.mount.mountpoint
    shown = shlex.quote(safe(place))
    if done.mount.in_session:
        from stratum.cli.notes import visible_in

        app.out.note(f"{safe(place)} is {visible_in(app)}")
    if done.persistent:
        unit = "the user's stratum-mounts.service" if done.mount.in_session else "stratum-mounts.service"
        app.out.note(f"{safe(place)} is mounted at every start where {unit} or 'mount --all' runs")
    else:
        app.out.note(f"after a reboot: stratum mount {done.mount.ref} {shown}, or now with --persist")
    if not migrated:
        return
    size = human_size(done.commit.total_size)
    if done.originals is not None:
        app.out.note(f"the originals ({size}) are in {safe(str(done.originals))}; remove them when all is well")
        return
    if done.mount.in_session:
        app.out.note(
            f"the originals ({size}) are as they were; outside of this user's session, {shown} still shows them"
        )
        return
    app.out.note(f"the originals ({size}) are below the mount, untouched; to look at them without unmounting it:")
    inside = f"cd / && umount {shown} && ls -la {shown}"
    app.out.note(f"    unshare --mount sh -c {shlex.quote(inside)}")


def _init_json(app: App, done: Imported, migrated: bool) -> None:
    assert done.mount is not None
    originals = None
    if migrated:
        below = done.originals is None
        originals = {
            "path": done.mount.mountpoint if below else str(done.originals),
            "below_the_mount": below,
            "size": done.commit.total_size,
        }
    app.out.object(
        {
            **import_json(done),
            "mountpoint": done.mount.mountpoint,
            "persistent": done.persistent,
            "originals": originals,
        }
    )


def import_json(done: Imported) -> dict[str, Any]:
    """What an import made, as JSON types."""
    meta = done.commit
    return {
        "ref": done.ref,
        "commit": meta.metadata_hash,
        "changed": done.changed,
        "previous": done.previous,
        "files": meta.file_count,
        "size": meta.total_size,
        "warnings": done.warnings,
    }


def report_import(app: App, done: Imported) -> None:
    """Print what an import made: the hash on stdout, the rest as notes."""
    for warning in done.warnings:
        app.out.warn(warning)
    meta = done.commit
    if app.out.json:
        app.out.object({**import_json(done), "left_out": left_out_json(done.left_out)})
        return
    app.out.line(meta.metadata_hash)
    app.out.note(
        f"{done.ref} is {short(meta.metadata_hash)}: {meta.file_count} files, {human_size(meta.total_size)}"
        + ("" if done.changed else ", unchanged")
    )
    if done.left_out:
        app.out.note(f"left out: {left_out_text(done.left_out)}")


def path_and_names(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Which of the arguments is the path, and the others in their order.

    A '/' makes an argument a path, for no name contains one; otherwise the one that exists is the path.
    """
    if len(arguments) < 2:
        raise UsageError("a path and a name are needed", hint="write: stratum import PATH NAME")
    slashed = [argument for argument in arguments if "/" in argument or not _may_be_a_file(argument)]
    there = slashed or [argument for argument in arguments if os.path.lexists(argument)]
    if not there:
        raise NotFoundError(f"none of {', '.join(arguments)} exists as a path")
    if len(set(there)) > 1:
        raise UsageError(
            f"{' and '.join(there)} are all paths, so it is not clear which one is a name",
            hint="a name contains no '/'" if slashed else f"write the path with a slash: ./{there[0]}",
        )
    path = there[0]
    if _may_be_a_file(path) and not os.path.lexists(path):
        raise NotFoundError(f"{path} does not exist")
    names = list(arguments)
    names.remove(path)
    return path, names


def _may_be_a_file(argument: str) -> bool:
    return argument != STDIN and not argument.startswith(REFERENCE_PREFIXES)
