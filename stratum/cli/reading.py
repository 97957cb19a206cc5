"""``cat``, and ``show`` of a path: what is in a ref, on stdout."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import IN_REF, REF_OR_PATH
from stratum.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratum.api.reading import Found
    from stratum.tree.model import File, Inode

_JSON_MAX = 16 << 20
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character-device",
    stat.S_IFBLK: "block-device",
    stat.S_IFSOCK: "socket",
}


@verb(
    "cat",
    examples=[
        ("A file as it was in a commit", "stratum cat db:v1 /etc/db.conf"),
        ("As a worktree shows it now", "stratum cat db+dev /etc/db.conf"),
    ],
)
@click.argument("ref", metavar="REF|HASH|MOUNTPOINT", type=REF_OR_PATH)
@click.argument("path", metavar="[PATH]", required=False, type=IN_REF)
@click.option("--offline", is_flag=True, help="Fetch nothing: what is not here is an error.")
def cat(app: App, ref: str, path: str | None, offline: bool) -> None:
    """Print the file PATH of a commit, of what a worktree shows now (NAME+WORKTREE), or of what it showed after an
    operation of its history (NAME+WORKTREE@CHANGE). REF:/PATH and MOUNTPOINT/PATH say both.

    In JSON, 'content' is in base64.
    """
    from stratum.api.naming import with_paths

    ref, paths = with_paths(app.session, ref, [path] if path is not None else [])
    if not paths:
        raise UsageError("it is not said which file", hint=f"write {ref}:/PATH, or {ref} and PATH")
    if "@" not in ref:
        note_uncommitted(app, ref)
    print_file(app, ref, paths[0], offline=offline)


def print_file(app: App, ref: str, path: str, *, offline: bool = False) -> None:
    """The content of a regular file to stdout."""
    from stratum.api.reading import content

    def take(file: File, pieces: Iterator[bytes]) -> None:
        if app.out.json:
            import base64

            if file.size > _JSON_MAX:
                raise UsageError(
                    f"{path} has {human_size(file.size)}, too much for JSON", hint="print it without --format json"
                )
            data = base64.b64encode(b"".join(pieces)).decode("ascii")
            app.out.object({"path": safe(path), **inode_json(file), "content": data})
            return
        sys.stdout.flush()
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    with progress_bar(app, "fetching", late=True) as advance:
        content(app.session, ref, path, offline=offline, progress=advance, take=take)


def print_path(app: App, ref: str, path: str) -> None:
    """A file's content, a directory's entries, or where a symbolic link points, to stdout."""
    from stratum.api.reading import found_in, warning_of
    from stratum.tree.model import Directory, File, Symlink

    if "@" not in ref:
        note_uncommitted(app, ref)
    with found_in(app.session, ref, [path]) as (found,):
        inode = found.inode
    if isinstance(inode, File) and not app.out.json:
        print_file(app, ref, path)
        return
    if found.left_out:
        app.out.warn(warning_of(found.left_out, "the list"))
    if app.out.json:
        app.out.object(_found_json(found))
    elif isinstance(inode, Directory):
        app.out.table(
            ("MODE", "OWNER", "SIZE", "NAME"),
            [_entry_row(name, inode.children[name]) for name in sorted(inode.children)],
        )
    elif isinstance(inode, Symlink):
        app.out.line(safe(inode.target))
    else:
        from stratum.api.reading import kind_of

        app.out.line(kind_of(inode))


def _entry_row(name: bytes, inode: Inode) -> tuple[str, ...]:
    from stratum.tree.model import File, Symlink

    size = human_size(inode.size) if isinstance(inode, File) else "-"
    shown = safe(name) + (f" -> {safe(inode.target)}" if isinstance(inode, Symlink) else "")
    return stat.filemode(inode.mode), f"{inode.uid}:{inode.gid}", size, shown


def _found_json(found: Found) -> dict[str, Any]:
    from stratum.tree.model import Directory

    inode = found.inode
    document = {"path": safe(found.path), **inode_json(inode)}
    if isinstance(inode, Directory):
        entries = [{"name": safe(name), **inode_json(inode.children[name])} for name in sorted(inode.children)]
        document |= {"entries": entries, "left_out": [safe(path) for path in found.left_out]}
    return document


def inode_json(inode: Inode) -> dict[str, Any]:
    """What an inode is, for programs."""
    from stratum.tree.model import File, Symlink

    document: dict[str, Any] = {
        "type": TYPES.get(stat.S_IFMT(inode.mode), "unknown"),
        "mode": f"{stat.S_IMODE(inode.mode):04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "mtime_ns": inode.mtime,
    }
    if isinstance(inode, File):
        document["size"] = inode.size
        if inode.digest is not None:
            document["digest"] = inode.digest.hex()
    if isinstance(inode, Symlink):
        document["target"] = safe(inode.target)
    return document
