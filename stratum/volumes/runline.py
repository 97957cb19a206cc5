"""What ``stratum run`` makes of a command line of ``podman run``: which volumes are strata, and what Podman is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import NotFoundError, UsageError, quoted
from stratum.refs import is_hash
from stratum.volumes.request import PREFIX, has_options_of_ours, parse_volumes

if TYPE_CHECKING:
    from stratum.podman.commandline import Line, Option
    from stratum.podman.containers import Containers, Request

_OURS = ("volume", "detach", "rm", "interactive", "tty", "detach-keys", "sig-proxy", "attach", "format")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A container to run; ``detach`` leaves it running, ``remove`` removes it when it has ended."""

    request: Request
    detach: bool
    remove: bool


def wanted_of(
    session: Session, podman: Containers, line: Line, command: Sequence[str], strata: Sequence[str]
) -> Wanted:
    """The container of a command line whose image and command are ``command``; ``strata`` are volumes of it beyond
    those in its options.

    Raises ``UsageError`` for what is outside the grammar of either, for options of ``podman run`` that Stratum cannot
    have, and for a volume that is a stratum and a volume of Podman; ``NotFoundError`` for one that is neither.
    """
    from stratum.podman.containers import Request

    flags = dict.fromkeys(("detach", "rm", "interactive", "tty"), False)
    keys = None
    for option in line.options:
        if option.name in flags:
            flags[option.name] = option.on
        elif option.name == "detach-keys":
            keys = option.value
    _check(line.options, flags["detach"])
    ours, theirs = sort_volumes(
        session, podman, [given.value or "" for given in line.options if given.name == "volume"]
    )
    annotations = {f"{PREFIX}v{number}": separated(text) for number, text in enumerate([*ours, *strata])}
    parse_volumes(annotations)
    request = Request(
        command=command,
        annotations=annotations,
        options=[
            *(f"--volume={text}" for text in theirs),
            *(option.word for option in line.options if option.name not in _OURS),
        ],
        stdin=flags["interactive"],
        tty=flags["tty"],
        detach_keys=keys,
    )
    return Wanted(request, flags["detach"], flags["rm"])


def separated(volume: str) -> str:
    """``volume`` with its options separated by ';': Podman before 5.0 splits annotations at commas."""
    ref, slash, rest = volume.partition(":/")
    destination, colon, options = rest.partition(":")
    return f"{ref}{slash}{destination}{colon}{options.replace(',', ';')}"


def sort_volumes(session: Session, podman: Containers, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Values of ``--volume``: (those that are strata, those that are Podman's).

    What begins with '/' or '.' is Podman's: a path of the host, or the destination of a volume without a name. A
    stratum is what is written as only a stratum can be: with a worktree, a tag or an option of ours. A bare NAME is
    what there is of that name. Raises as ``wanted_of``.
    """
    ours: list[str] = []
    theirs: list[str] = []
    for text in texts:
        source, _, rest = text.partition(":")
        if not text or text.startswith(("/", ".")):
            theirs.append(text)
        elif "+" in source or not rest.startswith("/") or is_hash(source) or has_options_of_ours(text):
            ours.append(text)
        else:
            (ours if _is_stratum(session, podman, source, rest) else theirs).append(text)
    return ours, theirs


def _is_stratum(session: Session, podman: Containers, name: str, rest: str) -> bool:
    stratum = session.create_store().namespaces.exists_name(name)
    volume = podman.has_volume(name)
    destination = rest.partition(":")[0]
    if stratum and volume:
        raise UsageError(
            f"{name} is a stratum, and Podman has a volume {name} too",
            hint=f"write {name}+main:{destination} for the stratum, or "
            f"--mount=type=volume,source={name},destination={destination} for Podman's volume",
        )
    if not stratum and not volume:
        raise NotFoundError(
            f"there is no stratum {quoted(name)[1:-1]}, and Podman has no volume of that name",
            hint=f"for a directory write ./{name}, for a new stratum add ':create', "
            f"for a new volume of Podman: podman volume create {name}",
        )
    return stratum


def _check(options: Sequence[Option], detach: bool) -> None:
    for option in options:
        if option.name == "sig-proxy" and not option.on:
            raise UsageError(
                "the container gets the signals of 'stratum run': without them nobody would wait for its end",
                hint="use --detach, and 'podman wait'",
            )
        if option.name == "attach":
            raise UsageError(
                "'stratum run' attaches all streams", hint="redirect what you do not want, or use --detach"
            )
        if option.name == "restart" and option.value != "no" and not detach:
            raise UsageError("a container that is started again and again has no end to wait for", hint="use --detach")
