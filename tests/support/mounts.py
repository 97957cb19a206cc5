"""A small commit on disk for mount tests: an image and its objects, made by mkcomposefs, and worktree directories."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.capabilities import program


@dataclass(frozen=True, slots=True)
class Sample:
    """``image`` shows ``source``, whose file contents are in the directories ``data``; ``store`` holds all of it."""

    store: Path
    source: Path
    image: Path
    data: tuple[Path, ...]

    def worktree(self, name: str = "work") -> tuple[Path, Path]:
        """Fresh (upperdir, workdir) of a worktree."""
        directory = self.store / "refs" / name
        upper, work = directory / "upperdir", directory / "workdir"
        upper.mkdir(parents=True)
        work.mkdir()
        return upper, work


def make_sample(store: Path, label: str = "one", commit: str = "c1") -> Sample:
    """A commit with ``label`` in each of its files; samples in one store share their objects."""
    source = store / f"source-{commit}"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "big").write_bytes(label.encode() * 2000)
    (source / "label").write_text(label)
    (source / "sub" / "deep" / "file").write_bytes(b"deep " * 1000)
    (source / "link").symlink_to("sub/deep/file")
    os.chmod(source / "big", 0o640)
    objects = store / "objects"
    objects.mkdir(exist_ok=True)
    image = store / "commits" / commit / "commit.cfs"
    image.parent.mkdir(parents=True)
    subprocess.run([program("mkcomposefs"), "--digest-store", objects, source, image], check=True)
    return Sample(store, source, image, (objects,))


def walk(root: Path) -> dict[str, object]:
    """What a tree shows: path -> (type and permissions, content or link target or names)."""
    shown: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if path.is_symlink():
                content: object = os.readlink(path)
            else:
                content = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
            shown[str(path.relative_to(root))] = (mode, content)
    return shown
