"""Idmapped layers: a container's user namespace and a stratum agree on who owns a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import StratumError
from stratum.history.capture import Capturer
from stratum.history.events import Groups
from stratum.mount import build
from stratum.mount.idmap import IdMap, build_idmapped
from stratum.mount.plan import LayerSyntax, Method, MountPlan
from stratum.store.objects import Staging
from tests.support.leftovers import unmount_below
from tests.support.mounts import Sample, make_sample

pytestmark = [pytest.mark.root, pytest.mark.oracle]

HOST_ROOT = 100000

METHODS = {"new": Method(), "old": Method(LayerSyntax.LIST, attached_layers=True, loop_device=True)}


@pytest.fixture
def namespace() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a user namespace whose IDs 0 to 65535 are the host's from HOST_ROOT on."""
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for kind in ("gid", "uid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {HOST_ROOT} 65536\n")
        yield process
        process.kill()


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Sample]:
    # The namespace's root reaches the mountpoint as anybody would.
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o111)
    yield make_sample(tmp_path / "store")
    unmount_below(tmp_path)


def mount(plan: MountPlan, namespace: subprocess.Popen[bytes], target: Path, method: Method) -> None:
    with (
        build.closing(os.open(f"/proc/{namespace.pid}/ns/user", os.O_RDONLY)) as user_namespace,
        build.closing(build_idmapped(plan, IdMap(user_namespace, HOST_ROOT, HOST_ROOT), method)) as built,
    ):
        target.mkdir()
        build.attach(built, target)


def inside(namespace: subprocess.Popen[bytes], script: str, cwd: Path) -> str:
    command = [
        "nsenter",
        "--target",
        str(namespace.pid),
        "--user",
        "--setuid",
        "0",
        "--setgid",
        "0",
        "sh",
        "-ec",
        script,
    ]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_the_containers_root_owns_and_changes_what_is_roots(
    sample: Sample, namespace: subprocess.Popen[bytes], tmp_path: Path, method: Method
) -> None:
    upper, work = sample.worktree()
    target = tmp_path / "mnt"
    mount(MountPlan(sample.image, sample.data, upper, work), namespace, target, method)
    assert (target / "big").stat().st_uid == HOST_ROOT
    script = """
        stat -c %u:%g big
        echo more >> big
        echo new > new
        chown 33:34 new
        mv sub moved
        rm link
        mkdir own
        chmod 600 label
    """
    assert inside(namespace, script, target) == "0:0\n"
    build.unmount(target)
    owners = {name: (os.lstat(upper / name).st_uid, os.lstat(upper / name).st_gid) for name in os.listdir(upper)}
    assert owners == {
        "big": (0, 0),
        "new": (33, 34),
        "moved": (0, 0),
        "link": (0, 0),
        "own": (0, 0),
        "label": (0, 0),
        "sub": (0, 0),
    }
    assert os.getxattr(upper / "label", "trusted.overlay.metacopy") == b""
    assert (upper / "big").read_text().endswith("more\n")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_commit_is_shown_with_the_containers_ids(
    sample: Sample, namespace: subprocess.Popen[bytes], tmp_path: Path, method: Method
) -> None:
    target = tmp_path / "mnt"
    first = sample.store / "first"
    first.mkdir()
    mount(MountPlan(sample.image, (first, *sample.data)), namespace, target, method)
    assert inside(namespace, "stat -c %u sub/deep/file; cat label", target) == "0\none"


def test_what_the_containers_users_write_is_told_and_taken(
    sample: Sample, namespace: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """The descriptors of events show the container's idea of the owner; the content is what was written."""
    upper, work = sample.worktree()
    target = tmp_path / "mnt"
    mount(MountPlan(sample.image, sample.data, upper, work), namespace, target, Method())
    staging = tmp_path / "staging"
    staging.mkdir()
    capturer = Capturer(Staging(str(staging)), max_file=lambda: 1 << 20, has_space=lambda: True)
    groups = Groups.open()
    try:
        watched = os.open(upper, os.O_PATH)
        groups.mark_directory(watched)
        os.close(watched)
        inside(namespace, "echo one > new; mv new kept; echo two > new; rm new; chmod 600 label; echo 3 >> big", target)
        taken = []
        for close in groups.read_closes():
            assert os.fstat(close.fd).st_uid == HOST_ROOT
            captured = capturer.capture(close.fd)
            os.close(close.fd)
            assert captured is not None
            taken.append(captured.content or Path(capturer.staging.path(captured.digest or b"")).read_bytes())
        assert taken == [b"one\n", b"two\n", (upper / "big").read_bytes()]
        assert {event.new_name or event.name for event in groups.read_names()} >= {b"kept", b"label", b"big"}
    finally:
        groups.close()
    build.unmount(target)


def test_the_callers_identity_does_not_change(
    sample: Sample, namespace: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    upper, work = sample.worktree()
    mount(MountPlan(sample.image, sample.data, upper, work), namespace, tmp_path / "mnt", METHODS["new"])
    (tmp_path / "mine").write_text("")
    assert (tmp_path / "mine").stat().st_uid == 0


def test_a_namespace_that_is_none_is_an_error_that_leaves_nothing(sample: Sample) -> None:
    before = os.listdir("/proc/self/fd")
    with (
        build.closing(os.open("/proc/self/ns/net", os.O_RDONLY)) as wrong,
        pytest.raises(StratumError, match="cannot mount"),
    ):
        build_idmapped(MountPlan(sample.image, sample.data), IdMap(wrong, HOST_ROOT, HOST_ROOT))
    assert os.listdir("/proc/self/fd") == before


def test_upper_and_work_must_be_of_one_directory(sample: Sample) -> None:
    upper, _ = sample.worktree("a")
    _, work = sample.worktree("b")
    with pytest.raises(ValueError, match="one directory"):
        build_idmapped(MountPlan(sample.image, sample.data, upper, work), IdMap(0, 0, 0))
