"""mkcomposefs and composefs-info 1.0.8, the reference for images, dumps and fs-verity digests.

``STRATUM_TEST_MKCOMPOSEFS`` names another mkcomposefs than the one that set-up fetched or PATH has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.capabilities import program

_TIMEOUT = 60


def _mkcomposefs() -> Path:
    chosen = os.environ.get("STRATUM_TEST_MKCOMPOSEFS")
    return Path(chosen) if chosen else program("mkcomposefs")


def _run(*command: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=data, capture_output=True, timeout=_TIMEOUT, check=False)


def image_of_dump(dump: bytes) -> bytes | None:
    """The image that ``mkcomposefs --from-file`` makes, or None where it refuses the dump."""
    result = _run(_mkcomposefs(), "--from-file", "-", "-", data=dump)
    return result.stdout if result.returncode == 0 else None


def refusal_of_dump(dump: bytes) -> str:
    """What ``mkcomposefs --from-file`` says to a dump that it refuses; the empty string where it does not."""
    result = _run(_mkcomposefs(), "--from-file", "-", "-", data=dump)
    return result.stderr.decode() if result.returncode else ""


def image_of_directory(path: Path) -> bytes:
    """The image that mkcomposefs makes of a directory on this machine."""
    result = _run(_mkcomposefs(), path, "-")
    assert result.returncode == 0, result.stderr
    return result.stdout


def dump_of_image(image: Path) -> bytes:
    """What ``composefs-info dump`` prints."""
    result = _run(program("composefs-info"), "dump", image)
    assert result.returncode == 0, result.stderr
    return result.stdout


def verity_digests(paths: list[Path]) -> list[str]:
    """What ``composefs-info measure-file`` prints: a digest in hex for each file."""
    result = _run(program("composefs-info"), "measure-file", *paths)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode().split()
