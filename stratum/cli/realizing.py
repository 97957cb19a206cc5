"""``realize`` and ``unrealize``: what is to be here of a stratum, and what need not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.cache import stays_json, stays_lines
from stratum.cli.output import human_size, safe
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import PATH, REF
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.realizing import Realized, Unrealized

_PART = "REF[:/PATH]"


@verb(
    "realize",
    examples=[
        ("Fetch all of a commit", "stratum realize db:v1"),
        ("A directory, for good", "stratum realize db:/etc"),
    ],
)
@click.argument("part", metavar=_PART, type=REF)
@click.option("--wait/--background", "wait", default=True, help="Return when all is here (default), or at once.")
@click.option("--no-keep", is_flag=True, help="Only fetch it: it may go again where room is needed.")
@click.option("--plain-http", is_flag=True, help="Use HTTP without TLS. Loopback addresses need no such permission.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="Trust the certificate authorities in FILE.")
def realize(app: App, part: str, wait: bool, no_keep: bool, plain_http: bool, ca_file: str | None) -> None:
    """Fetch what is not here of a commit, or of a path in it, and keep it here.

    PATH begins with a slash: 'stratum realize app:/data', 'app:v1:/data', 'app+dev:/data'. That it is kept is a rule of
    the stratum for PATH and all below it: it holds for the next commit that is pulled too, whose content there comes
    with the pull, however lazy. 'stratum unrealize' drops content and has a rule say that it need not be here;
    'stratum unrealize --auto' takes a rule away.

    Without --background, all is in the store and synced when the command ends. With it, a process goes on fetching;
    what is read meanwhile is fetched at once as always.
    """
    from stratum.api.realizing import realize as run

    if not wait and (plain_http or ca_file is not None):
        raise UsageError("--background reaches registries by the settings", hint="leave it out, or set them there")
    access = app.session.access(plain_http=plain_http, ca_file=ca_file)
    with progress_bar(app, "fetching") as advance:
        done = run(app.session, part, access=access, keep=not no_keep, wait=wait, progress=advance)
    if app.out.json:
        app.out.object(_realized_json(done))
        return
    for path in done.unreal:
        app.out.note(f"{safe(path)} has a rule of its own, and need not be here")
    if done.process is not None:
        app.out.note(f"process {done.process} fetches it; what it says is in {safe(done.log or '')}")
        return
    kept = ", and stays" if done.rule else ""
    app.out.note(
        f"{safe(str(done.part))} is here{kept}: {done.objects} objects, {human_size(done.size)}; "
        f"fetched {human_size(done.fetched)}"
    )


def _realized_json(done: Realized) -> dict[str, object]:
    return {
        "stratum": done.part.name,
        "commit": done.part.commit,
        "path": safe(done.part.path),
        "objects": done.objects,
        "bytes": done.size,
        "bytes_fetched": done.fetched,
        "kept": done.rule,
        "not_kept_below": [safe(path) for path in done.unreal],
        "process": done.process,
        "log": done.log,
    }


@verb(
    "unrealize",
    examples=[
        ("Drop what can be fetched again", "stratum unrealize db:/media"),
    ],
)
@click.argument("part", metavar=_PART, type=REF)
@click.option("--auto", is_flag=True, help="Drop nothing: take the rule away, and let the cache decide.")
@click.option("--plain-http", is_flag=True, help="Use HTTP without TLS. Loopback addresses need no such permission.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="Trust the certificate authorities in FILE.")
def unrealize(app: App, part: str, auto: bool, plain_http: bool, ca_file: str | None) -> None:
    """Drop content of a commit, or of a path in it, that can be fetched again.

    Names, sizes and all that 'ls' and 'stat' show stay, and what is read comes back. Dropped is only what a place is
    known to have for every commit that needs it, and was seen to have within the last hours; what only this store has
    stays, and so does what a mount shows that could not wait for it. A rule says from now on that content there goes
    before other where room is needed.
    """
    from stratum.api.realizing import let_decide
    from stratum.api.realizing import unrealize as run

    if auto:
        found, changed = let_decide(app.session, part)
        if app.out.json:
            app.out.object({"stratum": found.name, "path": safe(found.path), "rule": "auto", "changed": changed})
        else:
            app.out.note(f"no rule is for {safe(str(found))}" + ("" if changed else ", as before"))
        return
    access = app.session.access(plain_http=plain_http, ca_file=ca_file)
    done = run(app.session, part, access=access)
    if app.out.json:
        app.out.object(_unrealized_json(done))
        return
    for problem in done.evicted.problems:
        app.out.warn(problem)
    for path in done.real:
        app.out.note(f"{safe(path)} has a rule of its own, and stays")
    for line in stays_lines(done.evicted.stays):
        app.out.note(line)
    app.out.note(f"dropped {done.evicted.objects} objects of {safe(str(done.part))}, {human_size(done.evicted.bytes)}")


def _unrealized_json(done: Unrealized) -> dict[str, object]:
    return {
        "stratum": done.part.name,
        "commit": done.part.commit,
        "path": safe(done.part.path),
        "dropped_objects": done.evicted.objects,
        "bytes_freed": done.evicted.bytes,
        "stays": stays_json(done.evicted.stays),
        "kept_below": [safe(path) for path in done.real],
        "problems": done.evicted.problems,
    }
