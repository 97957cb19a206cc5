"""Large files that appear whole: what an export writes to."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stratum.sys.atomic import create_atomic, write_all


@pytest.fixture(params=["without a name", "with a temporary name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to write: a file system without O_TMPFILE answers as it does to no such flag at all."""
    if request.param == "with a temporary name":
        monkeypatch.setattr(os, "O_TMPFILE", 0)
    return str(request.param)


def test_the_file_appears_when_all_is_written(tmp_path: Path, way: str) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with create_atomic(path, 0o640) as fd:
        write_all(fd, b"new" * 1000)
        assert path.read_text() == "old"
        assert len(os.listdir(tmp_path)) == (1 if way == "without a name" else 2)
    assert path.read_bytes() == b"new" * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, way: str) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail() -> None:
        with create_atomic(path) as fd:
            write_all(fd, b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"], way


def test_a_symbolic_link_is_replaced(tmp_path: Path, way: str) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "out").symlink_to("target")
    with create_atomic(tmp_path / "out") as fd:
        write_all(fd, b"new")
    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "out").is_symlink(), way


def test_a_kill_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, os, pathlib; from stratum.sys.atomic import create_atomic\n"
        "with create_atomic(pathlib.Path(sys.argv[1])) as fd:\n"
        "    os.write(fd, b'x' * 100000); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_a_missing_directory_is_the_kernels_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), create_atomic(tmp_path / "missing/out"):
        pass
