"""Programs that come as Go modules, built once into ``.cache/gotools`` of the checkout.

They are other people's readers of what the project writes, and need the Go toolchain. CI's machine has it, so there a
missing one is a failure; elsewhere the tests that need it say that they did not run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.capabilities import CHECKOUT

PLACE = CHECKOUT / ".cache" / "gotools"
BUILD_TIMEOUT = 900


def go_program(package: str, version: str, *, name: str | None = None) -> Path:
    """The program of a Go package in one version, built where it is not there yet. ``name`` is the package's."""
    name = name or package.rpartition("/")[2]
    program = PLACE / f"{name}-{version}"
    if program.exists():
        return program
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        reason = f"{name} {version} is not built: there is no Go toolchain (go) on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with _building():
        if not program.exists():
            _build(go, f"{package}@{version}", program)
    return program


@contextmanager
def _building() -> Iterator[None]:
    """Held by one of the processes of the suite at a time: two of them may want the same program."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(go: str, package: str, program: Path) -> None:
    target = PLACE / "build" / program.name
    environment = {**os.environ, "GOBIN": str(target), "GOPATH": str(PLACE / "path"), "GOFLAGS": "-modcacherw"}
    built = subprocess.run(
        [go, "install", package],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    if built.returncode != 0:
        pytest.fail(f"{package} could not be built:\n{built.stderr[-2000:]}", pytrace=False)
    (built_program,) = target.iterdir()
    built_program.rename(program)
