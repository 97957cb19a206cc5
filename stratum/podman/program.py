"""What Stratum asks of Podman itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stratum.errors import UnsupportedError, os_error_text
from stratum.sys.userns import owns_system

_HOOKS_DIR = re.compile(r"--hooks-dir .*\(default \[([^\]]*)\]\)")
_RUNTIME = re.compile(r"--runtime .*\(default \"([^\"]*)\"\)")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 30.0
USERS = ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
"""What leads to a user's settings and credentials."""
_INSIDE = "_CONTAINERS_"
"""By variables of such names Podman knows that it is in its user namespace already."""


def hook_directories(environment: Mapping[str, str]) -> list[Path] | None:
    """The directories that the Podman of root, or of the user that ``environment`` is of, reads OCI hooks from, by its
    own account; None where there is no Podman.

    Podman tells its settings in no other way than as the defaults of its options, after reading every containers.conf.
    Raises ``UnsupportedError`` where it cannot be asked.
    """
    if shutil.which("podman") is None:
        return None
    done = _ask("--help", environment=environment)
    found = _HOOKS_DIR.search(done.stdout)
    if done.returncode != 0 or found is None:
        said = done.stderr.strip().rpartition("\n")[2] or "it names no --hooks-dir"
        raise UnsupportedError(f"cannot learn from podman --help where it reads hooks: {said}")
    return [Path(name) for name in found.group(1).split(",") if name]


@dataclass(frozen=True, slots=True)
class Podman:
    """The Podman of this machine: its version and the OCI runtime that it uses by default."""

    version: str
    runtime: str


def describe(environment: Mapping[str, str]) -> Podman:
    """What Podman says about itself. Raises ``UnsupportedError`` where it is missing or does not work."""
    # Not "podman info": that would set up Podman's storage.
    version = re.search(r"version (\S+)", _ask("--version", environment=environment).stdout)
    runtime = _RUNTIME.search(_ask("--help", environment=environment).stdout)
    if version is None or runtime is None:
        raise UnsupportedError("podman --version and --help do not work", hint="mend Podman first: podman info")
    return Podman(version.group(1), runtime.group(1))


def _ask(argument: str, *, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``podman ARGUMENT`` with the configuration of the system, and of the user who is not root, not with what
    else the calling user's environment names."""
    program = shutil.which("podman")
    if program is None:
        raise UnsupportedError("Podman is not installed", hint="install it: apt install podman")
    chosen = {"PATH": _PATH, "LC_ALL": "C"}
    if owns_system():
        chosen["HOME"] = "/root"
    else:
        chosen |= {name: value for name, value in environment.items() if name in USERS or name.startswith(_INSIDE)}
    try:
        return subprocess.run(
            [program, argument], env=chosen, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except OSError as exc:
        raise UnsupportedError(f"cannot run {program}: {os_error_text(exc)}") from None
    except subprocess.TimeoutExpired:
        raise UnsupportedError(f"podman {argument} does not answer within {_PATIENCE:.0f} s") from None
