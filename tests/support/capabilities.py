"""What a test may need of the machine. What is missing is a failure that says how to get it, never a skip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ORACLES = CHECKOUT / ".cache" / "oracles" / "bin"
CAP_SYS_ADMIN = 21


def program(name: str) -> Path:
    """The program ``name``: one that set-up fetched for comparison, else one on PATH. Fails the test without it."""
    fetched = ORACLES / name
    if fetched.exists():
        return fetched
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not on this machine: run 'make setup-test' as root", pytrace=False)
    return Path(found)


@cache
def missing_root() -> str | None:
    """Why this process cannot mount, or None."""
    if os.geteuid() != 0:
        return "this test needs root: run 'make test' as root, or 'make quick' for what runs without"
    status = Path("/proc/self/status").read_text("utf-8")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    if not effective >> CAP_SYS_ADMIN & 1:
        return "this test needs CAP_SYS_ADMIN: root in an unprivileged container cannot mount"
    return None


def _missing_programs(*names: str) -> Callable[[], str | None]:
    @cache
    def missing() -> str | None:
        absent = [name for name in names if not (ORACLES / name).exists() and shutil.which(name) is None]
        return f"this test needs {', '.join(absent)}: run 'make setup-test' as root" if absent else None

    return missing


NEEDS: dict[str, Callable[[], str | None]] = {
    "root": missing_root,
    "podman": _missing_programs("podman", "runc", "busybox"),
    "registry": _missing_programs("docker-registry"),
    "oracle": _missing_programs("mkcomposefs", "composefs-info"),
}
"""Marker -> the reason why this machine cannot run tests that have it, or None."""


def require(item: pytest.Item) -> None:
    """Fail ``item`` with one line where the machine lacks what its markers ask for."""
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) is not None and (reason := missing()) is not None:
            pytest.fail(reason, pytrace=False)
