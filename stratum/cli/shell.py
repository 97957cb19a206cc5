"""``shell`` and ``unshare``: programs where a user's mounts are."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import click

from stratum.cli.app import App, verb
from stratum.cli.output import safe
from stratum.cli.reftype import REF
from stratum.errors import NotFoundError, StratumError, UsageError, os_error_text, quoted

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

    from stratum.mount.state import Record

_NOT_RUNNABLE, _NOT_THERE = 126, 127
_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (signal.SIGHUP, signal.SIGTERM)


@verb(
    "shell",
    examples=[
        ("A shell in the worktree 'main' of app", "stratum shell app"),
        ("Two strata at once", "stratum shell app+dev tools:v2"),
        ("A shell that sees all mounts of the user", "stratum shell"),
    ],
)
@click.argument("refs", metavar="[REF]...", nargs=-1, type=REF)
def shell(app: App, refs: tuple[str, ...]) -> int:
    """Start a shell where the mounts are to be seen, in the first REF.

    Each REF is mounted as by 'stratum mount', where it is not mounted already; what the shell was started with is
    unmounted when it ends, what was mounted before stays. The paths of all of them are printed first. The shell is
    $SHELL, and how it ends is how the command ends.

    What an ordinary user mounts is seen in that user's session namespace only: by this shell, by what 'stratum unshare'
    runs, and by 'podman run -v'. There the user has the ID 0, as in the user's containers.
    """
    session = app.session
    shown, made = _mounted(app, refs)
    for ref, record in shown:
        app.out.note(f"{ref} is at {safe(record.mountpoint)}")
    try:
        program = session.config.environment.get("SHELL") or "/bin/sh"
        return _run([program], session.config.environment, shown[0][1].mountpoint if shown else None)
    finally:
        _unmount(app, made)


def _mounted(app: App, refs: Sequence[str]) -> tuple[list[tuple[str, Record]], list[Record]]:
    """Each ref with its mount, and of these the mounts that were made; all of them or none."""
    from stratum.api.mounting import find_mounts, mount

    shown, made = [], []
    try:
        for ref in refs:
            there: list[Record] = []
            with suppress(NotFoundError):  # mounting may make it
                there = find_mounts(app.session, ref)
            if not there:
                there = [mount(app.session, ref)]
                made += there
            shown.append((ref, there[0]))
    except BaseException:
        _unmount(app, made)
        raise
    return shown, made


def _unmount(app: App, made: Sequence[Record]) -> None:
    from stratum.api.mounting import unmount

    def unmount_one(record: Record) -> None:
        try:
            unmount(app.session, record.mountpoint, warn=app.out.warn)
        except StratumError as exc:
            app.out.warn(f"{record.ref} stays mounted at {safe(record.mountpoint)}: {exc.message}")

    for record in reversed(made):
        unmount_one(record)


def _run(argv: list[str], environment: Mapping[str, str], directory: str | None) -> int:
    """Run a program that has the terminal, to its end; how it ended, as a shell says it."""
    import subprocess

    started: list[subprocess.Popen[bytes]] = []

    def handle(number: int, _: object) -> None:
        """Those of the terminal reach the program too; others are passed on. Neither ends this process before it."""
        if number in _PASSED_ON:
            for process in started:
                process.send_signal(number)

    before = {number: signal.getsignal(number) for number in (*_OF_TERMINAL, *_PASSED_ON)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # what this process ignores, the program ignores as well
                signal.signal(number, handle)
        process = subprocess.Popen(argv, env=environment, cwd=directory)
        started.append(process)
        code = process.wait()
    except OSError as exc:
        raise UsageError(f"cannot run {safe(argv[0])}: {os_error_text(exc)}", hint="set SHELL to another") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


@verb(
    "unshare",
    examples=[
        ("List what is in a mount", "stratum unshare -- ls /srv/app"),
        ("Remove a directory whose files a container's users own", "stratum unshare -- rm -r old"),
    ],
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
@click.argument("command", metavar="-- COMMAND [ARG]...", nargs=-1, required=True, type=click.UNPROCESSED)
def unshare(app: App, command: tuple[str, ...]) -> NoReturn:
    """Run a command where the mounts of an ordinary user are to be seen.

    That is the user's session namespace, which is Podman's where there is Podman: the user has the ID 0 there, and the
    user's subordinate IDs are 1 and up, as in containers. It is made where there is none yet, and stays. For root,
    whose mounts everybody sees, the command just runs.

    The command takes the place of this one: its exit code and what signals it gets are its own. 127 where it is not
    there, 126 where it cannot be run.
    """
    environment = app.enter().environment
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which the interpreter ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, dict(environment))  # noqa: S606  (no shell is wanted)
    except (OSError, ValueError) as exc:  # ValueError: an empty word, or one with a NUL
        why = os_error_text(exc) if isinstance(exc, OSError) else "that is no name of a program"
        failed = StratumError(f"cannot run {quoted(command[0])}: {why}")
        failed.exit_code = _NOT_THERE if isinstance(exc, FileNotFoundError) else _NOT_RUNNABLE
        raise failed from None
