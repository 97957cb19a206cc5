"""``sync`` and ``merge``: the histories of strata that several hosts share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.output import local_time, safe, short
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import REF
from stratum.errors import UsageError
from stratum.refs import check_name, parse_ref

if TYPE_CHECKING:
    from stratum.api.following import Happened
    from stratum.api.merging import Carried
    from stratum.api.settling import Contest, Merged, Prefer, Side
    from stratum.api.syncing import Met
    from stratum.errors import StratumError
    from stratum.refs import Ref


@verb(
    "sync",
    examples=[
        ("With all peers that may write to db, or that it came from", "stratum sync db"),
        ("With one", "stratum sync db attic"),
        ("With contents that come when they are read", "stratum sync db attic --lazy"),
        ("Commit and sync what is written in a worktree, by itself", "stratum sync --watch db+main"),
    ],
)
@click.argument("ref", metavar="NAME[+WORKTREE]", type=REF)
@click.argument("peers", metavar="[PEER]...", nargs=-1)
@click.option("--lazy", is_flag=True, help="Leave the content of files with the peer until it is read.")
@click.option("--watch", is_flag=True, help="Go on, until stopped: sync when a tag moves, and ask peers.")
@click.option("--tag", metavar="TAG", help="Where commits of WORKTREE go: latest for main, else its name.")
@click.option(
    "--rest", metavar="DURATION", default="10s", show_default=True, help="Commit what was left alone so long."
)
@click.option("--every", metavar="DURATION", default="1h", show_default=True, help="Commit others after this time.")
@click.option("--poll", metavar="DURATION", default="1m", show_default=True, help="Ask peers so often.")
def sync(app: App, ref: str, peers: tuple[str, ...], lazy: bool, watch: bool, tag: str | None, **pace: str) -> None:
    """Make the history of the stratum NAME here and at peers one: tags that moved on one side move on the other, and
    those that moved on both are merged, path by path. It is made where it is not here yet.

    A path that both sides changed in different ways has the version of whoever was later, on all hosts; the other one
    is kept by the tag conflict-HOST-TAG-ID, and listed by 'stratum merge NAME' until somebody settles it. Worktrees
    stay as they are: 'stratum rebase' carries one onto what its tag names then.

    A peer has to be known ('stratum peer'), to listen, and to share NAME, with --write where it is to get what was done
    here. Peers that cannot be reached get there by way of others.

    With --watch and WORKTREE, that is committed at once where a file was removed or renamed, else when its files were
    left alone for a while (--rest), or after some time in any case (--every).
    """
    from stratum.api.syncing import sync as run

    name, worktree = _parts(ref)
    if watch:
        _watch(app, ref, peers, lazy, tag, pace)
        return
    if worktree is not None or tag is not None:
        raise UsageError(
            f"{ref if worktree else '--tag'} is for --watch: a sync is about tags, and leaves worktrees alone",
            hint=f"'stratum sync {name}'; or 'stratum sync --watch {name}+{worktree or 'main'}'",
        )
    met: list[Met] = []
    with progress_bar(app, "syncing") as advance:
        met += run(app.session, name, peers, access=app.session.access(), lazy=lazy, progress=advance)
    _report(app, name, met)
    failed = [each for each in met if each.error is not None]
    if failed and failed[0].error is not None:
        raise failed[0].error


def _parts(text: str) -> tuple[str, str | None]:
    """(stratum, worktree) of NAME or NAME+WORKTREE."""
    ref = parse_ref(text)
    if ref.tag is not None or ref.change is not None or ref.past:
        raise UsageError(f"{text} is one commit; all tags of a stratum are synced", hint=f"'stratum sync {ref.name}'")
    return ref.name, ref.worktree


def _watch(app: App, text: str, peers: tuple[str, ...], lazy: bool, tag: str | None, pace: dict[str, str]) -> None:
    """``--watch``: until SIGTERM or SIGINT."""
    import signal
    import threading

    from stratum.api.following import Pace, follow
    from stratum.api.maintenance import parse_duration

    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # who is in a hurry asks twice

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    seconds = {key: parse_duration(value).total_seconds() for key, value in pace.items()}
    follow(
        app.session,
        parse_ref(text),
        peers,
        access=app.session.access(),
        pace=Pace(**seconds),
        stop=stop,
        tell=partial(_tell, app, parse_ref(text)),
        lazy=lazy,
        tag=check_name(tag, "tag") if tag is not None else None,
    )


def _tell(app: App, ref: Ref, happened: Happened) -> None:
    """What happened while a stratum is followed, a line each."""
    if happened.error is not None:
        app.out.warn(happened.error.message)
    if happened.commit is not None:
        app.out.note(f"committed {ref}: {short(happened.commit)}")
    _tell_tags(app, ref.name, happened.carried, "")
    for each in happened.met:
        _tell_tags(app, ref.name, each.carried, f" by {each.peer}")
        for note in each.notes:
            app.out.note(note)
        if each.error is not None:
            app.out.warn(_of_peer(each.peer, each.error))
        elif each.moves_out:
            app.out.note(f"{each.peer} was sent {_moves(each.moves_out)} and {_commits(each.commits_out)}")
    _tell_conflicts(app, ref.name, happened.conflicts)


def _tell_conflicts(app: App, name: str, count: int) -> None:
    if count:
        paths = "1 path is" if count == 1 else f"{count} paths are"
        app.out.note(f"{paths} in conflict; 'stratum merge {name}' lists them")


def _tell_tags(app: App, name: str, carried: Iterable[Carried], by: str) -> None:
    for each in carried:
        app.out.line(f"{name}:{each.tag} {_shown(each.old)} -> {_shown(each.new)}{by}")


def _report(app: App, name: str, met: list[Met]) -> None:
    """What came of a sync."""
    from stratum.api.settling import conflicts

    found = conflicts(app.session, name) if app.session.store.namespaces.exists(name) else []
    if app.out.json:
        app.out.object({"name": name, "peers": [_as_json(each) for each in met], "conflicts": len(found)})
        return
    for each in met:
        _tell_tags(app, name, each.carried, f" by {each.peer}")
        for note in each.notes:
            app.out.note(note)
        if each.error is not None and len(met) > 1:
            app.out.warn(_of_peer(each.peer, each.error))
        if each.error is None:
            app.out.note(
                f"synced {name} with {each.peer}: {_moves(each.moves_in)} and {_commits(each.commits_in)} came, "
                f"{each.moves_out} and {each.commits_out} went"
            )
    _tell_conflicts(app, name, len(found))


def _of_peer(peer: str, error: StratumError) -> str:
    """An error with whose it is, once."""
    who = f"peer {peer}"
    return error.message if who in error.message.split(":")[0] else f"{who}: {error.message}"


def _moves(count: int) -> str:
    return f"{count} move{'' if count == 1 else 's'}"


def _commits(count: int) -> str:
    return f"{count} commit{'' if count == 1 else 's'}"


def _shown(commit: str | None) -> str:
    return short(commit) if commit is not None else "none"


def _as_json(met: Met) -> dict[str, object]:
    return {
        "peer": met.peer,
        "moves_in": met.moves_in,
        "moves_out": met.moves_out,
        "commits_in": met.commits_in,
        "commits_out": met.commits_out,
        "tags": [{"tag": each.tag, "old": each.old, "new": each.new} for each in met.carried],
        "notes": list(met.notes),
        "error": met.error.message if met.error is not None else None,
    }


@verb(
    "merge",
    examples=[
        ("What is in conflict", "stratum merge db"),
        ("Take this host's version of one path", "stratum merge db:latest /etc/app.conf --ours"),
        ("Keep both of all paths in a directory", "stratum merge db /notes --both"),
    ],
)
@click.argument("ref", metavar="NAME[:TAG]", type=REF)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--ours", is_flag=True, help="Take this host's version; of others' conflicts, the one that is shown.")
@click.option("--theirs", is_flag=True, help="Take the other version.")
@click.option("--both", is_flag=True, help="Keep what is shown, and the other one beside it as PATH.conflict-HOST.")
def merge(app: App, ref: str, paths: tuple[str, ...], ours: bool, theirs: bool, both: bool) -> None:
    """List what is in conflict in the stratum NAME after a sync or, with --ours, --theirs or --both, settle it: at and
    below the PATHs, or all of it.

    The tag gets a new commit then, and what was settled is settled for everybody with whom NAME is synced.
    """
    from stratum.api.settling import conflicts, decide

    name, tag = _named(ref)
    prefer: list[Prefer] = []
    if ours:
        prefer.append("ours")
    if theirs:
        prefer.append("theirs")
    if both:
        prefer.append("both")
    if len(prefer) > 1:
        raise UsageError(
            f"--{prefer[0]} and --{prefer[1]} cannot both be given", hint="say which version a path is to get"
        )
    wanted = [_path(path) for path in paths]
    if prefer:
        _report_merged(app, name, decide(app.session, name, tag, wanted, prefer=prefer[0]))
        return
    found = conflicts(app.session, name, tag, wanted)
    if app.out.json:
        app.out.object({"name": name, "conflicts": [_contest(each) for each in found]})
        return
    rows = [(f"{name}:{each.tag}", safe(each.path), _side(each.shown), _side(each.other), each.kept) for each in found]
    app.out.table(("TAG", "PATH", "SHOWN", "OTHER", "KEPT BY"), rows)
    if not found:
        app.out.note(f"nothing is in conflict in {ref}")


def _report_merged(app: App, name: str, done: Merged) -> None:
    if app.out.json:
        app.out.object(
            {
                "name": name,
                "settled": [_contest(each) for each in done.settled],
                "tags": [{"tag": tag, "old": old, "new": new} for tag, (old, new) in done.tags.items()],
            }
        )
        return
    for tag, (old, new) in done.tags.items():
        if old != new:  # what is shown can be what was taken
            app.out.line(f"{name}:{tag} {_shown(old)} -> {_shown(new)}")
    count = len(done.settled)
    app.out.note(f"settled: {count} path{'' if count == 1 else 's'}; 'stratum sync {name}' tells the others")


def _named(text: str) -> tuple[str, str | None]:
    """(stratum, tag) of NAME or NAME:TAG."""
    ref = parse_ref(text)
    if ref.worktree is not None or ref.change is not None or ref.past:
        raise UsageError(
            f"{text} is no tag: what hosts changed beside each other is in conflict in a tag",
            hint="give NAME or NAME:TAG; 'stratum rebase NAME+WORKTREE REF' carries a worktree onto another commit",
        )
    return ref.name, ref.tag


def _path(text: str) -> bytes:
    path = os.fsencode(text)
    if not path.startswith(b"/") or b"\0" in path:
        raise UsageError(f"{safe(text)} is not a path in a stratum", hint="a path begins with '/', as the list has it")
    return path


def _side(side: Side) -> str:
    return f"{side.host}{' (this host)' if side.own else ''}, {local_time(side.when)}"


def _contest(found: Contest) -> dict[str, object]:
    def side(each: Side) -> dict[str, object]:
        return {"host": each.host, "own": each.own, "commit": each.commit, "time": each.when}

    return {
        "tag": found.tag,
        "path": safe(found.path),
        "shown": side(found.shown),
        "other": side(found.other),
        "kept_by": found.kept,
    }
