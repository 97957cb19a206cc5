"""What Stratum asks of Podman itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from stratum.errors import UnsupportedError, os_error_text

_HOOKS_DIR = re.compile(r"--hooks-dir .*\(default \[([^\]]*)\]\)")
_PATIENCE = 30.0


def hook_directories() -> list[Path] | None:
    """The directories that root's Podman reads OCI hooks from, by its own account; None where there is no Podman.

    Podman tells its settings in no other way than as the defaults of its options, after reading every containers.conf.
    Raises ``UnsupportedError`` where it cannot be asked.
    """
    program = shutil.which("podman")
    if program is None:
        return None
    # Only the system's configuration counts, not what the calling user's environment names.
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            [program, "--help"], env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except OSError as exc:
        raise UnsupportedError(f"cannot run {program}: {os_error_text(exc)}") from None
    except subprocess.TimeoutExpired:
        raise UnsupportedError(f"{program} --help does not answer within {_PATIENCE:.0f} s") from None
    found = _HOOKS_DIR.search(done.stdout)
    if done.returncode != 0 or found is None:
        said = done.stderr.strip().rpartition("\n")[2] or "it names no --hooks-dir"
        raise UnsupportedError(f"cannot learn from podman --help where it reads hooks: {said}")
    return [Path(name) for name in found.group(1).split(",") if name]
