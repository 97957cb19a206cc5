"""Every file of a store with a flipped bit, cut short, replaced by a link, or somebody else's: fsck names it.

Or the change is shown to be harmless: fsck finds nothing and every verb that reads says what it said before. What the
worktrees' upperdirs hold is left out: nothing knows what should be in them. By default a few places of each file are
taken, other ones in every run but in CI; with ``STRATUM_TEST_DAMAGE=all`` it is a bit of every byte, and every length.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from stratum.api import importing, worktrees
from stratum.api.merging import in_hand
from stratum.api.session import Session
from stratum.cli.start import run
from stratum.config import load_config
from stratum.frozen import replace
from stratum.store.ancestry import Ancestry
from stratum.store.histories import HistorySettings
from stratum.store.holders import Container, Lease, Promise
from stratum.store.lineage import Recorded
from stratum.store.reflog import parse_entry
from stratum.tree.model import File
from stratum.tree.oplog import Record, entry_of
from tests.support import services
from tests.support.grounds import small_trees_on_each_other
from tests.support.reading import READING
from tests.support.stores import partial_commit

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

EVERY = os.environ.get("STRATUM_TEST_DAMAGE") == "all"
SAMPLE = 2
READS = (*READING, ("merge", "app"), ("verify", "app:v2", "/dir", "--proof"))


class Scene:
    """A small store with a file of every kind in it; ``said`` is what the verbs that read say."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.session = Session(load_config({}, store=str(self.root), runtime_dir=str(directory / "run")))
        source = directory / "source"
        (source / "dir").mkdir(parents=True)
        for name in ("same", *"abcdefgh"):
            (source / name).write_bytes(b"s" * 90)
        with small_trees_on_each_other():
            for number in (0, 1, 2):
                (source / "dir/own").write_bytes(b"%d" % number * 100)
                made = importing.import_directory(self.session, str(source), "app").commit.metadata_hash
                self.session.store.tags.set("app", f"v{number}", made)
        store = self.session.store
        for tag in ("v0", "latest"):
            store.tags.remove("app", tag)
        assert self.run("gc", "--reflog-age", "0", "--history-age", "0")[0] == 0
        assert store.trees.grounds()
        assert list(store.trees.frames())
        for name in ("dev", "switched"):
            worktrees.add(self.session, f"app+{name}", "app:v1")
        store.worktrees.set_lease(
            "app", "dev", Lease(Container("c" * 64), "2026-01-01T00:00:00Z", Promise(tag="t-{time}"), "it failed")
        )
        self._interrupt_a_switch()
        services.put_records(store)
        commit = store.tags.get("app", "v1")
        store.tags.pin("app", tags={"v1"}, commits={commit})
        with store.begin() as tx:
            Ancestry(store).record(tx, commit, Recorded(("e" * 64, "f" * 64), True))
        store.tags.set("far", "v1", partial_commit(store, {b"a": b"a" * 100, b"b": b"b" * 200}))
        self._keep_a_history(commit)
        with in_hand(self.session, "app") as hand:
            hand.note()
            hand.carry_out()
        self.said = self.reading()
        code, findings, _ = self.fsck()
        assert (code, findings) == (0, [])

    def _interrupt_a_switch(self) -> None:
        store, commit = self.session.store, self.session.store.tags.get("app", "v2")
        with store.worktrees.lock("app", "switched"), store.begin() as tx:
            tree = store.worktrees.get("app", "switched")
            wanted = replace(tree, base_commit=commit, head=None, forked_from=commit)
            store.worktrees.switch(tx, wanted, store.worktrees.new_upperdir(tx, commit), 12345, why="a test")

    def _keep_a_history(self, base: str) -> None:
        """With a sealed segment and one that is appended to, of which nothing but whole batches can go unnoticed."""
        store, when = self.session.store, "2026-01-01T00:00:00.000Z"
        store.histories.set_settings("app", "dev", HistorySettings("2026-01-01T00:00:00Z", ("*.o",)))
        with store.histories.writing(), store.begin() as tx:
            entry = entry_of(File(0o100644, 0, 0, 0, size=300, digest=tx.add_bytes(b"v" * 300)))
            tx.publish_objects()
            writer = store.histories.writer("app", "dev")
            writer.append([Record(1, when, "base", commit=base), Record(2, when, "create", b"/v", entry, by="vi")])
            writer.seal()
            writer.append([Record(3, when, "delete", b"/v")])
            writer.close()

    def run(self, *args: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(["--store", str(self.root), "--runtime-dir", str(self.directory / "run"), *args])
        return code, out.getvalue(), err.getvalue()

    def fsck(self) -> tuple[int, list[dict[str, Any]], str]:
        """The exit code, the findings, and what was said on stderr."""
        code, out, err = self.run("--format", "json", "fsck")
        return code, json.loads(out)["findings"] if out else [], err

    def reading(self) -> list[tuple[int, str, str]]:
        return [self.run(*args) for args in READS]

    def paths(self) -> Iterator[Path]:
        """Everything in the store but what worktrees hold."""
        for directory, names, files in os.walk(self.root):
            inside = Path(directory)
            for name in sorted(names + files):
                yield inside / name
            names[:] = [name for name in names if name not in ("upperdir", "workdir")]

    def files(self) -> list[Path]:
        return [path for path in self.paths() if path.is_file() and not path.is_symlink() and path.stat().st_size]

    def judge(self, path: Path, what: str) -> None:
        """A change of ``path`` was named, or was none."""
        code, findings, err = self.fsck()
        relative = str(path.relative_to(self.root))
        about = (relative, what, code, findings, err)
        if code == 0:
            if not any(finding["path"] == relative for finding in findings):
                assert self.reading() == self.said, about
        elif code == 5 and findings:
            assert any(self._names(finding, path) for finding in findings), about
        else:  # the store cannot be opened, as its format is unknown, or it is not whole
            assert code in (3, 5, 6), about
            assert path.name in err or f"{self.root} has format" in err, about

    def _names(self, finding: dict[str, Any], path: Path) -> bool:
        """Whether a finding is about ``path``, what it is in, or what it alone leads to."""
        relative, told = str(path.relative_to(self.root)), str(finding["path"])
        if path.parent.name == "tags":
            return told == relative or f"app:{path.name}" in finding["hurts"]
        return told in relative or relative in told or relative in str(finding["problem"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("damage"))


def places(count: int) -> list[int]:
    return list(range(count)) if EVERY else sorted(random.sample(range(count), min(SAMPLE, count)))


@contextlib.contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """``path`` with other content, in place."""
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


@contextlib.contextmanager
def replaced(path: Path, make: Callable[[Path], object]) -> Iterator[None]:
    """``path`` moved out of the store, and something else in its place."""
    aside = path.parents[len(path.parents) - 2] / f"aside-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    try:
        make(aside)
        yield
    finally:
        path.unlink()
        aside.rename(path)


def flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def link(_: Path, *, path: Path, target: bytes) -> None:
    os.symlink(target, path)


def test_a_flipped_bit(scene: Scene) -> None:
    for path in scene.files():
        for place in places(path.stat().st_size):
            bit = random.randrange(8)
            with changed(path, partial(flipped, place=place, bit=bit)):
                scene.judge(path, f"bit {bit} of byte {place}")


def test_a_flipped_bit_of_a_tag(scene: Scene) -> None:
    for path in (scene.root / "refs/app/tags").iterdir():
        target = os.readlink(path)
        for place in places(len(target)):
            wrong = flipped(target.encode(), place, random.randrange(7)).replace(b"\0", b"x")
            with replaced(path, partial(link, target=wrong, path=path)):
                scene.judge(path, str(wrong))
                assert scene.fsck()[0] == 5


def test_a_file_cut_short(scene: Scene) -> None:
    for path in scene.files():
        for length in places(path.stat().st_size):
            with changed(path, itemgetter(slice(length))):
                if path.parent.name == "dev" and path.suffix == ".jsonl":
                    assert scene.fsck()[0] == 0  # a history that is cut is as a crash leaves it
                elif path.name != "log.jsonl" or not may_be_older(scene, path.read_bytes()):
                    scene.judge(path, f"cut to {length} bytes")


def may_be_older(scene: Scene, log: bytes) -> bool:
    """Whether whole lines are left that tell of all refs: then nothing tells that there were more."""
    entries = [parse_entry(line) for line in log.split(b"\n") if line]
    told = {(entry.kind, entry.which, entry.new) for entry in entries if entry is not None}
    store = scene.session.store
    tags = {("tag", tag, commit) for tag, commit in store.tags.list("app").items()}
    trees = {("worktree", tree.worktree, tree.commit) for tree in store.worktrees.list("app")}
    return None not in entries and told.issuperset(tags | trees)


def test_a_planted_link(scene: Scene) -> None:
    """Even to what was there: the link's target is in other hands."""
    for path in list(scene.paths()):
        if path.name in ("upperdir", "workdir") and ".retired" in path.parent.name:
            continue
        with replaced(path, path.symlink_to):
            scene.judge(path, "replaced by a link")
            assert scene.fsck()[0] != 0, path


def test_an_owner_or_a_mode(scene: Scene) -> None:
    for path in list(scene.paths()):
        if path.is_symlink() or path.name in ("upperdir", "workdir"):
            continue
        info = path.stat()
        os.chown(path, 1234, 1234)
        scene.judge(path, "owned by somebody else")
        assert scene.fsck()[0] == 5, path
        os.chown(path, info.st_uid, info.st_gid)
        path.chmod(info.st_mode | 0o022)
        scene.judge(path, "writable by others")
        assert scene.fsck()[0] == 5, path
        path.chmod(info.st_mode & 0o7777)
