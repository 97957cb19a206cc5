"""What the kernel writes into an upperdir, case by case."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from stratum.ingest.reader import FileReader
from stratum.ingest.upperdir import read_upperdir
from stratum.ingest.worktree import compare_upperdir
from stratum.sys.syscalls import RENAME_EXCHANGE, renameat2
from stratum.tree import overlay
from stratum.tree.diff import Change, diff_trees
from stratum.tree.model import Directory, File, Special, Symlink, lookup
from tests.integration.overlay_ops import Lab, NothingToRead, Worktree, file_at, lines, walk_view

pytestmark = pytest.mark.root


def private(path: Path, name: str) -> bytes:
    return os.getxattr(path, f"trusted.overlay.{name}", follow_symlinks=False)


def changes_from(tree: Worktree, committed: Directory) -> list[Change]:
    """What the worktree shows beyond ``committed``, found as ``status`` does."""
    shown = compare_upperdir(tree.lab.store.objects, tree.base, tree.upper, [committed, tree.base])
    return list(diff_trees(committed, shown))


def both(tree: Worktree) -> Directory:
    """Read and compare, before and after the kernel forgot what it had cached."""
    tree.check()
    tree.remount()
    return tree.check()


def test_an_untouched_worktree_is_its_base(tree: Worktree) -> None:
    assert tree.read() is tree.base
    assert lines(tree.base) == lines(tree.walk())
    assert changes_from(tree, tree.base) == []


@pytest.mark.parametrize("name", ["d/big", "d/f", "exactly64", "sparse"])
def test_metadata_only(tree: Worktree, name: str) -> None:
    (tree.view / name).chmod(0o600)
    assert private(tree.upper / name, "metacopy") == b""
    merged = read_upperdir(tree.base, tree.upper, NothingToRead())
    before = file_at(tree.base, name.encode())
    assert file_at(merged, name.encode()).content_key() == before.content_key()
    assert lines(both(tree)) == lines(merged)


def test_unchanged_subtrees_are_shared(tree: Worktree) -> None:
    (tree.view / "d" / "sub" / "new").write_bytes(b"n" * 100)
    merged = both(tree)
    assert lookup(merged, b"/other") is lookup(tree.base, b"/other")
    assert lookup(merged, b"/d/sub/deep") is lookup(tree.base, b"/d/sub/deep")
    assert lookup(merged, b"/d/sub") is not lookup(tree.base, b"/d/sub")


def test_a_copied_up_directory_without_a_change_is_shared(tree: Worktree) -> None:
    info = (tree.view / "d" / "sub").stat()
    os.utime(tree.view / "d" / "sub", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert (tree.upper / "d" / "sub").is_dir()
    assert tree.read() is tree.base


def test_renamed_metacopy_in_a_renamed_directory(tree: Worktree) -> None:
    """The name in a redirect is one of the parent's lower directory, which has another name here."""
    (tree.view / "d" / "big").chmod(0o600)
    (tree.view / "d" / "big").rename(tree.view / "d" / "big2")
    (tree.view / "n").mkdir()
    (tree.view / "d").rename(tree.view / "n" / "d2")
    assert private(tree.upper / "n" / "d2", "redirect") == b"/d"
    assert private(tree.upper / "n" / "d2" / "big2", "redirect") == b"big"
    merged = both(tree)
    assert file_at(merged, b"/n/d2/big2").digest == file_at(tree.base, b"/d/big").digest
    assert lookup(merged, b"/n/d2/sub") is lookup(tree.base, b"/d/sub")
    assert lookup(merged, b"/d") is None


def test_directory_renamed_in_place(tree: Worktree) -> None:
    (tree.view / "d").rename(tree.view / "e")
    assert private(tree.upper / "e", "redirect") == b"d"
    (tree.view / "e" / "sub").rename(tree.view / "e" / "sub2")
    (tree.view / "e" / "sub2" / "f").unlink()
    (tree.view / "d").mkdir()
    (tree.view / "d" / "f").write_bytes(b"new")
    merged = both(tree)
    assert lookup(merged, b"/e/sub2/deep") is lookup(tree.base, b"/d/sub/deep")
    assert lookup(merged, b"/e/sub2/f") is None


def test_metacopy_moved_to_another_directory(tree: Worktree) -> None:
    (tree.view / "d" / "big").rename(tree.view / "other" / "big")
    assert private(tree.upper / "other" / "big", "redirect") == b"/d/big"
    merged = both(tree)
    assert file_at(merged, b"/other/big").digest == file_at(tree.base, b"/d/big").digest


def test_directory_moved_below_its_own_old_name(tree: Worktree) -> None:
    (tree.view / "d" / "sub").rename(tree.view / "s")
    (tree.view / "d").rename(tree.view / "s" / "d")
    (tree.view / "s").rename(tree.view / "d")
    merged = both(tree)
    assert lookup(merged, b"/d/deep") is lookup(tree.base, b"/d/sub/deep")
    assert file_at(merged, b"/d/d/big").digest == file_at(tree.base, b"/d/big").digest


def test_exchanged_directories(tree: Worktree) -> None:
    renameat2(-100, os.fsencode(tree.view / "d"), -100, os.fsencode(tree.view / "other"), RENAME_EXCHANGE)
    merged = both(tree)
    assert lookup(merged, b"/other/sub") is lookup(tree.base, b"/d/sub")
    assert file_at(merged, b"/d/f").content == b"inline 4"


def test_hard_link_to_a_base_file(tree: Worktree) -> None:
    os.link(tree.view / "d" / "big", tree.view / "other" / "linked")
    assert private(tree.upper / "other" / "linked", "redirect") == b"/d/big"
    assert private(tree.upper / "d" / "big", "redirect") == b"/d/big"
    merged = both(tree)
    assert lookup(merged, b"/other/linked") is lookup(merged, b"/d/big")
    assert file_at(merged, b"/d/big").digest == file_at(tree.base, b"/d/big").digest


def test_hard_link_of_the_base_is_broken_by_a_change_under_one_name(tree: Worktree) -> None:
    (tree.view / "d" / "large").chmod(0o640)
    merged = both(tree)
    assert lookup(merged, b"/hard-large") is lookup(merged, b"/other/hard-large")
    assert lookup(merged, b"/hard-large") is not lookup(merged, b"/d/large")


def test_new_hard_links(tree: Worktree) -> None:
    (tree.view / "one").write_bytes(b"1" * 100)
    os.link(tree.view / "one", tree.view / "d" / "two")
    (tree.view / "three").symlink_to("one")
    os.link(tree.view / "three", tree.view / "four", follow_symlinks=False)
    merged = both(tree)
    assert lookup(merged, b"/one") is lookup(merged, b"/d/two")
    assert lookup(merged, b"/three") is lookup(merged, b"/four")


def test_deletions_at_every_depth(tree: Worktree) -> None:
    for name in ("d/sub/deep/f", "d/sub/large", "d/none", "f"):
        (tree.view / name).unlink()
        assert stat.S_ISCHR((tree.upper / name).stat().st_mode)
    shutil.rmtree(tree.view / "other")
    merged = both(tree)
    for name in (b"/d/sub/deep/f", b"/d/sub/large", b"/d/none", b"/f", b"/other"):
        assert lookup(merged, name) is None


def test_opaque_directory(tree: Worktree) -> None:
    shutil.rmtree(tree.view / "d")
    (tree.view / "d").mkdir()
    (tree.view / "d" / "mine").write_bytes(b"m")
    assert private(tree.upper / "d", "opaque") == b"y"
    merged = both(tree)
    inside = lookup(merged, b"/d")
    assert isinstance(inside, Directory)
    assert set(inside.children) == {b"mine"}
    assert not inside.opaque


def test_base_directory_moved_into_an_opaque_one(tree: Worktree) -> None:
    (tree.view / "d" / "sub").rename(tree.view / "kept")
    shutil.rmtree(tree.view / "d")
    (tree.view / "d").mkdir()
    (tree.view / "kept").rename(tree.view / "d" / "sub")
    assert private(tree.upper / "d", "opaque") == b"y"
    assert lookup(both(tree), b"/d/sub/deep") is lookup(tree.base, b"/d/sub/deep")


def test_directory_becomes_a_file_and_a_directory_again(tree: Worktree) -> None:
    shutil.rmtree(tree.view / "d")
    (tree.view / "d").write_bytes(b"f" * 99)
    assert isinstance(lookup(both(tree), b"/d"), File)
    (tree.view / "d").unlink()
    (tree.view / "d").mkdir()
    assert isinstance(lookup(both(tree), b"/d"), Directory)
    (tree.view / "f").unlink()
    (tree.view / "f").mkdir()
    (tree.view / "f" / "in").touch()
    assert file_at(both(tree), b"/f/in").size == 0


def test_attributes_of_a_nested_overlay_are_content(tree: Worktree) -> None:
    """What a privileged container stores under overlayfs's own names comes back under them and means nothing."""
    os.setxattr(tree.view / "other" / "f", "trusted.overlay.redirect", b"/d/big")
    os.setxattr(tree.view / "other" / "f", "trusted.overlay.metacopy", b"")
    os.setxattr(tree.view / "other", "trusted.overlay.opaque", b"y")
    os.setxattr(tree.view / "other", "trusted.overlay.overlay.opaque", b"deeper")
    merged = both(tree)
    inode = file_at(merged, b"/other/f")
    assert inode.content == b"inline 4"
    assert dict(inode.xattrs) == {b"trusted.overlay.redirect": b"/d/big", b"trusted.overlay.metacopy": b""}
    directory = lookup(merged, b"/other")
    assert directory is not None
    assert dict(directory.xattrs)[b"trusted.overlay.overlay.opaque"] == b"deeper"
    assert lookup(merged, b"/other/large") is not None


def test_whiteout_device_of_the_base(tree: Worktree) -> None:
    os.chown(tree.view / "other" / "whiteout", 5, 6)
    (tree.view / "other" / "whiteout").rename(tree.view / "d" / "moved")
    inode = lookup(both(tree), b"/d/moved")
    assert isinstance(inode, Special)
    assert overlay.is_whiteout_device(inode)
    assert (inode.uid, inode.gid, stat.S_IMODE(inode.mode), inode.xattrs) == (5, 6, 0o640, ())


def test_whiteout_device_of_the_base_without_its_marks(tree: Worktree) -> None:
    os.removexattr(tree.view / "other" / "whiteout", "user.overlay.whiteout")
    inode = file_at(both(tree), b"/other/whiteout")
    assert (inode.size, inode.xattrs) == (0, ((b"trusted.overlay.whiteout", b""),))


def test_inode_flags_are_no_content(tree: Worktree) -> None:
    (tree.view / "new").write_bytes(b"n")
    subprocess.run(["chattr", "+i", tree.view / "new"], check=True)
    try:
        assert private(tree.upper / "new", "protattr") == b"i"
        assert file_at(tree.check(), b"/new").xattrs == ()
    finally:
        subprocess.run(["chattr", "-i", tree.view / "new"], check=True)


def test_metadata_of_the_root(tree: Worktree) -> None:
    tree.view.chmod(0o1711)
    os.chown(tree.view, 12, 13)
    os.setxattr(tree.view, "user.root", b"1")
    os.utime(tree.view, ns=(5, 5))
    merged = both(tree)
    assert merged.metadata()[:4] == (stat.S_IFDIR | 0o1711, 12, 13, 5)
    assert merged.children[b"d"] is tree.base.children[b"d"]


def test_sockets_are_reported_and_left_out(tree: Worktree) -> None:
    os.unlink(tree.view / "f")
    os.mknod(tree.view / "f", stat.S_IFSOCK | 0o600)
    warnings: list[str] = []
    assert lookup(tree.read(warnings.append), b"/f") is None
    assert warnings == ["/f: sockets are not stored"]
    tree.check()


def test_symlinks_are_never_followed(tree: Worktree, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    shutil.rmtree(tree.view / "d")
    (tree.view / "d").symlink_to(tmp_path)
    (tree.view / "f").unlink()
    (tree.view / "f").symlink_to(tmp_path / "secret")
    merged = both(tree)
    assert isinstance(lookup(merged, b"/d"), Symlink)
    assert isinstance(lookup(merged, b"/f"), Symlink)


def test_reading_goes_on_while_files_are_open(tree: Worktree) -> None:
    with open(tree.view / "d" / "big", "r+b") as file:
        file.write(b"one")
        file.flush()
        first = tree.check()
        file.write(b"two")
        file.flush()
        second = tree.check()
        assert os.fstat(file.fileno()).st_nlink == 1
    assert file_at(first, b"/d/big").digest != file_at(second, b"/d/big").digest


def test_many_files_are_read_by_workers(tree: Worktree) -> None:
    os.link(tree.view / "d" / "big", tree.view / "d" / "linked")
    for number in range(700):
        (tree.view / "other" / f"{number}").write_bytes(b"%d" % number * (number % 300))
    store = tree.lab.store
    with store.begin() as tx, FileReader(tx, store.objects, jobs=2) as reader:
        merged = read_upperdir(tree.base, tree.upper, reader)
        assert reader.warnings == []
    assert lines(merged) == lines(tree.walk())


def test_depth_costs_neither_stack_nor_descriptors(tree: Worktree) -> None:
    depth = 1500
    fd = os.open(tree.view, os.O_PATH)
    for _ in range(depth):
        os.mkdir("n", dir_fd=fd)
        os.mkdir("z", dir_fd=fd)
        os.symlink("target", "s", dir_fd=fd)
        inner = os.open("n", os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    mine = max(map(int, os.listdir("/proc/self/fd")))  # what tests before this one left open is not what is counted
    resource.setrlimit(resource.RLIMIT_NOFILE, (mine + 150, limits[1]))
    try:
        merged = read_upperdir(tree.base, tree.upper, NothingToRead())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        subprocess.run(["rm", "-rf", tree.view / "n"], check=True)
    found: Directory = merged
    for _ in range(depth):
        assert found.children.keys() >= {b"n", b"s", b"z"}
        inner_directory = found.children[b"n"]
        assert isinstance(inner_directory, Directory)
        found = inner_directory
    assert not found.children


def test_what_is_in_a_commit_already_is_no_change(tree: Worktree) -> None:
    (tree.view / "d" / "new").write_bytes(b"n" * 1000)
    with open(tree.view / "large", "ab") as file:
        file.write(b"more")
    (tree.view / "d" / "f").unlink()
    committed = both(tree)
    assert changes_from(tree, committed) == []
    before = (tree.view / "d" / "new").stat()
    (tree.view / "d" / "new").write_bytes(b"m" * 1000)
    os.utime(tree.view / "d" / "new", ns=(before.st_atime_ns, before.st_mtime_ns))  # only its content tells
    assert [(change.path, change.kind) for change in changes_from(tree, committed)] == [(b"/d/new", "modified")]


def test_at_a_glance_no_large_file_is_read(tree: Worktree) -> None:
    (tree.view / "grown").write_bytes(b"g" * (2 << 20))
    committed = both(tree)

    def changes() -> list[str]:
        store = tree.lab.store
        shown = compare_upperdir(store.objects, tree.base, tree.upper, [committed, tree.base], at_a_glance=True)
        return [change.kind for change in diff_trees(committed, shown)]

    before = (tree.view / "grown").stat()
    for what, expected in ((b"G" * (2 << 20), []), (b"G" * (3 << 20), ["modified"])):
        (tree.view / "grown").write_bytes(what)
        os.utime(tree.view / "grown", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert changes() == expected
    (tree.view / "grown").write_bytes(b"G" * (2 << 20))
    assert changes() == ["modified"]


def test_changes_are_listed(tree: Worktree) -> None:
    (tree.view / "d" / "big").chmod(0o600)
    (tree.view / "d" / "f").unlink()
    (tree.view / "d" / "new").write_bytes(b"n" * 1000)
    with open(tree.view / "large", "ab") as file:
        file.write(b"more")
    changes = {(change.path, change.kind) for change in changes_from(tree, tree.base)}
    assert changes == {
        (b"/d/big", "metadata"),
        (b"/d/f", "deleted"),
        (b"/d/new", "added"),
        (b"/large", "modified"),
    }


def test_the_walk_sees_what_a_plain_directory_has(lab: Lab, base: Directory) -> None:
    """The truth of these tests is itself compared: a commit's mounted view with the directory it came from."""
    with lab.worktree(base) as tree:
        assert lines(walk_view(tree.view)) == lines(walk_view(lab.place / "source"))
