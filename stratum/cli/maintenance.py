"""``gc`` and ``fsck``: keeping a store in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.output import human_size, safe, short

if TYPE_CHECKING:
    from stratum.store.gc import Collected

_COUNT = click.IntRange(min=0)


@verb("gc")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--reflog-age", metavar="DURATION", help="Keep what refs named within this time, e.g. 12h, 30d; default 30d."
)
@click.option("--keep-last", type=_COUNT, default=0, help="Keep this many of the newest commits of every ref.")
@click.option("--keep-hourly", type=_COUNT, default=0, help="Keep the newest commit of each of this many hours.")
@click.option("--keep-daily", type=_COUNT, default=0, help="Keep the newest commit of each of this many days.")
@click.option("--keep-weekly", type=_COUNT, default=0, help="Keep the newest commit of each of this many weeks.")
def gc(
    app: App,
    dry_run: bool,
    reflog_age: str | None,
    keep_last: int,
    keep_hourly: int,
    keep_daily: int,
    keep_weekly: int,
) -> None:
    """Remove commits that nothing names any more, and the objects that no commit needs.

    What tags, worktrees, mounts and running commands need stays. So does, for 30 days, what the reflog mentions: the
    commits that tags were moved away from and those made at a container's stop or before a reset. With --keep options
    these are thinned out instead, for every tag and worktree by itself as 'restic forget' does, and --reflog-age
    counts only where it is given too.
    """
    from stratum.api.maintenance import gc as run
    from stratum.api.maintenance import retention

    rules = retention(age=reflog_age, last=keep_last, hourly=keep_hourly, daily=keep_daily, weekly=keep_weekly)
    done = run(app.session, rules, dry_run=dry_run)
    if app.out.json:
        app.out.object(
            {
                "dry_run": done.dry_run,
                "kept": [{"commit": commit, "why": safe(why)} for commit, why in sorted(done.kept.items())],
                "removed_commits": [{"commit": commit, "why": why} for commit, why in sorted(done.commits.items())],
                "removed_objects": done.objects,
                "kept_objects": done.objects_kept,
                "removed_leftovers": [safe(path) for path in done.others],
                "bytes_freed": done.bytes_freed,
            }
        )
        return
    _print_collected(app, done)


def _print_collected(app: App, done: Collected) -> None:
    word = "would remove" if done.dry_run else "removed"
    for commit, why in sorted(done.commits.items()):
        app.out.line(f"{word} commit {short(commit)}: {why}")
    for path in done.others:
        app.out.line(f"{word} leftover {safe(path)}")
    if done.dry_run:
        for commit, why in sorted(done.kept.items()):
            app.out.line(f"would keep commit {short(commit)}: {safe(why)}")
    app.out.note(
        f"{word} {len(done.commits)} commits and {done.objects} objects, {human_size(done.bytes_freed)}; "
        f"{len(done.kept)} commits and {done.objects_kept} objects stay"
    )
