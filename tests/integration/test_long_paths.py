"""Long paths and deep trees: refused beyond the limit, and below it no burden on memory, whoever sends them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from stratum.tree.cutting import split_dump
from stratum.tree.digest import merkle_summary, metadata_hash
from stratum.tree.zstdframe import compress
from tests.e2e.registry_artifacts import Artifact, make_artifact
from tests.support.command import SCRIPT, Command
from tests.support.small import limited

pytestmark = pytest.mark.root

LONG = b"\x01" * 255
"""Its dump has 1,020 bytes for it in every line."""
STARTED = 56 << 20
"""Bytes that a verb may take whatever it works on: a pull took 40 MiB on one machine, and libraries differ."""
PER_ENTRY = 3000
PIECES = 16 << 20
"""Some pieces of the dump on their way, each of up to 4 MiB (``tree.cutting``)."""


_MEASURE = (
    "import resource, subprocess, sys;"
    "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode;"
    "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def peak(cli: Command, *args: str | bytes | Path) -> tuple[int, str, int]:
    """(exit code, stderr, most memory in bytes) of a verb, or of a process of its own.

    A small process starts it: what is started counts its starter's memory as its own until it execs.
    """
    line = limited([sys.executable, "-I", "-S", "-c", _MEASURE, SCRIPT, *args])
    done = subprocess.run(line, env=cli.environment, check=True, capture_output=True)
    code, memory = map(int, done.stdout.split())
    return code, done.stderr.decode("utf-8", "surrogateescape"), memory << 10


def open_deep(top: Path, depth: int, name: bytes = LONG) -> int:
    """A descriptor of the directory ``depth`` levels below ``top``; what is missing is made."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory in which paths may get too long for Python's own way to remove them."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


def test_files_in_long_paths_cost_what_files_cost(cli: Command, scratch: Path, tmp_path: Path) -> None:
    count = 4000  # of which each has 15,300 bytes of path in the dump
    bound = STARTED + PER_ENTRY * count + PIECES
    directory = open_deep(scratch, 15)
    for number in range(count):
        os.close(os.open(b"%d" % number, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    layout, target, pulled = f"oci:{tmp_path}/layout:v1", tmp_path / "m", Command(tmp_path / "other", cli.runtime_dir)
    target.mkdir()

    def within(on: Command, *args: str | Path) -> None:
        code, said, memory = peak(on, *args)
        assert code == 0, said
        print(f"stratum {args[0]}: {memory >> 20} MiB")
        assert memory < bound

    within(cli, "import", "--bare", scratch, "app")
    within(cli, "worktree", "add", "app+dev", "app:latest")
    within(cli, "mount", "app+dev", target)
    directory = open_deep(target, 15)
    os.close(os.open(b"new", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    within(cli, "status", "app+dev")
    within(cli, "diff", "app:latest", "app+dev")
    within(cli, "commit", "app+dev", "v1")
    within(cli, "unmount", target)
    within(cli, "push", "app:v1", layout)
    assert sum(path.stat().st_size for path in tmp_path.glob("layout/**/*") if path.is_file()) < 1 << 20
    within(pulled, "pull", layout, "app")
    within(pulled, "fsck")
    within(pulled, "verify", "app:v1")
    within(pulled, "gc")
    within(pulled, "export", "app:v1", tmp_path / "app.tar")


def as_layout(artifact: Artifact, lines: Callable[[], Iterator[bytes]], directory: Path) -> str:
    """The artifact of another dump, with all that describes it, in the image layout of ``artifact``; its name."""
    commit, trees = metadata_hash(lines()), tuple(map(compress, split_dump(lines())))
    config = artifact.config.partition(b"\n[check]\n")[0].decode()
    config = re.sub(r'metadata_hash = "\w+"', f'metadata_hash = "{commit}"', config)
    config = re.sub(r'merkle_root = "\w+"', f'merkle_root = "{merkle_summary(lines()).root}"', config)
    other = replace(
        artifact, config=config.encode(), trees=trees, packs=(), original=replace(artifact.original, commit=commit)
    )
    for blob in (*other.blobs, other.manifest):
        (directory / "blobs/sha256" / sha256(blob).hexdigest()).write_bytes(blob)
    return f"oci:{directory}@sha256:{sha256(other.manifest).hexdigest()}"


def test_a_small_artifact_of_a_deep_tree_is_refused_with_little_memory(cli: Command, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path, {"a": b"b"})

    def lines() -> Iterator[bytes]:
        for depth in range(101):
            links = 3 if depth < 100 else 2
            yield (b"/\\x01" * depth or b"/").replace(
                b"\\x01", b"\\x01" * 255
            ) + b" 0 40755 %d 0 0 0 0.0 - - -\n" % links
        bottom = b"/" + b"/".join([b"\\x01" * 255] * 100)
        for number in range(1000):
            yield bottom + b"/%04d 0 100644 1 0 0 0 0.0 - - -\n" % number

    place = as_layout(artifact, lines, tmp_path / "layout")
    assert sum(map(len, lines())) > 100 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "layout/blobs/sha256").iterdir()) < 100_000
    code, said, memory = peak(cli, "pull", place, "app")
    assert (code, "has a path of 4352 bytes; 4096 is the limit" in said) == (5, True), said
    assert memory < 2 * STARTED


def test_a_tree_that_is_too_deep_is_not_imported(cli: Command, scratch: Path) -> None:
    os.close(open_deep(scratch, 1000))
    code, said, memory = peak(cli, "import", "--bare", scratch, "app")
    assert code == 6
    assert "has a path of 4352 bytes; 4096 is the limit" in said
    assert len(said) < 2000
    assert memory < STARTED


def test_an_archive_with_a_path_of_many_components_is_refused(cli: Command, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a/" * 32_000 + "b"))
    code, said, memory = peak(cli, "import", tmp_path / "t.tar", "app")
    assert code == 2
    assert "has a path of 64002 bytes; 4096 is the limit" in said
    assert memory < STARTED


def test_a_worktree_that_gets_too_deep_keeps_its_data_until_it_can_be_committed(
    cli: Command, scratch: Path, tmp_path: Path
) -> None:
    (scratch / "file").write_text("first\n")
    cli.ok("import", "--bare", scratch, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    target = tmp_path / "m"
    target.mkdir()
    cli.ok("mount", "app+dev", target)
    (target / "work").mkdir()
    os.close(open_deep(target / "work", 1000))
    (target / "work" / "precious").write_text("data\n")
    for verb in (("commit", "app+dev", "v1"), ("diff", "app+dev")):
        code, said, memory = peak(cli, *verb)
        assert code == 6
        assert "work" in said
        assert "has a path of 4101 bytes; 4096 is the limit" in said
        assert len(said) < 2000
        assert memory < STARTED
    assert "4096 is the limit" in cli.ok("status")
    assert "4096 is the limit" in cli.json("status", "app")[0]["worktrees"][0]["failed"]
    (target / "work" / "precious").rename(target / "precious")
    subprocess.run(["rm", "-rf", target / "work"], check=True)
    cli.ok("commit", "app+dev", "v1")
    cli.ok("unmount", target)
    cli.ok("restore", "app:v1", "precious", "--to", tmp_path)
    assert (tmp_path / "precious").read_text() == "data\n"


def test_a_rename_that_makes_committed_paths_too_long_is_refused_as_a_whole(
    cli: Command, scratch: Path, tmp_path: Path
) -> None:
    os.close(open_deep(scratch, 15))
    cli.ok("import", "--bare", scratch, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    target = tmp_path / "m"
    target.mkdir()
    cli.ok("mount", "app+dev", target)
    (target / ("n" * 255)).mkdir()
    os.rename(os.fsencode(target) + b"/" + LONG, os.fsencode(target) + b"/" + b"n" * 255 + b"/" + LONG)
    code, said, _ = peak(cli, "commit", "app+dev", "v1")
    assert code == 0  # 16 names of 255 bytes, each with its slash, are 4,096
    (target / "more").mkdir()
    os.rename(os.fsencode(target) + b"/" + b"n" * 255, os.fsencode(target) + b"/more/" + b"n" * 255)
    code, said, _ = peak(cli, "commit", "app+dev", "v2")
    assert code == 6
    assert "has a path of 4101 bytes; 4096 is the limit" in said
    cli.ok("unmount", target)
    cli.ok("verify", "app:v1")
    assert not (tmp_path / "store/refs/app/tags/v2").is_symlink()
