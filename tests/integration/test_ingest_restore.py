"""Restoring trees into directories: what comes out is what went in, and nothing outside the target is touched."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from stratum.errors import DamagedError, ExistsError, NotFoundError, StratumError
from stratum.ingest.directory import import_directory
from stratum.ingest.restore import restore
from stratum.store import Store
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, File, Symlink, Whiteout, lookup
from tests.support.effort import examples
from tests.support.sources import ACL, CAPABILITY, Spec, make_tree, specs

pytestmark = pytest.mark.root
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def read(store: Store, path: Path) -> Directory:
    with store.begin("a test") as tx:
        tree, _ = import_directory(store, tx, path, devices=True, cache=False)
        tx.publish_objects()
    return tree


def same(store: Store, one: Path, other: Path) -> bool:
    return write_dump(read(store, one)) == write_dump(read(store, other))


@given(spec=specs)
@settings(max_examples=examples(30))
def test_what_is_restored_is_what_was_imported(spec: Spec) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "source"
        path.mkdir()
        make_tree(path, spec)
        store = Store.create(Path(name) / "store")
        tree = read(store, path)
        assert restore(store.objects, tree, Path(name) / "out") == []
        assert write_dump(read(store, Path(name) / "out")) == write_dump(tree)
        assert restore(store.objects, tree, Path(name) / "out", overwrite=True) == []
        assert write_dump(read(store, Path(name) / "out")) == write_dump(tree)


def test_hard_links_holes_and_attributes(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "d/e").mkdir(parents=True)
    with (source / "d/sparse").open("wb") as file:
        file.truncate(100 << 20)
        file.seek(50 << 20)
        file.write(b"middle")
    os.link(source / "d/sparse", source / "z")
    os.link(source / "d/sparse", source / "d/e/y")
    (source / "tool").write_bytes(b"x" * 100)
    os.setxattr(source / "tool", "security.capability", CAPABILITY)
    os.setxattr(source / "d", "system.posix_acl_default", ACL)
    os.setxattr(source / "d/e", "system.posix_acl_access", ACL)
    out = tmp_path / "out"
    assert restore(store.objects, read(store, source), out) == []
    assert same(store, source, out)
    assert (out / "z").stat().st_ino == (out / "d/sparse").stat().st_ino == (out / "d/e/y").stat().st_ino
    assert (out / "z").stat().st_blocks * 512 < 1 << 20
    assert os.getxattr(out / "tool", "security.capability") == CAPABILITY


def test_very_deep_trees(store: Store, tmp_path: Path) -> None:
    depth = 1500
    linked = File(0o100644, 0, 0, 0, size=1, content=b"x")
    tree = Directory(0o40755, 0, 0, 0, children={b"leaf": linked})
    for level in range(depth):
        children = {b"d": tree} if level % 100 else {b"d": tree, b"leaf": linked}
        tree = Directory(0o40755, 0, 0, 0, children=dict(children))
    out = tmp_path / "out"
    assert restore(store.objects, tree, out) == []
    assert write_dump(read(store, out)) == write_dump(tree)
    subprocess.run(["rm", "-rf", out], check=True)


def test_a_single_file(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "f").write_bytes(b"x" * 1000)
    os.chmod(source / "f", 0o640)
    node = lookup(read(store, source), b"f")
    assert node is not None
    assert restore(store.objects, node, tmp_path / "copy") == []
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o640
    assert restore(store.objects, node, tmp_path / "copy") == []  # it is there
    (tmp_path / "copy").write_bytes(b"other")
    with pytest.raises(ExistsError, match="copy exists"):
        restore(store.objects, node, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"other"
    restore(store.objects, node, tmp_path / "copy", overwrite=True)
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    with pytest.raises(NotFoundError, match="missing/copy"):
        restore(store.objects, node, tmp_path / "missing" / "copy")
    assert sorted(os.listdir(tmp_path)) == ["copy", "source", "store"]


def test_what_is_in_the_way_stays(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "d").mkdir()
    (source / "f").write_bytes(b"new")
    tree = read(store, source)
    out = tmp_path / "out"
    out.mkdir()
    (out / "f").write_bytes(b"old")
    with pytest.raises(ExistsError, match="out/f exists"):
        restore(store.objects, tree, out)
    assert (out / "f").read_bytes() == b"old"
    (out / "f").unlink()
    (out / "f").mkdir()
    with pytest.raises(ExistsError, match=r"out/(f|d) exists"):
        restore(store.objects, tree, out, overwrite=True)
    assert [name for name in os.listdir(out) if name.startswith(".")] == []


def test_symbolic_links_below_the_target_are_not_followed(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_bytes(b"new")
    (source / "g").write_bytes(b"new")
    tree = read(store, source)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"old")
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(outside)
    with pytest.raises(ExistsError, match="out/d exists"):
        restore(store.objects, tree, out, overwrite=True)
    (out / "d").unlink()
    (out / "g").symlink_to(outside / "victim")
    restore(store.objects, tree, out, overwrite=True)
    assert not (out / "g").is_symlink()
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").read_bytes() == b"old"


def test_a_default_acl_of_the_target_does_not_leak_in(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "d").mkdir()
    (source / "d/f").write_bytes(b"x")
    (source / "g").write_bytes(b"x")
    tree = read(store, source)
    out = tmp_path / "out"
    out.mkdir()
    os.setxattr(out, "system.posix_acl_default", ACL)
    os.setxattr(out, "user.old", b"x")
    assert restore(store.objects, tree, out) == []
    assert same(store, source, out)


def test_damaged_and_missing_objects(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "f").write_bytes(b"x" * 1000)
    tree = read(store, source)
    node = tree.children[b"f"]
    assert isinstance(node, File)
    assert node.digest is not None
    path = store.objects.path(node.digest)
    path.chmod(0o644)
    path.write_bytes(b"y" * 1000)
    with pytest.raises(DamagedError, match="does not match its digest"):
        restore(store.objects, tree, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    path.unlink()
    with pytest.raises(NotFoundError, match="missing from the store"):
        restore(store.objects, tree, tmp_path / "out")


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc", b"a\0"])
def test_impossible_names_are_refused(store: Store, tmp_path: Path, name: bytes) -> None:
    for inode in (File(0o100644, 0, 0, 0), Directory(0o40755, 0, 0, 0), Symlink(0o120777, 0, 0, 0, target=b"x")):
        tree = Directory(0o40755, 0, 0, 0, children={name: inode})
        with pytest.raises(DamagedError, match="impossible name"):
            restore(store.objects, tree, tmp_path / "out")


def test_whiteouts_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="whiteout"):
        restore(store.objects, Directory(0o40755, 0, 0, 0, children={b"w": Whiteout()}), tmp_path / "out")


def test_a_full_disk(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "f").write_bytes(os.urandom(3 << 20))
    tree = read(store, source)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        with pytest.raises(StratumError, match=r"cannot write .*/f: No space left on device"):
            restore(store.objects, tree, disk / "out")
        assert os.listdir(disk / "out") == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_without_root_owners_and_devices_are_reported() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        os.chmod(name, 0o777)
        restored_by_another_user(Path(name))


def restored_by_another_user(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from stratum.ingest.restore import restore\n"
        "from stratum.store import Store\n"
        "from stratum.tree.model import Directory, File, Special\n"
        "def run(place):\n"
        "    store = Store.create(place / 'store')\n"
        "    return restore(store.objects, tree, place / 'out')\n"
        "trusted = ((b'trusted.a', b'x'), (b'user.a', b'x'))\n"
        "tree = Directory(0o40755, 65534, 65534, 0, children={\n"
        "    b'a': File(0o104755, 0, 0, 5, size=1, content=b'x'),\n"
        "    b'b': File(0o100444, 0, 0, 5, trusted, size=1, content=b'x'),\n"
        "    b'null': Special(0o20666, 0, 0, 0, rdev=0x103),\n"
        "})\n"
        "place = Path(sys.argv[1])\n"
        "(place / 'root').mkdir()\n"
        "run(place / 'root')\n"  # everything is imported while what root alone may read can be read
        "os.setgid(65534)\n"
        "os.setgroups([])\n"
        "os.setuid(65534)\n"
        "print(*run(place), sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    out = tmp_path / "out"
    assert done.stdout.splitlines() == [
        f"owner not restored, it takes root: {out}/a and 1 more",
        f"attribute trusted.a not restored (Operation not permitted): {out}/b",
        f"not restored, it takes root: {out}/null",
    ]
    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o755
    assert (out / "a").stat().st_uid == 65534
    assert os.getxattr(out / "b", "user.a") == b"x"
    assert stat.S_IMODE((out / "b").stat().st_mode) == 0o444
