"""``run`` and ``ps``: containers on strata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, Verb, verb
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import VOLUME
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.residing import Residing
    from stratum.podman.commandline import Line

_VOLUME = re.compile(r"[A-Za-z0-9][^/:]*(:[^/:]*)?:/")
_SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": True, "help_option_names": ["--help"]}


class _PodmanVerb(Verb):
    """A verb with the command line of ``podman run``: Podman says which options there are."""

    def __init__(self, command: Verb) -> None:
        super().__init__(
            command.name,
            callback=command.callback,
            params=command.params,
            help=command.help,
            context_settings=_SETTINGS,
        )
        self.examples = command.examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing or ctx.obj is None or args == ["--help"]:
            return super().parse_args(ctx, args)
        if args == ["-h"]:  # with more words it is the container's host name
            return super().parse_args(ctx, ["--help"])
        from stratum.volumes.running import read_line

        if not args:
            raise _no_image()
        line = read_line(ctx.obj.session, args)
        own = [option for option in line.options if option.name in ("format", "quiet", "help")]
        words = [option.word for option in own if option.name == "format" or option.on]
        left = super().parse_args(ctx, [*dict.fromkeys(words), "--", *line.rest])
        ctx.params["line"] = line
        return left


@verb(
    "run",
    examples=[
        ("A shell with a worktree at /data, committed when it ends", "stratum run --rm -it -v db+dev:/data alpine sh"),
        ("A service that goes on", "stratum run -d --name db -v db:/var/lib/db registry.example.com/db:16"),
    ],
)
@click.option(
    "-v",
    "--volume",
    "volumes",
    multiple=True,
    metavar="SOURCE:DEST[:OPTION,...]",
    type=VOLUME,
    help="A stratum, a directory or a volume of Podman at DEST.",
)
@click.option("--name", help="Name of the container.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended.")
@click.option("-d", "--detach", is_flag=True, help="Print the container's ID and leave it running.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal: with -i, this one.")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="An environment variable.")
@click.option("-u", "--user", help="User (and group) to run as.")
@click.option("-w", "--workdir", help="Working directory in the container.")
@click.option("-p", "--publish", multiple=True, metavar="[HOSTPORT:]PORT[/PROTOCOL]", help="A port to publish.")
@click.option("--network", help="Network mode: bridge, host, none ...")
@click.option("--entrypoint", help="Instead of the image's entry point.")
@click.option("--detach-keys", metavar="KEYS", help="What leaves the terminal, the container going on: ctrl-p,ctrl-q.")
@click.argument("words", metavar="[PODMAN-OPTION]... IMAGE [COMMAND]...", nargs=-1, type=click.UNPROCESSED)
def run(app: App, words: tuple[str, ...], line: Line, **_shown: Any) -> int:
    """Run a container with strata as volumes, and commit its worktrees when it has ended.

    The command line is that of 'podman run', with all options of the Podman that is installed; those below are the most
    used. A volume is a stratum, written as in the annotation, or one of Podman's: what begins with '/' or '.' is a
    directory of the host; NAME+WORKTREE, NAME:TAG and what has a stratum's option is a stratum; NAME alone is that
    which is there, a stratum or a volume of Podman, and an error where both are. -v of a stratum may stand after the
    command too; what follows a '--' there belongs to the command.

    The exit code is the container's. As with 'podman run' it is 125 where Podman fails, 126 where the command cannot be
    run, 127 where it is not there. A worktree is committed at the container's end, also after the detach keys.
    """
    from stratum.volumes.running import run as run_container

    if not words:
        raise _no_image()
    command, trailing = split_command(words[1:])
    done = run_container(app.session, line, [words[0], *command], trailing)
    if done.left:
        name = short(done.container)
        app.out.note(f"container {name} goes on: 'podman attach {name}', and when it has ended 'podman rm {name}'")
        return 0
    if done.exit_code is None:
        app.out.line(done.container)
        return 0
    for released in done.released:
        name = f"{released.name}+{released.worktree}"
        if released.error is not None:
            app.out.warn(f"{name} was not committed: {released.error}")
        elif released.commit is not None:
            app.out.note(f"{name} is committed as {short(released.commit)}")
    return done.exit_code


run = _PodmanVerb(run)


def _no_image() -> UsageError:
    return UsageError("the image is missing", hint="for example 'stratum run --rm -it -v db+dev:/data alpine sh'")


def split_command(command: Sequence[str]) -> tuple[list[str], list[str]]:
    """The container's command, and the volumes that were written after the image."""
    rest: list[str] = []
    volumes: list[str] = []
    words = list(command)
    if words[:1] == ["--"]:
        return words[1:], []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*rest, word, *words], volumes
        if word in ("-v", "--volume") and words and _VOLUME.match(words[0]):
            volumes.append(words.pop(0))
        else:
            rest.append(word)
    return rest, volumes


@verb(
    "ps",
    examples=[
        ("Who holds what", "stratum ps"),
    ],
)
def ps(app: App) -> None:
    """List the strata that containers hold: where, since when, how many changed paths are not committed, and how much
    of what they show is not here yet."""
    from stratum.api.residing import Residings
    from stratum.cli.residing import residing_json
    from stratum.volumes.running import ps as run_ps

    held, residings = run_ps(app.session), Residings(app.session)
    if app.out.json:
        app.out.object(
            [
                {
                    **item.record.to_json(),
                    "changes": item.changes,
                    "residence": residing_json(residings.of(item.record.commit)),
                }
                for item in held
            ]
        )
        return
    app.out.table(
        ("CONTAINER", "REF", "DESTINATION", "ACCESS", "SINCE", "UNCOMMITTED", "UNREAL"),
        [
            (
                short(item.record.holder.id),
                item.record.ref,
                safe(item.record.mountpoint),
                "ro" if item.record.read_only else "rw",
                item.record.since,
                "-" if item.changes is None else str(item.changes),
                _unreal(residings.of(item.record.commit)),
            )
            for item in held
        ],
    )


def _unreal(found: Residing | None) -> str:
    return "-" if found is None else human_size(found.counts.unreal_bytes)
