"""A layer over a commit: what is written to it, what becomes of it, and what survives."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.api.importing import Options, import_, import_directory
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import ConflictError, UsageError
from stratum.fs import StratumFileSystem
from stratum.tree.model import Directory, walk
from tests.support.effort import examples
from tests.unit.fs.conftest import LINE

LONG = b"more than what has room in a tree " * 3


def layered(session: Session, layer: str | Path = "memory", ref: str | None = "data:v1") -> StratumFileSystem:
    """A file system with a layer, that no other test has."""
    return StratumFileSystem(ref, store=str(session.config.store), layer=str(layer), skip_instance_cache=True)


@pytest.fixture(params=["memory", "directory"])
def fs(request: pytest.FixtureRequest, session: Session, tmp_path: Path) -> StratumFileSystem:
    return layered(session, "memory" if request.param == "memory" else tmp_path / "layer")


def test_reads_look_in_the_layer_then_in_the_commit(fs: StratumFileSystem, one: StratumFileSystem) -> None:
    fs.pipe("a.csv", LONG)
    fs.pipe("sub/new/deep.txt", b"short")
    fs.rm("sub/small")
    fs.rm("sub/deep", recursive=True)
    assert fs.cat("a.csv") == fs.cat("sub/link.csv") == LONG
    assert fs.cat("sub/hard.csv") == LINE * 100  # a file of its own from now on
    assert fs.find("sub") == ["sub/empty", "sub/hard.csv", "sub/link.csv", "sub/new/deep.txt"]
    assert not fs.exists("sub/small")
    assert not fs.exists("to_deep")
    with pytest.raises(FileNotFoundError):
        fs.open("sub/small")
    assert fs.info("a.csv")["size"] == len(LONG)
    assert fs.changed
    assert one.cat("a.csv") == LINE * 100
    assert one.exists("sub/small")


def test_files_are_written_as_any_other(fs: StratumFileSystem) -> None:
    with fs.open("new.txt", "w") as file:
        file.write("one\n")
    with fs.open("new.txt", "a") as file:
        file.write("two\n" * 100)
    assert fs.cat("new.txt") == b"one\n" + b"two\n" * 100
    with fs.open("a.csv", "ab") as file:
        assert file.tell() == len(LINE) * 100
        file.write(b"end")
    assert fs.tail("a.csv", 5) == b"9\nend"
    with fs.open("big.bin", "wb") as file:
        for _ in range(40):
            file.write(os.urandom(1 << 16))
        assert fs.size("big.bin") == 2_100_000  # as it was, until it is closed
    assert fs.size("big.bin") == 40 << 16
    with pytest.raises(FileExistsError):
        fs.open("new.txt", "xb")
    with pytest.raises(ValueError, match="not for 'r\\+b'"):
        fs.open("new.txt", "r+b")
    with pytest.raises(IsADirectoryError):
        fs.open("sub", "wb")
    with pytest.raises(NotADirectoryError):
        fs.open("new.txt/below", "wb")
    with suppress(RuntimeError), fs.open("a.csv", "wb") as file:
        file.write(b"half of")
        raise RuntimeError
    assert fs.size("a.csv") == len(LINE) * 100 + 3


def test_links_are_written_through_and_removed_themselves(fs: StratumFileSystem) -> None:
    fs.pipe("sub/link.csv", b"through")
    assert fs.cat("a.csv") == b"through"
    fs.pipe("to_deep/new", b"x")
    assert fs.cat("sub/deep/new") == b"x"
    fs.rm("to_deep", recursive=True)
    assert fs.cat("sub/deep/new") == b"x"
    assert not fs.lexists("to_deep")
    with pytest.raises(FileNotFoundError):
        fs.pipe("outside", b"x")
    fs.rm("outside")
    fs.pipe("outside", b"a file")
    assert not fs.islink("outside")


def test_directories_are_made_moved_and_removed(fs: StratumFileSystem) -> None:
    fs.mkdir("m")
    with pytest.raises(FileExistsError):
        fs.mkdir("m")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("p/q", create_parents=False)
    fs.makedirs("p/q", exist_ok=True)
    fs.makedirs("p/q", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs("p/q")
    before = fs.info("sub/small")
    fs.mv("sub", "moved", recursive=True)
    assert fs.info("moved/small") == {**before, "name": "moved/small"}
    fs.mv("moved", "m")
    assert fs.cat("m/moved/deep/x.csv") == LINE * 50
    with pytest.raises(OSError, match="into itself"):
        fs.mv("m", "m/moved/again")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("m")
    fs.rmdir("p/q")
    fs.rm("m", recursive=True)
    with pytest.raises(FileNotFoundError):
        fs.rm("m")
    with pytest.raises(IsADirectoryError):
        fs.rm_file("p")
    fs.mv("a.csv", "big.bin")
    assert fs.cat("big.bin") == LINE * 100
    fs.cp("big.bin", "copy/of/it")
    assert fs.ukey("copy/of/it") == fs.ukey("big.bin")
    fs.touch("copy/of/it", truncate=False)
    assert fs.cat("copy/of/it") == LINE * 100
    fs.touch("copy/of/it")
    assert fs.size("copy/of/it") == 0


def test_transactions_are_all_or_nothing(fs: StratumFileSystem) -> None:
    with fs.transaction:
        fs.pipe_file("now", b"not part of it")
        with fs.open("one", "wb") as first, fs.open("two", "wb") as second:
            first.write(LONG)
            second.write(b"2")
        assert not fs.exists("one")
    assert (fs.cat("one"), fs.cat("two")) == (LONG, b"2")
    with suppress(RuntimeError), fs.transaction:
        with fs.open("three", "wb") as file:
            file.write(LONG)
        raise RuntimeError
    assert not fs.exists("three")


def test_odd_names_are_names(fs: StratumFileSystem, session: Session) -> None:
    for name in (os.fsdecode(b"n\xff"), "a b\n", ".wh.x", "a:b@c", "é" * 100):
        fs.pipe(name, LONG)
        assert fs.cat(name) == LONG
        assert name in fs.ls("", detail=False)
    with pytest.raises(OSError, match=r"too long|bytes"):
        fs.pipe("n" * 300, b"x")
    with pytest.raises(FileNotFoundError, match=r"no '\.\.'"):
        fs.pipe("../x", b"x")
    with pytest.raises(OSError, match=r"NUL|null|0"):
        fs.pipe("a\0b", b"x")
    fs.flatten()
    assert StratumFileSystem("data:v1", store=str(session.config.store)).cat("a:b@c") == LONG


def like(directory: Path, root: Directory) -> None:
    """Give everything in ``directory`` the times that the tree has."""
    for path, inode in reversed(list(walk(root))):
        os.utime(os.fsencode(directory) + path, ns=(inode.mtime, inode.mtime), follow_symlinks=False)


def test_the_commit_is_that_of_the_same_tree_imported(fs: StratumFileSystem, session: Session, tmp_path: Path) -> None:
    source = tmp_path / "src"
    base = fs.base
    fs.pipe("new/file", LONG)
    fs.pipe("a.csv", b"short")
    fs.rm("sub/deep", recursive=True)
    fs.mv("big.bin", "renamed.bin")
    commit = fs.flatten(message="by a program")
    (source / "new").mkdir(0o755)
    (source / "new" / "file").write_bytes(LONG)
    (source / "a.csv").unlink()
    (source / "a.csv").write_bytes(b"short")
    shutil.rmtree(source / "sub" / "deep")
    (source / "big.bin").rename(source / "renamed.bin")
    like(source, session.store.commits.open_tree(commit))
    import_directory(session, str(source), "same:latest")
    assert session.store.tags.get("same", "latest") == commit == session.store.tags.get("data", "v1")
    meta = session.store.commits.meta(commit)
    assert (meta.parent_commit, meta.message) == (base, "by a program")
    assert (meta.origin or {})["kind"] == "layer"
    assert (fs.base, fs.changed) == (commit, False)
    assert fs.cat("new/file") == LONG
    fs.pipe("more", b"m")
    assert session.store.commits.meta(fs.flatten()).parent_commit == commit


def test_a_tag_that_moved_meanwhile_is_left_alone(fs: StratumFileSystem, session: Session, tmp_path: Path) -> None:
    fs.pipe("mine", LONG)
    (tmp_path / "src" / "theirs").touch()
    import_(session, str(tmp_path / "src"), "data:v1", Options(force=True))
    moved = session.store.tags.get("data", "v1")
    with pytest.raises(ConflictError, match=f"data:v1 was moved to {moved}"):
        fs.flatten()
    assert session.store.tags.get("data", "v1") == moved
    assert fs.cat("mine") == LONG
    import_directory(session, str(tmp_path / "src" / "sub"), "data:v2")
    with pytest.raises(ConflictError, match="exists already"):
        fs.flatten("v2")
    made = fs.flatten("v3")
    assert session.store.tags.get("data", "v3") == made
    fs.pipe("mine", b"again")
    forced = fs.flatten("data:v1", force=True)
    assert session.store.tags.get("data", "v1") == forced


def test_a_ref_that_is_no_tag_needs_one(session: Session, tmp_path: Path) -> None:
    commit = session.store.tags.get("data", "v1")
    fs = layered(session, ref=f"data:{commit}")
    fs.pipe("x", b"x")
    with pytest.raises(UsageError, match="no tag that could move"):
        fs.flatten()
    made = fs.flatten("other:v1")
    assert session.store.tags.get("other", "v1") == made
    with pytest.raises(OSError, match="new layer needs"):
        layered(session, tmp_path / "layer", ref=None)
    with pytest.raises(PermissionError):
        StratumFileSystem("data:v1", store=str(session.config.store)).flatten()


def test_a_directory_survives_and_belongs_to_its_commit(session: Session, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layered(session, layer).pipe("kept", LONG)
    (tmp_path / "src" / "theirs").touch()
    import_(session, str(tmp_path / "src"), "data:v1", Options(force=True))
    again = layered(session, layer)
    assert again.cat("kept") == LONG
    assert not again.exists("theirs")
    assert layered(session, layer, ref=None).cat("kept") == LONG
    import_directory(session, str(tmp_path / "src" / "sub"), "other:v1")
    with pytest.raises(OSError, match="the layer lies over"):
        layered(session, layer, ref="other:v1")
    again.flatten(force=True)
    assert layered(session, layer).cat("kept") == LONG
    assert not any(path.is_file() for path in (layer / "objects").rglob("*"))


def test_what_a_kill_leaves_of_a_batch_is_gone(session: Session, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    fs = layered(session, layer)
    fs.pipe("one", LONG)
    whole = (layer / "log").read_bytes()
    fs.pipe("two", LONG)
    after = (layer / "log").read_bytes()
    for cut in range(len(whole), len(after), 29):
        (layer / "log").write_bytes(after[:cut])
        cut_short = layered(session, layer)
        assert cut_short.exists("one")
        assert not cut_short.exists("two")
        cut_short.pipe("three", b"3")
        assert layered(session, layer).cat("three") == b"3"
        (layer / "log").write_bytes(after)
    (layer / "log").write_bytes(whole)
    with pytest.raises(OSError, match="damaged"):
        fs.ls("")
    (layer / "log").write_bytes(after.replace(b"/two", b"/tvo", 1))
    with pytest.raises(OSError, match="damaged"):
        layered(session, layer).ls("")


def _write(fs: StratumFileSystem, name: str) -> None:
    for number in range(10):
        fs.pipe(f"{name}/{number}", f"{name} {number} ".encode() * 20)


@pytest.mark.parametrize(("method", "count"), [("fork", 3), ("spawn", 1)])
def test_processes_write_to_one_directory(method: str, count: int, session: Session, tmp_path: Path) -> None:
    fs = layered(session, tmp_path / "layer")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_write, args=(fs, f"p{number}")) for number in range(count)]
    for child in children:
        child.start()
    _write(fs, "mine")
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert len(fs.glob("[pm]*/*")) == 10 * count + 10
    assert fs.cat("p0/9") == b"p0 9 " * 20
    fs.flatten()
    assert len(StratumFileSystem("data:v1", store=str(session.config.store)).glob("p?/*")) == 10 * count


def _write_for_ever(fs: StratumFileSystem) -> None:
    for number in itertools.count():
        fs.pipe(f"d{number % 3}/{number}", f"{number} ".encode() * 40)
        if number % 5 == 4:
            fs.mv(f"d{number % 3}/{number}", f"m/{number}")
        if number % 11 == 10:
            fs.flatten(force=True)


def test_a_kill_leaves_whole_files_and_nothing_else(session: Session, tmp_path: Path) -> None:
    for _ in range(4):
        child = multiprocessing.get_context("fork").Process(
            target=_write_for_ever, args=(layered(session, tmp_path / "layer"),)
        )
        child.start()
        child.join(random.uniform(0.05, 0.4))
        child.kill()
        child.join()
        fs = layered(session, tmp_path / "layer")
        for path in fs.glob("[dm]*/*"):
            assert fs.cat(path) == f"{path.rpartition('/')[2]} ".encode() * 40
    fs.flatten(force=True)
    assert not list((tmp_path / "layer" / "objects").glob("*"))


def test_a_layer_in_memory_stays_in_its_process(session: Session) -> None:
    import pandas as pd

    options: dict[str, Any] = {"ref": "data:v1", "store": str(session.config.store), "layer": "memory"}
    fs = fsspec.filesystem("stratum", **options)
    pd.DataFrame({"n": [1, 2]}).to_csv("stratum://out/frame.csv", storage_options=options)
    assert fs.cat("out/frame.csv") == b",n\n0,1\n1,2\n"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: fsspec.filesystem("stratum", **options).cat("out/frame.csv")).result()[:2] == b",n"
    with pytest.raises(TypeError, match="give layer= a directory"):
        pickle.dumps(fs)
    del fs
    StratumFileSystem.clear_instance_cache()
    assert not StratumFileSystem(**options).exists("out")


def test_libraries_write_files(fs: StratumFileSystem) -> None:
    import pandas as pd
    import zarr

    frame = pd.DataFrame({"n": range(1000), "part": [n % 3 for n in range(1000)]})
    frame.to_parquet("set", filesystem=fs, partition_cols=["part"])
    assert len(fs.glob("set/*/*.parquet")) == 3
    assert len(pd.read_parquet("set", filesystem=fs)) == 1000
    wrapped = AsyncFileSystemWrapper(fs, asynchronous=True)
    array = zarr.create_array(
        zarr.storage.FsspecStore(wrapped, path="grid"), shape=(8, 8), chunks=(4, 4), dtype="i4", overwrite=True
    )
    array[:] = 3
    array.resize((4, 4))
    again = zarr.open_array(zarr.storage.FsspecStore(wrapped, path="grid", read_only=True), mode="r")
    assert int(again[:].sum()) == 16 * 3


def test_what_is_overwritten_in_memory_is_let_go(session: Session) -> None:
    fs = layered(session)
    kept = fs._layered.layer.contents._kept  # type: ignore[union-attr]
    for number in range(16):
        fs.pipe("same", bytes([number]) * (8 << 20))
        fs.pipe(f"small/{number}", LONG + bytes([number]))
        kept = fs._layered.layer.contents._kept  # type: ignore[union-attr]
        assert sum(map(len, kept.values())) < 100 << 20
    assert fs.cat("same") == bytes([15]) * (8 << 20)
    assert fs.cat("small/7") == LONG + b"\7"


def test_paths_of_any_depth(session: Session) -> None:
    fs = layered(session)
    deep = "d/" * 1010
    assert not fs.exists(f"{deep}x")
    fs.pipe(f"{deep}x", LONG)
    assert fs.cat(f"{deep}x") == LONG
    assert fs.find("d") == [f"{deep}x"]
    fs.rm("d", recursive=True)
    for odd in ("\ud800", "a\ud800/b"):
        assert not fs.exists(odd)
        with pytest.raises(FileNotFoundError):
            fs.pipe(odd, b"x")


NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/e", "d/e/b"])
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.sampled_from([b"", b"tiny", LONG])),
    st.tuples(st.just("append"), NAMES, st.sampled_from([b"tiny", LONG])),
    st.tuples(st.just("mkdir"), NAMES, st.none()),
    st.tuples(st.just("remove"), NAMES, st.none()),
    st.tuples(st.just("rmdir"), NAMES, st.none()),
    st.tuples(st.just("move"), NAMES, NAMES),
    st.tuples(st.just("reopen"), st.none(), st.none()),
    st.tuples(st.just("flatten"), st.none(), st.none()),
)


def _fails(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return True
    return False


def _here(fs: StratumFileSystem, step: str, name: str, extra: Any) -> None:
    if step in ("write", "append"):
        with fs.open(name, "ab" if step == "append" else "wb") as file:
            file.write(extra)
    elif step == "move":
        fs.mv(name, extra)
    else:
        {"mkdir": fs.mkdir, "remove": fs.rm_file, "rmdir": fs.rmdir}[step](name)


def _really(top: Path, step: str, name: str, extra: Any) -> None:
    """Do the same in a directory of this machine."""
    path = top / name
    if step in ("write", "append"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if step == "append" else "wb") as file:
            file.write(extra)
    elif step == "mkdir":
        path.mkdir(parents=True)
    elif step == "remove":
        path.unlink()
    elif step == "rmdir":
        path.rmdir()
    elif step == "move":
        target = top / extra
        if not path.exists():
            raise FileNotFoundError
        target = target / path.name if target.is_dir() else target
        if target == path:
            return
        if path in target.parents or target.is_dir():
            raise OSError
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and target.exists():
            raise OSError
        path.rename(target)


@settings(max_examples=examples(8))
@given(st.lists(STEPS, max_size=12))
def test_any_changes_make_the_tree_that_a_directory_would_be(steps: list[tuple[str, Any, Any]]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        top = Path(name)
        real = top / "real"
        (real / "d").mkdir(parents=True)
        (real / "a").write_bytes(LONG)
        (real / "d" / "a").write_bytes(b"d/a")
        session = Session(load_config(store=str(top / "store")))
        import_directory(session, str(real), "data:v1")
        fs = layered(session, top / "layer")
        for step, at, extra in steps:
            if step == "reopen":
                fs = layered(session, top / "layer")
            elif step == "flatten":
                fs.flatten()
            else:
                does = _fails(partial(_here, fs, step, at, extra))
                assert does == _fails(partial(_really, real, step, at, extra)), (step, at, extra)
        commit = fs.flatten()
        like(real, session.store.commits.open_tree(commit))
        import_directory(session, str(real), "same:latest")
        assert session.store.tags.get("same", "latest") == commit
