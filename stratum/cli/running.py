"""``run`` and ``ps``: containers on strata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import VOLUME
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.residing import Residing

_VOLUME = re.compile(r"[A-Za-z0-9][^/:]*(:[^/:]*)?:/")
_SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@verb(
    "run",
    context_settings=_SETTINGS,
    examples=[
        ("A shell with a worktree at /data, committed when it ends", "stratum run --rm -it -v db+dev:/data alpine sh"),
        ("A service that goes on", "stratum run -d --name db -v db:/var/lib/db registry.example.com/db:16"),
    ],
)
@click.option(
    "-v", "--volume", "volumes", multiple=True, metavar="REF:DEST[:OPTION,...]", type=VOLUME, help="A stratum at DEST."
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
@click.argument("words", metavar="[PODMAN-OPTION]... IMAGE [COMMAND]...", nargs=-1, type=click.UNPROCESSED)
def run(app: App, words: tuple[str, ...], **options: Any) -> int:
    """Run a container with strata as volumes, and commit its worktrees when it has ended.

    A volume is written as in the annotation, with the same options. -v may stand after the command too; what follows a
    '--' there belongs to the command. The exit code is the container's. All other options of 'podman create' can be
    given as --OPTION=VALUE before the image.
    """
    from stratum.podman.containers import Request
    from stratum.volumes.running import run as run_container

    others, image, command = split_options(words)
    command, trailing = split_command(command)
    request = Request(
        command=[image, *command],
        annotations=_annotations([*options["volumes"], *trailing]),
        options=[*_podman_options(options), *others],
        stdin=options["interactive"],
        tty=options["tty"],
    )
    if not options["detach"] and any(word.startswith("--restart") for word in others):
        raise UsageError("a container that is started again and again has no end to wait for", hint="use --detach")
    done = run_container(app.session, request, detach=options["detach"], remove=options["remove"])
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


def split_options(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """(options that only Podman knows, image, what follows it)."""
    count = next((number for number, word in enumerate(words) if not word.startswith("-")), None)
    if count is None:
        raise UsageError("the image is missing", hint="for example 'stratum run --rm -it -v db+dev:/data alpine sh'")
    return list(words[:count]), words[count], list(words[count + 1 :])


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


def _annotations(volumes: list[str]) -> dict[str, str]:
    from stratum.volumes.request import PREFIX, parse_volumes

    annotations = {f"{PREFIX}v{number}": separated(volume) for number, volume in enumerate(volumes)}
    parse_volumes(annotations)
    return annotations


def separated(volume: str) -> str:
    """``volume`` with its options separated by ';': Podman before 5.0 splits annotations at commas."""
    ref, slash, rest = volume.partition(":/")
    destination, colon, options = rest.partition(":")
    return f"{ref}{slash}{destination}{colon}{options.replace(',', ';')}"


def _podman_options(options: dict[str, Any]) -> list[str]:
    """The options that Podman has too, as it wants them."""
    single = [(name, options[name]) for name in ("name", "user", "workdir", "network") if options[name]]
    repeated = [(name, value) for name in ("env", "publish") for value in options[name]]
    return [f"--{name}={value}" for name, value in [*single, *repeated]]


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
