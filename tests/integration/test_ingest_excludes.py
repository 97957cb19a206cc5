"""What is left out of an import: by patterns, files of patterns, size, marks and mounts; remembered or not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.cli.excluding import left_out_json
from stratum.errors import StratumError
from stratum.ingest import statcache, unchanged
from stratum.ingest.directory import import_directory
from stratum.ingest.selection import PATTERNS_MAX, Excludes, LeftOut
from stratum.ingest.unchanged import Listing, find_unchanged, remember
from stratum.store import Store
from stratum.tree.digest import metadata_hash
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, walk
from tests.support.command import Command
from tests.support.effort import examples

pytestmark = pytest.mark.root


class Scene:
    def __init__(self, directory: Path) -> None:
        self.store = Store.open_or_create(directory / "store")
        self.source = directory / "source"
        self.source.mkdir()

    def write(self, path: str, text: str | bytes = "x") -> None:
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def read(self, excludes: Excludes, *, cache: bool = False) -> tuple[set[str], LeftOut]:
        """The paths that are taken, and what is left out. The commit is remembered."""
        left_out, listing = LeftOut(), Listing()
        with self.store.begin("a test") as tx:
            tree, warnings = import_directory(
                self.store, tx, self.source, cache=cache, excludes=excludes, left_out=left_out, listing=listing
            )
            meta = self.store.commits.write(tx, tree)
            remember(self.store, self.source, listing, meta.metadata_hash)
        assert not warnings
        return {os.fsdecode(path) for path, _ in walk(tree)} - {"/"}, left_out

    def truth(self, excludes: Excludes) -> tuple[str, LeftOut]:
        left_out = LeftOut()
        with self.store.begin("a test") as tx:
            tree, _ = import_directory(self.store, tx, self.source, cache=False, excludes=excludes, left_out=left_out)
        return metadata_hash(write_dump(tree)), left_out


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were changed just now are trusted; where that matters their size changes, too."""
    monkeypatch.setattr(statcache, "TELLS_AFTER", -(10**18))
    monkeypatch.setattr(statcache, "TELLS_AFTER_COARSE", -(10**18))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_patterns_files_and_their_order(scene: Scene) -> None:
    for path in ("a.log", "keep.log", "d/b.log", "d/keep.log", "d/e/c.txt", "build/x", "d/build/y"):
        scene.write(path)
    scene.write(".stratumignore", "*.log\n/build/\n")
    scene.write("d/.stratumignore", "!keep.log\n")
    taken, left = scene.read(Excludes(ignore_files=True))
    assert taken == {"/.stratumignore", "/d", "/d/.stratumignore", "/d/keep.log", "/d/e", "/d/e/c.txt"} | {
        "/d/build",
        "/d/build/y",
    }
    assert (left.files, left.directories, left.size) == (3, 1, 3)
    taken, _ = scene.read(Excludes((b"e/", b"!a.log"), ignore_files=True))
    assert "/a.log" in taken  # what is given counts more than what is found
    assert "/d/e" not in taken
    taken, left = scene.read(Excludes())
    assert len(taken) == 13
    assert not left


def test_an_ignore_file_is_obeyed_or_an_error(scene: Scene, tmp_path: Path) -> None:
    scene.write("a")
    (tmp_path / "patterns").write_text("a\n")
    (scene.source / ".stratumignore").symlink_to(tmp_path / "patterns")
    assert "/a" in scene.read(Excludes(ignore_files=True))[0]
    (scene.source / ".stratumignore").unlink()
    scene.write(".stratumignore", "x\n" * (200 << 10))
    with pytest.raises(StratumError, match=r"\.stratumignore has more than 256 KiB"):
        scene.read(Excludes(ignore_files=True))
    assert "/a" in scene.read(Excludes())[0]
    for place in ("", "d/", "d/e/"):
        scene.write(f"{place}.stratumignore", "x\n" * (PATTERNS_MAX // 2))
    with pytest.raises(StratumError, match=rf"d/e/\.stratumignore has .* with those above it more than {PATTERNS_MAX}"):
        scene.read(Excludes(ignore_files=True))


def test_caches_large_files_and_hard_links(scene: Scene) -> None:
    mark = b"Signature: 8a477f597d28d172789f06886806bc55 and more"
    scene.write("cache/CACHEDIR.TAG", mark)
    scene.write("cache/x")
    scene.write("cache/d/y")
    scene.write("none/CACHEDIR.TAG", "something else")
    scene.write("none/x")
    scene.write("large", b"x" * 1000)
    os.link(scene.source / "none/x", scene.source / "linked")
    taken, left = scene.read(Excludes((b"/none/x",), caches=True, larger_than=999))
    assert taken == {"/cache", "/cache/CACHEDIR.TAG", "/none", "/none/CACHEDIR.TAG", "/linked"}
    assert (left.files, left.directories, left.file_systems, left.size) == (3, 1, 0, 1002)
    assert "/large" in scene.read(Excludes(larger_than=1000))[0]


def test_other_file_systems(scene: Scene) -> None:
    scene.write("a")
    for name, kind in (("tmpfs", "tmpfs"), ("proc", "proc")):
        (scene.source / name).mkdir()
        subprocess.run(["mount", "-t", kind, "none", str(scene.source / name)], check=True)
    try:
        (scene.source / "tmpfs/b").write_bytes(b"b")
        taken, left = scene.read(Excludes(one_file_system=True))
        assert taken == {"/a", "/tmpfs", "/proc"}
        assert left.file_systems == 2
        with pytest.raises(StratumError, match=r"is a file system of the kernel \(proc\)") as caught:
            scene.read(Excludes())
        assert "--one-file-system" in caught.value.hint
        assert scene.read(Excludes((b"/proc",)))[0] == {"/a", "/tmpfs", "/tmpfs/b"}
    finally:
        for name in ("tmpfs", "proc"):
            subprocess.run(["umount", str(scene.source / name)], check=True)


def test_what_is_left_out_may_change(scene: Scene) -> None:
    scene.write("a")
    scene.write("cache/x")
    excludes = Excludes((b"/cache",), ignore_files=True)
    scene.read(excludes)
    known = find_unchanged(scene.store, scene.source, excludes=excludes)
    assert known == scene.truth(excludes)[0]
    scene.write("cache/y")
    assert find_unchanged(scene.store, scene.source, excludes=excludes) == known
    assert find_unchanged(scene.store, scene.source, excludes=Excludes()) is None
    scene.write(".stratumignore", "a\n")
    assert find_unchanged(scene.store, scene.source, excludes=excludes) is None


def test_what_would_not_be_left_out_any_more_is_seen(scene: Scene) -> None:
    """Also where what is left out says what else is: a file of patterns, the mark of a cache."""
    scene.write("log", b"x" * 1000)
    scene.write("large", b"x" * 2000)
    scene.write("d/.stratumignore", "a\n.stratumignore\n")
    scene.write("d/a")
    scene.write("c/CACHEDIR.TAG", "no")
    scene.write("c/a")
    excludes = Excludes((b"/log", b"/c/CACHEDIR.TAG"), ignore_files=True, caches=True, larger_than=1999)
    changes = [("log", b"y" * 5000), ("large", b"y" * 3000), ("large", b"y"), ("d/.stratumignore", b"b")]
    for path, data in (*changes, ("c/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55")):
        scene.read(excludes)
        before = find_unchanged(scene.store, scene.source, excludes=excludes)
        assert before == scene.truth(excludes)[0]
        scene.write(path, data)
        counted = LeftOut()
        known = find_unchanged(scene.store, scene.source, excludes=excludes, left_out=counted)
        assert known == (before if len(data) > 1999 else None)
        assert known is None or counted.size == scene.truth(excludes)[1].size > len(data)


def test_what_says_what_else_is_left_out_may_have_changed_unseen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write(".stratumignore", "a\n.stratumignore\n")
    scene.write("a")
    excludes = Excludes(ignore_files=True)
    monkeypatch.setattr(unchanged, "tells_changes", lambda ctime, now: False)
    scene.read(excludes)
    assert find_unchanged(scene.store, scene.source, excludes=excludes) is None


def test_a_pattern_may_be_about_directories_alone(scene: Scene) -> None:
    """What it leaves out is one still, also where no time tells that names were exchanged."""
    scene.write("d/a/x")
    scene.write("d/b")
    excludes = Excludes((b"a/", b"/d/b"))
    before, left_out, listing = os.stat(scene.source), LeftOut(), Listing()
    listing.begin(before, excludes, left_out)
    for name in ("a", "b"):
        listing.leave(b"d/", name, os.lstat(scene.source / "d" / name), large=False, rules=False)
    listing.final = Directory(before.st_mode, 0, 0, 0)
    left_out.files = left_out.directories = 1
    with scene.store.begin("a test") as tx:
        remember(scene.store, scene.source, listing, scene.store.commits.write(tx, listing.final).metadata_hash)
    assert find_unchanged(scene.store, scene.source, excludes=excludes)
    os.rename(scene.source / "d/a", scene.source / "d/c")
    os.rename(scene.source / "d/b", scene.source / "d/a")
    os.rename(scene.source / "d/c", scene.source / "d/b")
    assert find_unchanged(scene.store, scene.source, excludes=excludes) is None


PATTERNS = st.lists(st.sampled_from([b"a", b"/a", b"b/", b"a/b", b"*", b"!a", b"!b/", b"**/b", b"c"]), max_size=3)
CHANGES = st.sampled_from(["a", "b/a", "a/b", "b/b/c", "c", ".stratumignore", "b/.stratumignore"])


@settings(max_examples=examples(25))
@given(PATTERNS, PATTERNS, st.lists(st.tuples(CHANGES, PATTERNS), max_size=4), st.booleans())
def test_what_is_remembered_is_what_reading_gives(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[bytes],
    second: list[bytes],
    changes: list[tuple[str, list[bytes]]],
    ignore_files: bool,
) -> None:
    scene = Scene(tmp_path_factory.mktemp("excludes"))
    for path in ("b/b/c", "b/a", "c", "d/b", "d/a/x"):
        scene.write(path)
    scene.write(".stratumignore", b"\n".join(second))
    scene.read(Excludes(tuple(first), ignore_files), cache=True)
    for path, text in changes:
        if not any(parent.is_file() for parent in (scene.source / path).parents) and not (scene.source / path).is_dir():
            scene.write(path, b"\n".join(text) + b"longer than before")
    for patterns in (first, second):
        excludes, left_out = Excludes(tuple(patterns), ignore_files), LeftOut()
        known = find_unchanged(scene.store, scene.source, excludes=excludes, left_out=left_out)
        truth, left = scene.truth(excludes)
        assert known in (None, truth)
        assert known is None or left_out_json(left_out) == left_out_json(left)
        if not changes and patterns is first:
            assert known == truth


def test_the_command(cli: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "logs").mkdir(parents=True)
    (source / "logs/x").write_bytes(b"1234")
    (source / "a.tmp").write_bytes(b"12")
    (source / "b").write_bytes(b"1")
    (tmp_path / "patterns").write_text("# mine\n*.tmp\n")
    options = ("--exclude-from", str(tmp_path / "patterns"), "--exclude", "logs/")
    _, _, err = cli("import", str(source), "app", *options)
    assert "left out: 1 file (2 B), 1 directory" in err
    _, _, err = cli("import", str(source), "app", *options)
    assert "unchanged" in err
    assert "left out: 1 file (2 B), 1 directory" in err
    made = cli.json("import", str(source), "app", "--exclude-larger-than", "3")
    assert made["left_out"] == {"files": 1, "directories": 0, "file_systems": 0, "size": 4}
    cli.ok("export", "app", str(tmp_path / "x.tar"))
    code, _, err = cli("import", str(tmp_path / "x.tar"), "other", "--exclude", "b")
    assert code == 2
    assert "out of a directory only" in err


def test_what_cannot_be_read_can_be_left_out(cli: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "in side").mkdir(parents=True)
    os.mknod(source / "in side/null", 0o20666, os.makedev(1, 3))
    code, _, err = cli("import", "--bare", str(source), "app")
    assert code == 1
    assert "--exclude" in err
    cli.ok("import", "--bare", str(source), "app", "--exclude", "/in side/null")


def test_what_is_no_archive_is_no_damage(cli: Command, tmp_path: Path) -> None:
    for name, data in (("text", b"just text\n" * 100), ("empty", b""), ("app.rar", b"Rar!\x1a\7\0" + bytes(600))):
        (tmp_path / name).write_bytes(data)
        code, _, err = cli("import", str(tmp_path / name), "app")
        assert (code, "is no archive that is known here" in err) == (2, True)


def test_a_migration_takes_all(cli: Command, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / ".stratumignore").write_text("*\n")
    (place / "a").write_text("a")
    cli.ok("init", "--migrate", "--no-persist", "app", str(place))
    try:
        assert (place / "a").read_text() == "a"
    finally:
        cli.ok("unmount", str(place))
