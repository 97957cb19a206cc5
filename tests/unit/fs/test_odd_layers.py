"""Layers in places where none can be, damaged ones, and paths that are too long or too deep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import stratum
from stratum.fs import StratumFileSystem


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with a commit of a few files."""
    with stratum.open_store(tmp_path / "store", create=True) as store:
        tree = stratum.Tree()
        tree.write("a/file", b"content")
        tree.symlink("dangling", "nowhere")
        store.commit(tree, "app")
    return tmp_path


def layered(place: Path, layer: str | Path) -> StratumFileSystem:
    StratumFileSystem.clear_instance_cache()
    return StratumFileSystem("app", layer=layer, store=str(place / "store"))


@pytest.mark.parametrize("where", ["store", "mine", "mine/deeper"])
def test_a_directory_with_something_else_in_it_is_no_layer(place: Path, where: str) -> None:
    (place / "mine/deeper/objects").mkdir(parents=True)
    (place / "mine/deeper/objects/kept").write_text("mine")
    (place / "mine/deeper/stratum.toml").write_text("mine")
    before = sorted(os.listdir(place / where))
    with pytest.raises(OSError, match="is no layer, and not empty"):
        layered(place, place / where)
    assert sorted(os.listdir(place / where)) == before
    assert (place / "mine/deeper/objects/kept").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "s3://bucket/layer", "file:///tmp/layer"])
def test_what_is_no_directory_of_this_machine(place: Path, text: str) -> None:
    with pytest.raises(OSError, match="is no place for a layer"):
        layered(place, text)


def test_a_log_that_is_damaged(place: Path) -> None:
    layer = place / "layer"
    layered(place, layer).pipe("new", b"new")
    log = layer / "log"
    whole = log.read_bytes()
    for damaged in (b"", b"\n", os.urandom(200), whole[: whole.index(b"\n") // 2], whole[whole.index(b"\n") + 1 :]):
        log.write_bytes(damaged)
        with pytest.raises(OSError, match="is damaged"):
            layered(place, layer).cat("new")
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(OSError, match="is damaged"):
        layered(place, layer).cat("new")
    log.unlink()
    log.write_bytes(whole)
    assert layered(place, layer).cat("new") == b"new"


def test_deep_and_long_paths(place: Path) -> None:
    files = layered(place, "memory")
    deep = "/".join(["d"] * 2000)
    files.pipe(f"{deep}/file", b"deep")
    assert files.cat(f"{deep}/file") == b"deep"
    for path in ("/".join(["d"] * 3000), "x" * 5000):
        with pytest.raises(OSError, match="is the limit"):
            files.pipe(path, b"")
    with pytest.raises(FileNotFoundError, match="symbolic link"):
        files.pipe("dangling/new", b"")
    with pytest.raises(FileNotFoundError, match="symbolic link"):
        files.pipe("dangling", b"")
