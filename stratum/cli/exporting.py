"""``export``: commits as files, or with their tags in an object store."""

from __future__ import annotations

import click

from stratum.cli.app import App, image_options, unsafe_option, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe, short
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import REF_OR_PATH


@verb(
    "export",
    examples=[
        ("Write a commit to a file", "stratum export db:v1 db.stratum.tar"),
        ("With the commits before it", "stratum export db db.stratum.tar --with-history"),
        ("Hand it to another machine", "stratum export db - | ssh host stratum import - db"),
        ("As an object in a bucket", "stratum export db s3://backup/db.stratum.tar"),
    ],
)
@click.argument("ref", metavar="REF|HASH|PATH", type=REF_OR_PATH)
@click.argument("file", metavar="FILE|-", type=click.Path(allow_dash=True))
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Another tag of the same stratum to take along.")
@click.option("--with-history", is_flag=True, help="Take the parents along that the store has.")
@click.option("--offline", is_flag=True, help="Fetch nothing: what is not here is an error.")
@unsafe_option
@image_options
def export(
    app: App,
    ref: str,
    file: str,
    tags: tuple[str, ...],
    with_history: bool,
    offline: bool,
    unsafe_concurrent: bool,
    image: str | None,
) -> None:
    """Write a commit to FILE, from which 'stratum import' reads it anywhere.

    FILE (by custom NAME.stratum.tar) is an OCI image layout in a tar archive, which skopeo and oras read too. It
    appears when it is complete, readable by its owner only, and replaces a file of that name. Equal exports have equal
    bytes. With '--as image' it holds an ordinary container image, which container engines load.

    FILE may be in an object store: s3://BUCKET/NAME.tar is an object that appears whole, and any other name, as
    s3://BUCKET/PREFIX, a place that the commits are pushed to, each with its tag (of --with-history, those without one
    with their hash).

    NAME alone is the last commit of its worktree 'main'. In FILE a commit has the tag of NAME:TAG, 'latest' for NAME
    alone, the worktree's name for NAME+WORKTREE, and the first 12 digits of a hash.
    """
    from stratum.api.exporting import STDOUT
    from stratum.api.exporting import export as run

    note_uncommitted(app, ref)
    with progress_bar(app, "exporting") as advance:
        done = run(
            app.session,
            ref,
            file,
            tags=tags,
            with_history=with_history,
            image=image,
            offline=offline,
            access=app.session.access(unsafe_concurrent=unsafe_concurrent),
            progress=advance,
        )
    if app.out.json and file != STDOUT:
        app.out.object(
            {"file": done.path, "tags": done.tags, "history": done.history, "size": done.size},
        )
        return
    if file != STDOUT:
        app.out.line(safe(file))
    shown = ", ".join(f"{tag} ({short(commit)})" for tag, commit in done.tags.items())
    and_history = f" and {len(done.history)} earlier commits" if done.history else ""
    app.out.note(f"exported {shown}{and_history}: {human_size(done.size)}")
