"""Eviction with mounts: the space comes back while they are there, readers are not disturbed, and what would be missed
stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.keeping import Rule
from stratum.tree.contents import objects_of
from tests.support import hydrating
from tests.support.command import SCRIPT
from tests.support.disks import disk
from tests.support.lazily import LARGE, Far, Lazily, until
from tests.support.leftovers import unmount_below

pytestmark = [pytest.mark.root, pytest.mark.registry]

EVICT = ("cache", "evict", "--to", "0", "--older-than", "0")


@pytest.fixture
def lazy(far: Far, tmp_path: Path) -> Iterator[Lazily]:
    with Lazily(tmp_path / "lazy", far) as found:
        yield found


def real(lazy: Lazily) -> int:
    return len(list((lazy.cli.store / "objects").glob("??/*")))


def used(path: Path) -> int:
    """Bytes in use on the file system."""
    os.sync()
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def small(far: Far) -> list[str]:
    return [path for path in far.sums if path.startswith("d")]


@pytest.mark.parametrize("worktree", [False, True])
def test_space_comes_back_while_it_is_mounted(far: Far, tmp_path: Path, worktree: bool) -> None:
    with disk(tmp_path / "image", tmp_path / "disk", size=256 << 20) as place:
        lazy = Lazily(tmp_path / "lazy", far, store=place / "store", worktree=worktree)
        with lazy:
            before = used(place)
            lazy.cli.ok("realize", "--no-keep", "app:v1:/d0")
            lazy.cli.ok("realize", "--no-keep", "app:v1:/d1")
            assert not lazy.read(far.group(0) + far.group(1), threads=4)
            kept = (lazy.mnt / far.group(0)[0]).open("rb")
            filled = used(place)
            done = lazy.cli.json(*EVICT)
            assert done["evicted_objects"] >= 119, done
            assert filled - used(place) >= (filled - before) * 0.9
            assert filled - used(place) >= done["bytes_freed"] - (300 << 10), "but for the file that is open"
            with kept:
                assert len(kept.read()) > 0
            lazy.everything_is_right()
        unmount_below(place)


def test_readers_do_not_notice(lazy: Lazily, far: Far) -> None:
    paths = small(far)
    lazy.cli.ok("realize", "--no-keep", "app:v1:/" + paths[0])
    for group in range(7):
        lazy.cli.ok("realize", "--no-keep", f"app:v1:/d{group}")
    ended = threading.Event()
    failures: list[dict[str, int]] = []

    def storm(seed: int) -> None:
        while not ended.is_set():
            failures.append(lazy.read(paths[seed::3], threads=8))

    readers = [threading.Thread(target=storm, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    evicted = 0
    try:
        for _ in range(4):
            evicted += lazy.cli.json(*EVICT)["evicted_objects"]
            time.sleep(0.3)
    finally:
        ended.set()
        for reader in readers:
            reader.join(120)
    assert evicted >= 400
    assert len(failures) >= 3
    assert not any(failures)
    lazy.everything_is_right()


def test_what_is_mapped_goes_on_being_read(lazy: Lazily, far: Far) -> None:
    path = far.group(2)[3]
    lazy.cli.ok("realize", "--no-keep", f"app:v1:/{path}")
    program = (
        "import mmap, sys, hashlib; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1); f.close();"
        "print('ready', flush=True); sys.stdin.read(); print(hashlib.sha256(m[:]).hexdigest())"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program, lazy.mnt / path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        assert lazy.cli.json(*EVICT)["evicted_objects"] == 1
        assert reader.communicate("")[0].strip() == far.sums[path]


def test_a_large_file_goes_and_comes_back(lazy: Lazily, far: Far) -> None:
    lazy.cli.ok("realize", "--no-keep", f"app:v1:/{LARGE}")
    assert not lazy.read([LARGE])
    assert lazy.cli.json(*EVICT)["evicted_objects"] == 1
    assert not lazy.read([LARGE])


def test_a_mount_without_a_gate_keeps_what_it_shows(lazy: Lazily, far: Far, tmp_path: Path) -> None:
    """One that was made while the commit was here whole: also with another runtime directory, or without a record."""
    lazy.cli.ok("realize", "--no-keep", "app:v1")
    lazy.cli.ok("tag", "app:v1", "whole")
    whole = tmp_path / "whole"
    lazy.cli.ok("mount", "app:whole", whole)
    objects = real(lazy)
    try:
        done = lazy.cli.json(*EVICT)
        assert (done["evicted_objects"], [item["why"] for item in done["stays"]]) == (0, ["mounted"])
        assert "a mount without a gate shows it" in lazy.cli("unrealize", "app:v1").stderr
        state = lazy.run / "state"
        lost = state.rename(lazy.run / "lost")
        assert lazy.cli.json(*EVICT)["evicted_objects"] == 0
        lost.rename(state)
        assert real(lazy) == objects
    finally:
        subprocess.run(["umount", whole], check=True)
    assert lazy.cli.json(*EVICT)["evicted_objects"] == objects
    lazy.everything_is_right()


def test_where_nobody_serves_a_gate_nothing_goes(lazy: Lazily, far: Far) -> None:
    lazy.cli.ok("realize", "--no-keep", "app:v1:/d0")
    hydrating.stop(lazy.run)
    assert lazy.cli.json(*EVICT)["evicted_objects"] == 0
    assert not lazy.read(far.group(0))


def test_what_was_never_pushed_stays(far: Far, tmp_path: Path) -> None:
    with Lazily(tmp_path / "lazy", far, worktree=True) as lazy:
        own = os.urandom(100_000)
        (lazy.mnt / "own").write_bytes(own)
        with (lazy.mnt / far.group(3)[0]).open("ab") as file:
            file.write(b"more")
        (lazy.mnt / far.group(3)[1]).chmod(0o600)
        lazy.cli.ok("commit", "app+dev", "mine")
        lazy.cli.ok("realize", "app:mine", "--no-keep")
        lazy.cli.ok("unmount", lazy.mnt)
        done = lazy.cli.json(*EVICT)
        assert done["evicted_objects"] > 400
        left = [path for path in (lazy.cli.store / "objects").glob("??/*") if path.stat().st_nlink == 1]
        assert len(left) == 2, "what is own, and what was changed"
        store = Store.open(lazy.cli.store)
        assert store.residence.counts(store.tags.get("app", "mine")).lost == 0
        lazy.mount()
        assert (lazy.mnt / "own").read_bytes() == own
        assert (lazy.mnt / far.group(3)[0]).read_bytes().endswith(b"more")
        assert (lazy.mnt / far.group(3)[1]).read_bytes()


def test_a_fetch_makes_room(far: Far, tmp_path: Path) -> None:
    """What was read long ago goes when something is read that does not fit."""
    lazy = Lazily(tmp_path / "lazy", far)
    lazy.cli.ok("pull", "--lazy", far.reference, "app:v1")
    lazy.cli.ok("realize", "--no-keep", "app:v1:/d0")
    old = list((lazy.cli.store / "objects").glob("??/*"))
    for path in old:
        os.utime(path, (0, 0))
    lazy.cli.ok("cache", "limit", "--max", "1M", "--min-free", "0")
    with lazy:
        assert not lazy.read(far.group(1))
        until(lambda: sum(path.exists() for path in old) <= len(old) // 2, 30, "nothing went")
        lazy.everything_is_right()


def test_who_had_what_fetched_and_what_is_away(lazy: Lazily, far: Far) -> None:
    assert not lazy.read(far.group(0)[:5])
    (gate,) = lazy.cli.json("cache", "status", "--who")["mounts"]
    assert Path(sys.executable).name in {reader["program"] for reader in gate["fetcher"]["readers"]}
    assert gate["fetcher"]["bytes"] > 0
    said = lazy.cli.ok("cache", "status", "--who")
    assert "objects fetched" in said
    far.slow.tell(fault="503")
    assert lazy.read(far.group(7))
    residence = lazy.cli.json("status")[0]["mounted_tags"][0]["residence"]
    assert residence["unreal"]["objects"] > 0
    assert [away["place"] for away in residence["away"]] == [far.reference.rpartition(":")[0]]
    assert " since 20" in lazy.cli.ok("status")


def test_needed_objects_are_never_lost(lazy: Lazily, far: Far) -> None:
    """After all that may go is gone, every object of every commit is here or can be fetched."""
    lazy.cli.ok("realize", "--no-keep", "app:v1:/d0")
    lazy.cli.ok(*EVICT)
    store = Store.open(lazy.cli.store)
    for commit in store.commits.list():
        needed = objects_of(store.commits.dump(commit))
        assert not store.residence.lost([commit], store.residence.missing(needed))
    assert json.loads(lazy.cli.ok("--format", "json", "fsck", "--quick"))["ok"]


def test_what_rules_keep_comes_with_a_mount(far: Far, tmp_path: Path) -> None:
    """Though nobody reads it: what was evicted before there was a rule, or is new in a directory that has one."""
    lazy = Lazily(tmp_path / "lazy", far)
    lazy.cli.ok("pull", "--lazy", far.reference, "app:v1")
    Store.open(lazy.cli.store).keeping.set("app", b"/d5", Rule.REAL)
    with lazy:
        until(lambda: real(lazy) >= len(far.group(5)), 60, "it does not come")
        (gate,) = lazy.cli.json("cache", "status")["mounts"]
        assert [asked["what"] for asked in gate["fetcher"]["prefetch"]["asked"]] == ["profile", "kept"]
        hydrating.stop(lazy.run)
        assert not lazy.read(far.group(5))


def test_space_comes_back_of_a_mount_in_a_namespace_of_its_own(far: Far, tmp_path: Path) -> None:
    """As a container's is, which nobody else sees."""
    with disk(tmp_path / "image", tmp_path / "disk", size=128 << 20) as place:
        lazy = Lazily(tmp_path / "lazy", far, store=place / "store")
        lazy.cli.ok("pull", "--lazy", far.reference, "app:v1")
        lazy.cli.ok("realize", "--no-keep", "app:v1:/d0")
        script = (
            f"{SCRIPT} -q mount app:v1 {lazy.mnt} && cat {lazy.mnt}/d0/* >/dev/null && echo ready && exec sleep 100"
        )
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        with subprocess.Popen(command, env=lazy.cli.environment, stdout=subprocess.PIPE, text=True) as inside:
            try:
                assert inside.stdout is not None
                lines = [inside.stdout.readline(), inside.stdout.readline()]
                assert "ready\n" in lines
                assert not lazy.mnt.is_mount()
                filled = used(place)
                done = lazy.cli.json(*EVICT)
                assert done["evicted_objects"] >= 59, done
                assert filled - used(place) >= done["bytes_freed"] * 0.9
            finally:
                inside.kill()
        hydrating.stop(lazy.run)
