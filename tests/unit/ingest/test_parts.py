"""The pieces below an import: attribute rules, the stat cache, the worker pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import StratumError
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.pool import Batch, Pool, reading_pool
from stratum.ingest.staging import Signature, signature
from stratum.ingest.statcache import TELLS_AFTER, TELLS_AFTER_COARSE, Found, StatCache, tells_changes
from stratum.ingest.worker import OK, STORE_FAILED, Request
from stratum.store import Store
from stratum.sys.dirstack import OPEN_DIRECTORY
from stratum.sys.proc import alive, start_time

HUGE = 15 << 40
"""Bytes of a hole that takes longer to hash than a test lasts; ext4 has no larger files."""


class TestAttributes:
    def test_what_is_kept(self) -> None:
        names = [
            b"security.capability",
            b"security.evm",
            b"security.ima",
            b"security.selinux",
            b"system.nfs4_acl",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"trusted.foo",
            b"trusted.overlay.redirect",
            b"user.foo",
        ]
        kept = [name for name, _ in stored_xattrs(tuple((name, b"v") for name in names))]
        assert kept == [
            b"security.capability",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"trusted.foo",
            b"trusted.overlay.redirect",
            b"user.foo",
        ]

    def test_more_than_an_image_holds(self) -> None:
        assert stored_xattrs(((b"user.a", bytes(32000)),))
        with pytest.raises(StratumError, match="32767"):
            stored_xattrs(((b"user.a", bytes(32767)),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def put(store: Store, data: bytes) -> bytes:
    with store.begin("a test") as tx:
        digest = tx.add_bytes(data)
        tx.publish_objects()
    return digest


class TestStatCache:
    def entries(self, tmp_path: Path, store: Store) -> tuple[list[os.stat_result], list[tuple[Signature, Found]]]:
        infos = []
        for number in range(3):
            (tmp_path / f"f{number}").write_bytes(b"x" * 100 * number)
            infos.append((tmp_path / f"f{number}").stat())
        found: list[Found] = [
            ((), None, b"inline"),
            (((b"user.a", b"1"), (b"user.b", b"")), put(store, b"x" * 100), None),
            (((b"user.a", b"1"), (b"user.b", b"")), None, None),
        ]
        return infos, [(signature(info), entry) for info, entry in zip(infos, found, strict=True)]

    def load(self, store: Store, source: bytes = b"/source") -> StatCache:
        return StatCache.load(store.objects, source)

    def file(self, store: Store) -> Path:
        (path,) = (store.root / "cache" / "ingest").iterdir()
        return path

    def test_what_is_saved_is_found(self, tmp_path: Path, store: Store) -> None:
        infos, entries = self.entries(tmp_path, store)
        self.load(store).save(entries)
        cache = self.load(store)
        assert len(cache) == 3
        assert [cache.find(info) for info in infos] == [found for _, found in entries]
        assert len(self.load(store, b"/other")) == 0

    @pytest.mark.parametrize("field", range(5))
    def test_any_difference_is_a_miss(self, tmp_path: Path, store: Store, field: int) -> None:
        infos, entries = self.entries(tmp_path, store)
        changed = list(entries[1][0])
        changed[field] += 1
        key = (changed[0], changed[1], changed[2], changed[3], changed[4])
        self.load(store).save([(key, entries[1][1])])
        assert self.load(store).find(infos[1]) is None

    def test_the_candidate_of_a_changed_file(self, tmp_path: Path, store: Store) -> None:
        infos, entries = self.entries(tmp_path, store)
        self.load(store).save(entries)
        os.utime(tmp_path / "f1")
        cache = self.load(store)
        info = (tmp_path / "f1").stat()
        assert cache.find(info) is None
        assert cache.candidate(info) == entries[1][1][1]
        assert cache.candidate(infos[0]) is None

    def test_a_missing_object_is_a_miss(self, tmp_path: Path, store: Store) -> None:
        infos, entries = self.entries(tmp_path, store)
        self.load(store).save(entries)
        digest = entries[1][1][1]
        assert digest is not None
        store.objects.path(digest).unlink()
        assert self.load(store).find(infos[1]) is None
        assert self.load(store).find(infos[0]) is not None

    def test_many_entries_are_looked_up_by_listing(self, tmp_path: Path, store: Store) -> None:
        infos, entries = self.entries(tmp_path, store)
        more = [((1, number, 1, 1, 1), entries[0][1]) for number in range(200)]
        self.load(store).save(entries + more)
        cache = self.load(store)
        assert cache.find(infos[1]) == entries[1][1]
        digest = entries[1][1][1]
        assert digest is not None
        store.objects.path(digest).unlink()
        assert self.load(store).find(infos[1]) is None

    def test_damage_anywhere_is_ignored(self, tmp_path: Path, store: Store) -> None:
        infos, entries = self.entries(tmp_path, store)
        self.load(store).save(entries)
        path = self.file(store)
        whole = path.read_bytes()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 0x10
            path.write_bytes(damaged)
            assert self.load(store).find(infos[1]) is None
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            assert self.load(store).find(infos[1]) is None

    def test_times_that_a_record_cannot_hold_are_left_out(self, tmp_path: Path, store: Store) -> None:
        infos, entries = self.entries(tmp_path, store)
        key = entries[0][0]
        self.load(store).save([((key[0], key[1], key[2], 1 << 63, key[4]), entries[0][1]), entries[1]])
        cache = self.load(store)
        assert len(cache) == 1
        assert cache.find(infos[1]) is not None

    def test_a_store_that_cannot_be_written_is_no_error(self, tmp_path: Path, store: Store) -> None:
        _, entries = self.entries(tmp_path, store)
        (store.root / "cache").write_bytes(b"in the way")
        self.load(store).save(entries)
        assert len(self.load(store)) == 0

    def test_when_a_change_time_tells_changes(self) -> None:
        second = 10**9
        fine, coarse = 1000 * second + 1, 1000 * second
        assert not tells_changes(fine, fine)
        assert not tells_changes(fine, fine + TELLS_AFTER)
        assert tells_changes(fine, fine + TELLS_AFTER + 1)
        assert not tells_changes(coarse, coarse + TELLS_AFTER_COARSE)
        assert tells_changes(coarse, coarse + TELLS_AFTER_COARSE + 1)
        assert not tells_changes(fine + second, fine)


@pytest.fixture
def pool_paths(tmp_path: Path) -> tuple[bytes, bytes]:
    (tmp_path / "objects").mkdir()
    (tmp_path / "staging").mkdir()
    return os.fsencode(tmp_path / "objects"), os.fsencode(tmp_path / "staging")


def batch(directory: Path, *names: bytes) -> Batch:
    request: Request = [[(name, (0, 0, 0, 0, 0), False, None, None) for name in names]]
    return Batch([os.open(directory, OPEN_DIRECTORY)], request, names)


class TestPool:
    def test_work_is_done_by_several(self, tmp_path: Path, pool_paths: tuple[bytes, bytes]) -> None:
        source = tmp_path / "source"
        source.mkdir()
        for number in range(100):
            (source / f"{number}").write_bytes(b"%d" % number * 50)
        pool = reading_pool(3, *pool_paths)
        try:
            answers = []
            for number in range(100):
                while pool.full:
                    answers += pool.answers(wait=True)
                pool.add(batch(source, b"%d" % number))
            while not pool.idle:
                answers += pool.answers(wait=True)
        finally:
            pool.close()
        found = {done.tag[0]: answer for done, answer in answers}
        for number in range(100):
            status, results = found[b"%d" % number]
            data = b"%d" % number * 50
            assert status == OK
            assert results[0][0][:2] == (len(data), verity_digest(data) if len(data) > 64 else None)

    def test_a_message_larger_than_a_socket_holds(self, tmp_path: Path, pool_paths: tuple[bytes, bytes]) -> None:
        pool = reading_pool(1, *pool_paths)
        try:
            names = [b"%0250d" % number for number in range(20_000)]
            pool.add(batch(tmp_path, *names))
            answers = []
            while not pool.idle:
                answers += pool.answers(wait=True)
        finally:
            pool.close()
        assert answers[0][1] == (OK, [[None] * len(names)])

    def test_a_store_that_cannot_be_written(self, tmp_path: Path, pool_paths: tuple[bytes, bytes]) -> None:
        (tmp_path / "f").write_bytes(b"x" * 100)
        (tmp_path / "staging").rmdir()
        pool = reading_pool(1, *pool_paths)
        try:
            pool.add(batch(tmp_path, b"f"))
            ((_, answer),) = pool.answers(wait=True) or pool.answers(wait=True)
        finally:
            pool.close()
        assert answer[0] == STORE_FAILED
        assert answer[2] == "No such file or directory"

    def test_a_worker_that_is_killed_is_an_error(self, tmp_path: Path, pool_paths: tuple[bytes, bytes]) -> None:
        with (tmp_path / "large").open("wb") as file:
            file.truncate(HUGE)
        before = children()
        pool = reading_pool(2, *pool_paths)
        try:
            pool.add(batch(tmp_path, b"large"))
            victim = next(child for child in children() if child not in before)
            os.kill(victim, signal.SIGKILL)
            pool.add(batch(tmp_path, b"large"))
            with pytest.raises(StratumError, match="killed by signal 9"):
                wait_for_ever(pool)
        finally:
            pool.close()
        assert children() == before

    def test_workers_do_not_outlive_their_program(self, tmp_path: Path, pool_paths: tuple[bytes, bytes]) -> None:
        with (tmp_path / "large").open("wb") as file:
            file.truncate(HUGE)
        program = (
            "import os, sys, time\n"
            "from tests.unit.ingest.test_parts import batch, children\n"
            "from pathlib import Path\n"
            "from stratum.ingest.pool import reading_pool\n"
            "source = Path(sys.argv[1])\n"
            "pool = reading_pool(2, os.fsencode(source / 'objects'), os.fsencode(source / 'staging'))\n"
            "pool.add(batch(source, b'large'))\n"
            "while not list((source / 'staging').iterdir()): time.sleep(0.01)\n"
            "print(*children(), flush=True)\n"
            "time.sleep(600)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, tmp_path],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        ) as starter:
            assert starter.stdout is not None
            workers = [int(pid) for pid in starter.stdout.readline().split()]
            times = {pid: start_time(pid) or 0 for pid in workers}
            starter.kill()
        assert len(workers) == 2
        until = time.monotonic() + 30
        while any(alive(pid, times[pid]) for pid in workers):
            assert time.monotonic() < until
            time.sleep(0.01)


def wait_for_ever(pool: Pool) -> None:
    while True:
        pool.answers(wait=True)


def children() -> list[int]:
    """The child processes of this one, oldest first."""
    tasks = Path("/proc/self/task").iterdir()
    return sorted(int(pid) for task in tasks for pid in (task / "children").read_text().split())
