"""Files of commits in places, read without a pull: from a registry, from S3, by an ordinary user."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from stratum.api.importing import import_directory
from stratum.api.session import Session
from stratum.api.transfer import push
from stratum.config import load_config
from stratum.fs import StratumFileSystem
from stratum.fs.opened import shared
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.s3server import S3Server

pytestmark = pytest.mark.registry

LARGE = 20 << 20
ROWS = 20_000


@dataclass
class Place:
    """A place with the commit of ``directory``, as ``reference``; what it takes to read it is in ``options``."""

    reference: str
    directory: Path
    blobs: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"stratum://{self.reference}"


def fill(directory: Path) -> None:
    import pandas as pd
    import zarr

    (directory / "sub").mkdir()
    (directory / "large.bin").write_bytes(os.urandom(LARGE))
    (directory / "empty").touch()
    (directory / "small.csv").write_text("a,b\n" + "1,2\n" * 100)
    os.symlink("../small.csv", directory / "sub" / "link.csv")
    for number in range(40):
        (directory / "sub" / f"{number:02}.bin").write_bytes(os.urandom(3000))
    frame = pd.DataFrame({"n": range(ROWS), "x": [f"text {n % 97}" for n in range(ROWS)]})
    frame.to_parquet(directory / "frame.parquet", row_group_size=5000)
    for part in (0, 1):
        (directory / "set" / f"part={part}").mkdir(parents=True)
        frame[part::2].to_parquet(directory / "set" / f"part={part}" / "rows.parquet")
    array = zarr.create_array(str(directory / "grid.zarr"), shape=(64, 64), chunks=(16, 16), dtype="i4")
    array[:] = 7
    array[3, 5] = 42


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


@pytest.fixture(scope="module")
def pushed(
    server: RegistryServer, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    """The same commit in both places."""
    top = tmp_path_factory.mktemp("fs")
    directory = top / "src"
    directory.mkdir()
    fill(directory)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        session = Session(load_config(store=str(top / "store")))
        import_directory(session, str(directory), "data:v1")
        s3 = Place(
            f"{s3_server.bucket('files')}/data:v1",
            directory,
            s3_server.directory,
            {"endpoint": s3_server.endpoint},
        )
        registry = Place(f"{server.host}/team/data:v1", directory, server.directory)
        push(session, "data:v1", registry.reference, access=session.access())
        push(session, "data:v1", s3_server.reference("files", "data", "v1"), access=session.access())
        yield {"registry": registry, "s3": s3}


@pytest.fixture(params=["registry", "s3"])
def place(request: pytest.FixtureRequest, pushed: dict[str, Place], tmp_path: Path) -> Place:
    """Each place, with a store that is not there."""
    found = pushed[request.param]
    return Place(found.reference, found.directory, found.blobs, {**found.options, "store": str(tmp_path / "none")})


def opened(place: Place, **options: Any) -> StratumFileSystem:
    """A file system that shares nothing with those before it."""
    shared().caches.clear()
    shared().commits.clear()
    return StratumFileSystem(**place.options, **options, skip_instance_cache=True)


def received(fs: StratumFileSystem, place: Place) -> int:
    """Bytes of packs that it has received so far."""
    commit: Any = fs._at(place.reference).content.__self__
    return int(commit._reader()._supplies.supply.remote.received)


def test_everything_reads_as_it_was(place: Place, tmp_path: Path) -> None:
    fs = opened(place)
    real = {
        os.path.relpath(os.path.join(top, name), place.directory)
        for top, _, names in os.walk(place.directory)
        for name in names
    }
    found = fs.find(place.url)
    assert {name.removeprefix(f"{place.reference}/") for name in found} == real
    for name in real:
        assert fs.cat(f"{place.url}/{name}") == (place.directory / name).read_bytes(), name
    fs.get(f"{place.url}/sub", str(tmp_path / "out"), recursive=True)
    assert len(os.listdir(tmp_path / "out")) == 41
    ranges = fs.cat_ranges([f"{place.url}/sub/{n:02}.bin" for n in range(40)], 10, 20)
    assert ranges == [(place.directory / "sub" / f"{n:02}.bin").read_bytes()[10:20] for n in range(40)]
    assert not Path(place.options["store"]).exists()


def test_a_seek_fetches_what_it_needs(place: Place) -> None:
    fs = opened(place)
    data = (place.directory / "large.bin").read_bytes()
    with fs.open(f"{place.url}/large.bin") as file:
        assert received(fs, place) == 0
        file.seek(LARGE // 2 + 5)
        assert file.read(100) == data[LARGE // 2 + 5 :][:100]
        once = received(fs, place)
        assert once < 3 << 20
        file.seek(LARGE // 2 + 300)
        assert file.read(100) == data[LARGE // 2 + 300 :][:100]
        assert received(fs, place) == once
        file.seek(0)
        while piece := file.read(1 << 18):
            assert data[file.tell() - len(piece) : file.tell()] == piece
        assert received(fs, place) < LARGE + (6 << 20)


def test_little_is_kept_in_memory_and_all_on_disk(place: Place, tmp_path: Path) -> None:
    data = (place.directory / "large.bin").read_bytes()
    options = {"cache_bytes": 2 << 20, "cache_dir": str(tmp_path / "cache")}
    fs = opened(place, **options)
    assert fs.cat(f"{place.url}/large.bin") == data
    assert shared().cache(fs._opener.caching).size <= 2 << 20
    again = opened(place, **options)
    assert again.cat(f"{place.url}/large.bin") == data
    assert received(again, place) == 0
    for path in (tmp_path / "cache").glob("*/*"):
        path.write_bytes(b"\0" * path.stat().st_size)  # by somebody else
    last = opened(place, **options)
    assert last.cat_file(f"{place.url}/large.bin", 5, 50) == data[5:50]
    assert received(last, place) > 0


def test_libraries_open_files(place: Place) -> None:
    import pandas as pd
    import pyarrow.dataset as ds
    import pyarrow.fs as pafs
    import pyarrow.parquet as pq
    import zarr

    fs, real = opened(place), place.directory
    options = {**place.options}
    frame = pd.read_parquet(f"{place.url}/frame.parquet", columns=["x"], storage_options=options)
    assert frame.equals(pd.read_parquet(real / "frame.parquet", columns=["x"]))
    csv = pd.read_csv(f"{place.url}/sub/link.csv", storage_options=options)
    assert csv.shape == (100, 2)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    assert pq.read_table(f"{place.reference}/frame.parquet", filesystem=arrow).num_rows == ROWS
    parts = ds.dataset(f"{place.reference}/set", filesystem=arrow, partitioning="hive")
    assert parts.count_rows(filter=ds.field("part") == 1) == ROWS // 2
    store = zarr.storage.FsspecStore(
        AsyncFileSystemWrapper(fs, asynchronous=True), path=f"{place.reference}/grid.zarr", read_only=True
    )
    grid = zarr.open_array(store, mode="r")
    assert (int(grid[3, 5]), int(grid[:].sum())) == (42, 64 * 64 * 7 + 35)
    by_url = zarr.storage.FsspecStore.from_url(f"{place.url}/grid.zarr", storage_options=options, read_only=True)
    assert int(zarr.open_array(by_url, mode="r")[3, 5]) == 42


def test_a_place_alone_is_given_as_an_option(place: Place) -> None:
    fs = fsspec.filesystem("stratum", place=place.reference, **place.options)
    assert fs.isfile("small.csv")
    assert "sub" in fs.ls("", detail=False)
    with pytest.raises(FileNotFoundError):
        fs.open("missing")
    with pytest.raises(FileNotFoundError, match="v9"):
        fsspec.filesystem("stratum", place=place.reference.replace(":v1", ":v9"), **place.options).ls("")


def test_a_layer_over_a_place_becomes_a_commit(place: Place, tmp_path: Path) -> None:
    import pandas as pd

    options = {**place.options, "layer": str(tmp_path / "layer")}
    fs = StratumFileSystem(place=place.reference, skip_instance_cache=True, **options)
    pd.DataFrame({"n": range(100)}).to_parquet("new/frame.parquet", filesystem=fs)
    fs.rm("set", recursive=True)
    commit = fs.flatten(tag="mine:v1", message="from Python")
    assert (fs.base, fs.changed) == (commit, False)
    assert pd.read_parquet("new/frame.parquet", filesystem=fs).shape == (100, 1)
    local = StratumFileSystem("mine:v1", store=place.options["store"], skip_instance_cache=True)
    assert not local.exists("set")
    assert local.cat_file("large.bin", 5, 50) == (place.directory / "large.bin").read_bytes()[5:50]  # still fetched


def test_wrong_bytes_are_an_error(pushed: dict[str, Place], s3_server: S3Server, tmp_path: Path) -> None:
    directory = tmp_path / "src"
    directory.mkdir()
    (directory / "large.bin").write_bytes(os.urandom(LARGE))
    (directory / "small.bin").write_bytes(os.urandom(5000))
    session = Session(load_config(store=str(tmp_path / "store")))
    import_directory(session, str(directory), "bad:v1")
    push(session, "bad:v1", s3_server.reference("damaged", "bad", "v1"), access=session.access())
    for blob in (s3_server.directory / "damaged" / "bad" / "blobs" / "sha256").iterdir():
        data = blob.read_bytes()
        if len(data) > 4000 and data[:4] == b"\x28\xb5\x2f\xfd":  # packs are random bytes: they are stored as they are
            at = len(data) // 2
            blob.write_bytes(data[:at] + bytes(byte ^ 1 for byte in data[at : at + 8]) + data[at + 8 :])
    fs = StratumFileSystem(
        place="s3://damaged/bad:v1", endpoint=s3_server.endpoint, store=str(tmp_path / "none"), skip_instance_cache=True
    )
    for name in ("large.bin", "small.bin"):
        with pytest.raises(OSError, match=r"digest|decompressed") as caught:
            fs.cat(name)
        assert caught.value.errno == 5


SCRIPT = """
import os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
import pandas as pd, fsspec
from stratum.fs import StratumFileSystem
url, layer = sys.argv[1:]
assert pd.read_parquet(url + "/frame.parquet").shape == (20000, 2)
fs = StratumFileSystem(place=url.removeprefix("stratum://"), layer=layer)
with fs.open("note.txt", "w") as file:
    file.write("by nobody, and longer than what has room in a tree, which is 64 bytes of text")
print(fs.flatten("mine:v1"))
assert fsspec.open("stratum://mine:v1/note.txt", "r").open().read().startswith("by nobody")
assert not os.path.exists("/var/lib/stratum") or not os.access("/var/lib/stratum", os.R_OK)
"""


@pytest.mark.root
def test_an_ordinary_user_needs_no_more(pushed: dict[str, Place], tmp_path: Path) -> None:
    home = Path("/var/tmp") / f"stratum-home-{os.getpid()}"
    home.mkdir(0o700)
    os.chown(home, 65534, 65534)
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, pushed["registry"].url, str(home / "layer")],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert (home / ".local/share/stratum/commits" / done.stdout.strip()).is_file()
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)


def _child(fs: StratumFileSystem, path: str, answers: Any) -> None:
    try:
        answers.put(fs.cat_file(path, 5, 50))
    except OSError as exc:
        answers.put(str(exc))


def test_a_forked_process_has_connections_of_its_own(place: Place) -> None:
    """But what speaks with object stores cannot be used after a fork, which is said at once."""
    fs = opened(place)
    data = (place.directory / "large.bin").read_bytes()
    path = f"{place.url}/large.bin"
    assert fs.cat_file(path, 5, 50) == data[5:50]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=_child, args=(fs, path, answers), daemon=True) for _ in range(3)]
    for child in children:
        child.start()
    assert fs.cat_file(path, LARGE - 50, None) == data[-50:]
    found = [answers.get(timeout=60) for _ in children]
    assert found == [data[5:50]] * 3 or all("forked from one that had asked" in each for each in found)
    assert (found[0] == data[5:50]) == ("s3:" not in place.reference)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
