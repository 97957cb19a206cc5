"""Detached mounts on the real kernel: what they show, by every way that kernels of the last years have."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError, UnsupportedError, UsageError
from stratum.mount import build
from stratum.mount.plan import LayerSyntax, Method, MountPlan
from stratum.sys import mountinfo
from stratum.sys.mountapi import FilesystemContext, refresh_mount
from stratum.sys.proc import users_of_device
from stratum.sys.syscalls import statx_mount_id
from stratum.tree.model import object_path
from tests.support.leftovers import unmount_below
from tests.support.mounts import Sample, make_sample, walk

pytestmark = [pytest.mark.root, pytest.mark.oracle]

METHODS = [
    Method(),
    Method(loop_device=True),
    Method(LayerSyntax.APPENDED, attached_layers=True),
    Method(LayerSyntax.APPENDED, attached_layers=True, loop_device=True),
    Method(LayerSyntax.DATA_ONLY, attached_layers=True, loop_device=True),
    Method(LayerSyntax.LIST, attached_layers=True, loop_device=True),
]


def method_name(method: Method) -> str:
    return f"{method.syntax.name.lower()}{'-attached' * method.attached_layers}{'-loop' * method.loop_device}"


AWKWARD = ["plain", "com,ma", "co:lon", "sp ace", "back\\slash", "new\nline", "car\rriage", "not\udcffutf8", "n" * 250]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for everything of one test; what is mounted below it is taken down at the end."""
    yield tmp_path
    unmount_below(tmp_path)


@pytest.fixture
def sample(place: Path) -> Sample:
    return make_sample(place / "store")


@pytest.fixture
def target(place: Path) -> Path:
    (place / "mnt").mkdir()
    return place / "mnt"


def mount(plan: MountPlan, target: Path, method: Method | None = None) -> int:
    with build.closing(build.build_detached(plan, method)) as built:
        return build.attach(built, target)


def object_of(sample: Sample, file: Path) -> str:
    """Where in a data layer the content of ``file`` is."""
    return object_path(verity_digest(file.read_bytes())).decode()


def loop_device_freed(path: Path) -> bool:
    """Whether no loop device has ``path`` any more; the kernel frees them a moment after the last use."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        files = [file for file in Path("/sys/block").glob("loop*/loop/backing_file") if backing(file) == str(path)]
        if not files:
            return True
        time.sleep(0.02)
    return False


def backing(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_a_commit_shows_its_tree_read_only(sample: Sample, target: Path, method: Method) -> None:
    mount(MountPlan(sample.image, sample.data), target, method)
    assert walk(target) == walk(sample.source)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (target / "new").touch()
    build.unmount(target)
    assert os.listdir(target) == []
    assert loop_device_freed(sample.image)


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_a_worktree_takes_writes_and_keeps_them(sample: Sample, target: Path, method: Method) -> None:
    upper, work = sample.worktree()
    plan = MountPlan(sample.image, sample.data, upper, work)
    mount(plan, target, method)
    (target / "label").write_text("changed")
    (target / "sub").rename(target / "moved")
    (target / "big").chmod(0o600)
    (target / "link").unlink()
    shown = walk(target)
    build.unmount(target)
    assert os.getxattr(upper / "big", "trusted.overlay.metacopy") == b""
    assert os.getxattr(upper / "moved", "trusted.overlay.redirect") == b"sub"
    mount(plan, target, method)
    assert walk(target) == shown
    assert (target / "moved" / "deep" / "file").read_bytes() == b"deep " * 1000


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_contents_come_from_the_first_data_layer_that_has_them(sample: Sample, target: Path, method: Method) -> None:
    upper, work = sample.worktree()
    second = sample.store / "second"
    moved = object_of(sample, sample.source / "sub" / "deep" / "file")
    (second / moved).parent.mkdir(parents=True)
    (sample.data[0] / moved).rename(second / moved)
    both = object_of(sample, sample.source / "big")
    (second / both).parent.mkdir(exist_ok=True)
    (second / both).write_bytes(b"2" * (sample.source / "big").stat().st_size)
    mount(MountPlan(sample.image, (*sample.data, second), upper, work), target, method)
    assert walk(target) == walk(sample.source)
    (target / "sub" / "deep" / "file").chmod(0o600)  # only its metadata are copied up
    with (target / "link").open("ab") as file:  # and here the rest, from the second layer
        file.write(b"more")
    assert (upper / "sub" / "deep" / "file").read_bytes() == b"deep " * 1000 + b"more"


@pytest.mark.parametrize("method", METHODS[:-1], ids=method_name)
def test_what_no_data_layer_has_is_an_error_when_it_is_opened(sample: Sample, target: Path, method: Method) -> None:
    second = sample.store / "second"
    second.mkdir()
    (sample.data[0] / object_of(sample, sample.source / "big")).unlink()
    mount(MountPlan(sample.image, (second, *sample.data)), target, method)
    assert (target / "big").stat().st_size == (sample.source / "big").stat().st_size
    with pytest.raises(OSError) as caught:
        (target / "big").read_bytes()
    assert caught.value.errno == errno.ENOENT
    assert (target / "link").read_bytes() == b"deep " * 1000


@pytest.mark.parametrize("method", METHODS, ids=method_name)
def test_nothing_is_attached_before_attach(sample: Sample, method: Method) -> None:
    upper, work = sample.worktree()
    open_before = os.listdir("/proc/self/fd")
    plan = MountPlan(sample.image, sample.data, upper, work, source="stratum-detached")
    built = build.build_detached(plan, method)
    assert not [pid for pid, entry in mountinfo.everywhere() if entry.source == "stratum-detached"]
    os.close(built)
    assert os.listdir("/proc/self/fd") == open_before
    assert loop_device_freed(sample.image)


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("method", [METHODS[0], METHODS[-1]], ids=["new", "old"])
def test_no_character_in_a_path_has_a_meaning(place: Path, name: str, method: Method) -> None:
    sample = make_sample(place / name / "store")
    upper, work = sample.worktree(name)
    target = place / "mnt" / name
    target.mkdir(parents=True)
    mount(MountPlan(sample.image, sample.data, upper, work), target, method)
    entry = mountinfo.topmost(target)
    assert entry is not None
    assert entry.fstype == "overlay"
    (target / "written").write_text("here")
    build.unmount(target)
    assert (upper / "written").read_text() == "here"


def test_devices_and_setuid_programs_mean_nothing(sample: Sample, target: Path) -> None:
    upper, work = sample.worktree()
    mount(MountPlan(sample.image, sample.data, upper, work, source="stratum-1:x+y"), target)
    entry = mountinfo.topmost(target)
    assert entry is not None
    assert {"nosuid", "nodev", "rw"} <= set(entry.options.split(","))
    assert entry.source == "stratum-1:x+y"
    assert "index=on" not in entry.super_options


def test_the_mount_id_is_that_of_the_mountpoint(sample: Sample, target: Path) -> None:
    assert mount(MountPlan(sample.image, sample.data), target) == statx_mount_id(target)


@pytest.mark.parametrize("missing", ["image", "objects", "upperdir"])
def test_a_missing_part_of_the_store_is_damage(sample: Sample, missing: str) -> None:
    upper, work = sample.worktree()
    {"image": sample.image, "objects": sample.data[0], "upperdir": upper}[missing].rename(sample.store / "elsewhere")
    with pytest.raises(DamagedError, match="cannot be mounted"):
        build.build_detached(MountPlan(sample.image, sample.data, upper, work))


def test_a_symlink_in_place_of_an_upperdir_is_not_followed(sample: Sample) -> None:
    upper, work = sample.worktree()
    upper.rename(sample.store / "elsewhere")
    upper.symlink_to(sample.store / "elsewhere")
    with pytest.raises(DamagedError):
        build.build_detached(MountPlan(sample.image, sample.data, upper, work))


def test_an_image_that_is_none_is_refused_with_the_kernels_words(sample: Sample) -> None:
    sample.image.write_bytes(b"\0" * 8192)
    with pytest.raises(StratumError, match=r"cannot mount .*commit\.cfs: erofs: Invalid argument") as caught:
        build.build_detached(MountPlan(sample.image, sample.data))
    assert "dmesg" in caught.value.hint
    assert loop_device_freed(sample.image)


def test_upper_and_work_on_different_filesystems_are_refused(sample: Sample, place: Path) -> None:
    upper, work = sample.worktree()
    subprocess.run(["mount", "-t", "tmpfs", "none", work], check=True)
    with pytest.raises(StratumError, match="overlay: Invalid argument"):
        build.build_detached(MountPlan(sample.image, sample.data, upper, work))


def test_an_upperdir_the_kernel_cannot_write_with_is_an_error_not_a_read_only_mount(
    sample: Sample, place: Path
) -> None:
    upper, work = sample.worktree()
    (work / "work").mkdir()
    subprocess.run(["chattr", "+i", work / "work"], check=True)
    try:
        with pytest.raises(StratumError, match=r"cannot use .* to write with") as caught:
            build.build_detached(MountPlan(sample.image, sample.data, upper, work))
    finally:
        subprocess.run(["chattr", "-i", work / "work"], check=True)
    assert caught.value.hint


def test_without_privilege_the_hint_is_to_be_root(sample: Sample) -> None:
    code = """
import os, sys
from pathlib import Path
from stratum.errors import UnsupportedError
from stratum.mount import build
from stratum.mount.plan import MountPlan
os.setresuid(65534, 65534, 65534)
try:
    build.build_detached(MountPlan(Path("/proc/self/status"), (Path("/"),)))
except UnsupportedError as exc:
    print(exc.exit_code, exc.message, "|", exc.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("6 cannot mount ")
    assert "run it as root" in done.stdout


def test_a_kernel_without_the_filesystem_is_said_to_lack_it() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)) as caught:
        FilesystemContext("nosuchfs")
    error = build.explained(caught.value, "cannot mount x")
    assert isinstance(error, UnsupportedError)
    assert "no such filesystem: nosuchfs" in error.message
    assert "modprobe" in error.hint


def test_bad_mountpoints(sample: Sample, place: Path) -> None:
    (place / "file").write_text("")
    (place / "dir").mkdir()
    (place / "link").symlink_to("dir")
    with build.closing(build.build_detached(MountPlan(sample.image, sample.data))) as built:
        with pytest.raises(NotFoundError, match="does not exist"):
            build.attach(built, place / "missing")
        with pytest.raises(UsageError, match="not a directory"):
            build.attach(built, place / "file")
        with pytest.raises(UsageError, match="symbolic link"):
            build.attach(built, place / "link")
        (place / "dir/below").mkdir()
        with pytest.raises(UsageError, match="leads through a symbolic link"):
            build.attach(built, place / "link/below", follow=False)
        with pytest.raises(UsageError, match="symbolic link"):
            build.attach(built, place / "link", follow=False)
    assert os.listdir(place / "dir/below") == []


def test_unmounting_what_is_in_use_names_the_processes(sample: Sample, target: Path) -> None:
    upper, work = sample.worktree()
    mount(MountPlan(sample.image, sample.data, upper, work), target)
    # What speaks is the last program of the shell already: its command line is the one that is named.
    script = "exec 3>>label 4<big; exec cat /proc/self/comm -"
    with subprocess.Popen(["sh", "-c", script], cwd=target, stdin=-1, stdout=-1, text=True) as user:
        assert user.stdout is not None
        user.stdout.readline()
        with pytest.raises(BusyError) as caught:
            build.unmount(target)
        user.kill()
    message = caught.value.message
    assert f"{user.pid} (cat /proc/self/comm -) writes {target}/label" in message
    assert f"uses {target}/big" in message
    assert f"uses {target}," in message or message.endswith(f"uses {target}")
    build.unmount(target)


def test_a_writable_mapping_is_a_use_even_when_its_file_is_closed(sample: Sample, target: Path) -> None:
    upper, work = sample.worktree()
    mount(MountPlan(sample.image, sample.data, upper, work), target)
    code = """
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(file, 10)
os.close(file)
print(flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code, target / "big"], stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()
        with pytest.raises(BusyError, match=f"{user.pid} .* writes {target}/big"):
            build.unmount(target)
        user.kill()


def test_a_use_in_another_mount_namespace_is_found(sample: Sample, target: Path) -> None:
    upper, work = sample.worktree()
    mount(MountPlan(sample.image, sample.data, upper, work), target)
    script = f"mount --bind {target} /mnt && cd /mnt && exec 3>>label && echo ready && exec sleep 100"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()
        mounted = mountinfo.topmost(target)
        assert mounted is not None
        uses = {(use.pid, use.path, use.writing) for use in users_of_device(mounted.device)}
        user.kill()
    assert uses == {(user.pid, "/mnt", False), (user.pid, "/mnt/label", True)}


def test_lazy_unmount_takes_it_away_from_its_users(sample: Sample, target: Path) -> None:
    mount(MountPlan(sample.image, sample.data), target)
    with open(target / "label") as kept:
        with pytest.raises(BusyError, match=f"{os.getpid()} .* uses {target}/label"):
            build.unmount(target)
        build.unmount(target, lazy=True)
        assert os.listdir(target) == []
        assert kept.read() == "one"


def test_what_is_mounted_below_is_named(sample: Sample, target: Path) -> None:
    mount(MountPlan(sample.image, sample.data), target)
    subprocess.run(["mount", "-t", "tmpfs", "none", target / "sub"], check=True)
    with pytest.raises(BusyError, match=f"other filesystems are mounted on {target}: {target}/sub"):
        build.unmount(target)


def test_unmounting_nothing(target: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is mounted"):
        build.unmount(target)
    with pytest.raises(NotFoundError, match="nothing is mounted"):
        build.unmount(target / "missing")


@pytest.mark.parametrize("writable", [False, True])
def test_a_refreshed_mount_looks_for_objects_anew_and_lets_go_of_removed_ones(
    sample: Sample, target: Path, writable: bool
) -> None:
    second = sample.store / "second"
    (second / object_of(sample, sample.source / "big")[:2]).mkdir(parents=True)
    mount(MountPlan(sample.image, (*sample.data, second), *(sample.worktree() if writable else ())), target)
    flags = os.statvfs(target).f_flag
    content = (target / "big").read_bytes()
    with (target / "sub" / "deep" / "file").open("rb") as open_file:
        gone = sample.data[0] / object_of(sample, sample.source / "big")
        gone.rename(second / object_of(sample, sample.source / "big"))
        (sample.data[0] / object_of(sample, sample.source / "sub" / "deep" / "file")).unlink()
        refresh_mount(target)
        assert (target / "big").read_bytes() == content
        assert open_file.read() == b"deep " * 1000
    (second / object_of(sample, sample.source / "big")).unlink()
    assert (target / "big").read_bytes() == content  # found before, and kept
    fd = os.open(target, os.O_PATH)
    refresh_mount(fd)
    os.close(fd)
    for name in ("big", "sub/deep/file"):
        with pytest.raises(FileNotFoundError):
            (target / name).read_bytes()
    assert os.statvfs(target).f_flag == flags
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        refresh_mount(target / "sub")
