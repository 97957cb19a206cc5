"""Directories that are moved into the store: the files become its own, and none is lost, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from stratum.api import maintenance
from stratum.api.importing import Options, import_, init
from stratum.api.moving import settle_move
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import ConflictError, ExistsError, NotFoundError, UsageError
from stratum.store import Store
from stratum.store.retention import Retention
from tests.support import crashing
from tests.support.command import SCRIPT, Command
from tests.support.disks import disk
from tests.support.injection import killed_at
from tests.support.stores import check, commit

pytestmark = pytest.mark.root

NAME = "moved"
USER = 1234


def make_source(path: Path) -> None:
    """A tree with a file of each kind that is taken in a way of its own."""
    (path / "deep/er").mkdir(parents=True)
    (path / "empty").mkdir()
    files = {
        "roots": b"r" * 5000,
        "users": b"u" * 6000,
        "shared": b"s" * 7000,
        "program": b"p" * 8000,
        "known": b"k" * 5000,
        "deep/once": b"t" * 9000,
        "deep/er/twice": b"t" * 9000,
        "linked": b"l" * 5000,
        "outside": b"o" * 5000,
        "labelled": b"a" * 5000,
        "read-only": b"w" * 5000,
        "small": b"few bytes",
        "nothing": b"",
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
    with (path / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(4 << 20)
        file.write(b"data")
    os.link(path / "linked", path / "deep/linked")
    os.link(path / "outside", path.with_name("another-name"))
    os.setxattr(path / "labelled", "user.kept", b"value")
    (path / "link").symlink_to("nowhere")
    os.mkfifo(path / "pipe")
    for name, uid, mode in (("users", USER, 0o600), ("shared", 0, 0o664), ("program", USER, 0o4755)):
        os.chown(path / name, uid, uid)
        (path / name).chmod(mode)
    (path / "read-only").chmod(0o400)
    (path / "deep").chmod(0o2775)
    for entry in sorted(path.rglob("*"), reverse=True):
        os.utime(entry, ns=(10**18, 10**18 + len(entry.name)), follow_symlinks=False)
    os.utime(path, ns=(10**18, 10**18))


def state(path: Path) -> dict[str, Any]:
    """All that a move could change of the files below ``path``, which are different where anything was lost."""
    found = {}
    for entry in (path, *sorted(path.rglob("*"))):
        info = entry.lstat()
        regular = stat.S_ISREG(info.st_mode)
        found[str(entry.relative_to(path))] = (
            (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink),
            entry.read_bytes() if regular else os.readlink(entry) if entry.is_symlink() else None,
            {name: os.getxattr(entry, name) for name in os.listxattr(entry, follow_symlinks=False)},
        )
    return found


class Scene:
    """A store that has one of the files already, and a directory beside it that is moved there."""

    def __init__(self, tmp_path: Path) -> None:
        self.path, self.source = tmp_path / "store", tmp_path / "source"
        self.session = Session(load_config({}, store=str(self.path), runtime_dir=str(tmp_path / "run")))
        self.fresh()
        self.before = state(self.source)
        self.commit = import_(self.session, str(self.source), "expected", Options(bare=True)).commit.metadata_hash
        self.fresh()
        self.move()  # what is made once is there
        self.fresh()

    def fresh(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.source, ignore_errors=True)
        self.source.with_name("another-name").unlink(missing_ok=True)
        store = Store.create(self.path)
        store.tags.set("other", "latest", commit(store, {b"known": b"k" * 5000}))
        make_source(self.source)

    def move(self) -> None:
        session = Session(self.session.config)
        import_(session, str(self.source), NAME, Options(move=True))

    def check(self, store: Store) -> None:
        """No file is lost, also where garbage is collected now; what was not done is undone, and can be done."""
        check(store)
        maintenance.gc(self.session, Retention())
        settle_move(store, self.source)
        if not self.is_named():
            assert state(self.source) == self.before
        self.move_again()

    def is_named(self) -> bool:
        store = Store.open(self.path)
        return NAME in store.names() and store.tags.find(NAME, "latest") is not None

    def move_again(self) -> None:
        if self.source.exists() or os.listdir(self.path / "moving"):
            with suppress(NotFoundError):  # all was done but for the end of the record
                self.move()
        self.check_moved()

    def check_moved(self) -> None:
        store = Store.open(self.path)
        assert store.tags.get(NAME, "latest") == self.commit
        assert not self.source.exists()
        assert not os.listdir(self.path / "moving")
        assert self.source.with_name("another-name").read_bytes() == b"o" * 5000
        for digest, size in store.objects.list():
            assert store.objects.verify(digest, size) == size
            info = store.objects.path(digest).lstat()
            assert (info.st_mode, info.st_uid, info.st_nlink) == (stat.S_IFREG | 0o444, 0, 1)
            assert not os.listxattr(store.objects.path(digest))
        assert not maintenance.fsck(self.session).checked.findings


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_files_become_the_stores_own(scene: Scene) -> None:
    inodes = {name: (scene.source / name).stat().st_ino for name in ("roots", "users", "shared", "program", "sparse")}
    scene.move()
    scene.check_moved()
    store = Store.open(scene.path)
    there = {store.objects.path(digest).stat().st_ino for digest, _ in store.objects.list()}
    assert set(inodes.values()) <= there
    assert store.objects.path(next(d for d, s in store.objects.list() if s == 5 << 20)).stat().st_blocks < 100


def test_killed_at_every_call(scene: Scene) -> None:
    crashing.killed_at_every_call(scene, scene.move)


def test_failing_at_every_call(scene: Scene) -> None:
    crashing.failing_at_every_call(scene, scene.move)


@contextmanager
def running(code: str, *args: str | Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code``, from when it says something until the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True, cwd=cwd)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


WRITES = "import sys, time; file = open(sys.argv[1], 'r+b'); print('open', flush=True); time.sleep(1000)"
MAPS = (
    "import mmap, sys, time; file = open(sys.argv[1], 'r+b'); map = mmap.mmap(file.fileno(), 0); file.close();"
    "print('mapped', flush=True); time.sleep(1000)"
)
WAITS = "import time; print('here', flush=True); time.sleep(1000)"


def test_what_others_could_still_write_to_is_refused_and_put_back(scene: Scene) -> None:
    for name, code in (("roots", WRITES), ("users", WRITES), ("linked", MAPS), ("small", WRITES)):
        with running(code, scene.source / name), pytest.raises(ConflictError, match=f"{name} is open for writing"):
            scene.move()
        assert state(scene.source) == scene.before
    with running(WAITS, cwd=scene.source / "deep") as process:
        with pytest.raises(ConflictError, match=f"in use by process {process.pid}"):
            scene.move()
        assert state(scene.source) == scene.before
    (scene.source / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", scene.source / "mounted"], check=True)
    with pytest.raises(ConflictError, match="mounted is a mount"):
        scene.move()
    subprocess.run(["umount", scene.source / "mounted"], check=True)
    (scene.source / "mounted").rmdir()
    os.utime(scene.source, ns=(10**18, 10**18))
    scene.move()
    scene.check_moved()


def test_what_is_not_in_the_commit_stays(scene: Scene) -> None:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(scene.source / "deep/socket")], check=True)
    done = import_(Session(scene.session.config), str(scene.source), NAME, Options(move=True))
    assert any("deep stays in" in warning for warning in done.warnings)
    assert [str(path.relative_to(scene.source)) for path in sorted(scene.source.rglob("*"))] == ["deep", "deep/socket"]
    assert not os.listdir(scene.path / "moving")


def has_commit(store: Path) -> bool:
    """Whether a directory is on its way whose commit is made."""
    with suppress(FileNotFoundError):
        return any("commit" in plan.read_text() for plan in store.glob("moving/*/plan.toml"))
    return False


def test_many_files_are_removed_by_workers_and_killed_in_the_middle(
    cli: Command, store_dir: Path, tmp_path: Path
) -> None:
    """Whoever goes on then finishes it, or begins anew."""
    source = tmp_path / "many"
    for number in range(160):
        place = source / f"{number % 7}" / f"{number}"
        place.mkdir(parents=True)
        for name in range(12):
            (place / f"{name}").write_bytes(b"%d %d " % (number, name) * (3 if name % 4 else 300))
    other = tmp_path / "other"
    cli.ok("import", "--bare", str(source), "many", env={"STRATUM_STORE": str(other)})
    command = [SCRIPT, "import", "--move", str(source), "many"]
    for wait in (0.0, 0.03, 0.06, 0.1):
        if not source.exists():
            break
        process = subprocess.Popen(command, env=cli.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not has_commit(store_dir):
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
        process.wait()
    cli("import", "--move", str(source), "many")
    assert not source.exists()
    assert not os.listdir(store_dir / "moving")
    store = Store.open(store_dir)
    assert store.tags.get("many", "latest") == Store.open(other).tags.get("many", "latest")
    assert all(store.objects.path(digest).lstat().st_nlink == 1 for digest, _ in store.objects.list())
    cli.ok("fsck")


def test_arguments_that_cannot_be_moved(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "to-it").symlink_to(scene.source)
    for path in (tmp_path / "to-it", scene.source / "roots", tmp_path, scene.path / "objects"):
        with pytest.raises(UsageError):
            import_(Session(scene.session.config), str(path), NAME, Options(move=True))
    Store.open(scene.path).tags.set(NAME, "v1", Store.open(scene.path).tags.get("other", "latest"))
    with pytest.raises(ExistsError):
        import_(Session(scene.session.config), str(scene.source), f"{NAME}:v1", Options(move=True))
    assert state(scene.source) == scene.before


def test_another_file_system_is_copied_and_then_removed(scene: Scene, tmp_path: Path) -> None:
    with disk(tmp_path / "image", tmp_path / "disk", size=64 << 20) as elsewhere:
        shutil.rmtree(scene.source)
        scene.source = elsewhere / "source"
        make_source(scene.source)
        before = state(scene.source)
        with running(WRITES, scene.source / "roots"), pytest.raises(ConflictError, match="roots is open for writing"):
            scene.move()
        assert state(scene.source) == before
        outcome = killed_at(scene.move, "unlinkat", 4)
        assert outcome.status == -signal.SIGKILL
        assert len(list(scene.source.rglob("*"))) < len(scene.before)
        with pytest.raises(ConflictError, match="interrupted"):
            import_(Session(scene.session.config), str(scene.source), NAME)
        assert [finding.kind for finding in maintenance.fsck(scene.session).checked.findings] == ["moving"]
        scene.move()
        scene.check_moved()


def test_a_directory_is_migrated_without_keeping_it_twice(cli: Command, store_dir: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    make_source(site)
    before = state(site)
    inode = (site / "users").stat().st_ino
    cli("init", "app", site, "--migrate", "--move", "--no-persist")
    assert {name: entry[1:] for name, entry in state(site).items()} == {
        name: entry[1:] for name, entry in before.items()
    }
    assert inode in {path.stat().st_ino for path in (store_dir / "objects").glob("*/*")}
    cli("unmount", site)
    assert os.listdir(site) == []
    assert (site.stat().st_mode, site.stat().st_uid) == (before["."][0][0], before["."][0][1])
    assert json.loads(cli("fsck", "--format", "json").stdout)["findings"] == []


def test_a_migration_that_fails_or_is_killed_leaves_the_directory_or_the_mount(scene: Scene, tmp_path: Path) -> None:
    config = scene.session.config

    def migrate() -> None:
        init(Session(config), NAME, str(scene.source), migrate=True, move=True)

    for call, number in (("symlink", 1), ("move_mount", 1)):
        scene.fresh()
        outcome = killed_at(migrate, call, number)
        assert outcome.status == -signal.SIGKILL
        migrate()
        assert state(scene.source).keys() == scene.before.keys()
        assert not os.listdir(scene.path / "moving")
        subprocess.run(["umount", scene.source], check=True)
        assert os.listdir(scene.source) == []
