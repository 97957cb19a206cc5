"""``history``: what happened in a worktree, and whether that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, VerbGroup, verb
from stratum.cli.output import human_size, local_time, safe, short
from stratum.cli.reftype import OP, WORKTREE_OR_PATH
from stratum.cli.watching import off, on

if TYPE_CHECKING:
    from stratum.api.historystatus import HistoryStatus
    from stratum.api.versions import Line

_UNKNOWN = {
    "open": "not closed yet",
    "large": "too large to keep",
    "space": "no space",
    "thinned": "thinned out",
    "unreadable": "could not be read",
}
"""Why nobody knows a version's content."""


@verb(
    "history",
    examples=[
        ("The last things done in a worktree", "stratum history db+dev -n 20"),
        ("All versions of a file", "stratum history db+dev /etc/db.conf"),
        ("What was deleted today", "stratum history db+dev --op delete --since today"),
    ],
)
@click.argument("ref", metavar="NAME[+WORKTREE]|MOUNTPOINT", type=WORKTREE_OR_PATH)
@click.argument("path", metavar="[PATH]", required=False)
@click.option("-n", "--limit", metavar="N", type=click.IntRange(min=1), help="At most N lines.")
@click.option("--since", metavar="WHEN", help="Nothing older: '2h', '14:05', 'yesterday', a date or RFC 3339.")
@click.option("--until", metavar="WHEN", help="Nothing newer.")
@click.option(
    "--op", "ops", metavar="OP", type=OP, multiple=True, help="Only these operations: write, delete, commit, ..."
)
@click.option("--follow-renames", is_flag=True, help="Go on under the name that PATH had before.")
@click.option(
    "--all", "everything", is_flag=True, help="Also directories of which only the time moved, and every base."
)
def listing(
    app: App,
    ref: str,
    path: str | None,
    limit: int | None,
    since: str | None,
    until: str | None,
    ops: tuple[str, ...],
    follow_renames: bool,
    everything: bool,
) -> None:
    """List what was done in a worktree, newest first, of all paths or of PATH and what is below it.

    The first column is the CHANGE: 'stratum restore NAME+WORKTREE PATH CHANGE' brings that version back, 'stratum cat
    NAME+WORKTREE@CHANGE PATH' shows it, and NAME+WORKTREE@CHANGE is a commit for every verb that takes one. A path at
    or below where the worktree is mounted says both, the worktree and PATH.

    Operations are 'create', 'write', 'version' (a content that was replaced again at once), 'mkdir', 'symlink',
    'special', 'link', 'setattr' (owner, mode, times or attributes), 'rename', 'delete'; 'commit'; 'base' (what
    everything above it was done to) and 'gap' (nobody watched). History is kept where 'stratum history on' says so.
    """
    from stratum.api.versions import Wanted, history

    wanted = Wanted(since, until, ops, limit, follow_renames, everything)
    listed = history(app.session, ref, path, wanted)
    if app.out.json:
        app.out.object([line_json(line) for line in listed.lines])
    else:
        app.out.table(
            ("CHANGE", "WHEN", "OP", "SIZE", "BY", "PATH"),
            [_row(line, named=listed.path is not None) for line in listed.lines],
        )
        if not listed.lines:
            app.out.note(f"nothing is recorded of {listed.worktree} that fits" if limit is None else "nothing fits")
    for note in listed.notes:
        app.out.note(note)


history = VerbGroup(listing)
history.add_command(on)
history.add_command(off)


def line_json(line: Line) -> dict[str, Any]:
    """A line for programs."""
    return {
        "change": line.change,
        "when": line.when,
        "op": line.op,
        "path": None if line.path is None else safe(line.path),
        "was": None if line.was is None else safe(line.was),
        "link": None if line.link is None else safe(line.link),
        "size": line.size,
        "unknown": line.unknown,
        "by": line.by,
        "container": line.container,
        "commit": line.commit,
        "why": line.why,
    }


def _row(line: Line, *, named: bool) -> tuple[str, ...]:
    by = safe(line.by or "-") + (f" ({line.container[:12]})" if line.container else "")
    return (
        str(line.change) if line.change is not None else "-",
        local_time(line.when),
        line.op,
        human_size(line.size) if line.size is not None else "-",
        by,
        _what(line, named=named),
    )


def _what(line: Line, *, named: bool) -> str:
    """The last column: the path, or what else the line is about."""
    path, why = safe(line.path or b""), safe(line.why or "")
    if line.op == "commit":
        return f"{short(line.commit or '')} {why}".rstrip()
    if line.op == "base":
        return (
            f"as in {short(line.commit or '')}" if named and line.path else f"{short(line.commit or '')} {why}".rstrip()
        )
    if line.op == "gap":
        return why
    if line.was is not None:
        path = f"{safe(line.was)} -> {path}"
    if line.link is not None:
        path += f" (is {safe(line.link)})"
    if line.unknown is not None:
        path += f" (content not kept: {_UNKNOWN.get(line.unknown, safe(line.unknown))})"
    return path


def status_text(history: HistoryStatus) -> str:
    """How a history is doing, in one line."""
    words = [f"since {local_time(history.since)}" if history.since else "not known"]
    if not history.watched:
        words.append("nobody watches now ('stratum watch' does, or a mount)")
    elif not history.events:
        why = safe(history.why_no_events or "so say the settings (history_events)")
        words.append(f"watched by looking again and again: {why}")
    if history.pending:
        words.append(f"{history.pending} changes pending")
    if history.change:
        words.append(f"last CHANGE {history.change}, {local_time(history.when)}")
    if history.gaps_today:
        words.append(f"{history.gaps_today} {'gap' if history.gaps_today == 1 else 'gaps'} today")
    if history.size is not None:
        log, contents = history.size
        words.append(f"{human_size(contents)} of contents, {human_size(log)} of log")
    if history.open:
        shown = ", ".join(map(safe, history.open[:3])) + (", ..." if len(history.open) > 3 else "")
        words.append(f"open for writing: {shown} (no version until closed or committed)")
    if history.trouble:
        words.append(safe(history.trouble))
    return "; ".join(words)


def status_json(history: HistoryStatus) -> dict[str, Any]:
    """The same for programs."""
    return {
        "since": history.since,
        "change": history.change,
        "when": history.when,
        "watched": history.watched,
        "events": history.events,
        "why_no_events": history.why_no_events,
        "pending": history.pending,
        "open": [safe(path) for path in history.open],
        "trouble": history.trouble,
        "log_bytes": history.size[0] if history.size is not None else None,
        "content_bytes": history.size[1] if history.size is not None else None,
        "gaps_today": history.gaps_today,
    }
