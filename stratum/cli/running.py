"""``run`` and ``ps``: containers on strata."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from stratum.cli.app import App, verb
from stratum.cli.output import safe, short
from stratum.errors import UsageError

_VOLUME = re.compile(r"[A-Za-z0-9][^/:]*(:[^/:]*)?:/")
_PORT = re.compile(r"(?:(\d+):)?(\d+)(?:/(tcp|udp|sctp))?")


@verb("run", short_help="Run a container on strata.", context_settings={"allow_interspersed_args": False})
@click.option("-v", "--volume", "volumes", multiple=True, metavar="REF:DEST[:OPTION,...]", help="A stratum at DEST.")
@click.option("--name", help="Name of the container.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended.")
@click.option("-d", "--detach", is_flag=True, help="Print the container's ID and leave it running.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="An environment variable.")
@click.option("-u", "--user", help="User (and group) to run as.")
@click.option("-w", "--workdir", help="Working directory in the container.")
@click.option("-p", "--publish", multiple=True, metavar="[HOSTPORT:]PORT[/PROTOCOL]", help="A port to publish.")
@click.option("--network", help="Network mode: bridge, host, none ...")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(app: App, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Run a container with strata as volumes, and commit its worktrees when it has ended.

    A volume is written as in the annotation, with the same options. -v may stand after the command too; what follows a
    '--' there belongs to the command. The exit code is the container's.
    """
    from stratum.api.running import run as run_container
    from stratum.podman.running import Request

    words, trailing = split_command(command)
    request = Request(
        image=image,
        command=words,
        annotations=_annotations([*options["volumes"], *trailing]),
        stdin=options["interactive"],
        settings=_settings(options),
    )
    done = run_container(
        app.session,
        request,
        detach=options["detach"],
        remove=options["remove"],
        write=_write,
        stdin=sys.stdin.fileno() if options["interactive"] else None,
    )
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

    annotations = {f"{PREFIX}v{number}": volume for number, volume in enumerate(volumes)}
    parse_volumes(annotations)
    return annotations


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options in podman-py's words, left out where they were not given."""
    settings = {
        "name": options["name"],
        "remove": options["detach"] and options["remove"],
        "environment": dict(_variable(text) for text in options["env"]),
        "user": options["user"],
        "working_dir": options["workdir"],
        "ports": dict(_port(text) for text in options["publish"]),
        "network_mode": options["network"],
    }
    return {key: value for key, value in settings.items() if value}


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"{text!a} is not KEY=VALUE")
    return key, value


def _port(text: str) -> tuple[str, int | None]:
    match = _PORT.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!a} is not a port to publish", hint="write [HOSTPORT:]PORT[/tcp|udp|sctp]")
    return f"{match[2]}/{match[3] or 'tcp'}", int(match[1]) if match[1] else None


def _write(stream: int, data: bytes) -> None:
    """The container's own bytes, to the stream that it wrote them to."""
    sys.stdout.flush()
    while data:
        data = data[os.write(2 if stream == 2 else 1, data) :]


@verb("ps", short_help="List the strata that containers hold.")
def ps(app: App) -> None:
    """List the strata that containers hold: where, since when, and how many changed paths are not committed."""
    from stratum.api.running import ps as run_ps

    held = run_ps(app.session)
    if app.out.json:
        app.out.object([{**item.record.to_json(), "changes": item.changes} for item in held])
        return
    app.out.table(
        ("CONTAINER", "REF", "DESTINATION", "ACCESS", "SINCE", "UNCOMMITTED"),
        [
            (
                short(item.record.holder.id),
                item.record.ref,
                safe(item.record.mountpoint),
                "ro" if item.record.read_only else "rw",
                item.record.since,
                "-" if item.changes is None else str(item.changes),
            )
            for item in held
        ],
    )
