"""The namespace that rootless Podman keeps for a user: what is mounted there is what ``podman run -v`` can bind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from stratum.rootless.found import Found, find
from stratum.sys.smallfile import read_regular
from stratum.sys.userns import outer_uid

_COMMANDS = (b"catatonit", b"podman", b"podman pause")
_START_SECONDS = 30
_MAX_RECORD = 64


def podmans(environment: Mapping[str, str]) -> Found | None:
    """The namespaces of Podman's pause process; None where none of this user's runs."""
    return next((found for pid in pause_processes(environment) if (found := find(pid)) is not None), None)


def pause_processes(environment: Mapping[str, str]) -> Iterator[int]:
    """The processes that keep Podman's namespaces for this user, also for who is in there: one, mostly.

    Podman's record of it may be stale, and the number be another process's by now.
    """
    for path in _records(environment):
        with suppress(OSError, ValueError):
            status, data = read_regular(path, _MAX_RECORD)
            pid = int(data)
            if status.st_uid == os.geteuid() and pid > 1 and _command(pid) in _COMMANDS:
                yield pid


def _records(environment: Mapping[str, str]) -> list[Path]:
    """Where Podman may have written down its pause process: also where a login has it that this is none of."""
    user = outer_uid()
    directories = [environment.get("XDG_RUNTIME_DIR"), f"/run/user/{user}", f"/tmp/podman-run-{user}"]  # noqa: S108
    return [Path(directory, "libpod/tmp/pause.pid") for directory in directories if directory]


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/comm", "rb") as file:
        return file.read(32).strip()


def start_podmans(environment: Mapping[str, str]) -> None:
    """Have Podman make its namespace, where there is Podman and it can; that takes it some tenths of a second."""
    import shutil
    import subprocess

    program = shutil.which("podman", path=environment.get("PATH"))
    if program is None:
        return
    env = dict(environment)
    if not _is_own(env.get("XDG_RUNTIME_DIR", "")):  # Podman would end with an error, and does without it
        env.pop("XDG_RUNTIME_DIR", None)
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [program, "unshare", "true"],
            check=False,
            cwd="/",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_START_SECONDS,
        )


def _is_own(directory: str) -> bool:
    try:
        return os.stat(directory).st_uid == os.geteuid()
    except OSError:
        return False
