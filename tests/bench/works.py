"""The trees that the benchmark works on, the same from the same numbers on every machine."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

POOL = 8 << 20
"""Bytes of text that file contents are cut from: it compresses about as program files and documentation do."""


def small_files(root: Path, count: int, *, seed: int = 1, distinct: int | None = None) -> None:
    """``count`` files of 10 KB on average, nine to a directory, four levels deep.

    With ``distinct`` there are only so many different contents.
    """
    rng = random.Random(seed)
    pool = text(rng)
    pieces = [piece(rng) for _ in range(distinct)] if distinct else None
    for number in range(count):
        directory = (
            root / f"{number // 6561:02d}" / f"{number // 729 % 9}" / f"{number // 81 % 9}-part" / f"{number // 9 % 9}"
        )
        if number % 9 == 0:
            directory.mkdir(parents=True)
        start, size = rng.choice(pieces) if pieces else piece(rng)
        (directory / f"file-{number:07d}.txt").write_bytes(
            pool[start : start + size] + (b"" if pieces else b"%d" % number)
        )


def piece(rng: random.Random) -> tuple[int, int]:
    """(start, size) of a cut from the pool: most are small, some are large."""
    size = min(int(rng.lognormvariate(7.6, 1.6)), 1 << 20)
    return rng.randrange(POOL - size), size


def text(rng: random.Random) -> bytes:
    """``POOL`` bytes of made-up words and, for a third, of noise."""
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(4000)]
    lines = bytearray()
    while len(lines) < POOL:
        lines += rng.randbytes(300) if rng.random() < 0.2 else b" ".join(rng.choices(words, k=100)) + b"\n"
    return bytes(lines[:POOL])


def large_files(root: Path, total: int, *, count: int = 4) -> None:
    """``count`` files of ``total`` bytes in all that do not compress."""
    root.mkdir(parents=True)
    block = random.Random(2).randbytes(16 << 20)
    for number in range(count):
        with (root / f"large-{number}.bin").open("wb") as file:
            left = total // count
            while left > 0:
                stamp = b"%d %d\n" % (number, left)
                file.write((stamp + block)[: min(left, len(block))])
                left -= len(block)


def sparse_file(path: Path, size: int, *, pieces: int = 100) -> None:
    """A file of ``size`` bytes that is a hole, but for ``pieces`` of 1 MiB that do not compress; one in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(3)
    with path.open("wb") as file:
        file.truncate(size)
        for position in (size // 2, *(rng.randrange(size - (1 << 20)) for _ in range(pieces - 1))):
            file.seek(position)
            file.write(rng.randbytes(1 << 20))


def tiny_files(root: Path, directories: int, files: int) -> None:
    """``files`` files in each of ``directories`` directories, each of a hundred bytes of its own."""
    for number in range(directories):
        place = root / f"{number:04d}"
        place.mkdir(parents=True)
        for name in range(files):
            (place / f"{name:04d}").write_bytes(b"%099d\n" % (number * files + name))


def repeated_file(path: Path, size: int) -> None:
    """A file of ``size`` bytes that repeats 64 MiB which do not compress, each time with another beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = bytearray(random.Random(4).randbytes(min(size, 64 << 20)))
    with path.open("wb") as file:
        for number in range(0, size, len(block)):
            block[:8] = number.to_bytes(8, "little")
            file.write(memoryview(block)[: size - number])


def size(root: Path) -> int:
    """Bytes in the files below ``root``."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(root) for name in names)


def add_files(root: Path, count: int, tag: str) -> None:
    """``count`` new files named after ``tag``, spread over the directories of ``root``."""
    directories = [place for place, _, _ in itertools.islice(os.walk(root), count)]
    for number in range(count):
        place = Path(directories[number % len(directories)])
        (place / f"new-{tag}-{number}").write_bytes(b"%s %d\n" % (tag.encode(), number) * 20)


def remove_added(root: Path) -> None:
    """Remove what ``add_files`` left in a tree that is kept."""
    for directory, _, names in os.walk(root):
        for name in names:
            if name.startswith("new-"):
                os.unlink(os.path.join(directory, name))


def read_all(root: Path) -> None:
    """Have the tree in the page cache."""
    for directory, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                while file.read(1 << 20):
                    pass
