"""``tag``, ``list`` and ``remove``: names for commits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import NO_STRATA, human_size, safe, short
from stratum.cli.reftype import NAME, PATH, REF, REF_OR_PATH
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.shares import Size
    from stratum.refs import Ref


@verb(
    "tag",
    examples=[
        ("Tag what db is now", "stratum tag db v1"),
        ("Rename a tag", "stratum tag --move db:v1 v1.0"),
        ("Keep a commit from every garbage collection", "stratum tag --pin db:v1"),
    ],
)
@click.argument("ref", metavar="REF|HASH|PATH", type=REF_OR_PATH)
@click.argument("new", metavar="[TAG|NAME:TAG]", required=False, type=REF)
@click.option("--move", is_flag=True, help="Rename: remove the old tag.")
@click.option("-f", "--force", is_flag=True, help="Move NEW if it exists.")
@click.option("--pin", is_flag=True, help="Pin the new tag, or without one what REF names.")
@click.option("--unpin", is_flag=True, help="Let what REF names go again.")
def tag(app: App, ref: str, new: str | None, move: bool, force: bool, pin: bool, unpin: bool) -> None:
    """Point a tag at the commit that REF names, or pin what REF names. A PATH is what is mounted there.

    A pinned tag or commit is removed by no garbage collection, whatever its rules, and by 'remove' only with --force.
    'list NAME' shows what is pinned.
    """
    from stratum.api.tags import tag as run

    if unpin and (new is not None or pin):
        raise UsageError("--unpin is for one REF, without a new tag and without --pin")
    if new is None:
        if not pin and not unpin:
            raise UsageError("it is not said which tag to set", hint=f"stratum tag {ref} TAG; or --pin or --unpin it")
        _pin(app, ref, on=pin)
        return
    note_uncommitted(app, ref)
    done = run(app.session, ref, new, move=move, force=force)
    if pin:
        from stratum.api.tags import pin as pin_it

        pin_it(app.session, done.ref)
    if app.out.json:
        document = {"ref": done.ref, "commit": done.commit, "previous": done.previous, "removed": done.removed}
        app.out.object({**document, **({"pinned": True} if pin else {})})
        return
    app.out.line(done.ref)
    app.out.note(f"{done.ref} is {short(done.commit)}" + (f"; {done.removed} is gone" if done.removed else ""))


def _pin(app: App, ref: str, *, on: bool) -> None:
    from stratum.api.tags import pin

    what, changed = pin(app.session, ref, on=on)
    if app.out.json:
        app.out.object({"ref": what, "pinned": on, "changed": changed})
        return
    app.out.line(what)
    word = "pinned" if on else "no longer pinned" if changed else "not pinned"
    app.out.note(f"{what} {'is' if changed else 'was'} {word}{'' if changed else ' already' if on else ''}")


NAMED = 20
"""Tags, or worktrees, that the list of all strata names of one: some have thousands."""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more or "-"


@verb(
    "list",
    examples=[
        ("All strata", "stratum list"),
        ("Tags and worktrees of one", "stratum list db"),
        ("What a repository holds", "stratum list --remote registry.example.com/data/db"),
        ("Which repositories a registry has", "stratum list --remote registry.example.com"),
        ("What a bucket holds", "stratum list --remote s3://backup"),
    ],
)
@click.argument("name", metavar="[NAME]", required=False, type=NAME)
@click.option(
    "--remote",
    metavar="HOST[/REPOSITORY]",
    help="List the tags of a repository, of s3://BUCKET/PREFIX or of oci:DIRECTORY, or what repositories a registry or"
    " s3://BUCKET has, instead.",
)
@click.option("--plain-http", is_flag=True, help="With --remote: use HTTP without TLS.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="With --remote: trust the certificate authorities in FILE.")
def list_(app: App, name: str | None, remote: str | None, plain_http: bool, ca_file: str | None) -> None:
    """List the tags and worktrees of NAME, or all strata, or the tags of a repository with their dates and sizes."""
    if remote is not None:
        from stratum.cli.registries import list_remote

        if name is not None:
            raise UsageError("NAME and --remote cannot both be given")
        list_remote(app, remote, plain_http=plain_http, ca_file=ca_file)
        return
    from stratum.api.tags import list_strata, list_stratum

    if name is None:
        strata = list_strata(app.session)
        if app.out.json:
            app.out.object([{"name": s.name, "tags": s.tags, "worktrees": s.worktrees} for s in strata])
        else:
            if not strata:
                app.out.note(NO_STRATA)
            rows = [(s.name, _some(s.tags), _some(s.worktrees)) for s in strata]
            app.out.table(("STRATUM", "TAGS", "WORKTREES"), rows)
        return
    listed = list_stratum(app.session, name)
    if app.out.json:
        app.out.object(
            {
                "name": listed.name,
                "tags": [
                    {
                        "tag": t.tag,
                        "commit": t.commit,
                        "timestamp": t.timestamp,
                        "files": t.files,
                        "size": t.size,
                        "pinned": t.pinned,
                        "partial": t.partial,
                    }
                    for t in listed.tags
                ],
                "pinned_commits": [{"commit": commit, "timestamp": time} for commit, time in listed.pinned_commits],
                "worktrees": [
                    {"worktree": w.worktree, "base": w.base_commit, "head": w.head} for w in listed.worktrees
                ],
            }
        )
        return
    pinned, not_pinned = "pinned", "-"
    lines = [
        (f"{listed.name}:{t.tag}", short(t.commit), t.timestamp, pinned if t.pinned else not_pinned)
        for t in listed.tags
    ]
    lines += [(str(w.ref), short(w.head or w.base_commit), w.last_modified, not_pinned) for w in listed.worktrees]
    lines += [(f"{listed.name}:{short(commit)}", short(commit), time, pinned) for commit, time in listed.pinned_commits]
    app.out.table(("REF", "COMMIT", "TIME", "PINNED"), lines)


@verb(
    "remove",
    examples=[
        ("Remove a tag", "stratum remove db:v1"),
        ("Remove a stratum with all that it has", "stratum remove db --yes"),
        ("Only say what would be removed", "stratum remove -n db"),
        ("Remove a tag from an object store", "stratum remove s3://backup/db:v1"),
    ],
)
@click.argument("ref", metavar="NAME|NAME:TAG|NAME+WORKTREE|PLACE:TAG", type=REF)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--discard", is_flag=True, help="Throw uncommitted changes of worktrees away, and their histories.")
@click.option("-f", "--force", is_flag=True, help="Also what is pinned.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed, and what that would free.")
@click.option("--plain-http", is_flag=True, help="With PLACE:TAG: use HTTP without TLS.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="With PLACE:TAG: trust the certificate authorities in FILE.")
def remove(
    app: App,
    ref: str,
    yes: bool,
    discard: bool,
    force: bool,
    dry_run: bool,
    plain_http: bool,
    ca_file: str | None,
) -> None:
    """Remove a tag, a worktree, or a whole stratum with all its tags and worktrees.

    Commits stay in the store until a garbage collection finds that nothing refers to them. What is pinned stays.
    Histories of worktrees go 30 days later.

    PLACE:TAG is a tag in an object store, such as s3://BUCKET/PREFIX:TAG: only that name goes, and what it named when
    'stratum gc --place' finds that nothing else names it.
    """
    if "://" in ref or ref.startswith(("oci:", "oci-archive:")):
        from stratum.cli.places import remove_remote_tag

        access = app.session.access(plain_http=plain_http, ca_file=ca_file)
        remove_remote_tag(app, ref, access, dry_run=dry_run)
        return
    from stratum.api.tags import plan_removal
    from stratum.api.tags import remove as run

    plan = plan_removal(app.session, ref, force=force)
    if plan.whole_stratum and not (yes or dry_run):
        _confirm(plan.description)
    frees = _frees(app, plan.ref) if dry_run else None
    kept, forgotten = ([], []) if dry_run else run(app.session, plan, discard=discard, force=force)
    if app.out.json:
        size = {"disk": frees.disk, "apparent": frees.apparent} if frees is not None else None
        done = {"removed": plan.removes, "kept_commits": kept, "forgotten_mounts": forgotten, "dry_run": dry_run}
        app.out.object({**done, "frees": size})
        return
    for item in plan.removes:
        app.out.note(f"{'would remove' if dry_run else 'removed'} {item}")
    if frees is not None:
        later = "which gc frees once the reflog lets go, after 30 days" if frees.disk else "so gc would free nothing"
        app.out.note(f"{human_size(frees.disk)} are of nothing else, {later}")
    for item in kept:
        app.out.note(f"uncommitted changes are kept as commit {item}")
    for mountpoint in forgotten:
        app.out.note(f"{safe(mountpoint)} is not mounted at the next start")


def _frees(app: App, ref: Ref) -> Size:
    from stratum.api.usage import freed_by_removal

    return freed_by_removal(app.session, ref).exclusive


def _confirm(description: str) -> None:
    """Ask on a terminal; where nobody can answer, --yes is needed."""
    if not sys.stdin.isatty():
        raise UsageError(f"this removes {description}", hint="repeat the command with --yes")
    click.confirm(f"Remove {description}?", abort=True, err=True)
