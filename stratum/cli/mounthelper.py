"""``mount.stratum``: what mount(8) calls for the type ``stratum``, on the command line and for lines of fstab(5).

::

    mount.stratum SPEC DIR [-sfnv] [-o OPTIONS]
    NAME+WORKTREE  /srv/data  stratum  defaults  0 0

SPEC is a ref; DIR is there already. mount(8) hands over its own options too: those that are for other programs are
passed over, those that every mount of Stratum has are taken, and one that would have no effect is an error, unless
``-s`` asks for sloppiness. Exit codes are those of mount(8): 0 done, 1 usage or permission, 2 system error, 32 failed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from stratum.errors import StratumError, UsageError, os_error_text
from stratum.frozen import field, frozen
from stratum.sys.ending import end
from stratum.sys.mountapi import MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC

if TYPE_CHECKING:
    from stratum.api.session import Session

USAGE, SYSTEM, FAILED = 1, 2, 32

_USAGE = "mount.stratum REF DIR [-sfnv] [-o OPTIONS]; it is for mount(8): mount -t stratum REF DIR"
_PASSED_OVER = {
    "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "noowner", "group",
    "nogroup", "rw", "nosuid", "nodev", "exec", "atime", "diratime", "relatime", "async", "silent", "loud",
}  # fmt: skip
"""For other programs, or what mounts of Stratum are like anyway."""
_PASSED_OVER_PREFIXES = ("x-", "X-", "comment=", "user=", "uhelper=", "helper=")
_ATTRIBUTES = {"noexec": MOUNT_ATTR_NOEXEC, "noatime": MOUNT_ATTR_NOATIME, "nodiratime": MOUNT_ATTR_NODIRATIME}
_UNDONE_BY = {"exec": "noexec", "atime": "noatime", "diratime": "nodiratime", "relatime": "noatime"}
_SETTINGS = ("store", "runtime_dir")


@frozen
class Request:
    """What mount(8) wants: the ref ``spec`` at ``directory``; ``settings`` are those of the configuration."""

    spec: str
    directory: str
    read_only: bool = False
    attributes: int = 0
    fake: bool = False
    verbose: bool = False
    settings: dict[str, str] = field(default_factory=dict)


def main() -> NoReturn:
    """Run the helper."""
    end(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Mount as ``arguments`` say; the exit code. Errors are one line on stderr, and one for the hint."""
    try:
        request = parse(arguments)
        _mount(request)
    except StratumError as exc:
        _say(exc.message, exc.hint)
        denied = exc.id == "unsupported" and os.geteuid() != 0
        return USAGE if denied or isinstance(exc, UsageError) else FAILED
    except (OSError, MemoryError) as exc:
        _say(os_error_text(exc) if isinstance(exc, OSError) else "out of memory")
        return SYSTEM
    return 0


def _mount(request: Request) -> None:
    from pathlib import Path

    from stratum.api.bootmounts import mounted_there
    from stratum.api.mounting import mount
    from stratum.api.session import Session
    from stratum.config import load_config
    from stratum.mount.host import canonical_mountpoint

    session: Session = Session(load_config(None, **request.settings))
    session.tell = _say
    place = canonical_mountpoint(Path(request.directory))
    # 'mount -a' cannot tell by itself, as the kernel does not show the ref as the source.
    if mounted_there(session, request.spec, place, read_only=request.read_only) is not None:
        if request.verbose:
            _say(f"{request.spec} is mounted at {place} already")
        return
    if request.fake:
        from stratum.refs import parse_ref

        session.store.resolve_mountable(parse_ref(request.spec))
        return
    mount(
        session, request.spec, request.directory, read_only=request.read_only, make=False, attributes=request.attributes
    )
    if request.verbose:
        _say(f"{request.spec} is mounted at {place}")


def parse(arguments: list[str]) -> Request:
    """The request in the arguments of the helper. Raises ``UsageError``."""
    try:
        with _COMMAND.make_context("mount.stratum", list(arguments)) as context:
            given = context.params
    except click.UsageError as exc:
        raise UsageError(exc.format_message().removesuffix("."), hint=_USAGE) from None
    if given["namespace"] is not None:
        raise UsageError("a mount in another namespace is not possible", hint="enter it first: nsenter")
    request = Request(given["spec"], given["directory"], fake=given["fake"], verbose=given["verbose"])
    return _with_options(request, ",".join(given["options"]), sloppy=given["sloppy"])


_COMMAND = click.Command(
    "mount.stratum",
    params=[
        click.Argument(["spec"]),
        click.Argument(["directory"]),
        *(click.Option([f"-{name[0]}", name], is_flag=True) for name in ("sloppy", "fake", "verbose")),
        click.Option(["-n", "no_mtab"], is_flag=True),
        click.Option(["-o", "options"], multiple=True),
        click.Option(["-t", "kind"]),
        click.Option(["-N", "namespace"]),
    ],
    add_help_option=False,
)


def _with_options(request: Request, text: str, *, sloppy: bool) -> Request:
    """``request`` with the options of ``-o``; of two that contradict each other the later one counts."""
    from stratum.frozen import replace

    read_only = False
    attributes: set[str] = set()
    settings = {}
    for option in filter(None, text.split(",")):
        key, equals, value = option.partition("=")
        if equals and key in _SETTINGS and value:
            settings[key] = value
        elif option in _ATTRIBUTES:
            attributes.add(option)
        elif option in _PASSED_OVER or option.startswith(_PASSED_OVER_PREFIXES):
            attributes.discard(_UNDONE_BY.get(option, ""))
        elif option != "ro" and not sloppy:
            raise UsageError(
                f"{_printable(option)} is not an option of a stratum mount",
                hint=f"options: ro, rw, {', '.join(_ATTRIBUTES)}, {', '.join(f'{name}=DIR' for name in _SETTINGS)}",
            )
        if option in ("ro", "rw"):
            read_only = option == "ro"
    bits = 0
    for name in attributes:
        bits |= _ATTRIBUTES[name]
    return replace(request, read_only=read_only, attributes=bits, settings=settings)


def _say(*lines: str) -> None:
    for line in filter(None, lines):
        sys.stderr.write(f"mount.stratum: {_printable(line)}\n")


def _printable(text: str) -> str:
    from stratum.cli.output import safe_lines

    return safe_lines(text).replace("\n", " ")
