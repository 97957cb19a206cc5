"""Directories as trees with C4 IDs, without a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.c4.ids import id_of_bytes, id_of_digest
from stratum.errors import NotFoundError, UsageError
from stratum.ingest.identify import Identified, identify_directory, identify_file
from stratum.tree.model import Directory, Special, Symlink


def test_all_that_is_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "small").write_bytes(b"alfa")
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    os.link(tmp_path / "large", tmp_path / "again")
    root = identify_directory(str(tmp_path), jobs=2)
    children = root.children
    assert children[b"large"] is children[b"again"]
    large, sub, link = children[b"large"], children[b"sub"], children[b"link"]
    assert isinstance(large, Identified)
    assert (large.c4id, large.size) == (id_of_bytes(b"x" * 3_000_000), 3_000_000)
    assert isinstance(sub, Directory)
    small = sub.children[b"small"]
    assert isinstance(small, Identified)
    assert (small.c4id, small.mtime) == (id_of_bytes(b"alfa"), (tmp_path / "sub" / "small").stat().st_mtime_ns)
    assert isinstance(link, Symlink)
    assert link.target == b"/etc/passwd"
    assert isinstance(children[b"fifo"], Special)


def test_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"alfa")
    (tmp_path / "link").symlink_to("a")
    digest, size = identify_file(str(tmp_path / "link"))
    assert (id_of_digest(digest), size) == (id_of_bytes(b"alfa"), 4)


def test_what_is_neither(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="neither a regular file nor a directory"):
        identify_file(str(tmp_path / "fifo"))
    with pytest.raises(NotFoundError, match="does not exist"):
        identify_file(str(tmp_path / "gone"))
    with pytest.raises(NotFoundError, match="does not exist"):
        identify_directory(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="is not a directory"):
        identify_directory(str(tmp_path / "fifo"))
