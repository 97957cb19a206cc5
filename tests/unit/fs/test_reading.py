"""Reading commits of the local store as a file system."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import fsspec
import pytest

from stratum.api.importing import Options, import_
from stratum.api.session import Session
from stratum.composefs.verity import verity_digest
from stratum.fs import StratumFileSystem
from tests.unit.fs.conftest import LINE

TREE = {
    "a.csv",
    "absolute",
    "big.bin",
    "caf\udce9",
    "circle",
    "fifo",
    "outside",
    "sparse",
    "sub",
    "to_deep",
}


def test_paths_without_a_ref_name_commits(many: StratumFileSystem) -> None:
    assert many.ls("", detail=False) == ["data:v1"]
    assert set(many.ls("stratum://data:v1", detail=False)) == {f"data:v1/{name}" for name in TREE}
    assert many.ls("data:v1:/sub/deep", detail=False) == ["data:v1/sub/deep/x.csv"]
    assert many.cat("data:v1/sub/small") == b"small"
    assert many.isdir("data:v1")
    assert many.unstrip_protocol("data:v1/a.csv") == "stratum://data:v1/a.csv"


def test_paths_with_a_ref_begin_in_it(one: StratumFileSystem) -> None:
    assert set(one.ls("", detail=False)) == TREE
    assert one.ls("/sub/deep", detail=False) == ["sub/deep/x.csv"]
    assert one.cat("./sub//small") == b"small"
    assert one.find("sub") == [
        "sub/deep/x.csv",
        "sub/empty",
        "sub/hard.csv",
        "sub/link.csv",
        "sub/small",
    ]
    assert one.glob("**/*.csv") == ["a.csv", "sub/deep/x.csv", "sub/hard.csv", "sub/link.csv"]
    assert one.du("sub") == 5 + 50 * len(LINE) + 2 * 100 * len(LINE)


def test_every_path_that_walk_names_is_there(many: StratumFileSystem) -> None:
    for top, dirs, files in many.walk("data:v1", detail=True):
        assert many.isdir(top)
        for name, info in {**dirs, **files}.items():
            assert info["name"] == f"{top}/{name}"
            assert info == many.info(f"{top}/{name}", follow_symlinks=info["type"] != "link")
    bottom_up = [top for top, _, _ in many.walk("data:v1", topdown=False)]
    assert bottom_up == ["data:v1/sub/deep", "data:v1/sub", "data:v1"]
    pruned = []
    for top, dirs, _ in many.walk("data:v1"):
        pruned.append(top)
        dirs[:] = [name for name in dirs if name != "sub"]
    assert pruned == ["data:v1"]


def test_info_tells_what_the_tree_has(one: StratumFileSystem, tmp_path: Path) -> None:
    real = (tmp_path / "src" / "a.csv").stat()
    assert one.info("a.csv") == {
        "name": "a.csv",
        "size": real.st_size,
        "type": "file",
        "mode": real.st_mode,
        "uid": real.st_uid,
        "gid": real.st_gid,
        "mtime": real.st_mtime_ns / 1e9,
        "islink": False,
        "digest": verity_digest(LINE * 100).hex(),
    }
    assert one.modified("a.csv") == datetime.fromtimestamp(real.st_mtime_ns / 1e9, timezone.utc)
    assert one.created("a.csv") <= datetime.now(timezone.utc)
    assert one.ukey("a.csv") == one.ukey("sub/hard.csv") == verity_digest(LINE * 100).hex()
    assert one.ukey("sub/small") == verity_digest(b"small").hex()
    assert one.checksum("a.csv") == int(one.ukey("a.csv"), 16) != one.checksum("sub/small")


def test_links_are_followed_inside_the_tree_only(one: StratumFileSystem) -> None:
    assert one.cat("sub/link.csv") == LINE * 100
    assert one.info("sub/link.csv")["destination"] == "../a.csv"
    assert one.info("sub/link.csv")["islink"]
    assert one.ls("to_deep", detail=False) == ["to_deep/x.csv"]
    assert one.cat("sub/up/sub/up/a.csv") == LINE * 100
    for name in ("outside", "absolute"):
        assert not one.exists(name)
        assert one.lexists(name)
        with pytest.raises(FileNotFoundError, match="symbolic link to what is not in the commit"):
            one.open(name)
    with pytest.raises(OSError, match="circle") as caught:
        one.cat("circle")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(FileNotFoundError):
        one.cat("sub/../a.csv")  # only links have such parts


def test_errors_are_those_of_files(one: StratumFileSystem, many: StratumFileSystem) -> None:
    for path in ("missing", "a.csv/below", "sub/missing/x"):
        with pytest.raises(FileNotFoundError):
            one.open(path)
    with pytest.raises(IsADirectoryError):
        one.cat("sub")
    with pytest.raises(OSError, match="a fifo, which has no content"):
        one.open("fifo")
    with pytest.raises(FileNotFoundError, match="there is no tag data:v2"):
        many.ls("data:v2")
    with pytest.raises(FileNotFoundError, match="no stratum"):
        many.open("others/x")
    with pytest.raises(OSError, match="not a valid"):
        many.info("no ref/x")
    assert not many.exists("no ref/x")
    assert not many.exists("others:v1/x")


def test_open_files_read_as_any_other(one: StratumFileSystem, tmp_path: Path) -> None:
    data = (tmp_path / "src" / "big.bin").read_bytes()
    for options in ({}, {"cache_type": "blockcache", "block_size": 4096}, {"cache_type": "none"}):
        with one.open("big.bin", **options) as file:
            assert file.size == len(data)
            assert file.read(10) == data[:10]
            assert file.seek(-20, 2) == len(data) - 20
            assert file.read() == data[-20:]
            file.seek(1_000_001)
            buffer = bytearray(70_000)
            assert file.readinto(buffer) == len(buffer)
            assert buffer == data[1_000_001:1_070_001]
    with one.open("a.csv") as lines:
        assert lines.readline() == LINE
        assert lines.readline(3) == LINE[:3]
        assert lines.readline() == LINE[3:]
        assert len(list(lines)) == 98
    with one.open("a.csv", "r", encoding="ascii") as text:
        assert sum(1 for _ in text) == 100
    assert one.read_block("a.csv", 0, 30, delimiter=b"\n") == LINE * 2


def test_ranges_are_slices(one: StratumFileSystem) -> None:
    data = LINE * 100
    for start, end in ((None, None), (5, 9), (-7, None), (None, -3), (30, 10), (0, 10**9), (-(10**9), 4)):
        assert one.cat_file("a.csv", start, end) == data[start:end]
    found = one.cat_ranges(["a.csv", "missing", "sub/small"], [0, 0, 1], [4, 4, 3])
    assert (found[0], found[2]) == (data[:4], b"ma")
    assert isinstance(found[1], FileNotFoundError)
    assert one.cat(["a.csv", "sub/small"]) == {"a.csv": data, "sub/small": b"small"}
    assert (one.head("a.csv", 3), one.tail("a.csv", 3)) == (data[:3], data[-3:])


def test_get_copies_what_has_content(one: StratumFileSystem, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one.get("", str(out), recursive=True)
    assert (out / "sub" / "link.csv").read_bytes() == LINE * 100
    assert sorted(os.listdir(out)) == sorted(TREE - {"fifo", "outside", "absolute", "circle"})
    sparse = out / "sparse"
    assert sparse.read_bytes() == (tmp_path / "src" / "sparse").read_bytes()
    assert sparse.stat().st_blocks * 512 < 1 << 20
    for name in ("outside", "fifo"):
        with pytest.raises(OSError, match=r"link to what|no content"):
            one.get_file(name, str(tmp_path / name))
        assert not (tmp_path / name).exists()


def test_nothing_is_written_without_a_layer(one: StratumFileSystem, many: StratumFileSystem) -> None:
    for change in (
        lambda: one.open("new", "wb"),
        lambda: one.pipe("new", b"x"),
        lambda: one.mkdir("new"),
        lambda: one.rm("a.csv"),
        lambda: one.rm("sub", recursive=True),
        lambda: one.cp("a.csv", "b.csv"),
        lambda: one.mv("a.csv", "b.csv"),
        lambda: one.touch("a.csv"),
        lambda: one.rmdir("sub"),
        lambda: many.pipe("data:v1/new", b"x"),
    ):
        with pytest.raises(PermissionError, match="commits do not change"):
            change()


def test_a_tag_that_moves_is_followed_and_open_files_stay(
    many: StratumFileSystem, session: Session, tmp_path: Path
) -> None:
    with many.open("data:v1/a.csv") as before:
        (tmp_path / "src" / "a.csv").write_bytes(b"new " * 100)
        import_(session, str(tmp_path / "src"), "data:v1", Options(force=True))
        assert before.read() == LINE * 100
    assert many.cat("data:v1/a.csv") == b"new " * 100
    assert many.cat("data:v1~1/a.csv") == LINE * 100


def test_instances_are_shared_and_travel(session: Session) -> None:
    store = str(session.config.store)
    fs = fsspec.filesystem("stratum", ref="data:v1", store=store)
    assert fs is fsspec.filesystem("stratum", ref="data:v1", store=store)
    assert pickle.loads(pickle.dumps(fs)) == fs
    assert StratumFileSystem.from_json(fs.to_json()).cat("sub/small") == b"small"
    with fs.open("a.csv") as file:
        file.seek(len(LINE))
        assert pickle.loads(pickle.dumps(file)).readline() == LINE
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: fs.cat("a.csv"), range(50))) == {LINE * 100}


def _child(fs: StratumFileSystem, queue: multiprocessing.Queue[bytes]) -> None:
    queue.put(fs.cat("sub/small"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_with_it(method: str, session: Session) -> None:
    fs = StratumFileSystem("data:v1", store=str(session.config.store))
    fs.cat("a.csv")
    context = multiprocessing.get_context(method)
    queue: multiprocessing.Queue[bytes] = context.Queue()
    child = context.Process(target=_child, args=(fs, queue))
    child.start()
    assert queue.get(timeout=120) == b"small"
    child.join(120)
    assert child.exitcode == 0


def test_pandas_opens_urls(session: Session) -> None:
    import pandas as pd

    options = {"store": str(session.config.store)}
    frame = pd.read_csv("stratum://data:v1/sub/link.csv", header=None, storage_options=options)
    assert frame.shape == (100, 10)
    with fsspec.open("stratum://data:v1/a.csv", "rt", **options) as file:
        assert file.readline() == LINE.decode()
