"""``watch``, ``history on`` and ``history off``: histories of worktrees, and the process that keeps them."""

from __future__ import annotations

import os
import select
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.output import human_size, safe
from stratum.cli.reftype import WORKTREE_OR_PATH
from stratum.errors import NotFoundError, StratumError

if TYPE_CHECKING:
    from stratum.sys.packets import Message

_ENDING = 10.0
"""Seconds that somebody who has nothing left to do may take to end."""


@verb(
    "watch",
    examples=[
        ("Bring the histories up to date, as from cron", "stratum watch --once"),
    ],
)
@click.option("--once", is_flag=True, help="Bring the histories up to date, and end.")
@click.option(
    "--restart-worker", is_flag=True, help="Have the code that is installed now take over; nothing is missed."
)
@click.option("--stop", is_flag=True, help="End what runs, with all that was closed by now in the histories.")
def watch(app: App, once: bool, restart_worker: bool, stop: bool) -> None:
    """Watch all worktrees whose history is on ('stratum history on'), until stopped.

    Nobody has to run this: turning a history on starts it, and so does a mount of such a worktree.
    stratum-watch.service runs it, so that it is there from the start of the machine on, and nothing is missed while it
    is started anew. What was started by the way makes room for it. Packages run it with --restart-worker after an
    upgrade.

    --once is for who wants no process all the time, as from cron: the histories then have what is there at that moment,
    but not what was there in between.
    """
    if once + restart_worker + stop > 1:
        raise click.UsageError("--once, --restart-worker and --stop are not for the same time")
    if once:
        _watch_once(app)
    elif restart_worker or stop:
        _tell(app, "restart-worker" if restart_worker else "stop")
    else:
        from stratum.api.watching import become_watcher

        become_watcher(app.session)


def _tell(app: App, op: str) -> None:
    from stratum.history.wire import ask

    runtime_dir, root = app.session.config.runtime_dir, app.session.store.root
    with ExitStack() as opened:
        watching = ask(runtime_dir, root, {"op": "status"}) if op == "stop" else None
        end = _opened_process(opened, watching)
        answer = ask(runtime_dir, root, {"op": op})
        if answer is None:
            raise NotFoundError(f"nobody watches {root} now, so there is nothing to do")
        if end is not None:  # it answers before it has closed all files of the store
            select.select([end], [], [], _ENDING)
    app.out.note(f"process {answer['worker']} took over" if op == "restart-worker" else "it has ended")


def _opened_process(opened: ExitStack, watching: Message | None) -> int | None:
    """A descriptor, which ``opened`` closes, that can be read once who is ``watching`` has ended."""
    with suppress(OSError):  # it has ended already, or is in another PID namespace
        if watching is not None:
            end = os.pidfd_open(watching["pid"])
            opened.callback(os.close, end)
            return end
    return None


def _watch_once(app: App) -> None:
    from stratum.api.watching import watch_once

    done = []
    for item in watch_once(app.session):
        done.append(item)
        if app.out.json:
            continue
        if item.error is not None:
            app.out.warn(f"{item.worktree}: {item.error.message}")
        elif item.change == item.before:
            app.out.line(f"{item.worktree}  nothing new")
        else:
            app.out.line(f"{item.worktree}  {item.change - item.before} records, up to CHANGE {item.change}")
    if app.out.json:
        app.out.object(
            [
                {
                    "worktree": item.worktree,
                    "before": item.before,
                    "change": item.change,
                    "error": None if item.error is None else {"id": item.error.id, "message": item.error.message},
                }
                for item in done
            ]
        )
    failed = [item for item in done if item.error is not None]
    if failed:
        raise StratumError(f"{len(failed)} of {len(done)} histories could not be brought up to date")
    if not done:
        app.out.note("no worktree has its history on; 'stratum history on NAME+WORKTREE' turns one on")


@verb(
    "on",
    short_help="Keep everything that happens in a worktree from now on.",
    examples=[
        ("Keep every version of every file from now on", "stratum history on db+dev"),
        ("But not those of caches", "stratum history on db+dev --exclude '*/cache'"),
    ],
)
@click.argument("target", metavar="NAME[+WORKTREE]|MOUNTPOINT", type=WORKTREE_OR_PATH)
@click.option(
    "--exclude", metavar="PATTERN", multiple=True, help="Keep nothing of paths like '*/node_modules'; may be repeated."
)
@click.option("--max-file", metavar="SIZE", help="Keep no content of larger files; 64M where not given, or none.")
@click.option("--strict", is_flag=True, help="Lose no version, however fast it is replaced: each open waits a little.")
def on(app: App, target: str, exclude: tuple[str, ...], max_file: str | None, strict: bool) -> None:
    """Keep every version of every file in a worktree from now on: 'stratum history' lists them, 'stratum restore'
    brings them back.

    Said again, it changes what is excluded, the largest file and --strict; what is not given is as by default.
    A pattern has * ? and [], of which * stands for slashes too; what is in an excluded directory is excluded with it.
    """
    from stratum.api.watching import history_on
    from stratum.config import parse_bytes

    limit = None if max_file is None else parse_bytes(max_file, "--max-file")
    kept = history_on(app.session, target, exclude=exclude, max_file=limit, strict=strict)
    settings = kept.settings
    if app.out.json:
        app.out.object(
            {
                "worktree": kept.worktree,
                "since": settings.since,
                "exclude": list(map(safe, settings.exclude)),
                "max_file": settings.max_file,
                "strict": settings.strict,
                "was_on": kept.was_on,
                "note": kept.note,
            }
        )
        return
    if kept.note is not None:
        app.out.warn(kept.note)
    already = "is kept, as it was already" if kept.was_on else "is kept from now on"
    app.out.note(f"the history of {kept.worktree} {already}; contents of files up to {human_size(settings.max_file)}")


@verb(
    "off",
    short_help="Keep nothing more of what happens in a worktree.",
    examples=[
        ("Keep nothing more", "stratum history off db+dev"),
    ],
)
@click.argument("target", metavar="NAME[+WORKTREE]|MOUNTPOINT", type=WORKTREE_OR_PATH)
@click.option("--discard", is_flag=True, help="Also throw away all that was kept; it cannot be brought back.")
def off(app: App, target: str, discard: bool) -> None:
    """Keep nothing more of what happens in a worktree. What was kept stays, and can be listed and restored, for as long
    as 'stratum gc' leaves it there.

    With --discard all of it goes, such as what nobody is to see any more; the next 'stratum gc' removes the contents
    that no commit has.
    """
    from stratum.api.watching import history_off

    worktree, was_on = history_off(app.session, target, discard=discard)
    if app.out.json:
        app.out.object({"worktree": worktree, "was_on": was_on, "discarded": discard})
        return
    gone = "; all that was kept is gone" if discard else ""
    app.out.note(f"the history of {worktree} {'is not kept any more' if was_on else 'was not kept'}{gone}")
