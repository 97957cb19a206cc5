"""Holes of sparse files are not read: a file of terabytes without data is checked and sent at the cost of its data."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.command import SCRIPT, Command

pytestmark = pytest.mark.root

SIZE = 3 << 40
SENT = 1 << 30
DATA = b"data" * 5000


def bytes_read(cli: Command, tmp_path: Path, *args: str | Path) -> int:
    """Run a verb under strace, which must succeed; the bytes that read and pread returned to it and its processes."""
    trace = tmp_path / "trace"
    line = ["strace", "-f", "-qq", "-e", "trace=read,pread64,preadv", "-o", trace, SCRIPT, *args]
    subprocess.run(line, env=cli.environment, check=True, stdout=subprocess.DEVNULL)
    return sum(int(found) for found in re.findall(r"= (\d+)$", trace.read_text("utf-8", "replace"), re.MULTILINE))


def make(source: Path, size: int) -> None:
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.seek(size // 3 + 5)
        file.write(DATA)
        file.truncate(size)


def test_a_hole_of_terabytes_is_checked_without_being_read(cli: Command, tmp_path: Path) -> None:
    make(tmp_path / "source", SIZE)
    cli.ok("import", "--bare", tmp_path / "source", "app")
    for verb in (("verify", "app:latest"), ("fsck",)):
        assert bytes_read(cli, tmp_path, *verb) < 64 << 20, verb
    (path,) = (path for path in cli.store.glob("objects/*/*") if path.stat().st_size == SIZE)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(2 * SIZE // 3)
        file.write(b"x")
    path.chmod(0o444)
    assert cli("verify", "app:latest").code == 5
    assert cli("fsck").code == 5


def test_a_hole_is_sent_without_being_read(cli: Command, tmp_path: Path) -> None:
    make(tmp_path / "source", SENT)
    commit = cli.ok("import", "--bare", tmp_path / "source", "app")
    assert bytes_read(cli, tmp_path, "export", "app:latest", tmp_path / "app.tar") < 64 << 20
    assert (tmp_path / "app.tar").stat().st_size < 8 << 20
    other = Command(tmp_path / "other", tmp_path / "run2")
    assert other.ok("import", tmp_path / "app.tar", "app").split()[-1] == commit or other.ok("show", "app").count(
        commit
    )
    (path,) = (path for path in other.store.glob("objects/*/*") if path.stat().st_size == SENT)
    assert path.stat().st_blocks * 512 < 16 << 20
    assert os.stat(path).st_size == SENT
