"""The Podman service that a command starts for itself, and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.podman]
CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534

PROGRAM = """
import os, sys
from pathlib import Path
from stratum.podman.service import _private_service
import podman
os.setgid(65534)
os.setgroups([])
os.setuid(65534)
home = sys.argv[1]
environment = {"HOME": home, "XDG_RUNTIME_DIR": f"{home}/run", "PATH": os.environ["PATH"]}
with _private_service(Path(home) / "run" / "stratum", environment) as url:
    print(url, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


def processes_with(text: str) -> list[int]:
    """The processes whose command line has ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if text in line:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("how", ["done", "killed"])
def test_nothing_is_left_of_one_that_runs_without_root(how: str) -> None:
    """Podman starts itself again in a user namespace there; both processes end."""
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/run")
        for path in (home, f"{home}/run"):
            os.chown(path, NOBODY, NOBODY)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, home, how], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert done.returncode == (0 if how == "done" else -9), done.stderr
        socket = done.stdout.strip().removeprefix("unix://")
        assert socket.startswith(home)
        until = time.monotonic() + 30
        while processes_with(socket):
            assert time.monotonic() < until
            time.sleep(0.05)
        for pid in processes_with(home):
            os.kill(pid, 9)
