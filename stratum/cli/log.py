"""``log``: where a commit comes from, and where its tags and worktrees were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import safe, short
from stratum.cli.reftype import IN_REF, REF_OR_PATH
from stratum.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stratum.api.log import Gap, Logged

_LETTERS = {"added": "A", "deleted": "D", "modified": "M"}


@verb(
    "log",
    examples=[
        ("The commits that db was made from", "stratum log db"),
        ("Which of them changed a file", "stratum log db /etc/db.conf"),
        ("The last ten, in few words", "stratum log db -n 10 --oneline"),
        ("Where its tags and worktrees were", "stratum log db --reflog"),
    ],
)
@click.argument("ref", metavar="[REF|HASH|PATH]", required=False, type=REF_OR_PATH)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=IN_REF)
@click.option("-n", "--limit", metavar="N", type=click.IntRange(min=1), help="At most N commits (or moves).")
@click.option("--oneline", is_flag=True, help="Without times.")
@click.option("--since", metavar="WHEN", help="None older: '2h', '14:05', 'yesterday', a date or RFC 3339.")
@click.option("--until", metavar="WHEN", help="None newer.")
@click.option("--reflog", is_flag=True, help="Every move of the tags and worktrees of NAME instead of the parents.")
def log(
    app: App,
    ref: str | None,
    paths: tuple[str, ...],
    limit: int | None,
    oneline: bool,
    since: str | None,
    until: str | None,
    reflog: bool,
) -> None:
    """Show a commit and those that it was made from, newest first: hash, time, the tags and worktrees that are at it,
    message, and what made it, such as the stop of a container.

    With PATHs, those that changed one of them, or something below it: A where it came, D where it went, M else. A
    renamed file is deleted and added. REF:/PATH and MOUNTPOINT/PATH say both. Without REF it is the worktree that is
    mounted at the current directory.

    A line with '...' tells where commits are not in this store, as 'gc' collected them or nobody pulled them.
    """
    from stratum.api.naming import here

    ref = ref if ref is not None else here(app.session)
    if reflog:
        if paths or since is not None or until is not None:
            raise UsageError("--reflog is about refs, and takes no PATH and no time", hint="leave it out")
        _print_reflog(app, ref, limit)
        return
    from stratum.api.log import Logged, Wanted
    from stratum.api.log import log as run

    note_uncommitted(app, ref)
    entries = run(app.session, ref, paths, Wanted(limit, since, until))
    if app.out.json:
        app.out.object(_json(entries))
        return
    for entry in entries:
        app.out.line(_line(entry, oneline=oneline) if isinstance(entry, Logged) else _gap_line(entry))


def _json(entries: Iterable[Logged | Gap]) -> list[dict[str, Any]]:
    """The commits; 'missing' are those that are not here between it and the next."""
    from stratum.api.log import Gap

    found: list[dict[str, Any]] = []
    for entry in entries:
        if isinstance(entry, Gap):
            if found:
                found[-1]["missing"] += entry.missing
            continue
        more = {"tags": entry.tags, "worktrees": entry.worktrees, "why": entry.why, "change": entry.change}
        found.append({**entry.commit.to_table(), "missing": [], **more})
    return found


def _line(entry: Logged, *, oneline: bool) -> str:
    meta, refs = entry.commit, entry.tags + entry.worktrees
    first_line = (meta.message or "").split("\n", 1)[0]
    columns = [
        short(meta.metadata_hash),
        *([] if oneline else [meta.timestamp]),
        *([_LETTERS[entry.change]] if entry.change is not None else []),
        *([f"({', '.join(refs)})"] if refs else []),
        *([safe(first_line)] if first_line else []),
        *([f"[{safe(entry.why)}]"] if entry.why is not None else []),
    ]
    return "  ".join(columns)


def _gap_line(gap: Gap) -> str:
    where = f"older commits, from {short(gap.missing[0])} on,"
    if not gap.is_last:
        where = "a commit" if len(gap.missing) == 1 else f"{len(gap.missing)} commits"
    is_missing = "is" if where == "a commit" else "are"
    return f"...           {where} {is_missing} not in this store: collected by gc, or never pulled"


def _print_reflog(app: App, ref: str, limit: int | None) -> None:
    from stratum.api.log import reflog as run

    entries = run(app.session, ref, limit)
    if app.out.json:
        app.out.object([{"ref": name, "when": e.when, "old": e.old, "new": e.new, "why": e.why} for name, e in entries])
        return
    for name, entry in entries:
        old, new = (short(c) if c else "-" for c in (entry.old, entry.new))
        app.out.line(f"{_second(entry.when)}  {name}  {old} -> {new}  {safe(entry.why)}")


def _second(when: str) -> str:
    """A time without its milliseconds."""
    return when.partition(".")[0].removesuffix("Z") + "Z"
