"""``gc`` and ``fsck``: keeping a store in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stratum.cli.app import App, verb
from stratum.cli.output import ago, human_size, safe, short
from stratum.cli.places import There, collect_place, place_options
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import OF_STRATUM
from stratum.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from stratum.api.maintenance import Fscked
    from stratum.store.findings import Finding
    from stratum.store.gc import Collected
    from stratum.store.sourcecheck import PartialCommit
    from stratum.store.sources import CommitSource

Command = TypeVar("Command", bound=Callable[..., Any])
_COUNT = click.IntRange(min=0)


def _keep(unit: str, help_text: str) -> Callable[[Command], Command]:
    return click.option(f"--keep-{unit}", unit, type=_COUNT, default=0, metavar="N", help=help_text)


@verb(
    "gc",
    examples=[
        ("What would go?", "stratum gc -n"),
        ("Thin out tags that stops made", "stratum gc --stratum db --tags 'stop-*' --keep-last 10 --keep-daily 14"),
        ("In an object store: what would go?", "stratum gc -n --place s3://backup/db"),
    ],
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed, and of which strata.")
@click.option(
    "--reflog-age", metavar="DURATION", help="Keep what refs named within this time, e.g. 12h, 30d; default 30d."
)
@click.option(
    "--history-age",
    metavar="DURATION",
    help="Of the history of tags and worktrees keep what was made within this time; default all of it, 0 for none.",
)
@_keep("last", "Keep the N newest commits of every ref.")
@_keep("hourly", "Keep the newest commit of each of the last N hours that have any.")
@_keep("daily", "Keep the newest commit of each of the last N days that have any.")
@_keep("weekly", "Keep the newest commit of each of the last N weeks that have any.")
@_keep("monthly", "Keep the newest commit of each of the last N months that have any.")
@_keep("yearly", "Keep the newest commit of each of the last N years that have any.")
@click.option("--keep-within", metavar="DURATION", help="Keep what is older than a ref's newest by no more than this.")
@click.option("--tags", metavar="GLOB", multiple=True, help="Also thin out the tags that match; may be repeated.")
@click.option(
    "--stratum", "strata", metavar="NAME", type=OF_STRATUM, multiple=True, help="Only thin out NAME; may be repeated."
)
@place_options
def gc(
    app: App,
    dry_run: bool,
    there: There,
    reflog_age: str | None,
    history_age: str | None,
    keep_within: str | None,
    tags: tuple[str, ...],
    strata: tuple[str, ...],
    **keep: int,
) -> None:
    """Remove commits that nothing names any more, and the objects that no commit needs.

    What tags, worktrees, pins, mounts and running commands need stays, and so does the history of tags and worktrees:
    all earlier commits that they were made from. What only the reflog mentions stays for 30 days: the commits that tags
    were moved away from and those made before a reset.

    With --keep options, history and what the reflog mentions are thinned out instead, for every tag and worktree by
    itself as 'restic forget' does; --history-age and --reflog-age count only where they are given too. What was not
    committed at a reset, rebase or removal, and was kept then, stays for 30 days all the same. Tags are not touched,
    but with --tags: those that match are thinned out by the same rules, the tags of one stratum together, by the times
    of their commits. Pinned tags and commits (stratum tag --pin) always stay. With --stratum, the options are for that
    stratum; the others are kept as without options.

        stratum gc --stratum db --tags 'stop-*' --keep-last 10 --keep-daily 14 --keep-monthly 12

    Histories of worktrees let contents go with their age: all versions of a file stay for a day, one an hour for a
    week, one a day for 30 days; what a worktree shows always stays. The oldest go earlier where all of them take more
    than the setting history_max. The history of a worktree that was removed goes 30 days later.

    Worktrees that show their last commit and still keep it twice, because it was made while they were mounted, let
    their copy go.

    With --place, an object store is collected and not the store: whatever no tag there leads to. A first run marks it;
    a later one removes what was marked at least --older-than before and still has no name. Pushes may go on. Lazy
    strata that were pulled from there name manifests by digest, which nobody there knows of: keep a tag on these
    (push --keep-tag, pull --lazy --keep-tag).
    """
    own = any(given is not None for given in (reflog_age, history_age, keep_within)) or tags or strata
    if there.asked(rules=bool(own or any(keep.values()))):
        collect_place(app, there, dry_run=dry_run)
        return
    from stratum.api.maintenance import gc as run
    from stratum.api.maintenance import retention

    rules = retention(age=reflog_age, history=history_age, within=keep_within, tags=tags, strata=strata, **keep)
    for name in strata:
        app.session.store.namespaces.check(name)
    done = run(app.session, rules, dry_run=dry_run)
    for ref, problem in sorted(done.not_folded.items()):
        app.out.warn(f"{ref} keeps its last commit twice: {problem}")
    if app.out.json:
        app.out.object(_gc_json(done))
        return
    _print_folded(app, done)
    _print_collected(app, done)


def _gc_json(done: Collected) -> dict[str, Any]:
    return {
        "folded": _sizes(done.folded),
        "kept_twice": _sizes(done.kept_twice),
        "kept_in_use": _sizes(done.in_use),
        "dry_run": done.dry_run,
        "kept": [{"commit": commit, "why": safe(why)} for commit, why in sorted(done.kept.items())],
        "removed_tags": [
            {"stratum": name, "tag": tag, "commit": commit} for (name, tag), commit in sorted(done.tags.items())
        ],
        "removed_commits": [
            {"commit": commit, "why": why, "strata": done.strata[commit]}
            for commit, why in sorted(done.commits.items())
        ],
        "removed_objects": done.objects,
        "kept_objects": done.objects_kept,
        "forgotten_versions": done.versions,
        "removed_histories": done.histories,
        "removed_images": done.images,
        "removed_blobs": done.blobs,
        "removed_leftovers": [safe(path) for path in done.others],
        "bytes_freed": done.bytes_freed,
        "by_stratum": _by_stratum(done) if done.dry_run else None,
    }


def _by_stratum(done: Collected) -> list[dict[str, Any]]:
    return [
        {"stratum": name or None, "commits": going.commits, "objects": going.objects, "bytes": going.bytes}
        for name, going in sorted(done.by_stratum.items())
    ]


def _sizes(worktrees: dict[str, int]) -> list[dict[str, Any]]:
    return [{"worktree": ref, "bytes": size} for ref, size in sorted(worktrees.items())]


def _print_folded(app: App, done: Collected) -> None:
    for ref, size in sorted(done.folded.items()):
        app.out.line(f"{'would free' if done.dry_run else 'freed'} {human_size(size)} of {ref}: its last commit has it")
    for ref, size in sorted(done.kept_twice.items()):
        app.out.line(f"{ref} keeps up to {human_size(size)} twice: commit what changed on top of its last commit")
    for ref, size in sorted(done.in_use.items()):
        app.out.line(
            f"{ref} keeps up to {human_size(size)} twice while it is in use; its unmount or stop lets the copy go"
        )


def _print_collected(app: App, done: Collected) -> None:
    word = "would remove" if done.dry_run else "removed"
    for (name, tag), commit in sorted(done.tags.items()):
        app.out.line(f"{word} tag {name}:{tag} of {short(commit)}: no rule keeps it")
    for commit in sorted(done.commits, key=lambda commit: (done.strata[commit], commit)):
        whose = f" of {', '.join(done.strata[commit])}" if done.strata[commit] else ""
        app.out.line(f"{word} commit {short(commit)}{whose}")
    for ref in done.histories:
        app.out.line(f"{word} the history of {ref}, which is no worktree any more")
    if done.versions:
        app.out.line(f"{word} {done.versions} versions of files from histories: their age, or history_max")
    if done.images:
        app.out.line(f"{word} {done.images} images that no mount shows: they are made again when they are needed")
    if done.blobs:
        app.out.line(f"{word} {done.blobs} blobs that were pushed or offered and that nothing names")
    for path in done.others:
        app.out.line(f"{word} leftover {safe(path)}")
    if done.dry_run:
        for commit, why in sorted(done.kept.items()):
            app.out.line(f"would keep commit {short(commit)}: {safe(why)}")
    for name, going in sorted(done.by_stratum.items()):
        whose = f"of {name}" if name else "of several strata, or of none that is known"
        app.out.line(f"would free {human_size(going.bytes)}: {going.commits} commits, {going.objects} objects {whose}")
    tags = f"{len(done.tags)} tags, " if done.tags else ""
    app.out.note(
        f"{word} {tags}{len(done.commits)} commits that nothing names and {done.objects} objects, "
        f"{human_size(done.bytes_freed)}; {len(done.kept)} commits and {done.objects_kept} objects stay"
    )


@verb(
    "fsck",
    examples=[
        ("Check everything", "stratum fsck"),
        ("Without the contents of files", "stratum fsck --quick"),
        ("Repair, with what a backup has", "stratum fsck --repair --from oci:/backup/db"),
    ],
)
@click.option(
    "--read-data", "depth", flag_value="data", default=True, help="Read all objects, images and trees (default)."
)
@click.option("--quick", "depth", flag_value="quick", help="Only names, sizes, metadata, and what trees are stored in.")
@click.option("--repair", is_flag=True, help="Repair what can be; put what cannot into quarantine.")
@click.option(
    "--from",
    "source",
    metavar="PLACE|FILE",
    help="With --repair: restore what is lost from there: HOST/REPOSITORY, s3://BUCKET/PREFIX, oci:DIR, an export.",
)
@click.option("--remote", is_flag=True, help="First ask all sources whether they still have what is not here.")
def fsck(app: App, depth: str, repair: bool, source: str | None, remote: bool) -> None:
    """Check everything in the store, and tell which refs each damage hurts. Exit code 5 where damage is left.

    What commits share is read once: --quick compares each file that trees are stored in with its own hash, at the cost
    of what is different between commits. Without it, the tree of each commit is also put together and compared with the
    commit's hash.

    Files that were never fetched, or let go, are no damage where a source of their commit has them; how many there are
    is told. With --remote the sources are asked; where one does not have them any more, they are lost.

    --repair makes metadata and tags again from what proves them, restores objects, trees and commits from elsewhere,
    and moves the rest out of the way, to 'quarantine' in the store. It deletes nothing. A damaged file that a source
    has is fetched from there when it is next read, a tree at once. A commit whose tree cannot be read stays as it is
    until a pull or import of it, or a repair with --from, writes it again.
    """
    from stratum.api.maintenance import fsck as check
    from stratum.api.maintenance import fsck_repair

    if source is not None and not repair:
        raise UsageError("--from is for --repair", hint="add --repair")
    with progress_bar(app, "checking") as advance:
        if repair:
            done = fsck_repair(app.session, read_data=depth == "data", source=source, remote=remote, progress=advance)
        else:
            done = check(app.session, read_data=depth == "data", remote=remote, noted=True, progress=advance)
    for problem in done.away:
        app.out.warn(f"could not be asked: {problem}")
    for problem in done.problems:
        app.out.warn(f"{source}: {problem}" if source is not None else problem)
    if app.out.json:
        app.out.object(_fscked_json(done))
    else:
        _print_fscked(app, done)
    if done.damage:
        hint = (
            "what is left needs a copy of it: --from, a pull, or an import"
            if repair
            else "'stratum fsck --repair' mends what can be, with --from SOURCE also from a copy; it deletes nothing"
        )
        count = len(done.damage)
        raise DamagedError(f"{count} {'thing is' if count == 1 else 'things are'} damaged or missing", hint=hint)


def _print_fscked(app: App, done: Fscked) -> None:
    findings = [*done.checked.findings, *(f for f in done.damage if f not in done.checked.findings)]
    for finding in findings:
        word = "note" if finding.harmless else "repaired" if finding.repair else "damaged"
        app.out.line(f"{word} {finding.kind} {safe(finding.path)}: {safe(finding.problem)}")
        if finding.repair:
            app.out.line(f"  {safe(finding.repair)}")
        if finding.hurts:
            app.out.line(f"  hurts {safe(', '.join(finding.hurts))}")
        for file in finding.files:
            app.out.line(f"  in {file}")
    for commit in done.checked.partial:
        app.out.line(_partial_line(commit))
    if done.quarantine is not None:
        app.out.note(f"what was moved out of the way is in {done.quarantine}")
    checked = done.checked
    read = f", {human_size(checked.bytes_read)} read" if checked.data_read else ", contents not read"
    app.out.note(f"checked {checked.commits} commits and {checked.objects} objects{read}")


def _partial_line(found: PartialCommit) -> str:
    counts = found.counts
    what = found.users[0] if found.users[0] != found.commit else f"commit {short(found.commit)}"
    line = f"{what}: {counts.real} of {counts.real + counts.unreal + counts.lost} objects real"
    if counts.unreal:
        places = ", ".join(f"{source.place} ({_seen(source)})" for source in found.sources)
        line += f", {counts.unreal} unreal ({human_size(counts.unreal_bytes)}) at {places}"
    return safe(line + (f", {counts.lost} lost" if counts.lost else ""))


def _seen(source: CommitSource) -> str:
    return f"gone since {source.gone}" if source.gone is not None else f"seen {ago(source.seen)}"


def _partial_json(found: PartialCommit) -> dict[str, Any]:
    counts = found.counts
    return {
        "commit": found.commit,
        "refs": [safe(ref) for ref in found.users],
        "real": counts.real,
        "real_bytes": counts.real_bytes,
        "unreal": counts.unreal,
        "unreal_bytes": counts.unreal_bytes,
        "lost": counts.lost,
        "lost_bytes": counts.lost_bytes,
        "sources": [
            {"reference": safe(source.reference), "seen": source.seen, "gone": source.gone} for source in found.sources
        ],
    }


def _fscked_json(done: Fscked) -> dict[str, Any]:
    findings = [*done.checked.findings, *(f for f in done.damage if f not in done.checked.findings)]
    return {
        "ok": not done.damage,
        "data_read": done.checked.data_read,
        "commits": done.checked.commits,
        "objects": done.checked.objects,
        "bytes_read": done.checked.bytes_read,
        "quarantine": str(done.quarantine) if done.quarantine is not None else None,
        "partial": [_partial_json(found) for found in done.checked.partial],
        "away": [safe(problem) for problem in done.away],
        "findings": [_finding_json(finding) for finding in findings],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "path": safe(finding.path),
        "problem": safe(finding.problem),
        "damage": not finding.harmless,
        "hurts": [safe(ref) for ref in finding.hurts],
        "files": finding.files,
        "commit": finding.commit,
        "object": finding.digest.hex() if finding.digest is not None else None,
        "repair": finding.repair,
    }
