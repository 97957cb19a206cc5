"""``push`` and ``pull``: commits to and from places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, image_options, unsafe_option, verb
from stratum.cli.notes import note_main
from stratum.cli.output import human_size, short
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import PATH, REF_OR_PATH
from stratum.config import PREFETCHES
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.transfer import Pulled


@verb(
    "push",
    examples=[
        ("Send what db is now", "stratum push db registry.example.com/data/db"),
        ("Send it to a bucket", "stratum push db s3://backup/data/db"),
        ("Send a tag, to a directory", "stratum push db:v1 oci:/backup/db"),
        ("Send it as a container image", "stratum push db registry.example.com/data/db:image --as image"),
    ],
)
@click.argument("ref", metavar="REF|HASH|PATH", type=REF_OR_PATH)
@click.argument("target", metavar="HOST/REPOSITORY[:TAG]", required=False)
@click.option("--plain-http", is_flag=True, help="Use HTTP without TLS. Loopback addresses need no such permission.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="Trust the certificate authorities in FILE.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option("--offline", is_flag=True, help="Fetch nothing that is not here: what would have to be is an error.")
@click.option("--keep-tag", is_flag=True, help="Also set the tag stratum-keep-... there, so that it is never removed.")
@unsafe_option
@image_options
def push(
    app: App,
    ref: str,
    target: str | None,
    plain_http: bool,
    ca_file: str | None,
    dry_run: bool,
    offline: bool,
    keep_tag: bool,
    unsafe_concurrent: bool,
    image: str | None,
) -> None:
    """Send a commit to a registry, an object store (s3://BUCKET[/PREFIX][:TAG]; gs://, az:// and file:// likewise), or
    an OCI image layout (oci:DIRECTORY[:TAG]), as an OCI artifact.

    NAME alone is the last commit of its worktree 'main'. Where no TAG is given, it is the tag of NAME:TAG, 'latest' for
    NAME alone, the worktree's name for NAME+WORKTREE, and the first 12 digits of a hash.

    With '--as image' it is sent as an ordinary container image, with one more layer for the changes where the
    repository has an image of an earlier commit.
    """
    from stratum.cli.everyday import push as run

    run(
        app,
        ref,
        target,
        plain_http=plain_http,
        ca_file=ca_file,
        dry_run=dry_run,
        offline=offline,
        keep_tag=keep_tag,
        unsafe_concurrent=unsafe_concurrent,
        image=image,
    )


@verb(
    "pull",
    examples=[
        ("Fetch the newest commit", "stratum pull registry.example.com/data/db"),
        ("Fetch a tag, under another name", "stratum pull registry.example.com/data/db:v1 olddb"),
        ("Fetch from a bucket", "stratum pull s3://backup/data/db"),
        ("Use it at once; files come when they are read", "stratum pull --lazy registry.example.com/data/db"),
    ],
)
@click.argument("source", metavar="HOST/REPOSITORY[:TAG|@DIGEST]")
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.option("--plain-http", is_flag=True, help="Use HTTP without TLS. Loopback addresses need no such permission.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="Trust the certificate authorities in FILE.")
@click.option("-f", "--force", is_flag=True, help="Move the tag if it exists.")
@click.option(
    "--lazy/--whole",
    default=None,
    help="Fetch names only; each file comes when it is first read. Default: 'pull' of the settings, which is whole.",
)
@click.option(
    "--prefetch",
    type=click.Choice(PREFETCHES),
    default="none",
    show_default=True,
    help="With --lazy: what to fetch before this verb ends, when the commit can be mounted already.",
)
@click.option("--keep-tag", is_flag=True, help="Also set the tag stratum-keep-... there, so that it is never removed.")
@unsafe_option
def pull(
    app: App,
    source: str,
    name: str | None,
    plain_http: bool,
    ca_file: str | None,
    force: bool,
    lazy: bool | None,
    prefetch: str,
    keep_tag: bool,
    unsafe_concurrent: bool,
) -> None:
    """Fetch a commit from a registry, an object store (s3://BUCKET[/PREFIX][:TAG]) or an OCI image layout, and point
    NAME:TAG at it.

    NAME defaults to the last part of the repository or prefix, TAG to the tag that was pulled. A tag that names another
    commit moves where it has the name of the tag that is pulled and the new commit descends from the old one; in all
    other cases it is an error, and nothing is fetched, unless --force moves it.

    With --lazy the commit can be mounted as soon as its tree is here, however much is in it. Reading a file that is not
    here fetches it from where it was pulled from, which has to be reachable then. '--prefetch profile' fetches the
    files that were read first where the commit was used before, as far as that was pushed with it.
    """
    from stratum.api.transfer import pull as run

    lazy = app.session.config.lazy if lazy is None else lazy
    if prefetch != "none" and not lazy:
        raise UsageError("--prefetch is for --lazy: without it everything is fetched")
    access = app.session.access(plain_http=plain_http, ca_file=ca_file, unsafe_concurrent=unsafe_concurrent)
    with progress_bar(app, "pulling") as advance:
        done = run(
            app.session,
            source,
            name,
            access=access,
            force=force,
            lazy=lazy,
            prefetch=prefetch,
            keep_tag=keep_tag,
            progress=advance,
        )
    _tell_pulled(app, done)


def _tell_pulled(app: App, done: Pulled) -> None:
    if app.out.json:
        app.out.object(
            {
                "commit": done.commit,
                "ref": done.ref,
                "previous": done.previous,
                "manifest": done.manifest_digest,
                "bytes_received": done.bytes_received,
                "unreal": {"objects": done.unreal[0], "bytes": done.unreal[1]},
                "kept": {"objects": done.kept[0], "bytes": done.kept[1]},
            }
        )
        return
    app.out.line(done.commit)
    app.out.note(f"{done.ref} is {short(done.commit)}; received {human_size(done.bytes_received)}")
    if done.kept[0]:
        app.out.note(f"{done.kept[0]} objects, {human_size(done.kept[1])}, came at once, as rules keep them here")
    if done.unreal[0]:
        app.out.note(
            f"{done.unreal[0]} of {done.objects[0]} objects ({human_size(done.unreal[1])} of"
            f" {human_size(done.objects[1])}) are not here yet: each comes when it is first read"
        )
    note_main(app, done.ref, done.commit)
