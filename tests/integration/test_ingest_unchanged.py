"""A directory that did not change is not read again: what an import then says is what reading all of it gives."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.api import importing
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import StratumError
from stratum.ingest import statcache
from stratum.ingest.directory import import_directory
from stratum.ingest.statcache import source_cache
from stratum.ingest.unchanged import find_unchanged
from stratum.store import Store
from stratum.tree.digest import metadata_hash
from stratum.tree.dump import write_dump
from tests.support.effort import examples
from tests.support.sources import Spec, make_socket, make_tree, specs

pytestmark = pytest.mark.root


class Scene:
    """A store and a source directory."""

    def __init__(self, directory: Path) -> None:
        self.session = Session(load_config({}, store=str(directory / "store"), runtime_dir=str(directory / "run")))
        self.store: Store = self.session.create_store()
        self.source = directory / "source"
        self.probe = directory / "probe"
        self.source.mkdir()

    @property
    def listing(self) -> Path:
        return source_cache(self.store.layout, os.fsencode(self.source), "", ".listing").path

    def fill(self) -> None:
        """A tree with something of every kind."""
        inner = self.source / "dir/inner"
        inner.mkdir(parents=True)
        for number in range(4):
            (inner / f"f{number}").write_bytes(b"%d" % number * 100)
        (inner / "empty").mkdir()
        (self.source / "inline").write_bytes(b"small")
        (self.source / "other").mkdir()
        os.link(inner / "f0", self.source / "other/link")
        (self.source / "symlink").symlink_to("inline")
        os.mkfifo(self.source / "fifo")
        os.setxattr(self.source / "other", "user.a", b"1")

    def wait(self) -> None:
        """Until the clock that change times come from has moved on from those of the source."""
        paths = [self.source, *self.source.rglob("*")]
        latest = max(path.lstat().st_ctime_ns for path in paths)
        while True:
            self.probe.write_bytes(b"")
            os.utime(self.probe)
            if self.probe.stat().st_ctime_ns > latest:
                return

    def run(self, name: str = "app", *, devices: bool = False) -> importing.Imported:
        options = importing.Options(bare=True, devices=devices)
        return importing.import_(self.session, str(self.source), name, options)

    def known(self, *, devices: bool = False) -> str | None:
        return find_unchanged(self.store, self.source, devices=devices)

    def truth(self, *, devices: bool = False) -> str:
        """The commit that the source is, found without anything that was remembered."""
        with self.store.begin("a test") as tx:
            tree, _ = import_directory(self.store, tx, self.source, cache=False, devices=devices)
        return metadata_hash(write_dump(tree))


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were changed just now are trusted; ``Scene.wait`` makes sure that they may be."""
    monkeypatch.setattr(statcache, "TELLS_AFTER", -(10**18))
    monkeypatch.setattr(statcache, "TELLS_AFTER_COARSE", -(10**18))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.fill()
    made.wait()
    return made


@pytest.fixture
def imported(scene: Scene) -> Scene:
    scene.run()
    assert scene.known() is not None
    return scene


def test_nothing_is_read_or_built(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scene.run()
    assert first.commit.metadata_hash == scene.truth() == scene.known()
    os.utime(scene.listing, (0, 0))
    with monkeypatch.context() as patched:
        patched.delattr("stratum.ingest.directory.import_directory")
        again = scene.run()
        other = scene.run("other:v2")
    assert (again.commit, again.previous, again.changed) == (first.commit, first.commit.metadata_hash, False)
    assert scene.store.tags.get("other", "v2") == other.commit.metadata_hash == first.commit.metadata_hash
    assert scene.listing.stat().st_mtime > 0  # or gc would take it for one that is not used


def same_size_and_time(path: Path) -> None:
    info = path.stat()
    path.write_bytes(b"#" * info.st_size)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def swap(one: Path, two: Path) -> None:
    one.rename(one.with_name("third"))
    two.rename(one)
    one.with_name("third").rename(two)


def replace_by_copy(path: Path) -> None:
    """An equal directory in place of another: the same tree, but of other inodes."""
    subprocess.run(["cp", "-a", path, path.with_name("copy")], check=True)
    shutil.rmtree(path)
    path.with_name("copy").rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda source: same_size_and_time(source / "dir/inner/f1"),
    "inline content": lambda source: same_size_and_time(source / "inline"),
    "content of a hard link": lambda source: same_size_and_time(source / "other/link"),
    "size": lambda source: os.truncate(source / "dir/inner/f1", 99),
    "mode": lambda source: (source / "dir/inner/f1").chmod(0o600),
    "mode of a directory": lambda source: (source / "dir/inner/empty").chmod(0o700),
    "mode of the source": lambda source: source.chmod(0o700),
    "owner": lambda source: os.chown(source / "fifo", 1, 2),
    "owner of a directory": lambda source: os.chown(source / "dir", 1, 2),
    "owner of a link": lambda source: os.lchown(source / "symlink", 1, 2),
    "time": lambda source: os.utime(source / "dir/inner/f1", (1, 1)),
    "time of a directory": lambda source: os.utime(source / "dir/inner", (1, 1)),
    "time of the source": lambda source: os.utime(source, (1, 1)),
    "xattr": lambda source: os.setxattr(source / "inline", "user.b", b"2"),
    "xattr of a directory": lambda source: os.setxattr(source / "other", "user.a", b"2"),
    "xattr of a directory gone": lambda source: os.removexattr(source / "other", "user.a"),
    "xattr of the source": lambda source: os.setxattr(source, "user.b", b"2"),
    "file added": lambda source: (source / "dir/inner/new").write_bytes(b"new"),
    "file removed": lambda source: (source / "dir/inner/f2").unlink(),
    "directory added": lambda source: (source / "dir/inner/empty/new").mkdir(),
    "directory removed": lambda source: (source / "dir/inner/empty").rmdir(),
    "file renamed": lambda source: (source / "dir/inner/f2").rename(source / "dir/inner/g2"),
    "file moved": lambda source: (source / "dir/inner/f2").rename(source / "other/f2"),
    "directory renamed": lambda source: (source / "dir").rename(source / "rid"),
    "files swapped": lambda source: swap(source / "dir/inner/f1", source / "dir/inner/f2"),
    "directories swapped": lambda source: swap(source / "dir", source / "other"),
    "hard link made": lambda source: os.link(source / "inline", source / "dir/inline"),
    "hard link removed": lambda source: (source / "other/link").unlink(),
    "hard link broken": lambda source: replace_by_copy(source / "other"),
    "everything copied": replace_by_copy,
    "link turned": lambda source: ((source / "symlink").unlink(), (source / "symlink").symlink_to("nowhere")),
    "kind": lambda source: ((source / "inline").unlink(), (source / "inline").mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(imported: Scene, change: str) -> None:
    before = imported.known()
    CHANGES[change](imported.source)
    assert imported.known() is None
    after = imported.run().commit.metadata_hash
    assert after == imported.truth() == imported.known()
    assert (after == before) == (change == "everything copied")


def test_what_is_mounted_below_is_seen(imported: Scene, tmp_path: Path) -> None:
    before = imported.known()
    hidden = imported.source / "dir/inner"
    subprocess.run(["mount", "-t", "tmpfs", "none", hidden], check=True)
    try:
        assert imported.known() is None
        assert imported.run().commit.metadata_hash == imported.truth() != before
    finally:
        subprocess.run(["umount", hidden], check=True)
    assert imported.run().commit.metadata_hash == imported.truth() == before


def test_names_count_where_times_of_directories_may_not_tell_them(scene: Scene, tmp_path: Path) -> None:
    """A merged directory of overlayfs has the times of its upper one, whatever is in the lower."""
    for name in ("one", "two", "upper/d", "work"):
        (tmp_path / name / "d").mkdir(parents=True)
    (tmp_path / "one/d/x").write_bytes(b"x")
    os.link(tmp_path / "one/d/x", tmp_path / "two/d/x")
    (tmp_path / "two/d/y").write_bytes(b"y")
    commits = []
    for lower in ("one", "two"):
        options = f"lowerdir={tmp_path / lower},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "none", scene.source, "-o", options], check=True)
        try:
            assert scene.known() is None
            scene.run()  # a first look changes what overlayfs says of some
            commits.append(scene.run().commit.metadata_hash)
            assert scene.known() == commits[-1] == scene.truth()
        finally:
            subprocess.run(["umount", scene.source], check=True)
    assert commits[0] != commits[1]


@given(spec=specs)
@settings(max_examples=examples(15))
def test_of_any_tree(tmp_path_factory: pytest.TempPathFactory, spec: Spec) -> None:
    scene = Scene(tmp_path_factory.mktemp("any"))
    make_tree(scene.source, spec)
    scene.wait()
    first = scene.run(devices=True).commit
    assert scene.known(devices=True) == first.metadata_hash == scene.truth(devices=True)
    assert scene.run(devices=True).commit == first


PLACES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e", "d/e/a", "f"])
STEPS = st.tuples(st.sampled_from(["write", "unlink", "rename", "link", "turn", "mkdir", "chmod"]), PLACES, PLACES)


def do(step: str, path: Path, other: Path) -> None:
    """One change, where it can be made. Times of files and directories are set back to what they were, as far as that
    goes."""
    places = [place for place in (path, path.parent, other.parent) if place.exists()]
    before = [(place, place.lstat()) for place in places]
    with contextlib.suppress(OSError):
        match step:
            case "write":
                path.write_bytes(os.urandom(path.stat().st_size if path.exists() else 100))
            case "unlink":
                path.unlink()
            case "rename":
                path.rename(other)
            case "link":
                os.link(path, other)
            case "turn":
                path.unlink()
                path.symlink_to(other.name)
            case "mkdir":
                path.mkdir()
            case "chmod":
                path.chmod(0o600)
    for place, info in before:
        with contextlib.suppress(OSError):
            os.utime(place, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


@given(steps=st.lists(STEPS, min_size=1, max_size=4), waits=st.booleans())
@settings(max_examples=examples(60))
def test_whatever_is_done_what_is_known_is_what_a_full_walk_finds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]], waits: bool
) -> None:
    """Also right after an import, and where the import came right after a change: by the rule that counts outside of
    tests, too."""
    scene = Scene(tmp_path_factory.mktemp("steps"))
    (scene.source / "d/e").mkdir(parents=True)
    for name in ("a", "b", "d/a", "d/e/a"):
        (scene.source / name).write_bytes(os.urandom(100))
    with pytest.MonkeyPatch.context() as patched:
        if waits:
            scene.wait()
        else:
            patched.setattr(statcache, "TELLS_AFTER", 100_000_000)
        for step, path, other in steps:
            scene.run()
            do(step, scene.source / path, scene.source / other)
            truth = scene.truth()
            assert scene.known() in (None, truth)
            if waits:
                scene.wait()
        commit = scene.run().commit.metadata_hash
        assert commit == truth
        assert scene.known() == commit if waits else scene.known() in (None, commit)


def test_what_may_have_changed_unseen_is_not_trusted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a change another one can leave the change time as it is."""
    monkeypatch.setattr(statcache, "TELLS_AFTER", 10**18)
    monkeypatch.setattr(statcache, "TELLS_AFTER_COARSE", 10**18)
    scene.run()
    assert scene.known() is None
    assert not scene.listing.exists()


def test_a_tree_that_is_left_incomplete_is_read_each_time(scene: Scene) -> None:
    make_socket(scene.source / "dir/socket")
    for _ in range(2):
        assert len(scene.run().warnings) == 1
        assert scene.known() is None


def test_device_nodes_are_refused_as_before(scene: Scene) -> None:
    os.mknod(scene.source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    scene.wait()
    taken = scene.run(devices=True).commit.metadata_hash
    assert scene.known(devices=True) == taken
    assert scene.known() is None
    with pytest.raises(StratumError, match="null is a device node"):
        scene.run()
    (scene.source / "null").unlink()
    assert scene.run().commit.metadata_hash == scene.truth() != taken


def test_another_directory_at_the_same_path(imported: Scene, tmp_path: Path) -> None:
    before = imported.known()
    imported.source.rename(tmp_path / "first")
    imported.source.mkdir()
    (imported.source / "inline").write_bytes(b"small")
    assert imported.known() is None
    assert imported.run().commit.metadata_hash == imported.truth() != before
    assert find_unchanged(imported.store, tmp_path / "first") is None  # it never was imported by that name
    assert find_unchanged(imported.store, tmp_path / "missing") is None


def test_a_deep_tree(scene: Scene) -> None:
    deep = scene.source
    for _ in range(100):
        deep /= "d"
    deep.mkdir(parents=True)
    scene.wait()
    assert scene.run().commit == scene.run().commit
    assert scene.store.tags.get("app", "latest") == scene.truth()


def test_a_lost_object_is_stored_again(imported: Scene) -> None:
    (digest,) = {digest for digest, size in imported.store.objects.list() if size == 100} & {
        digest for digest in imported.store.objects.names() if read(imported, digest) == b"1" * 100
    }
    imported.store.objects.path(digest).unlink()
    assert imported.known() is None
    assert imported.run().commit.metadata_hash == imported.truth() == imported.known()
    assert imported.store.objects.has(digest, 100)


def test_a_name_of_an_object_that_comes_or_goes_is_looked_for_once(
    imported: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names are read again after that, and not before."""
    commit = imported.known()
    with imported.store.begin("a test") as tx:
        added = tx.add_bytes(b"another" * 100)
        tx.publish_objects()
    assert imported.known() == commit
    with monkeypatch.context() as patched:
        patched.delattr("stratum.store.residence.Residence.has_all")
        assert imported.known() == commit
        imported.store.objects.remove(added)
        with pytest.raises(AttributeError):
            imported.known()
    assert imported.known() == commit


def read(scene: Scene, digest: bytes) -> bytes:
    return scene.store.objects.path(digest).read_bytes()


def test_a_lost_commit_is_made_again(imported: Scene) -> None:
    first = imported.known()
    assert first is not None
    imported.store.layout.commit(first).unlink()
    assert imported.known() is None
    assert imported.run().commit.metadata_hash == first == imported.known()
    assert imported.store.images.ensure(first).is_file()


def test_damage_of_the_file_is_a_slower_import(imported: Scene) -> None:
    commit, whole = imported.known(), imported.listing.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        imported.listing.write_bytes(damaged)
        assert imported.known() is None
    for length in range(0, len(whole), 7):
        imported.listing.write_bytes(whole[:length])
        assert imported.known() is None
    assert imported.run().commit.metadata_hash == commit == imported.known()
    imported.listing.unlink()
    imported.listing.symlink_to("/etc/passwd")
    assert imported.known() is None
    assert imported.run().commit.metadata_hash == commit == imported.known()
    imported.listing.unlink()
    imported.listing.mkdir()
    assert imported.run().commit.metadata_hash == commit
    assert imported.known() is None


def test_a_patch_is_laid_over_its_base(imported: Scene) -> None:
    """The directory's own commit is known, but not what it makes of another."""
    first = imported.known()
    (imported.source / "more").write_bytes(b"more")
    imported.run("app:more")
    (imported.source / "more").unlink()
    imported.run()
    done = importing.import_patch(imported.session, str(imported.source), "app:patched", "app:more")
    tree = imported.store.commits.tree(done.commit.metadata_hash)
    assert b"more" in tree.children
    assert done.commit.metadata_hash != first
