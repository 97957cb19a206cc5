"""``show`` and ``verify``: looking at commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe, safe_lines
from stratum.cli.reading import print_path
from stratum.cli.reftype import IN_REF, REF_OR_PATH

if TYPE_CHECKING:
    from stratum.tree.digest import InclusionProof


@verb(
    "show",
    examples=[
        ("The newest commit of db", "stratum show db"),
        ("A file of a commit", "stratum show db:v1:/etc/db.conf"),
        ("The commit before the last one", "stratum show db~1"),
        ("Its image, for mount.composefs -o basedir=STORE/objects", "stratum show --image-path db:v1"),
    ],
)
@click.argument("ref", metavar="REF|HASH|MOUNTPOINT", type=REF_OR_PATH)
@click.argument("path", metavar="[PATH]", required=False, type=IN_REF)
@click.option(
    "--image-path", is_flag=True, help="Print the path of its image alone, which is made where it is missing."
)
def show(app: App, ref: str, path: str | None, image_path: bool) -> None:
    """Show a commit's metadata, the refs that name it and, where it is not here whole, how much of it is.

    With PATH: the content of that file, what is in that directory, or where that symbolic link points; of a commit, of
    what a worktree shows now (NAME+WORKTREE), or of what it showed after an operation of its history
    (NAME+WORKTREE@CHANGE). REF:/PATH and MOUNTPOINT/PATH say both.

    The image of a commit is the EROFS that mounts are made of, with the objects in the store's directory 'objects', as
    composefs has them. It is in a cache, and may go some minutes after nobody has it open or mounted any more ('stratum
    cache'); copy it to keep it.
    """
    from stratum.api.naming import with_paths
    from stratum.errors import UsageError

    ref, paths = with_paths(app.session, ref, [path] if path is not None else [])
    if paths and image_path:
        raise UsageError("--image-path is about a whole commit", hint="leave the path out")
    if paths:
        print_path(app, ref, paths[0])
        return
    from stratum.api.history import image_path as image_of
    from stratum.api.history import show as run
    from stratum.api.residing import Residings
    from stratum.cli.residing import residing_json, residing_text

    note_uncommitted(app, ref)
    image = str(image_of(app.session, ref)) if image_path else None
    if image is not None and not app.out.json:
        app.out.line(image)
        return
    shown = run(app.session, ref)
    meta = shown.commit
    residing = Residings(app.session).of(meta.metadata_hash)
    if app.out.json:
        residence = residing_json(residing)
        refs = {"tags": shown.tags, "worktrees": shown.worktrees}
        paths_of = {"image_path": safe(image)} if image is not None else {}
        app.out.object({**meta.to_table(), **refs, **paths_of, "why": shown.why, "residence": residence})
        return
    app.out.line(f"commit      {meta.metadata_hash}")
    app.out.line(f"merkle root {meta.merkle_root}")
    if shown.tags or shown.worktrees:
        app.out.line(f"refs        {', '.join(shown.tags + shown.worktrees)}")
    if meta.parent_commit:
        app.out.line(f"parent      {meta.parent_commit}")
    app.out.line(f"time        {meta.timestamp}")
    if shown.why is not None:
        app.out.line(f"made as     {safe(shown.why)}")
    app.out.line(f"files       {meta.file_count} ({human_size(meta.total_size)})")
    if residing is not None:
        app.out.line(f"content     {residing_text(residing)}")
    for key, value in (meta.origin or {}).items():
        for item in value if isinstance(value, list) else [value]:
            text = " ".join(map(str, item.values())) if isinstance(item, dict) else str(item)
            app.out.line(f"origin      {key}: {safe(text)}")
    if meta.message:
        app.out.line("")
        app.out.line(safe_lines(meta.message))


@verb(
    "verify",
    examples=[
        ("Check a commit and all of its files", "stratum verify db:v1"),
    ],
)
@click.argument("ref", metavar="REF|HASH|MOUNTPOINT", type=REF_OR_PATH)
@click.argument("path", metavar="[PATH]", required=False, type=IN_REF)
@click.option("--proof", is_flag=True, help="Print a proof, as JSON, that PATH is in the commit.")
@click.option("--realize", is_flag=True, help="Fetch what is not here first, so that all of it is checked.")
def verify(app: App, ref: str, path: str | None, proof: bool, realize: bool) -> None:
    """Check a commit's tree, its two hashes, its image and the content of every object, or of PATH in it.

    What is not here, as it was never fetched or let go, is counted and not checked, but with --realize.

    The proof holds PATH's line of the commit's dump and the hashes beside its way to the Merkle root (RFC 9162,
    BLAKE3), so that whoever knows the root can check it without the rest of the commit.
    """
    from stratum.api.naming import with_paths
    from stratum.api.verify import prove
    from stratum.api.verify import verify as run
    from stratum.cli.progress import progress_bar
    from stratum.errors import UsageError

    ref, paths = with_paths(app.session, ref, [path] if path is not None else [])
    path = paths[0] if paths else None
    if proof and path is None:
        raise UsageError("--proof needs a PATH", hint="'/' is the root of the commit")
    note_uncommitted(app, ref)
    with progress_bar(app, "verifying") as advance:
        done = run(app.session, ref, path, realize=realize, progress=advance)
    if proof:
        assert path is not None
        found = prove(app.session, ref, path)
        document = {"commit": found.commit, "path": found.path, "merkle_root": found.entry.root}
        document |= _proof_json(found.entry)
        app.out.object(document | ({"target": _proof_json(found.target)} if found.target is not None else {}))
        return
    if app.out.json:
        unreal = {"unreal": done.unreal[0], "unreal_bytes": done.unreal[1]}
        app.out.object({"commit": done.commit, "objects": done.objects, "bytes": done.size, **unreal, "ok": True})
        return
    what = done.commit if path is None else f"{safe(path)} in {done.commit}"
    if done.unreal[0]:
        count, size = done.unreal
        app.out.line(f"{what} is whole as far as it is here: {done.objects} objects, {human_size(done.size)}")
        app.out.note(f"{count} objects ({human_size(size)}) are unreal; realize them to verify them: --realize")
        return
    app.out.line(f"{what} is whole: {done.objects} objects, {human_size(done.size)}")


def _proof_json(proof: InclusionProof) -> dict[str, Any]:
    return {
        "line": proof.line.decode("ascii"),
        "index": proof.index,
        "leaf_count": proof.leaf_count,
        "siblings": [{"side": side, "hash": sibling.hex()} for side, sibling in proof.path],
    }
