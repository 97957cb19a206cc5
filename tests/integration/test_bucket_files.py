"""An object store in a directory: kills, failing disks, writers in several processes, and directories of others."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import ChangedError, DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.bucket import ABSENT, BucketStore, Match, open_bucket
from stratum.oci.descriptor import digest_of
from stratum.oci.objectstore import ObjectStore
from stratum.oci.places import open_sink
from stratum.oci.remote import fetch
from stratum.oci.target import parse_target
from tests.contracts.places import SMALL, blob_of, manifest_of, put
from tests.support.injection import DONE, REFUSED, calls_of, failed_at, killed_at
from tests.support.s3server import S3Server

WRITES = "write,mkdir,mkdirat,rename,renameat,fsync,utimensat"
OLD, NEW = manifest_of(blob_of(SMALL), number="1"), manifest_of(blob_of(SMALL), number="2")


def sink_at(root: Path) -> ObjectStore:
    sink = open_sink(parse_target(f"file://{root}"), Access(), create=True)
    assert isinstance(sink, ObjectStore)
    return sink


def bucket_at(root: Path) -> BucketStore:
    bucket = parse_target(f"file://{root}").bucket
    assert bucket is not None
    return open_bucket(bucket, Access())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def begin(root: Path) -> None:
    with sink_at(root) as sink:
        put(sink, SMALL)
        sink.put_manifest(OLD, "v1")


def move(root: Path) -> None:
    with sink_at(root) as sink:
        sink.put_manifest(NEW, "v1")


def check(root: Path, *, moved: bool | None = None) -> None:
    """The tag names the old manifest or the new one, whole; the next writer leaves nothing of those before."""
    with sink_at(root) as sink:
        data = sink.get_manifest("v1")[0]
        assert data in ((OLD, NEW) if moved is None else (NEW,) if moved else (OLD,))
        assert fetch(sink, blob_of(SMALL)) == SMALL
        for data in (NEW, OLD):
            sink.put_manifest(data, "v1")
    assert [path for path in root.rglob("*") if path.name.startswith(".tmp")] == []


def test_a_kill_at_every_call(root: Path) -> None:
    begin(root)
    for call, count in calls_of(lambda: move(root), WRITES).items():
        for number in range(1, count + 1):
            check(root)
            outcome = killed_at(lambda: move(root), call, number)
            assert outcome.status == -signal.SIGKILL, (call, number, outcome)
            check(root)


def test_a_disk_that_fails(root: Path) -> None:
    begin(root)
    for call in ("write", "fsync", "renameat"):
        outcome = failed_at(lambda: move(root), call, 1, errno.errorcode[errno.EIO])
        assert outcome.status in (DONE, REFUSED)
        assert outcome.status == DONE or os.strerror(errno.EIO) in outcome.message
        check(root, moved=False if outcome.status == REFUSED else None)


def test_what_is_written_is_synced(root: Path) -> None:
    """Each file before it has its name, each directory after."""
    begin(root)
    calls = calls_of(lambda: move(root), WRITES)
    assert calls["fsync"] == 2 * calls["renameat"] >= 4


ADD = """
import json, sys
from stratum.oci.access import Access
from stratum.oci.bucket import ABSENT, Match, open_bucket
from stratum.oci.target import parse_target
from stratum.errors import ChangedError, NotFoundError
name, place, environment, count = sys.argv[1:]
with open_bucket(parse_target(place).bucket, Access(environment=json.loads(environment))) as bucket:
    for number in range(int(count)):
        while True:
            try:
                data, version = bucket.get("list", 1 << 20)
                when = Match(version)
            except NotFoundError:
                data, when = b"", ABSENT
            try:
                bucket.put("list", data + f"{name}{number}\\n".encode(), when=when)
                break
            except ChangedError:
                pass
"""


@pytest.mark.parametrize("where", ["file", "s3"])
def test_processes_that_add_to_one_object(request: pytest.FixtureRequest, root: Path, where: str) -> None:
    place, environment = f"file://{root}", {}
    if where == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        place, environment = server.reference("processes", root.parent.name.replace("[", "-")), server.environment
    command = [sys.executable, "-c", ADD]
    writers = [subprocess.Popen([*command, name, place, json.dumps(environment), "25"]) for name in "abc"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    bucket = parse_target(place).bucket
    assert bucket is not None
    with open_bucket(bucket, Access(environment=environment)) as store:
        lines = store.get("list", 1 << 20)[0].decode().split()
    assert sorted(lines) == sorted(f"{name}{number}" for name in "abc" for number in range(25))


def test_a_clock_that_stands_still(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No version comes twice, so that a condition is not met by another object of the same size."""
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    with bucket_at(root) as bucket:
        first = bucket.put("x", b"1", when=ABSENT)
        versions = {first, *(bucket.put("x", b"%d" % (number % 10)) for number in range(50))}
        assert len(versions) == 51
        with pytest.raises(ChangedError):
            bucket.put("x", b"1", when=Match(first))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"not yours")
    return tmp_path / "outside"


def test_symbolic_links_are_not_followed(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "blobs").symlink_to(outside)
    (root / "x").symlink_to(outside / "x")
    (root / "tags").mkdir()
    (root / "tags/v1").symlink_to(outside / "x")
    with bucket_at(root) as bucket:
        for key in ("blobs/x", "x", "tags/v1"):
            with pytest.raises(StratumError, match="symbolic link"):
                bucket.get(key, 100)
            with pytest.raises(StratumError, match="symbolic link"):
                list(bucket.read(key))
        with pytest.raises(StratumError, match="symbolic link"):
            bucket.put("blobs/y", b"data")
        with pytest.raises(StratumError, match="symbolic link"):
            list(bucket.list("blobs/"))
        assert list(bucket.list("tags/")) == []
        assert [entry.key for entry in bucket.list("")] == []
        bucket.put("x", b"ours")
        bucket.delete(["tags/v1", "gone"])
        with pytest.raises(StratumError, match="symbolic link"):
            bucket.delete(["blobs/x"])
    assert (outside / "x").read_bytes() == b"not yours"
    assert sorted(os.listdir(outside)) == ["x"]
    assert not (root / "x").is_symlink()


def test_only_regular_files_are_read(root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with bucket_at(root) as bucket:
        with pytest.raises(DamagedError, match="not a regular file"):
            bucket.get("pipe", 10)
        with pytest.raises(DamagedError, match="not a regular file"):
            bucket.get("folder", 10)
        assert list(bucket.list("")) == []
        with pytest.raises(NotFoundError):
            bucket.get("folder/pipe/x", 10)
        with pytest.raises(StratumError):
            bucket.put("pipe/x", b"")


def test_lists_are_sorted_by_the_whole_key(root: Path) -> None:
    keys = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "b/x", "b/x0", "b0/y"]
    keys = [key for key in keys if key not in ("a", "a/b", "b/x")]
    with bucket_at(root) as bucket:
        for key in keys:
            bucket.put(key, key.encode())
        (root / ".hidden").write_bytes(b"")
        (root / "a b").write_bytes(b"")
        assert [entry.key for entry in bucket.list("")] == sorted(keys)
        for number, key in enumerate(sorted(keys)):
            assert [entry.key for entry in bucket.list("", key)] == sorted(keys)[number + 1 :]
        assert [entry.key for entry in bucket.list("", "a/b-d")] == [key for key in sorted(keys) if key > "a/b-d"]
        assert [entry.key for entry in bucket.list("a/")] == ["a/b-c", "a/b/c"]
        assert list(bucket.list("none/")) == []


def test_what_is_read_is_one_version(root: Path) -> None:
    with bucket_at(root) as bucket:
        bucket.put("x", b"1" * (3 << 20))
        pieces: Iterator[bytes] = bucket.read("x")
        first = next(pieces)
        bucket.put("x", b"2" * (3 << 20))
        assert first + b"".join(pieces) == b"1" * (3 << 20)
        assert bucket.read_range("x", (3 << 20) - 1, 10) == b"2"
        assert bucket.read_range("x", 5 << 20, 10) == b""
        assert digest_of(bucket.get("x", 3 << 20)[0]) == digest_of(b"2" * (3 << 20))
