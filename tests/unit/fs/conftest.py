"""A store with a stratum in it, and file systems over it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.api.importing import import_directory
from stratum.api.session import Session
from stratum.config import load_config
from stratum.fs import StratumFileSystem

LINE = b"0,1,2,3,4,5,6,7,8,9\n"


def fill(directory: Path) -> None:
    """Make a tree with a file of each kind, and links of each kind, in ``directory``."""
    (directory / "sub" / "deep").mkdir(parents=True)
    (directory / "big.bin").write_bytes(os.urandom(3000) * 700)
    (directory / "a.csv").write_bytes(LINE * 100)
    (directory / "sub" / "small").write_bytes(b"small")
    (directory / "sub" / "empty").touch()
    (directory / "sub" / "deep" / "x.csv").write_bytes(LINE * 50)
    (directory / os.fsdecode(b"caf\xe9")).write_bytes(b"latin one " * 10)
    os.link(directory / "a.csv", directory / "sub" / "hard.csv")
    os.symlink("../a.csv", directory / "sub" / "link.csv")
    os.symlink("/sub/deep", directory / "to_deep")
    os.symlink("..", directory / "sub" / "up")
    os.symlink("circle", directory / "circle")
    os.symlink("../../../../../etc/passwd", directory / "outside")
    os.symlink("/etc/passwd", directory / "absolute")
    os.mkfifo(directory / "fifo")
    with (directory / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session of a store with the stratum ``data``, tag ``v1``."""
    session = Session(load_config(store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run"), jobs="1"))
    (tmp_path / "src").mkdir()
    fill(tmp_path / "src")
    import_directory(session, str(tmp_path / "src"), "data:v1")
    return session


@pytest.fixture
def many(session: Session) -> StratumFileSystem:
    """A file system of all commits of the store."""
    return StratumFileSystem(store=session.config.store, skip_instance_cache=True)


@pytest.fixture
def one(session: Session) -> StratumFileSystem:
    """A file system of the commit ``data:v1``."""
    return StratumFileSystem("data:v1", store=session.config.store, skip_instance_cache=True)
