"""The namespace that rootless Podman keeps for a user: what is mounted there is what ``podman run -v`` can bind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from stratum.rootless.found import Found, find
from stratum.sys.smallfile import read_regular

_COMMANDS = (b"catatonit", b"podman", b"podman pause")
_START_SECONDS = 30
_MAX_RECORD = 64
_SHOWN = 200


def podmans(environment: Mapping[str, str]) -> Found | None:
    """The namespaces of Podman's pause process; None where none of this user's runs.

    Podman's record of it may be stale, and the number be another process's by now.
    """
    with suppress(OSError, ValueError):
        status, data = read_regular(_record(environment), _MAX_RECORD)
        pid = int(data)
        if status.st_uid == os.geteuid() and pid > 1 and _command(pid) in _COMMANDS:
            return find(pid)
    return None


def _record(environment: Mapping[str, str]) -> Path:
    """Where Podman writes down its pause process."""
    user = os.geteuid()
    for directory in (environment.get("XDG_RUNTIME_DIR"), f"/run/user/{user}"):
        if directory and os.path.isdir(directory):
            return Path(directory, "libpod/tmp/pause.pid")
    return Path(f"/tmp/podman-run-{user}/libpod/tmp/pause.pid")  # noqa: S108  (Podman's choice; the owner is checked)


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/comm", "rb") as file:
        return file.read(32).strip()


def start_podmans(environment: Mapping[str, str]) -> str | None:
    """Have Podman make its namespace, which takes it some tenths of a second; why it did not, or None."""
    import shutil
    import subprocess

    program = shutil.which("podman", path=environment.get("PATH"))
    if program is None:
        return "Podman is not installed"
    try:
        done = subprocess.run(
            [program, "unshare", "true"],
            check=False,
            cwd="/",
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"'podman unshare' does not end within {_START_SECONDS} s"
    except OSError as exc:
        return f"{program}: {exc.strerror}"
    if done.returncode == 0:
        return None
    return f"'podman unshare' fails: {done.stderr.strip().rpartition(chr(10))[2][:_SHOWN] or done.returncode}"
