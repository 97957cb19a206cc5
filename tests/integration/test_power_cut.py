"""Power cuts: what a disk holds at a random moment is a whole store with all that was reported done.

The store is on an ext4 in a file. Under load that file is copied: the copy has what the file system had given to the
disk by then and nothing else. The writers are stopped for the copy, and it counts when the file did not change while
it was copied, as a file system that goes on writing would leave a state that no power cut leaves.
``STRATUM_TEST_POWER_CUTS`` is the number of cuts (default 3).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stratum.api import maintenance
from stratum.api.session import Session
from stratum.config import load_config
from stratum.content import TreeStore
from stratum.transfer.artifact import read_manifest
from tests.support.disks import disk, mounted, stopped_copy
from tests.support.pushing import Served, registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[2]
CUTS = int(os.environ.get("STRATUM_TEST_POWER_CUTS", "3"))

WRITER = """
import os, pathlib, sys
from stratum.cli.start import run
from stratum.store import Store
from tests.support.grounds import small_trees_on_each_other
small_trees_on_each_other().__enter__()
disk, scratch, name = sys.argv[1:]
report = os.open(f"{scratch}/reported", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
source = pathlib.Path(scratch, name)
source.mkdir()
for number in range(200):
    (source / f"a name that makes its line longer {number}").touch()
options = ["--quiet", "--store", f"{disk}/store", "--runtime-dir", f"{scratch}/run-{name}"]
def done(*args, report_as):
    assert run([*options, *args]) == 0, args
    os.write(report, (report_as + "\\n").encode())
for number in range(100000):
    (source / f"f{number % 40}").write_bytes(os.urandom(200) * (number % 97))
    done("import", "--bare", str(source), f"{name}:t{number}", report_as=f"{name}:t{number}")
    if number == 0:
        done("worktree", "add", f"{name}+dev", f"{name}:t0", report_as=f"{name}+dev")
    at_boot = Store.open(pathlib.Path(disk, "store")).boot_mounts
    at_boot.set(f"{name}:t{number}", pathlib.Path("/", name), read_only=True, replacing=f"{name}:t{number - 1}")
    os.write(report, f"@/{name}\\n".encode())
    upper = pathlib.Path(disk, "store/refs", name, "worktrees/dev/upperdir")
    (upper / f"w{number % 7}").write_bytes(os.urandom(300) * 20)
    os.sync()
    done("commit", f"{name}+dev", f"c{number}", report_as=f"{name}:c{number}")
    for old in (f"{name}:t{number - 5}", f"{name}:c{number - 5}") if number > 5 else ():
        done("remove", old, report_as=f"-{old}")
    if number % 10 == 9:
        done("gc", "--reflog-age", "0", report_as="gc")
"""

LAZY_WRITER = """
import os, pathlib, sys
from stratum.cli.start import run
from stratum.store import Store
from stratum.tree.contents import objects_of
from tests.support.grounds import small_trees_on_each_other
small_trees_on_each_other().__enter__()
disk, scratch, name = sys.argv[1:]
report = os.open(f"{scratch}/reported", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
source = pathlib.Path(scratch, name)
source.mkdir()
layout = f"oci:{scratch}/layout-{name}"
options = ["--quiet", "--runtime-dir", f"{scratch}/run-{name}", "--store"]
def done(store, *args):
    assert run([*options, store, *args]) == 0, args
def say(text):
    os.write(report, (text + "\\n").encode())
for number in range(100000):
    tag = f"{name}:t{number}"
    (source / f"f{number % 20}").write_bytes(os.urandom(200) * (number % 97 + 1))
    done(f"{scratch}/maker-{name}", "import", "--bare", str(source), tag)
    done(f"{scratch}/maker-{name}", "push", tag, f"{layout}:t{number}")
    done(f"{disk}/store", "pull", "--lazy", f"{layout}:t{number}", tag)
    say(tag)
    if number % 2:
        done(f"{disk}/store", "pull", f"{layout}:t{number}", tag)
        say(f"={tag}")
    store = Store.open(pathlib.Path(disk, "store"))
    if number % 4 == 3:
        say(f"~{tag}")
        with store.locks.store(exclusive=True), store.begin("letting go") as tx:
            needed = objects_of(store.commits.dump(store.tags.get(name, f"t{number}")))
            for commit in store.commits.list():
                store.sources.set_partial(tx, commit)
            for digest, size in list(needed.items())[::2]:
                if store.objects.has(digest, size):
                    store.objects.remove(digest)
    if number > 5:
        say(f"-{name}:t{number - 5}")
        done(f"{disk}/store", "remove", f"{name}:t{number - 5}")
    if number % 10 == 9:
        done(f"{disk}/store", "gc", "--reflog-age", "0")
"""

HISTORY_WRITER = """
import os, pathlib, sys, time
from datetime import datetime, timedelta, timezone
from stratum.cli.start import run
from stratum.store import Store, forgetting, gc
from stratum.store.retention import Retention
from stratum.tree.model import File
from stratum.tree.oplog import Record, entry_of, when_text
disk, scratch, name = sys.argv[1:]
report = os.open(f"{scratch}/reported", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
source = pathlib.Path(scratch, name)
source.mkdir()
(source / "f").write_bytes(b"f" * 5000)
options = ["--quiet", "--store", f"{disk}/store", "--runtime-dir", f"{scratch}/run-{name}"]
assert run([*options, "import", "--bare", str(source), name]) == 0
assert run([*options, "worktree", "add", f"{name}+dev", f"{name}:latest"]) == 0
store = Store.open(pathlib.Path(disk, "store"))
forgetting.CARRY_SIZE = 1
began = datetime(2026, 1, 1, tzinfo=timezone.utc)
base = store.worktrees.get(name, "dev").base_commit
writer = store.histories.writer(name, "dev")
writer.append([Record(1, when_text(int(began.timestamp()) * 10**9), "base", commit=base)])
for number in range(100000):
    now = began + timedelta(days=number // 2)
    batch = []
    with store.locks.store(), store.begin("versions") as tx:
        for n in range(writer.next_n, writer.next_n + number % 5 + 1):
            data = os.urandom(100) * (n % 37 + 1)
            entry = entry_of(File(0o100644, 0, 0, 0, size=len(data), digest=tx.add_bytes(data)))
            when = when_text(int(now.timestamp()) * 10**9)
            batch.append(Record(n, when, "version" if n % 3 == 0 else "write" if n > 2 else "create", b"/v", entry))
        tx.publish_objects()
        writer.append(batch)
    os.write(report, f"{name}+dev@{batch[-1].n}\\n".encode())
    if number % 8 == 7:
        with store.locks.store():
            plan = forgetting.plan(store, 20_000, now=now)
        with store.locks.store(exclusive=True):
            forgetting.carry_out(store, plan)
            gc.collect(store, Retention(timedelta()), {})
"""

PUSH_WRITER = """
import os, pathlib, sys
from stratum.api import maintenance
from stratum.store import Store
from stratum.store.retention import Retention
from stratum.transfer.push import push_in_order
from tests.support.grounds import small_trees_on_each_other
from tests.support.pushing import Served, registry
from tests.support.stores import commit
small_trees_on_each_other().__enter__()
disk, scratch, name = sys.argv[1:]
report = os.open(f"{scratch}/reported", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
maker, path = Store.create(pathlib.Path(scratch, f"maker-{name}")), pathlib.Path(disk, "store")
Store.open_or_create(path)
files, base = {}, None
for number in range(100000):
    files[b"%d" % (number % 7)] = os.urandom(100) * (number % 97 + 1)
    place = Served(registry(path).repository(name))
    done = push_in_order(maker, commit(maker, files), place, f"t{number}", base=base)
    base = done.manifest_digest if number % 5 else None
    os.write(report, f"{name}:t{number} {done.manifest_digest}\\n".encode())
    if number > 3:
        os.write(report, f"-{name}:t{number - 3}\\n".encode())
        place.repository.delete_manifest(f"t{number - 3}")
    if number % 4 == 3:
        maintenance.gc(registry(path)._session, Retention(age=maintenance.parse_duration("0")))
"""

CONTENT_WRITER = """
import os, sys
from stratum.content import LocalStore, TreeStore
disk, scratch, name = sys.argv[1:]
report = os.open(f"{scratch}/reported", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
stores = [kind(f"{disk}/{kind.__name__}", split=12) for kind in (LocalStore, TreeStore)]
kept = []
def say(text):
    os.write(report, (text + "\\n").encode())
for number in range(100000):
    store = stores[number % 2]
    for c4id in store.put_all(b"%s %d %d" % (name.encode(), number, each) for each in range(5)):
        say(c4id)
    large = os.urandom(1000) * 1500
    for _ in range(2):
        say(store.put(large))
    kept.append((store, store.put(large)))
    if len(kept) > 4:
        old, gone = kept.pop(0)
        for _ in range(3):
            old.delete(gone)
        say("-" + gone)
    store.delete(c4id)
    say("-" + c4id)
    store.put(b"in both of them")
    passing = store.put(os.urandom(100) * 90)
    if number % 3:
        store.discard(passing)
        say("-" + passing)
"""


def check(disk_path: Path, runtime_dir: Path, reported: list[str]) -> None:
    """The store is whole, and everything that was reported is there."""
    session = Session(load_config({}, store=str(disk_path / "store"), runtime_dir=str(runtime_dir)))
    found = maintenance.fsck(session).checked.findings
    assert not [finding for finding in found if not finding.harmless], found
    there = {f"{name}:{tag}" for name in session.store.names() for tag in session.store.tags.names(name)}
    there |= {f"{name}+{tree}" for name in session.store.names() for tree in session.store.worktrees.names(name)}
    removed = {line[1:] for line in reported if line.startswith("-")}
    expected = {line for line in reported if ":" in line or "+" in line} - removed
    expected = {line for line in expected if not line.startswith("-")}
    # A removal that was not reported yet may have happened.
    lost = expected - there
    assert len(lost) <= 2, lost
    assert all(":" in line for line in lost), lost
    assert not removed & there
    kept = {record.mountpoint for record in session.store.boot_mounts.list()}
    assert {line[1:] for line in reported if line.startswith("@")} <= kept


def check_lazy(disk_path: Path, runtime_dir: Path, reported: list[str]) -> None:
    """All commits are there; nothing of them is lost; what was said to be whole and not let go since is real."""
    session = Session(load_config({}, store=str(disk_path / "store"), runtime_dir=str(runtime_dir)))
    store = session.store
    found = maintenance.fsck(session).checked.findings
    assert not [finding for finding in found if not finding.harmless], found
    there = {f"{name}:{tag}" for name in store.names() for tag in store.tags.names(name)}
    assert {line for line in reported if line[0] not in "=~-"} - {
        line[1:] for line in reported if line[0] == "-"
    } <= there
    whole = {line[1:] for line in reported if line[0] == "="} & there
    if not any(line[0] == "~" for line in reported):  # what one lets go, others may have needed
        for tag in whole:
            assert store.residence.counts(store.tags.get(*tag.split(":"))).unreal == 0, tag


def check_history(disk_path: Path, runtime_dir: Path, reported: list[str]) -> None:
    """Every log is whole and has all that was reported, and every content that it names is there."""
    session = Session(load_config({}, store=str(disk_path / "store"), runtime_dir=str(runtime_dir)))
    histories = session.store.histories
    found = maintenance.fsck(session).checked.findings
    assert not [finding for finding in found if not finding.harmless], found
    for line in reported:
        whose, _, n = line.partition("@")
        name, _, worktree = whose.partition("+")
        assert histories.last(name, worktree) >= int(n)
    for pair in histories.each():
        last = histories.last(*pair)
        assert [record.n for record in histories.epoch(*pair)][-1] == last
        writer = histories.writer(*pair)
        assert writer.next_n == last + 1
        writer.close()


def check_contents(disk_path: Path, runtime_dir: Path, reported: list[str]) -> None:
    """What was put is there and right, and so is all that has a name; what was removed is not there."""
    found: set[str] = set()
    for root in (disk_path / "LocalStore", disk_path / "TreeStore"):
        with TreeStore(root) as store:
            for c4id, size, _ in store.entries():
                with store.get(c4id) as stream:
                    assert len(stream.read()) == size
                found.add(c4id)
    removed = {line[1:] for line in reported if line.startswith("-")}
    expected = {line for line in reported if not line.startswith("-")} - removed
    lost = expected - found
    assert len(lost) <= 2, lost  # each writer may have deleted one, and not reported that yet
    assert not removed & found


def check_pushed(disk_path: Path, runtime_dir: Path, reported: list[str]) -> None:
    """What was pushed is served byte for byte, with all that it names."""
    served = registry(disk_path / "store")
    found = maintenance.fsck(served._session).checked.findings
    assert not [finding for finding in found if not finding.harmless], found
    removed = {line[1:] for line in reported if line.startswith("-")}
    for line in reported:
        tag, _, digest = line.partition(" ")
        if digest and tag not in removed:
            place = Served(served.repository(tag.partition(":")[0]))
            data, found_as = place.get_manifest(tag.partition(":")[2])
            assert found_as == digest
            for blob in read_manifest(data, "it").blobs:
                assert b"".join(place.read_blob(blob))


KINDS = {
    "whole": (WRITER, check),
    "lazily": (LAZY_WRITER, check_lazy),
    "histories": (HISTORY_WRITER, check_history),
    "pushed": (PUSH_WRITER, check_pushed),
    "contents": (CONTENT_WRITER, check_contents),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_was_reported_is_there(tmp_path: Path, kind: str) -> None:
    writer_of, checked_by = KINDS[kind]
    image = tmp_path / "image"
    reported = tmp_path / "reported"
    (tmp_path / "after").mkdir()
    with disk(image, tmp_path / "disk", size=96 << 20) as path:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", writer_of, path, tmp_path, name], stdout=subprocess.DEVNULL, cwd=ROOT
            )
            for name in ("one", "two")
        ]
        try:
            while not reported.exists() or not reported.stat().st_size:
                time.sleep(0.05)
            for number in range(CUTS):
                # Another file each time: of one that was mounted before, the loop device may have old blocks in memory.
                copy = tmp_path / f"copy-{number}"
                time.sleep(random.uniform(0.1, 1.0))
                assert all(writer.poll() is None for writer in writers), "a writer failed"
                before = reported.read_text().splitlines()
                stopped_copy(image, copy, [writer.pid for writer in writers])
                checked = subprocess.run(["e2fsck", "-fy", copy], check=False, capture_output=True)
                assert checked.returncode in (0, 1), checked.stdout
                with mounted(copy, tmp_path / "after") as after:
                    checked_by(after, tmp_path / "run", before)
                copy.unlink()
            assert len(before) > CUTS
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
