"""Importing real directories, against mkcomposefs and against what was put there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from stratum.composefs.erofs.writer import image_pieces
from stratum.errors import NotFoundError, StratumError, UnsupportedError, UsageError
from stratum.ingest.directory import import_directory, import_opened
from stratum.ingest.staging import Stager
from stratum.ingest.worker import Answer, Request, read_batch
from stratum.store import Store
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, File, Special, Symlink, lookup, walk
from tests.oracles import mkcomposefs
from tests.support.effort import examples
from tests.support.sources import ACL, CAPABILITY, Spec, make_socket, make_tree, specs

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


def read(store: Store, path: Path, **options: bool | int) -> tuple[Directory, list[str]]:
    """Import ``path`` and publish its objects, all of which must then be in the store."""
    with store.begin("a test") as tx:
        tree, warnings = import_directory(store, tx, path, **options)
        tx.publish_objects()
    for _, inode in walk(tree):
        if isinstance(inode, File) and inode.digest is not None:
            assert store.objects.has(inode.digest, inode.size)
    return tree, warnings


def get_file(tree: Directory, path: bytes) -> File:
    node = lookup(tree, path)
    assert isinstance(node, File)
    return node


def wait_for_the_clock(path: Path) -> None:
    """Wait until the stat cache may trust what was made just now."""
    until = path.lstat().st_ctime_ns + 150_000_000
    while time.time_ns() < until:
        time.sleep(0.01)


@pytest.mark.oracle
@given(spec=specs)
@settings(max_examples=examples(30))
def test_a_tree_is_what_mkcomposefs_makes_of_it(spec: Spec) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "source"
        path.mkdir()
        make_tree(path, spec)
        store = Store.create(Path(name) / "store")
        first, warnings = read(store, path, devices=True)
        assert warnings == []
        assert b"".join(image_pieces(first)) == mkcomposefs.image_of_directory(path)
        again, _ = read(store, path, devices=True)
        assert write_dump(again) == write_dump(first)
        without_cache, _ = read(store, path, devices=True, cache=False, jobs=2)
        assert write_dump(without_cache) == write_dump(first)


@pytest.mark.oracle
def test_a_real_tree_by_several_processes(store: Store) -> None:
    path = Path("/usr/lib/python3/dist-packages")
    if len(list(path.rglob("*"))) <= 300:  # where few of Debian's packages are
        path = Path(os.__file__).parent
    assert len(list(path.rglob("*"))) > 300  # enough for worker processes
    tree, warnings = read(store, path, jobs=2)
    assert warnings == []
    assert b"".join(image_pieces(tree)) == mkcomposefs.image_of_directory(path)
    again, _ = read(store, path, jobs=2)
    assert write_dump(again) == write_dump(tree)


def test_types_and_metadata(store: Store, source: Path) -> None:
    (source / "file").write_bytes(b"x" * 100)
    os.chown(source / "file", 12, 70_000)
    os.setxattr(source / "file", "user.name", b"value")
    os.setxattr(source / "file", "security.capability", CAPABILITY)
    os.setxattr(source / "file", "security.other", b"not stored")
    os.setxattr(source / "file", "system.posix_acl_access", ACL)
    os.chmod(source / "file", 0o4750)
    os.utime(source / "file", ns=(0, 123_456_789_012_345_678))
    os.mkfifo(source / "fifo", 0o600)
    os.symlink(b"to \xff", source / "link")
    make_socket(source / "socket")
    tree, warnings = read(store, source)
    assert warnings == [f"{source}/socket is a socket; it is left out"]
    assert set(tree.children) == {b"file", b"fifo", b"link"}
    file = get_file(tree, b"file")
    assert file.metadata()[:4] == (0o104750, 12, 70_000, 123_456_789_012_345_678)
    assert dict(file.xattrs) == {
        b"security.capability": CAPABILITY,
        b"system.posix_acl_access": os.getxattr(source / "file", "system.posix_acl_access"),
        b"user.name": b"value",
    }
    link = tree.children[b"link"]
    assert isinstance(link, Symlink)
    assert link.target == b"to \xff"
    fifo = tree.children[b"fifo"]
    assert isinstance(fifo, Special)
    assert stat.S_ISFIFO(fifo.mode)


def test_hard_links_are_one_inode(store: Store, source: Path) -> None:
    (source / "d").mkdir()
    (source / "a").write_bytes(b"x" * 100)
    os.link(source / "a", source / "d" / "b")
    os.symlink("target", source / "s")
    os.link(source / "s", source / "d" / "t", follow_symlinks=False)
    os.mkfifo(source / "p")
    os.link(source / "p", source / "d" / "q")
    for _ in range(2):
        tree, _ = read(store, source)
        for one, other in ((b"a", b"d/b"), (b"s", b"d/t"), (b"p", b"d/q")):
            assert lookup(tree, one) is lookup(tree, other)
        wait_for_the_clock(source)


def test_device_nodes_are_refused_or_taken(store: Store, source: Path) -> None:
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "white", stat.S_IFCHR | 0o666, 0)
    with pytest.raises(StratumError, match=r"source/(null|white) is a device node"):
        read(store, source)
    tree, _ = read(store, source, devices=True)
    null, white = tree.children[b"null"], tree.children[b"white"]
    assert isinstance(null, Special)
    assert isinstance(white, Special)
    assert (null.rdev, white.rdev) == (os.makedev(1, 3), 0)
    assert stat.S_ISCHR(white.mode)


def test_very_deep_trees(store: Store, source: Path) -> None:
    depth = 2044
    fd = os.open(source, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    bottom = os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(bottom, b"deep" * 100)
    os.close(bottom)
    tree, _ = read(store, source)
    assert get_file(tree, b"d/" * depth + b"bottom").size == 400
    os.rename("bottom", "bottom-", src_dir_fd=fd, dst_dir_fd=fd)  # 4,096 bytes with the slash before the first name
    assert get_file(read(store, source)[0], b"d/" * depth + b"bottom-").size == 400
    os.rename("bottom-", "bottom--", src_dir_fd=fd, dst_dir_fd=fd)
    with pytest.raises(UnsupportedError, match=r"d/d/.* has a path of 4097 bytes; 4096 is the limit"):
        read(store, source)
    os.close(fd)
    subprocess.run(["rm", "-rf", source], check=True)


def test_the_store_itself_is_left_out(tmp_path: Path, store: Store) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    tree, warnings = read(store, tmp_path)
    assert set(tree.children) == {b"file"}
    assert warnings == [f"{store.root} is the store itself; it is left out"]
    for inside in (store.root, store.root / "objects"):
        with pytest.raises(UsageError, match="inside the store"):
            read(store, inside)


def test_other_file_systems(store: Store, source: Path) -> None:
    (source / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0711", "tmpfs", source / "mounted"], check=True)
    try:
        (source / "mounted" / "file").write_bytes(b"x")
        across, _ = read(store, source)
        root = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        with store.begin("a test") as tx:
            stopped, _ = import_opened(store, tx, root, b"/data", max_entries=100)
        os.close(root)
    finally:
        subprocess.run(["umount", source / "mounted"], check=True)
    assert lookup(across, b"mounted/file") is not None
    mount_point = lookup(stopped, b"mounted")
    assert isinstance(mount_point, Directory)
    assert mount_point.children == {}
    assert mount_point.mode == 0o40711


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_cannot_be_read_is_one_error(tmp_path: Path, jobs: int) -> None:
    """Without the privilege to read everything: a file and a directory of another user, each named."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(600):
        (source / f"f{number}").write_bytes(b"x" * 100)
    secret = source / "f599"
    os.chown(secret, 65534, 65534)
    secret.chmod(0o600)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from stratum.errors import StratumError\n"
        "from stratum.ingest.directory import import_directory\n"
        "from stratum.store import Store\n"
        "store = Store.create(Path(sys.argv[1]))\n"
        "try:\n"
        "    with store.begin('a test') as tx:\n"
        "        import_directory(store, tx, Path(sys.argv[2]), jobs=int(sys.argv[3]))\n"
        "except StratumError as exc:\n"
        "    print(exc.message)\n"
        "print(os.listdir(store.root / 'tmp'), os.listdir(store.layout.objects))\n"
    )

    unprivileged = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")

    def run(store: str) -> str:
        done = subprocess.run(
            [*unprivileged, sys.executable, "-c", program, tmp_path / store, source, str(jobs)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout

    assert run("one") == f"cannot read {secret}: Permission denied\n['lock'] []\n"
    secret.unlink()
    (source / "closed").mkdir(mode=0o700)
    os.chown(source / "closed", 65534, 65534)
    assert run("two") == f"cannot read {source}/closed: Permission denied\n['lock'] []\n"


def test_a_source_that_is_no_directory(store: Store, source: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        read(store, source / "missing")
    (source / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="not a directory"):
        read(store, source / "file")
    (source.parent / "link").symlink_to(source)
    tree, _ = read(store, source.parent / "link")
    assert set(tree.children) == {b"file"}


def test_xattrs_that_no_image_holds_are_an_error_with_the_path(store: Store) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # tmpfs takes trusted attributes of 64 KiB
        for kind in ("file", "directory"):
            path = Path(name) / kind
            path.mkdir() if kind == "directory" else path.write_bytes(b"")
            os.setxattr(path, "trusted.large", bytes(40_000))
            with pytest.raises(StratumError, match=f"cannot store {path}: .*32767"):
                read(store, Path(name))
            os.rmdir(path) if kind == "directory" else os.unlink(path)


class TestUnchanged:
    def files_read(self, store: Store, path: Path) -> int:
        """How many files an import opens."""
        seen = 0

        def counting(stager: Stager, directories: list[int], request: Request) -> Answer:
            nonlocal seen
            seen += sum(map(len, request))
            return read_batch(stager, directories, request)

        with pytest.MonkeyPatch.context() as patched, store.begin("a test") as tx:
            patched.setattr("stratum.ingest.reader.read_batch", counting)
            import_directory(store, tx, path)
            tx.publish_objects()
        return seen

    @pytest.fixture
    def filled(self, source: Path) -> Path:
        for number in range(20):
            (source / f"f{number}").write_bytes(b"%d" % number * 100)
        wait_for_the_clock(source)
        return source

    def test_nothing_is_read(self, store: Store, filled: Path) -> None:
        assert self.files_read(store, filled) == 20
        assert self.files_read(store, filled) == 0

    def test_what_changed_is_read(self, store: Store, filled: Path) -> None:
        self.files_read(store, filled)
        (filled / "f3").write_bytes(b"new")
        os.setxattr(filled / "f4", "user.a", b"b")
        (filled / "new").write_bytes(b"x")
        (filled / "f5").rename(filled / "g5")
        assert self.files_read(store, filled) == 4
        tree, _ = read(store, filled)
        assert get_file(tree, b"f3").content == b"new"
        assert get_file(tree, b"f4").xattrs == ((b"user.a", b"b"),)

    def test_a_file_that_was_just_written_is_read_again(
        self, store: Store, filled: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fresh = filled / "fresh"
        fresh.write_bytes(b"x" * 100)
        monkeypatch.setattr(
            "stratum.ingest.directory.tells_changes", lambda ctime, _: ctime != fresh.stat().st_ctime_ns
        )
        self.files_read(store, filled)
        assert self.files_read(store, filled) == 1

    def test_a_missing_object_is_read_again(self, store: Store, filled: Path) -> None:
        tree, _ = read(store, filled)
        digest = get_file(tree, b"f9").digest
        assert digest is not None
        store.objects.path(digest).unlink()
        assert self.files_read(store, filled) == 1
        assert store.objects.has(digest)


def test_files_that_come_and_go(store: Store, source: Path) -> None:
    """Every result is an import of what was there, or one clear error."""
    for number in range(300):
        (source / f"stays{number}").write_bytes(b"%d" % number * 100)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(50):
                (source / f"temporary{number}").write_bytes(b"t" * 200)
            for number in range(50):
                (source / f"temporary{number}").unlink()

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for _ in range(10):
            tree, warnings = read(store, source)
            assert sum(name.startswith(b"stays") for name in tree.children) == 300
            assert all("removed" in warning or "changing" in warning for warning in warnings)
    finally:
        stop.set()
        writer.join()


def test_interrupted_by_ctrl_c(tmp_path: Path, source: Path) -> None:
    """SIGINT to the whole terminal group: the exception reaches the caller and no process stays."""
    for number in range(1500):
        (source / f"f{number}").write_bytes(os.urandom(20_000))
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from stratum.ingest.directory import import_directory\n"
        "from stratum.store import Store\n"
        "store = Store.create(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "def progress(done, total, files): os.killpg(0, signal.SIGINT)\n"
        "try:\n"
        "    with store.begin('a test') as tx:\n"
        "        import_directory(store, tx, Path(sys.argv[2]), jobs=2, progress=progress)\n"
        "except KeyboardInterrupt:\n"
        "    children = [(task / 'children').read_text() for task in Path('/proc/self/task').iterdir()]\n"
        "    print('interrupted', children, os.listdir(store.root / 'tmp'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "other", source],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    assert (done.stdout, done.stderr) == ("interrupted [''] ['lock']\n", "")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk(tmp_path: Path, source: Path, jobs: int) -> None:
    for number in range(600):
        (source / f"f{number}").write_bytes(os.urandom(30_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        store = Store.create(disk / "store")
        with pytest.raises(StratumError, match="cannot write an object to the store: No space left on device"):
            read(store, source, jobs=jobs)
        assert os.listdir(store.root / "tmp") == ["lock"]
        shutil.rmtree(store.root)
    finally:
        subprocess.run(["umount", disk], check=True)
