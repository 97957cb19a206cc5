"""What changes in an upperdir, case by case, and what is looked at for it."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import DamagedError, StratumError
from stratum.ingest.upperdir import read_upperdir
from stratum.ingest.upperstate import UpperState
from stratum.sys.syscalls import RENAME_EXCHANGE, renameat2
from stratum.tree import overlay
from stratum.tree.model import Directory, File, content_unknown, lookup
from stratum.tree.operations import operations
from tests.integration.overlay_ops import Worktree, file_at, lines
from tests.integration.upper_watching import Marking, Reading, Watched
from tests.support.disks import disk

pytestmark = pytest.mark.root


@pytest.fixture
def watched(tree: Worktree) -> Iterator[Watched]:
    found = Watched(tree)
    with found.state:
        yield found


@pytest.fixture
def view(watched: Watched) -> Path:
    return watched.worktree.view


def at(watched: Watched, path: bytes) -> object:
    return lookup(watched.state.root, path)


def test_an_untouched_worktree_is_its_base(watched: Watched) -> None:
    assert watched.state.root is watched.worktree.base
    assert watched.told() == []
    assert watched.state.root is watched.worktree.base


def test_a_save_reads_the_file_and_nothing_else(watched: Watched, view: Path) -> None:
    (view / "d" / "new").write_bytes(b"n" * 100)
    (view / "d" / "f").write_bytes(b"f" * 100)
    assert watched.told() == ["write /d/f", "create /d/new"]
    (view / "d" / "f").write_bytes(b"g" * 100)
    assert watched.told() == ["write /d/f"]
    assert watched.contents.read == [b"/d/f"]


def test_a_change_of_metadata_reads_nothing(watched: Watched, view: Path) -> None:
    (view / "d" / "big").chmod(0o600)
    (view / "d" / "sub").chmod(0o700)
    assert watched.told() == ["setattr /d/big", "setattr /d/sub"]
    assert watched.contents.read == []


def test_a_replaced_file(watched: Watched, view: Path) -> None:
    (view / "d" / "f.tmp").write_bytes(b"f" * 100)
    assert watched.told() == ["create /d/f.tmp"]
    made = at(watched, b"/d/f.tmp")
    (view / "d" / "f.tmp").rename(view / "d" / "f")
    assert watched.told() == ["rename /d/f /d/f.tmp"]
    assert at(watched, b"/d/f") is made


def test_a_renamed_directory_of_the_base(watched: Watched, view: Path) -> None:
    (view / "d").rename(view / "e")
    assert watched.told() == ["rename /e /d"]
    assert at(watched, b"/e") is lookup(watched.worktree.base, b"/d")
    (view / "e" / "new").write_bytes(b"n")
    (view / "e").rename(view / "other" / "g")
    assert watched.told() == ["rename /other/g /e", "create /other/g/new"]


def test_a_directory_of_the_base_is_renamed_and_written_to(watched: Watched, view: Path) -> None:
    (view / "d").rename(view / "e")
    (view / "e" / "sub").rename(view / "e" / "sub2")
    (view / "e" / "sub2" / "new").write_bytes(b"n")
    assert watched.told() == ["rename /e /d", "rename /e/sub2 /e/sub", "create /e/sub2/new"]


def test_a_new_directory_is_renamed_with_what_is_in_it(watched: Watched, view: Path) -> None:
    (view / "n" / "in").mkdir(parents=True)
    (view / "n" / "in" / "f").write_bytes(b"f" * 100)
    watched.refresh()
    inside = watched.marks.directories.copy()
    (view / "n" / "in" / "g").write_bytes(b"g" * 100)
    (view / "n").rename(view / "m")
    assert watched.told() == ["rename /m /n", "create /m/in/g"]
    assert watched.marks.directories == inside
    assert watched.contents.read == [b"/m/in/g"]
    assert sorted(found.path() for found in inside.values()) == [b"/", b"/m", b"/m/in"]


def test_a_renamed_file_that_was_written_to(watched: Watched, view: Path) -> None:
    (view / "n").write_bytes(b"1" * 100)
    watched.refresh()
    (view / "n").rename(view / "m")
    with open(view / "m", "ab") as file:
        file.write(b"more")
    assert watched.told() == ["rename /m /n", "write /m"]


def test_where_a_directory_came_is_enough(watched: Watched, view: Path) -> None:
    """That it has gone from where it was is found."""
    (view / "one").mkdir()
    (view / "two" / "in").mkdir(parents=True)
    watched.refresh()
    (view / "two" / "in").rename(view / "one" / "in")
    dirty = {found: names for found, names in watched.dirty().items() if found.path() == b"/one"}
    watched.state.refresh(dirty)
    watched.check()


def test_where_a_directory_went_is_enough_until_it_is_told_where_it_came(watched: Watched, view: Path) -> None:
    for name in ("one", "two/in/deep"):
        (view / name).mkdir(parents=True)
    watched.refresh()
    (view / "two" / "in").rename(view / "one" / "in")
    dirty = watched.dirty()
    watched.state.refresh({found: names for found, names in dirty.items() if found.path() == b"/two"})
    assert at(watched, b"/two/in") is None
    assert at(watched, b"/one/in") is None
    watched.state.refresh({found: names for found, names in dirty.items() if found.path() == b"/one"})
    watched.check()


def test_a_directory_that_moved_is_found_though_only_its_entries_are_told(watched: Watched, view: Path) -> None:
    (view / "one").mkdir()
    (view / "two" / "in").mkdir(parents=True)
    watched.refresh()
    inside = next(found for found in watched.marks.directories.values() if found.name == b"in")
    (view / "two" / "in").rename(view / "one" / "in")
    (view / "one" / "in" / "f").write_bytes(b"f")
    watched.state.refresh({inside: {b"f"}})
    assert at(watched, b"/two/in") is None
    watched.state.refresh(watched.dirty())
    watched.check()


def test_exchanged(watched: Watched, view: Path) -> None:
    for one, two in (("d", "other"), ("f", "large"), ("d", "f")):
        renameat2(-100, os.fsencode(view / one), -100, os.fsencode(view / two), RENAME_EXCHANGE)
        assert [text.split()[0] for text in watched.told()] == ["rename"] * 3


def test_directories_change_places_with_what_they_are_in(watched: Watched, view: Path) -> None:
    (view / "d" / "sub").rename(view / "s")
    (view / "d").rename(view / "s" / "d")
    (view / "s").rename(view / "d")
    watched.refresh()
    (view / "d" / "d").rename(view / "x")
    (view / "d").rename(view / "x" / "y")
    (view / "x").rename(view / "d")
    assert "delete" not in {text.split()[0] for text in watched.told()}


def test_deletions_and_an_opaque_directory(watched: Watched, view: Path) -> None:
    (view / "f").unlink()
    shutil.rmtree(view / "d" / "sub")
    told = watched.told()
    assert told[-1] == "delete /f" or "delete /f" in told
    assert at(watched, b"/d/sub") is None
    (view / "d" / "sub").mkdir()
    (view / "d" / "sub" / "f").write_bytes(b"1")
    assert watched.told() == ["mkdir /d/sub", "create /d/sub/f"]
    shutil.rmtree(view / "d")
    (view / "d").mkdir()
    watched.refresh()
    assert at(watched, b"/d/f") is None


def test_a_file_becomes_a_directory_and_a_file_again(watched: Watched, view: Path) -> None:
    for name in ("f", "new"):
        (view / name).unlink(missing_ok=True)
        (view / name).mkdir()
        (view / name / "in").write_bytes(b"i")
        watched.refresh()
        shutil.rmtree(view / name)
        (view / name).write_bytes(b"f" * 100)
        watched.refresh()
        assert isinstance(at(watched, name.encode()), File)


def test_a_link_to_a_file_that_was_known_by_one_name(watched: Watched, view: Path) -> None:
    (view / "d" / "one").write_bytes(b"1" * 100)
    watched.refresh()
    os.link(view / "d" / "one", view / "other" / "two")
    top = [found for found in watched.marks.directories.values() if found.path() == b"/"]
    watched.state.refresh({top[0]: {b"other"}})
    assert at(watched, b"/other/two") is at(watched, b"/d/one")
    watched.check()
    assert os.stat(view / "d" / "one").st_ino in {number for _, number in watched.marks.files}


def test_one_name_of_a_linked_file_is_told(watched: Watched, view: Path) -> None:
    (view / "d" / "one").write_bytes(b"1" * 100)
    for name in ("two", "three"):
        os.link(view / "d" / "one", view / "other" / name)
    assert watched.told() == ["create /d/one", "link /other/three /d/one", "link /other/two /d/one"]
    with open(view / "d" / "one", "ab") as file:
        file.write(b"more")
    other = [found for found in watched.marks.directories.values() if found.path() == b"/other"]
    old = watched.state.root
    watched.state.refresh({other[0]: {b"two"}})
    watched.check()
    assert at(watched, b"/d/one") is not lookup(old, b"/d/one")
    assert sorted(watched.state.names_of(file_at(watched.state.root, b"/d/one"))) == [
        b"/d/one",
        b"/other/three",
        b"/other/two",
    ]
    watched.dirty()
    (view / "d" / "one").unlink()
    assert watched.told() == ["delete /d/one"]
    assert sorted(watched.state.paths_of(key_of(watched, "other/two"))) == [b"/other/three", b"/other/two"]


def key_of(watched: Watched, name: str) -> tuple[int, int]:
    info = os.lstat(watched.worktree.upper / name)
    return (info.st_dev, info.st_ino)


def test_names_that_were_not_told_are_not_looked_at(watched: Watched, view: Path) -> None:
    for number in range(20):
        (view / "other" / f"{number}").write_bytes(b"1" * 100)
    watched.refresh()
    for number in range(20):
        (view / "other" / f"{number}").write_bytes(b"2" * 100)
    dirty = watched.dirty()
    [(directory, names)] = [item for item in dirty.items() if item[0].path() == b"/other"]
    assert names is not None
    watched.contents.read.clear()
    before = watched.state.root
    watched.state.refresh({directory: {b"7"}})
    assert watched.contents.read == [b"/other/7"]
    changed = [name for name in names if lookup(before, b"/other/" + name) is not at(watched, b"/other/" + name)]
    assert changed == [b"7"]
    watched.state.refresh({directory: names})
    watched.check()


def test_nonsense_changes_nothing(watched: Watched, view: Path) -> None:
    (view / "d" / "new").mkdir()
    (view / "gone").mkdir()
    watched.refresh()
    directories = {found.path(): found for found in watched.marks.directories.values()}
    (view / "gone").rmdir()
    watched.refresh()
    before = watched.state.root
    names = {b"", b".", b"..", b"a/b", b"\0", b"x" * 256, b"nothing", b"../../f"}
    watched.state.refresh({directories[b"/d"]: names, directories[b"/gone"]: names, directories[b"/d/new"]: None})
    assert watched.state.root is before


def test_content_that_is_not_known_is_asked_for_again(tree: Worktree) -> None:
    watched = Watched(tree)
    known = watched.contents.content
    with watched.state:
        watched.contents.content = lambda fd, info, path, before: (info.st_size, None, None)  # type: ignore[method-assign]
        (tree.view / "new").write_bytes(b"n" * 100)
        watched.state.refresh(watched.dirty())
        unknown = file_at(watched.state.root, b"/new")
        assert content_unknown(unknown)
        assert unknown.size == 100
        watched.state.scan()
        assert file_at(watched.state.root, b"/new") is unknown
        watched.contents.content = known  # type: ignore[method-assign]
        root = watched.marks.directories[watched.state.root and key_of(watched, ".")]
        watched.state.refresh({root: {b"new"}})
        watched.check()


def test_what_a_file_was_before_is_told(watched: Watched, view: Path) -> None:
    with open(view / "d" / "large", "ab") as file:
        file.write(b"more")
    watched.refresh()
    assert watched.contents.before == [lookup(watched.worktree.base, b"/d/large")]
    before = at(watched, b"/d/large")
    (view / "d" / "large").rename(view / "moved")
    watched.refresh()
    assert watched.contents.before[-1] is before


def test_a_mapped_file_is_read_again_where_a_writer_closed_it(watched: Watched, view: Path) -> None:
    (view / "mapped").write_bytes(b"m" * 8192)
    with open(view / "mapped", "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        key, upper = key_of(watched, "mapped"), watched.worktree.upper / "mapped"
        for number in range(1, 200):  # until the page is still dirty, so that the times stay; others may sync
            mapped[0] = number
            watched.state.scan()
            while watched.contents.read:  # until its times are taken to tell of changes
                watched.contents.read.clear()
                watched.state.scan()
            before = os.lstat(upper)
            mapped[1] = number
            if os.lstat(upper).st_ctime_ns == before.st_ctime_ns:
                break
        watched.state.scan()
        assert watched.contents.read == []
        watched.state.refresh({}, closed=[key, (7, 7)])
        assert watched.contents.read == [b"/mapped"]
    watched.check()


def test_paths_that_are_too_long_are_left_out_until_they_are_short(tree: Worktree) -> None:
    warnings: list[str] = []
    watched = Watched(tree, warnings.append)
    with watched.state:
        fd = os.open(tree.view, os.O_PATH)
        os.mkdir("top", dir_fd=fd)
        for level in range(17):
            inner = os.open("top" if not level else "x" * 240, os.O_PATH, dir_fd=fd)
            os.close(fd)
            fd = inner
            os.mkdir("x" * 240, dir_fd=fd)
        inner = os.open("x" * 240, os.O_PATH, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.close(inner)
        os.close(fd)
        watched.state.scan()
        assert len(warnings) == 1
        assert "too long a path, and is left out" in warnings[0]
        longest = max(len(found.path()) for found in watched.marks.directories.values())
        assert longest == 4 + 16 * 241
        (tree.view / "top" / ("x" * 240)).rename(tree.view / "y")
        watched.state.scan()
        watched.check()
        (tree.view / "y").rename(tree.view / "top" / ("x" * 240))
        [root] = [found for found in watched.marks.directories.values() if found.path() == b"/"]
        [top] = [found for found in watched.marks.directories.values() if found.path() == b"/top"]
        watched.state.refresh({root: {b"y"}, top: {b"x" * 240}})
        assert max(len(found.path()) for found in watched.marks.directories.values()) == longest
        (tree.view / "top" / ("x" * 240)).rename(tree.view / "y")
        watched.state.refresh({root: {b"y"}, top: {b"x" * 240}})
        watched.check()
        assert len(warnings) == 3


def test_an_upperdir_that_does_not_fit_is_damage_and_is_read_anew_when_it_does(tree: Worktree) -> None:
    tree.unmount()
    fd, marks = os.open(tree.upper, os.O_RDONLY), Marking()
    with UpperState(tree.base, fd, Reading(), marks=marks) as state:
        os.close(fd)
        (tree.upper / "e").mkdir()
        os.setxattr(tree.upper / "e", "trusted.overlay.redirect", b"/nothing")
        for look in (state.scan, lambda: state.refresh({})):
            with pytest.raises(DamagedError, match="'/e'"):
                look()
        os.setxattr(tree.upper / "e", "trusted.overlay.redirect", b"/d")
        assert lines(state.refresh({})) == lines(tree.read())
        assert sorted(found.path() for found in marks.directories.values()) == [b"/", b"/e"]
        (tree.upper / "f").mkdir()
        os.setxattr(tree.upper / "f", "trusted.overlay.redirect", b"/nothing")
        with pytest.raises(DamagedError, match="'/f'"):
            state.scan()
        shutil.rmtree(tree.upper / "e")
        os.removexattr(tree.upper / "f", "trusted.overlay.redirect")
        assert lines(state.refresh({})) == lines(tree.read())
        assert sorted(found.path() for found in marks.directories.values()) == [b"/", b"/f"]
        (tree.upper / "e").mkdir()
        os.rmdir(tree.upper / "e")
        shutil.rmtree(tree.upper)
        with pytest.raises(StratumError, match="cannot read / in the upper directory"):
            state.scan()


def test_the_other_dialect(tree: Worktree) -> None:
    tree.unmount()
    (tree.upper / "d").mkdir()
    os.setxattr(tree.upper / "d", "user.overlay.opaque", b"y")
    fd = os.open(tree.upper, os.O_RDONLY)
    with UpperState(tree.base, fd, Reading(), marks=Marking(), dialect=overlay.Dialect.USER) as state:
        os.close(fd)
        state.scan()
        inside = lookup(state.root, b"/d")
        assert isinstance(inside, Directory)
        assert not inside.children


def test_sockets_are_reported_and_left_out(tree: Worktree) -> None:
    warnings: list[str] = []
    watched = Watched(tree, warnings.append)
    with watched.state:
        os.unlink(tree.view / "f")
        os.mknod(tree.view / "f", stat.S_IFSOCK | 0o600)
        watched.refresh()
        assert warnings == ["/f: sockets are not stored"]
        assert at(watched, b"/f") is None


def test_inode_numbers_that_are_given_again(tmp_path: Path) -> None:
    """A directory that took the number and the names of another one is another one."""
    base, numbers = Directory(stat.S_IFDIR | 0o755, 0, 0, 0), set[int]()
    with disk(tmp_path / "image", tmp_path / "disk") as upper:
        fd, marks = os.open(upper, os.O_RDONLY), Marking()
        with UpperState(base, fd, Reading(), marks=marks) as state:
            os.close(fd)
            state.scan()
            [root] = [found for found in marks.directories.values() if found.path() == b"/"]
            for number in range(5):
                shutil.rmtree(upper / "a", ignore_errors=True)
                (upper / "a" / "b").mkdir(parents=True)
                (upper / "a" / "b" / f"{number}").write_bytes(b"%d" % number * 100)
                numbers.add((upper / "a" / "b").stat().st_ino)
                state.refresh({root: {b"a"}})
                inside = lookup(state.root, b"/a/b")
                assert isinstance(inside, Directory)
                assert list(inside.children) == [b"%d" % number]
                assert lines(state.root) == lines(read(base, upper))
    assert len(numbers) < 5


def test_a_new_file_that_took_the_number_of_another_one_is_no_other_name_of_it(tmp_path: Path) -> None:
    base, numbers = Directory(stat.S_IFDIR | 0o755, 0, 0, 0), set[int]()
    with disk(tmp_path / "image", tmp_path / "disk") as upper:
        fd, marks = os.open(upper, os.O_RDONLY), Marking()
        with UpperState(base, fd, Reading(), marks=marks) as state:
            os.close(fd)
            (upper / "0").write_bytes(b"0" * 100)
            old = state.scan()
            [root] = [found for found in marks.directories.values() if found.path() == b"/"]
            for number in range(1, 6):
                (upper / f"{number - 1}").unlink()
                (upper / f"{number}").write_bytes(b"%d" % number * 100)
                numbers.add((upper / f"{number}").stat().st_ino)
                new = state.refresh({root: {b"%d" % (number - 1), b"%d" % number}})
                found = [change.op for change in operations(old, new, state.names_of, moved=state.moved)]
                assert found == ["delete", "create", "mtime"]
                old = new
            (upper / "5").rename(upper / "6")
            (upper / "6").write_bytes(b"6" * 200)
            new = state.refresh({root: {b"5", b"6"}})
            found = [change.op for change in operations(old, new, state.names_of, moved=state.moved)]
            assert found == ["rename", "write", "mtime"]
    assert len(numbers) < 5


def test_extended_attributes_that_no_tree_can_hold_are_left_out(tmp_path: Path) -> None:
    base, warnings = Directory(stat.S_IFDIR | 0o755, 0, 0, 0), list[str]()
    with disk(tmp_path / "image", tmp_path / "disk") as upper:
        subprocess.run(["umount", upper], check=True)
        subprocess.run(["tune2fs", "-O", "ea_inode", tmp_path / "image"], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", tmp_path / "image", upper], check=True)
        (upper / "f").write_bytes(b"f")
        for number in range(3):
            os.setxattr(upper / "f", f"user.{number}", b"x" * 12000)
        fd = os.open(upper, os.O_RDONLY)
        with UpperState(base, fd, Reading(), marks=Marking(), warn=warnings.append) as state:
            os.close(fd)
            found = file_at(state.scan(), b"/f")
            assert (found.content, found.xattrs) == (b"f", ())
    assert len(warnings) == 1
    assert "/f" in warnings[0]
    assert "left out" in warnings[0]


def read(base: Directory, upper: Path) -> Directory:
    return read_upperdir(base, upper, Filling())


class Filling:
    """A content reader for files of any size that stores nothing."""

    def read(self, directory: int, path: bytes, files: object) -> None:
        for file in files:  # type: ignore[attr-defined]
            reading = Reading()
            file.node.size, file.node.digest, file.node.content = reading.content(directory, file.info, path, None)

    def finish(self) -> None:
        """Everything has been read already."""


MEMORY = """
import gc, os, stat, sys, tracemalloc
from stratum.ingest.upperdir import read_upperdir
from stratum.ingest.upperstate import UpperState
from stratum.tree.model import Directory

class Nothing:
    def read(self, fd, path, files):
        for file in files:
            file.node.size, file.node.content = 1, b"x"
    def finish(self): pass
    def content(self, fd, info, path, before): return 1, None, b"x"
    def directory(self, directory, fd): pass
    def linked(self, fd, directory, name): pass
    def seen(self, fd, directory, name): pass
    def gone(self, directory): pass

def used():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]

base, nothing = Directory(stat.S_IFDIR | 0o755, 0, 0, 0), Nothing()
fd = os.open(sys.argv[1], os.O_RDONLY)
state = UpperState(base, fd, nothing, marks=nothing)
tracemalloc.start()
before = used()
tree = read_upperdir(base, fd, nothing)
of_tree = used() - before
del tree
before = used()
state.scan()
print(of_tree, used() - before)
"""


def test_what_is_kept_of_a_file_is_small(tmp_path: Path) -> None:
    count = 5000
    for number in range(count):
        (tmp_path / f"file-{number}").write_bytes(b"x")
    run = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], check=True, capture_output=True, text=True)
    of_tree, of_state = map(int, run.stdout.split())
    assert of_tree > count * 100
    assert (of_state - of_tree) / count < 400
