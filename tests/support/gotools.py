"""Programs that come as Go modules, built once into ``.cache/gotools`` of the checkout.

They are other people's readers of what the project writes, and need the Go toolchain. CI's machine has it, so there a
missing one is a failure; elsewhere the tests that need it say that they did not run.

Set-up builds all of them beside its other work (``python -m tests.support.gotools``), a test the one that it needs and
that is not there. Go's own caches are used, with names that do not depend on the checkout: what was compiled for
another one is not compiled again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.capabilities import CHECKOUT

PLACE = CHECKOUT / ".cache" / "gotools"
BUILD_TIMEOUT = 900

PROGRAMS = {
    "csi-sanity": ("github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", "v5.6.0"),
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
    "kustomize": ("sigs.k8s.io/kustomize/kustomize/v5", "v5.7.1"),
    "versitygw": ("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
}
"""Name -> the Go package, and its version."""


class BuildError(Exception):
    """A program could not be built; what Go said of it."""


def go_program(name: str) -> Path:
    """The program of that name, built where it is not there yet."""
    program = _place(name)
    if program.exists():
        return program
    go = _toolchain()
    if go is None:
        reason = f"{program.name} is not built: there is no Go toolchain (go) on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    try:
        _build(go, name)
    except BuildError as exc:
        pytest.fail(str(exc), pytrace=False)
    return program


def _place(name: str) -> Path:
    return PLACE / f"{name}-{PROGRAMS[name][1]}"


def _toolchain() -> str | None:
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


@contextmanager
def _building() -> Iterator[None]:
    """Held by one of the processes of the suite at a time: two of them may want the same program."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(go: str, name: str) -> None:
    """Build a program that is not there when nobody else builds any more. Raises ``BuildError``."""
    program, target = _place(name), PLACE / "build" / name
    with _building():
        if program.exists():
            return
        package = "@".join(PROGRAMS[name])
        # No paths of this checkout, nothing for debuggers, nothing made faster than it need be: all that costs time.
        environment = {**os.environ, "GOBIN": str(target), "GOFLAGS": "-trimpath"}
        command = [go, "install", "-gcflags=all=-N -l", "-ldflags=-s -w", package]
        try:
            subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=True)
        except subprocess.CalledProcessError as exc:
            raise BuildError(f"{package} could not be built:\n{exc.stderr[-2000:]}") from exc
        except subprocess.TimeoutExpired as exc:
            raise BuildError(f"{package} could not be built in {BUILD_TIMEOUT} s") from exc
        (built,) = target.iterdir()
        built.rename(program)


def main() -> int:
    """Build what is missing, where there is a toolchain; the exit status."""
    go = _toolchain()
    missing = [name for name in PROGRAMS if not _place(name).exists()]
    if go is None or not missing:
        return 0
    print(f"setup: {' '.join(missing)} from Go modules into .cache/gotools", flush=True)
    try:
        for name in missing:
            _build(go, name)
    except BuildError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
