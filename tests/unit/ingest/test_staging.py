"""Reading one file into the staging area: what is stored, what is skipped, and files that change meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stratum.composefs.verity import VerityHasher, verity_digest
from stratum.ingest.copying import copy_hashed
from stratum.ingest.staging import IN_MEMORY_MAX, FileRead, Signature, Stager, signature
from stratum.store import Store
from stratum.store.objects import Staging

MIB = 1 << 20


class Area:
    """A source directory, a store with objects only, and a staging directory."""

    def __init__(self, path: Path) -> None:
        self.source = path / "source"
        self.store = path / "store"
        self.objects = self.store / "objects"
        self.staging = path / "staging"
        for directory in (self.source, self.objects, self.staging):
            directory.mkdir(parents=True)
        self.stager = Stager(os.fsencode(self.store), os.fsencode(self.staging), "test")

    def write(self, name: str, data: bytes) -> Path:
        path = self.source / name
        path.write_bytes(data)
        return path

    def read(
        self,
        name: str,
        *,
        candidate: bytes | None = None,
        listed: Signature | None = None,
        stager: Stager | None = None,
    ) -> FileRead:
        directory = os.open(self.source, os.O_RDONLY)
        try:
            listed = listed or signature((self.source / name).lstat())
            found = (stager or self.stager).read(directory, name.encode(), listed, xattrs=True, candidate=candidate)
        finally:
            os.close(directory)
        assert found is not None
        return found

    def put_object(self, data: bytes) -> bytes:
        digest = verity_digest(data)
        path = self.objects / digest.hex()[:2] / digest.hex()[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return digest

    def staged(self) -> list[str]:
        files = (path for path in self.staging.rglob("*") if not path.is_dir())
        return sorted(str(path.relative_to(self.staging)) for path in files)


def place(digest: bytes) -> str:
    return Staging.name(digest)


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(tmp_path)


@pytest.mark.parametrize("size", [65, 4096, 4097, 100_000, IN_MEMORY_MAX, IN_MEMORY_MAX + 1, IN_MEMORY_MAX + 3 * MIB])
def test_a_file_is_staged_under_its_digest(area: Area, size: int) -> None:
    data = os.urandom(size)
    area.write("f", data)
    found_size, digest, content, xattrs, staged, changing, metadata = area.read("f")
    assert (found_size, digest, content, xattrs) == (size, verity_digest(data), None, ())
    assert (staged, changing, metadata) == (True, False, None)
    assert digest is not None
    assert area.staged() == [place(digest)]
    assert (area.staging / place(digest)).read_bytes() == data


@pytest.mark.parametrize("size", [0, 1, 64])
def test_a_small_file_is_inline(area: Area, size: int) -> None:
    data = b"x" * size
    area.write("f", data)
    found = area.read("f")
    assert found[:3] == (size, None, data or None)
    assert area.staged() == []


@pytest.mark.parametrize("size", [1000, IN_MEMORY_MAX + 5])
def test_what_the_store_has_is_not_staged(area: Area, size: int) -> None:
    data = os.urandom(size)
    digest = area.put_object(data)
    area.write("f", data)
    found = area.read("f", candidate=digest)
    assert found[:2] == (size, digest)
    assert not found[4]
    assert area.staged() == []


def test_a_wrong_candidate_does_no_harm(area: Area) -> None:
    data = os.urandom(IN_MEMORY_MAX + 5)
    other = area.put_object(os.urandom(len(data)))
    area.write("f", data)
    assert area.read("f", candidate=other)[1] == verity_digest(data)
    assert area.staged() == [place(verity_digest(data))]


def test_a_large_file_that_the_store_has_leaves_nothing_staged(area: Area) -> None:
    data = os.urandom(IN_MEMORY_MAX + 5)
    area.put_object(data)
    area.write("f", data)
    assert not area.read("f")[4]
    assert area.staged() == []


def test_an_object_of_another_size_is_staged_again(area: Area) -> None:
    data = os.urandom(1000)
    digest = area.put_object(data)
    (area.objects / digest.hex()[:2] / digest.hex()[2:]).write_bytes(data[:500])
    area.write("f", data)
    assert area.read("f")[4]
    assert area.staged() == [place(digest)]


def test_holes_stay_holes(area: Area) -> None:
    path = area.source / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(100 * MIB)
        file.write(b"middle")
        file.seek((1 << 30) - 3)
        file.write(b"end")
    size, digest, _, _, staged, _, _ = area.read("sparse")
    assert (size, staged) == (1 << 30, True)
    assert digest is not None
    copy = area.staging / place(digest)
    assert copy.stat().st_size == 1 << 30
    assert copy.stat().st_blocks * 512 < MIB
    with copy.open("rb") as file:
        file.seek(100 * MIB)
        assert file.read(6) == b"middle"
    fd = os.open(copy, os.O_RDONLY)
    try:
        assert copy_hashed(fd, None, 1 << 30, sparse=True)[0] == digest
    finally:
        os.close(fd)


def test_a_hole_has_the_digest_of_its_zeros(area: Area) -> None:
    path = area.source / "sparse"
    with path.open("wb") as file:
        file.truncate(IN_MEMORY_MAX + 5000)
    digest = area.read("sparse")[1]
    assert digest == verity_digest(bytes(IN_MEMORY_MAX + 5000))


@pytest.mark.parametrize("before", [0, 1, 4095, 4096, 5000])
@pytest.mark.parametrize("zeros", [0, 1, 4095, 4096, 4097, 128 * 4096, 9000 * 4096 + 17])
def test_zeros_hash_like_zeros(before: int, zeros: int) -> None:
    one, other = VerityHasher(), VerityHasher()
    for hasher in (one, other):
        hasher.update(b"a" * before)
    one.update(bytes(zeros))
    other.update_zeros(zeros)
    for hasher in (one, other):
        hasher.update(b"tail")
    assert one.digest() == other.digest()


class ChangedOnce(Stager):
    """Appends to the file after its first read, as a program that writes meanwhile does."""

    path: Path
    left = 1

    def _content(
        self, fd: int, info: os.stat_result, candidate: bytes | None
    ) -> tuple[int, bytes | None, bytes | None, bool]:
        found = super()._content(fd, info, candidate)
        if self.left:
            self.left -= 1
            with self.path.open("ab") as file:
                file.write(b"more")
        return found


def test_an_object_that_came_to_the_store_meanwhile_is_staged_and_not_named_again(tmp_path: Path) -> None:
    """A shard that was missing when it was first looked for is not looked into again."""
    store = Store.create(tmp_path / "store")
    source = tmp_path / "source"
    source.mkdir()
    data = [b"%d" % number * 1000 for number in range(2000)]
    one = data[0]
    two = next(other for other in data[1:] if verity_digest(other)[0] == verity_digest(one)[0])
    with store.begin("a test") as tx:
        stager = Stager(os.fsencode(store.root), os.fsencode(tx.object_staging), "test")
        directory = os.open(source, os.O_RDONLY)
        try:
            for number, content in enumerate((one, two)):
                path = source / f"f{number}"
                path.write_bytes(content)
                found = stager.read(
                    directory, os.fsencode(path.name), signature(path.lstat()), xattrs=True, candidate=None
                )
                assert found is not None
                size, digest, _, _, staged, _, _ = found
                assert digest is not None
                assert staged
                tx.stage(digest, size)
                with store.begin("another") as another:
                    another.add_bytes(two)
                    another.publish_objects(complete=True)
        finally:
            os.close(directory)
        assert tx.publish_objects(complete=True) == 1
        assert not [path for path in tx.object_staging.rglob("*") if path.is_file() and path.read_bytes() == one]
    assert store.objects.verify(verity_digest(one)) == len(one)
    assert store.objects.verify(verity_digest(two)) == len(two)


@pytest.mark.parametrize("size", [10, 1000, IN_MEMORY_MAX + 1])
def test_a_file_that_changed_is_read_again(area: Area, size: int) -> None:
    path = area.write("f", bytes(size))
    stager = ChangedOnce(os.fsencode(area.store), os.fsencode(area.staging), "test")
    stager.path = path
    found_size, digest, content, _, _, changing, metadata = area.read("f", stager=stager)
    data = bytes(size) + b"more"
    assert found_size == len(data)
    assert (digest, content) == ((None, data) if len(data) <= 64 else (verity_digest(data), None))
    assert not changing
    info = path.stat()
    assert metadata == (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)


def test_a_file_that_never_holds_still_is_reported_and_stored_as_read(area: Area) -> None:
    area.write("f", bytes(16 * MIB))
    program = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY)\n"
        "print('go', flush=True)\n"
        "while True: os.pwrite(fd, os.urandom(8192), int.from_bytes(os.urandom(2), 'big') * 200)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, area.source / "f"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            size, digest, _, _, _, changing, _ = area.read("f")
        finally:
            writer.kill()
    assert changing
    assert digest is not None
    stored = (area.staging / place(digest)).read_bytes()
    assert len(stored) == size
    assert verity_digest(stored) == digest


def test_a_file_that_is_gone(area: Area) -> None:
    directory = os.open(area.source, os.O_RDONLY)
    try:
        assert area.stager.read(directory, b"gone", (0, 0, 0, 0, 0), xattrs=True, candidate=None) is None
    finally:
        os.close(directory)


def test_a_replacement_by_another_file_is_read_with_its_own_metadata(area: Area) -> None:
    listed = signature(area.write("f", b"old" * 100).lstat())
    area.write("new", b"new" * 100).chmod(0o640)
    os.rename(area.source / "new", area.source / "f")
    found = area.read("f", listed=listed)
    assert found[1] == verity_digest(b"new" * 100)
    assert found[6] is not None
    assert found[6][0] == 0o100640


def test_a_symbolic_link_in_place_of_the_file_is_not_followed(area: Area) -> None:
    listed = signature(area.write("f", b"x" * 100).lstat())
    (area.source / "f").unlink()
    (area.source / "f").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        area.read("f", listed=listed)


def test_a_fifo_in_place_of_the_file_does_not_block(area: Area) -> None:
    listed = signature(area.write("f", b"x" * 100).lstat())
    (area.source / "f").unlink()
    os.mkfifo(area.source / "f")
    with pytest.raises(OSError, match="regular file"):
        area.read("f", listed=listed)


def test_the_access_time_stays(area: Area) -> None:
    path = area.write("f", b"x" * 100)
    os.utime(path, (1, 1))
    area.read("f")
    assert path.stat().st_atime == 1
