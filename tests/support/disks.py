"""Small file systems in files: to be filled up, cut off, remounted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def disk(image: Path, mountpoint: Path, *, size: int = 64 << 20, inodes: int = 16384) -> Iterator[Path]:
    """A new ext4 in the file ``image``, mounted at ``mountpoint`` for the block."""
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-N", str(inodes), "-m", "0", image], check=True)
    with mounted(image, mountpoint) as path:
        yield path


SHARING = {"xfs": 300 << 20, "btrfs": 120 << 20}
"""Kinds of file systems whose files can share blocks, and the fewest bytes that such a one has."""


def kinds_here() -> list[str]:
    """The kinds of file systems that this machine can make: ext4, and of ``SHARING`` those whose programs are there."""
    return ["ext4", *(kind for kind in SHARING if shutil.which(f"mkfs.{kind}") is not None)]


@contextmanager
def disk_of(kind: str, image: Path, mountpoint: Path) -> Iterator[Path]:
    """A new file system of a kind of ``kinds_here`` in the file ``image``, mounted at ``mountpoint`` for the block."""
    if kind == "ext4":
        with disk(image, mountpoint) as path:
            yield path
        return
    with image.open("wb") as file:
        file.truncate(SHARING[kind])
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    with mounted(image, mountpoint) as path:
        yield path


@contextmanager
def mounted(image: Path, mountpoint: Path) -> Iterator[Path]:
    """The file system in ``image``, mounted at ``mountpoint`` for the block."""
    mountpoint.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, mountpoint], check=True)
    try:
        yield mountpoint
    finally:
        if mountpoint.is_mount():  # the session's clean-up may have been here first
            subprocess.run(["umount", mountpoint], check=True)


def fill(path: Path) -> Path:
    """Use up all space below ``path``; the file that does."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            with suppress(OSError):
                file.write(bytes(size))
                continue
            size //= 2
    return filler


def use_up_inodes(path: Path) -> Path:
    """Make files below ``path`` until no more can be made; their directory."""
    directory = path / "fillers"
    directory.mkdir()
    with suppress(OSError):
        for number in range(1 << 20):
            (directory / str(number)).touch()
    return directory


def stopped_copy(image: Path, copy: Path, pids: list[int]) -> None:
    """Copy a disk as it is at one moment, with who writes to it stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(50):
            shutil.copyfile(image, copy)
            if subprocess.run(["cmp", "-s", image, copy], check=False).returncode == 0:
                return
        raise AssertionError("the disk never holds still")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
