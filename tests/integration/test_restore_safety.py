"""Root restores to a directory that others write to: no link leads elsewhere, nothing gets privileges unasked. And a
restore that was cut short is run again."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api.restoring import restore
from stratum.api.session import Session
from stratum.config import load_config
from stratum.ingest.directory import import_directory
from stratum.store import Store
from stratum.tree.dump import write_dump
from tests.support.command import Command
from tests.support.injection import DONE, WRITING, calls_of, failed_at, killed_at
from tests.support.sources import ACL, CAPABILITY

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

NOBODY = 65534
CHECKOUT = Path(__file__).parents[2]
EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"
SAMPLE = 10
"""Calls at which a restore is cut short, of each way, where it is not every one."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with everything that a restore writes in more than one step."""
    source = tmp_path / "source"
    (source / "sub/deep/deeper").mkdir(parents=True)
    for number in range(4):
        (source / f"sub/f{number}").write_bytes(b"%d" % number * 5000)
    (source / "sub/deep/small").write_bytes(b"small")
    (source / "sub/deep/link").symlink_to("small")
    (source / "z").symlink_to("/etc/hostname")
    os.mkfifo(source / "sub/fifo")
    os.link(source / "sub/f0", source / "sub/deep/hard")
    os.link(source / "sub/f0", source / "a")
    os.setxattr(source / "sub/deep", "system.posix_acl_default", ACL)
    os.setxattr(source / "sub/f1", "user.note", b"x")
    os.chown(source / "sub/deep", NOBODY, NOBODY)
    os.chown(source / "sub/f2", NOBODY, NOBODY)
    os.chmod(source / "sub/deep", 0o555)
    return source


@pytest.fixture
def stratum(cli: Command, source: Path) -> Command:
    cli.ok("import", "--bare", source, "app")
    return cli


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory that belongs to somebody else."""
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, NOBODY, NOBODY)
    return out


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the system, which is as it was afterwards."""
    victim = tmp_path / "victim"
    victim.mkdir(0o711)
    (victim / "f0").write_bytes(b"the system's")
    before = state(victim)
    yield victim
    assert state(victim) == before


def state(directory: Path) -> list[tuple[str, int, int, int, int, int]]:
    """What would tell that anything was done to a directory or to what is in it."""
    paths = [directory, *sorted(directory.iterdir())]
    found = [(str(path), path.lstat()) for path in paths]
    return [(name, i.st_ino, i.st_mode, i.st_uid, i.st_mtime_ns, i.st_ctime_ns) for name, i in found]


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize(("path", "planted"), [("sub", "sub"), ("/", "sub"), ("sub/deep", "deep"), ("sub", "sub/deep")])
def test_a_planted_link_is_not_followed(
    stratum: Command, out: Path, victim: Path, path: str, planted: str, force: tuple[str, ...]
) -> None:
    (out / planted).parent.mkdir(exist_ok=True)
    (out / planted).symlink_to(victim)
    code, _, err = stratum("restore", "app", path, "--to", out, *force)
    assert (code, f"{out}/{planted} exists" in err) == (4, True), err
    assert (out / planted).is_symlink()


def test_a_link_in_place_of_a_file_is_replaced_itself(stratum: Command, out: Path, victim: Path) -> None:
    (out / "f0").symlink_to(victim / "f0")
    assert stratum("restore", "app", "sub/f0", "--to", out).code == 4
    stratum.ok("restore", "app", "sub/f0", "--to", out, "--force")
    assert (out / "f0").read_bytes() == b"0" * 5000


def test_links_on_the_way_to_the_directory_are_the_users_choice(stratum: Command, out: Path, tmp_path: Path) -> None:
    (tmp_path / "by").symlink_to(out)
    stratum.ok("restore", "app", "sub", "--to", tmp_path / "by")
    assert (out / "sub/f0").read_bytes() == b"0" * 5000


SWAPPER = """
import os, sys
from stratum.sys.syscalls import AT_FDCWD, RENAME_EXCHANGE, renameat2
os.chdir(sys.argv[1])
print("ready", flush=True)
names = ["sub", "sub/deep", "sub/f0", "sub/deep/deeper"]
swaps = 0
while True:
    for name in names:
        for other in ("link-to-directory", "link-to-file"):
            try:
                renameat2(AT_FDCWD, name, AT_FDCWD, other, RENAME_EXCHANGE)
                swaps += 1
                renameat2(AT_FDCWD, name, AT_FDCWD, other, RENAME_EXCHANGE)
            except OSError:
                pass
"""


def test_links_that_are_swapped_in_meanwhile(stratum: Command, out: Path, victim: Path) -> None:
    stratum.ok("restore", "app", "sub", "--to", out)
    (out / "link-to-directory").symlink_to(victim)
    (out / "link-to-file").symlink_to(victim / "f0")
    swapper = subprocess.Popen([sys.executable, "-c", SWAPPER, out], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == "ready\n"
        codes = [_restored(stratum, out) for _ in range(60)]
    finally:
        swapper.kill()
        swapper.communicate()
    assert set(codes) <= {0, 1, 3, 4}


def _restored(stratum: Command, out: Path) -> int:
    """The exit code of one restore over what is there, in this process to be quick."""
    from stratum.errors import StratumError

    try:
        restore(_session(stratum), "app", ["sub", "/"], str(out), force=True)
    except StratumError as exc:
        return exc.exit_code
    return 0


def _session(stratum: Command) -> Session:
    return Session(load_config({}, store=str(stratum.store), runtime_dir=str(stratum.runtime_dir), jobs="1"))


def test_a_path_to_a_worktree_that_leads_elsewhere(stratum: Command, tmp_path: Path) -> None:
    """Who owns what is above a mountpoint can move that away, and put something else there."""
    above, trap = tmp_path / "above", tmp_path / "trap"
    (above / "mnt").mkdir(parents=True)
    stratum.ok("worktree", "add", "app+dev", "app:latest")
    stratum.ok("mount", "app+dev", above / "mnt")
    (trap / "mnt/sub").mkdir(parents=True)
    (trap / "mnt/sub/f0").write_bytes(b"the system's")
    before = state(trap / "mnt/sub")
    above.rename(tmp_path / "moved")
    above.symlink_to(trap)
    code, _, _ = stratum("restore", "app", "sub/f0", "--to", "app+dev")
    assert code != 0
    assert state(trap / "mnt/sub") == before
    subprocess.run(["umount", tmp_path / "moved/mnt"], check=True)


@pytest.fixture
def privileged(cli: Command, tmp_path: Path) -> Command:
    """``box``: device nodes, set-user-ID and set-group-ID programs, one with a capability."""
    source = tmp_path / "box"
    (source / "bin").mkdir(parents=True)
    os.mknod(source / "bin/disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    os.mknod(source / "tty", stat.S_IFCHR | 0o666, os.makedev(5, 0))
    os.chmod(source / "bin/disk", 0o666)
    for name, mode, owner in (("su", 0o4755, 0), ("wall", 0o2755, 0), ("theirs", 0o4711, NOBODY), ("plain", 0o755, 0)):
        (source / "bin" / name).write_bytes(name.encode() * 100)
        os.chown(source / "bin" / name, owner, owner)
        os.chmod(source / "bin" / name, mode)
    os.setxattr(source / "bin/plain", "security.capability", CAPABILITY)
    os.chmod(source / "bin", 0o2775)
    cli.ok("import", "--bare", "--devices", source, "box")
    return cli


def modes(path: Path) -> dict[str, int]:
    return {name: stat.S_IMODE((path / name).lstat().st_mode) for name in sorted(os.listdir(path))}


def test_nothing_gets_privileges_unasked(privileged: Command, out: Path) -> None:
    code, _, err = privileged("restore", "box", "/", "--to", out)
    assert code == 0
    assert err.splitlines() == [
        f"warning: device nodes are left out (--devices makes them): {out}/bin/disk and 1 more",
        "warning: set-user-ID and set-group-ID bits and capabilities are left out (--setuid keeps them): "
        f"{out}/bin/plain and 3 more",
    ]
    assert modes(out) == {"bin": 0o2775}
    assert modes(out / "bin") == {"plain": 0o755, "su": 0o755, "theirs": 0o711, "wall": 0o755}
    assert os.listxattr(out / "bin/plain") == []
    assert (out / "bin/theirs").stat().st_uid == NOBODY
    assert privileged("restore", "box", "/", "--to", out).code == 0  # what is there is what is asked for


def test_privileges_that_are_asked_for(privileged: Command, out: Path) -> None:
    code, _, err = privileged("restore", "box", "/", "--to", out, "--devices", "--setuid")
    assert (code, err) == (0, "")
    assert modes(out / "bin") == {"disk": 0o666, "plain": 0o755, "su": 0o4755, "theirs": 0o4711, "wall": 0o2755}
    assert (out / "tty").stat().st_rdev == os.makedev(5, 0)
    assert os.getxattr(out / "bin/plain", "security.capability") == CAPABILITY
    assert privileged("restore", "box", "/", "--to", out).code == 4  # the bits are not those that are asked for now


def test_a_device_by_name_is_refused_before_anything_is_written(privileged: Command, out: Path) -> None:
    code, _, err = privileged("restore", "box", "bin/su", "bin/disk", "--to", out)
    assert (code, err) == (1, "error: bin/disk is a device node\nhint: make device nodes with --devices\n")
    assert os.listdir(out) == []


def test_a_worktree_gets_everything(privileged: Command, tmp_path: Path) -> None:
    privileged.ok("worktree", "add", "box+w", "box")
    (tmp_path / "mnt").mkdir()
    privileged.ok("mount", "box+w", tmp_path / "mnt")
    (tmp_path / "mnt/bin/su").unlink()
    (tmp_path / "mnt/tty").unlink()
    assert privileged("restore", "box", "bin/su", "tty", "--to", "box+w").stderr == ""
    privileged.ok("unmount", tmp_path / "mnt")
    changes = privileged.json("diff", "box:latest", "box+w")
    assert {(change["path"], change["kind"]) for change in changes} == {("/", "metadata"), ("/bin", "metadata")}


def dump(scratch: Path, path: Path) -> bytes:
    """All that there is below ``path``."""
    store = Store.open_or_create(scratch)
    with store.begin("a test") as tx:
        tree, warnings = import_directory(store, tx, path, cache=False)
    assert not warnings
    return write_dump(tree)


@pytest.mark.parametrize("paths", [["/"], ["sub", "z"]], ids=["root", "paths"])
@pytest.mark.parametrize("how", ["killed", "full"])
def test_a_restore_that_was_cut_short_is_run_again(
    stratum: Command, tmp_path: Path, paths: list[str], how: str
) -> None:
    session, scratch = _session(stratum), tmp_path / "scratch"
    place = tmp_path / "place"

    def run() -> None:
        restore(session, "app", paths, str(place))

    place.mkdir()
    counted = calls_of(run, WRITING)
    os.utime(place, ns=(1, 1))
    whole = dump(scratch, place)
    steps = [(call, number) for call, count in counted.items() for number in range(1, count + 1)]
    for call, number in steps if EVERY else random.sample(steps, min(SAMPLE, len(steps))):
        subprocess.run(["rm", "-rf", place], check=True)
        place.mkdir()
        if how == "killed":
            assert killed_at(run, call, number).status in (-signal.SIGKILL, DONE)
        else:
            failed_at(run, call, number, "ENOSPC")
        run()
        os.utime(place, ns=(1, 1))
        assert dump(scratch, place) == whole, (call, number)
        run()


def test_what_is_something_else_is_refused(stratum: Command, out: Path) -> None:
    stratum.ok("restore", "app", "/", "--to", out)
    for change in (
        lambda: (out / "sub/f3").write_bytes(b"mine"),
        lambda: os.chmod(out / "sub/f3", 0o600),
        lambda: os.utime(out / "sub/f3"),
        lambda: os.chown(out / "sub/f3", 1000, 1000),
        lambda: os.setxattr(out / "sub/f1", "user.note", b"mine"),
        lambda: os.setxattr(out / "sub/f1", "user.mine", b"mine"),
        lambda: (os.unlink(out / "z"), os.symlink("/etc/passwd", out / "z")),
        lambda: (os.unlink(out / "sub/fifo"), os.mkdir(out / "sub/fifo")),
        lambda: os.chmod(out / "sub", 0o711),
        lambda: os.link(out / "sub/f2", out / "sub/again"),
    ):
        change()
        code, _, err = stratum("restore", "app", "/", "--to", out)
        assert (code, "exists, and is not what is restored" in err) == (4, True), err
        subprocess.run(["rm", "-rf", out], check=True)
        out.mkdir()
        stratum.ok("restore", "app", "/", "--to", out)
    same_size_and_time = (out / "sub/f3").stat()
    (out / "sub/f3").write_bytes(b"4" * 5000)
    os.utime(out / "sub/f3", ns=(same_size_and_time.st_atime_ns, same_size_and_time.st_mtime_ns))
    assert stratum("restore", "app", "/", "--to", out).code == 4
    assert (out / "sub/f3").read_bytes() == b"4" * 5000
