"""``c4``: C4 IDs, and commits as C4M files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, VerbsBelow, message_option, verb
from stratum.cli.importing import report_import
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import OF_STRATUM, REF_OR_PATH

if TYPE_CHECKING:
    from stratum.api.c4 import Verified
    from stratum.api.c4export import Exported

_SHOWN = 100
"""Differences that are told of; JSON has more."""

offline_option = click.option("--offline", is_flag=True, help="Fetch nothing: what is not here is an error.")
store_option = click.option(
    "--store", metavar="DIR|PLACE", help="The content store: a directory, or s3://BUCKET/PREFIX."
)


class OwnerType(click.ParamType[tuple[int, int]]):
    """UID or UID:GID; the group is the user's number where it is left out."""

    name = "owner"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The two numbers."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", value, re.ASCII)
        if found is None or max(int(number) for number in found.groups() if number) >= (1 << 32) - 1:
            self.fail(f"{value!r} is not UID or UID:GID, in numbers", param, ctx)
        return int(found[1]), int(found[2] or found[1])


@click.group("c4", cls=VerbsBelow)
def c4() -> None:
    """C4 IDs (SMPTE ST 2114) of files and trees, and commits as C4M files, which list a tree with the ID of every
    content.

    The contents go to a content store and come from there: a directory as the program 'c4' has it, or an object store.
    """


@verb(
    "id",
    short_help="Print the C4 ID of files, directories and commits.",
    examples=[
        ("Of a file and a directory", "stratum c4 id clip.mov shots/"),
        ("Of a commit, and of a directory in it", "stratum c4 id film:v1 film:v1:/shots"),
    ],
)
@click.argument("paths", metavar="PATH|REF...", nargs=-1, required=True, type=REF_OR_PATH)
@click.option("--hard-links", is_flag=True, help="List files with several names as hard links, as 'c4 export' does.")
@click.option("--follow-outside", is_flag=True, help="Symbolic links that lead out of a directory PATH have IDs, too.")
@offline_option
def id_(app: App, paths: tuple[str, ...], hard_links: bool, follow_outside: bool, offline: bool) -> None:
    """Print the C4 ID of each PATH or REF: of a file, that of its content; of a directory or a commit, that of its
    listing.

    A listing has a line for each entry with its mode, time, size and ID, so the ID of a directory follows from all
    that is below it. What is there as a file or directory is taken as that; REF:/PATH names a directory or file in a
    commit, '-' standard input.
    """
    from stratum.api.c4 import identify
    from stratum.api.c4trees import Options

    found = []
    for path in paths:
        with progress_bar(app, "reading") as advance:
            found.append(identify(app.session, path, Options(hard_links, follow_outside, offline, advance)))
        if not app.out.json:
            app.out.line(f"{found[-1].id}  {safe(path)}")
    if app.out.json:
        app.out.object([{"path": safe(one.text), "kind": one.kind, "id": one.id, "size": one.size} for one in found])


@verb(
    "export",
    short_help="Write a commit or directory as a C4M file.",
    examples=[
        ("The listing alone", "stratum c4 export film:v1 film.c4m"),
        ("With all contents, for the program 'c4'", "stratum c4 export film:v1 film.c4m --store /srv/c4"),
        ("For reading", "stratum c4 export film:v1 - --pretty"),
    ],
)
@click.argument("ref", metavar="REF|PATH", type=REF_OR_PATH)
@click.argument("file", metavar="FILE.c4m|-", type=click.Path(allow_dash=True))
@store_option
@click.option("--pretty", is_flag=True, help="In columns, for people. Every C4M reader takes that, too.")
@click.option(
    "--no-hard-links", is_flag=True, help="Names of one file are files of their own, as the program 'c4' has it."
)
@offline_option
def export(app: App, ref: str, file: str, store: str | None, pretty: bool, no_hard_links: bool, offline: bool) -> None:
    """Write the tree of a commit to FILE as C4M 1.0, and with --store each content and each directory's listing to a
    content store.

    What C4M cannot say is told, with how many entries have it. FILE appears when it is complete, readable by its owner
    only. Equal trees give equal bytes.
    """
    from stratum.api.c4export import export as run
    from stratum.api.c4trees import STDIN, Options, is_path

    if not is_path(ref):
        note_uncommitted(app, ref)
    with progress_bar(app, "exporting") as advance:
        options = Options(not no_hard_links, offline=offline, progress=advance)
        done = run(app.session, ref, file, store=store, laid_out=pretty, options=options)
    if app.out.json and file != STDIN:
        app.out.object(
            {
                "file": safe(done.file),
                "id": done.id,
                "entries": done.entries,
                "size": done.size,
                "stored": done.stored,
                "lost": [{"what": what, "entries": count} for what, count in sorted(done.lost.items())],
            }
        )
        return
    if file != STDIN:
        app.out.line(done.id)
    _tell_export(app, done)


def _tell_export(app: App, done: Exported) -> None:
    for what, count in sorted(done.lost.items()):
        app.out.note(f"not in C4M: {what} ({count} {'entry' if count == 1 else 'entries'})")
    stored = f"; {done.stored} contents and listings are in the content store" if done.stored is not None else ""
    app.out.note(f"exported {done.entries} entries, {human_size(done.size)}{stored}")


@verb(
    "import",
    short_help="Make a commit of a C4M file.",
    examples=[
        ("With contents from a directory", "stratum c4 import film.c4m film:v2 --store /srv/c4"),
        ("From an object store, for a user", "stratum c4 import film.c4m film --store s3://films/c4 --owner 1000:1000"),
    ],
)
@click.argument("file", metavar="FILE.c4m|-", type=click.Path(allow_dash=True))
@click.argument("name", metavar="NAME[:TAG]", type=OF_STRATUM)
@click.option("--store", metavar="DIR|PLACE", required=True, help="The content store that has the contents.")
@click.option(
    "--owner", metavar="UID[:GID]", type=OwnerType(), help="Whom everything belongs to; default: who imports."
)
@click.option("-f", "--force", is_flag=True, help="Move the tag if it exists.")
@message_option
def import_(
    app: App, file: str, name: str, store: str, owner: tuple[int, int] | None, force: bool, message: str | None
) -> None:
    """Make a commit of the tree that FILE lists and point NAME:TAG (NAME:latest without a TAG) at it.

    Every content is compared with its ID. What is missing is named, and then nothing is imported. What FILE leaves
    open is 0644, 0755 for directories, and the time 0. Listings of directories, lists of sequences, and the manifest
    that FILE is a patch of come from the content store where FILE does not have them.
    """
    from stratum.api.c4import import Options, import_c4m

    with progress_bar(app, "importing") as advance:
        done = import_c4m(app.session, file, name, store, Options(owner, message, force, advance))
    report_import(app, done)


@verb(
    "diff",
    short_help="Print what differs, as a C4M patch.",
    examples=[
        ("Between two commits", "stratum c4 diff film:v1 film:v2 > changes.c4m"),
        ("Between a C4M file and a directory", "stratum c4 diff film.c4m shots/"),
    ],
)
@click.argument("old", metavar="OLD", type=REF_OR_PATH)
@click.argument("new", metavar="NEW", type=REF_OR_PATH)
@click.option("--pretty", is_flag=True, help="In columns, for people.")
@offline_option
def diff(app: App, old: str, new: str, pretty: bool, offline: bool) -> None:
    """Print the patch that makes NEW of OLD, each a C4M file, a directory or a REF; nothing where both are the same.

    It begins with the ID of OLD and ends with that of NEW. An entry that OLD does not have is added, one that is just
    as in OLD is removed, any other takes the place of that in OLD.
    """
    from stratum.api.c4 import compare
    from stratum.api.c4trees import Options

    with progress_bar(app, "reading") as advance:
        done = compare(app.session, old, new, Options(offline=offline, progress=advance))
    if app.out.json:
        lines = "".join(done.lines())
        counts = {"added": done.counts.added, "removed": done.counts.removed, "changed": done.counts.changed}
        app.out.object({"old": done.old, "new": done.new, **counts, "patch": lines})
        return
    _print(app, done.lines(laid_out=pretty))


@verb(
    "patch",
    short_help="Apply C4M patches, and print the result.",
    examples=[
        ("One after the other", "stratum c4 patch film.c4m monday.c4m tuesday.c4m > now.c4m"),
        ("A file that has its patches in it", "stratum c4 patch chain.c4m"),
    ],
)
@click.argument("files", metavar="FILE.c4m...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--pretty", is_flag=True, help="In columns, for people.")
def patch(app: App, files: tuple[str, ...], pretty: bool) -> None:
    """Print the manifest that the first FILE is after all patches, those in it and in the other files in their order.

    Every ID on the way is checked: a patch of something else is refused.
    """
    from stratum.api.c4 import patched
    from stratum.c4.writer import id_of, write
    from stratum.c4.writer import pretty as laid_out

    found = patched(files)
    if app.out.json:
        app.out.object({"id": id_of(found), "manifest": "".join(write(found))})
        return
    _print(app, (laid_out if pretty else write)(found))


@verb(
    "verify",
    short_help="Compare a commit or directory with a C4M file.",
    examples=[
        ("What came of a transfer", "stratum c4 verify film.c4m /mnt/film"),
        ("A commit", "stratum c4 verify film.c4m film:v1"),
    ],
)
@click.argument("file", metavar="FILE.c4m|-", type=click.Path(allow_dash=True))
@click.argument("ref", metavar="REF|PATH", type=REF_OR_PATH)
@offline_option
def verify(app: App, file: str, ref: str, offline: bool) -> None:
    """Compare every entry of a commit or directory with what FILE says: type, mode, time, size, content, target.

    What FILE leaves open is not compared. The command fails where something differs, and says what.
    """
    from stratum.api.c4 import verify as run
    from stratum.api.c4trees import Options

    with progress_bar(app, "reading") as advance:
        done = run(app.session, file, ref, Options(offline=offline, progress=advance))
    if app.out.json:
        differences = [{"path": safe(one.path), "what": one.what} for one in done.differences]
        app.out.object(
            {
                "id": done.id,
                "entries": done.entries,
                "ok": not done.count,
                "count": done.count,
                "differences": differences,
            }
        )
    else:
        _tell_verified(app, ref, done)
    if done.count:
        from stratum.errors import DamagedError

        many = done.count
        raise DamagedError(f"{ref} is not what {file} says: {many} difference{'' if many == 1 else 's'}")


def _tell_verified(app: App, ref: str, done: Verified) -> None:
    for one in done.differences[:_SHOWN]:
        app.out.line(f"{safe(one.path)}: {safe(one.what)}")
    if done.count > _SHOWN:
        app.out.note(f"and {done.count - _SHOWN} more")
    if not done.count:
        app.out.line(f"{safe(ref)} is what the manifest says: {done.entries} entries")


def _print(app: App, lines: Iterable[str]) -> None:
    for line in lines:
        app.out.text(line)


for each in (id_, export, import_, diff, patch, verify):
    c4.add_command(each)
