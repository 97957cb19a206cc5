"""Sizes of volumes and worktrees, on file systems with project quotas: run by ``integration/test_quotas.py``."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from multiprocessing import Process
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.refs import parse_ref
from stratum.store import Store
from stratum.store.quotas import FIRST, LAST
from stratum.sys import quota
from tests.support.csi import Node, refused
from tests.support.gotools import go_program
from tests.support.inprocess import stratum

Code = grpc.StatusCode
MIB = 1 << 20
FULL = {"ext4": errno.EDQUOT, "xfs": errno.ENOSPC}
MAKE = {"ext4": ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"], "xfs": ["mkfs.xfs", "-q"]}


class Disk:
    """A file system with project quotas."""

    def __init__(self, kind: str, image: Path, path: Path) -> None:
        self.kind, self.image, self.path = kind, image, path
        with image.open("wb") as file:
            file.truncate(320 * MIB)
        subprocess.run([*MAKE[kind], image], check=True)
        path.mkdir()

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"loop,{options}", self.image, self.path], check=True)

    def again(self, options: str) -> None:
        """Mount it with other options."""
        subprocess.run(["umount", self.path], check=True)
        self.mount(options)

    def projects(self) -> dict[int, quota.Quota]:
        """What the file system has on record for worktrees, but for what is on its way out."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return {project: found for project, found in quota.quotas(fd, FIRST, LAST) if found.limit}
        finally:
            os.close(fd)


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(request.param, tmp_path / "image", tmp_path / "disk")
    made.mount("prjquota")
    yield made
    subprocess.run(["umount", made.path], check=True)


def small_node(disk: Disk, *options: str) -> Node:
    """A node whose commands are new processes: the machine has no time namespaces, which others are told apart by."""
    node = Node(disk.path / "n", *options)
    node.cli.fresh = True
    return node


def write(path: Path, size: int) -> int:
    """Write to the end of a file, as the root of a pod does; the errno that stopped it, or 0."""
    try:
        with path.open("ab", buffering=0) as file:
            for _ in range(size // (MIB // 4)):
                file.write(os.urandom(MIB // 4))
    except OSError as exc:
        return exc.errno or -1
    return 0


def sized(size: int) -> csi.CapacityRange:
    return csi.CapacityRange(required_bytes=size)


def usage(node: Node, volume_id: str, path: Path) -> tuple[csi.VolumeUsage, csi.VolumeUsage]:
    request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(path))
    found, inodes = node.node.NodeGetVolumeStats(request, timeout=60).usage
    return found, inodes


def expand(node: Node, volume_id: str, path: Path, required: int, limit: int = 0) -> int:
    capacity = csi.CapacityRange(required_bytes=required, limit_bytes=limit)
    request = csi.NodeExpandVolumeRequest(volume_id=volume_id, volume_path=str(path), capacity_range=capacity)
    return int(node.node.NodeExpandVolume(request, timeout=60).capacity_bytes)


def offers(node: Node) -> tuple[bool, bool]:
    """Whether node and plugin say that volumes can be expanded."""
    rpcs = node.node.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest(), timeout=60).capabilities
    plugin = node.identity.GetPluginCapabilities(csi.GetPluginCapabilitiesRequest(), timeout=60).capabilities
    return (
        csi.NodeServiceCapability.RPC.EXPAND_VOLUME in [each.rpc.type for each in rpcs],
        any(each.HasField("volume_expansion") for each in plugin),
    )


def test_a_volume_takes_what_its_claim_says(disk: Disk, tmp_path: Path) -> None:
    full = FULL[disk.kind]
    with small_node(disk, "--allow-inline", "--inline-limit", "1M") as node:
        assert offers(node) == (True, True)
        (tmp_path / "empty").mkdir()
        assert node.cli("import", str(tmp_path / "empty"), "shared:empty")[0] == 0
        kept = {"commit": "on-unpublish"}
        one = node.create("one", kept, capacity_range=sized(2 * MIB)).volume_id
        two = node.create("two", capacity_range=sized(2 * MIB)).volume_id
        for each in (one, two):
            node.stage(each)
        here = node.publish(one, "pod", kept)
        beside = node.publish(two, "pod-2")

        assert write(here / "a", 3 * MIB) == full
        assert write(beside / "a", MIB) == 0, "who is full is alone with that"
        assert shutil.disk_usage(here).total == 2 * MIB
        found, inodes = usage(node, one, here)
        assert (found.total, found.used + found.available) == (2 * MIB, 2 * MIB)
        assert found.used > 1.7 * MIB
        assert inodes.used > 3, "what the file system counts, with the directories of the overlay"

        before = disk.projects()
        assert sorted(each.limit for each in before.values()) == [2 * MIB, 2 * MIB]
        node.snapshot("full", one)
        assert disk.projects() == before, "what is in the store is not the volume's"

        assert expand(node, one, here, 4 * MIB) == 4 * MIB
        assert write(here / "b", MIB) == 0
        assert expand(node, one, here, 3 * MIB) == 4 * MIB
        with refused(Code.OUT_OF_RANGE, "do not get smaller"):
            expand(node, one, here, 3 * MIB, 3 * MIB)
        with refused(Code.NOT_FOUND):
            expand(node, two, here, 4 * MIB)
        assert node.create("one", kept, capacity_range=sized(4 * MIB)).capacity_bytes == 4 * MIB

        inline = {"csi.storage.k8s.io/ephemeral": "true", "source": "shared:empty"}
        pod = node.publish("csi-inline", "pod-3", inline, staging_target_path="")
        assert write(pod / "a", 2 * MIB) == full
        node.unpublish("csi-inline", "pod-3")

        node.reboot()
        node.unpublish(one, "pod")
        node.unstage(one)
        node.stage(one)
        here = node.publish(one, "pod", kept)
        found, _ = usage(node, one, here)
        assert (found.total, found.used < MIB) == (4 * MIB, True), "a commit makes room"
        assert (here / "b").stat().st_size == MIB
        assert set(disk.projects()) == set(before), "it has the number that it had"
        assert write(here / "c", 5 * MIB) == full

        # A full one can be committed, and mounted again.
        node.unpublish(one, "pod")
        node.unpublish(two, "pod-2")
        for each in (one, two):
            node.unstage(each)
            node.stage(each)
        beside, here = node.publish(two, "pod-2"), node.publish(one, "pod", kept)
        assert write(beside / "a", 3 * MIB) == full
        node.unpublish(two, "pod-2")
        node.unstage(two)
        node.stage(two)
        beside = node.publish(two, "pod-2")
        assert usage(node, two, beside)[0].total == 2 * MIB
        assert write(beside / "b", MIB // 2) == full
        (beside / "a").unlink()
        assert write(beside / "b", MIB // 2) == 0
        assert usage(node, one, here)[0].used < MIB
        assert (here / "c").stat().st_size > 2 * MIB

        for each, pod in ((one, "pod"), (two, "pod-2")):
            node.unpublish(each, pod)
            node.unstage(each)
            node.delete(each)
        assert not disk.projects()


def test_where_sizes_are_not_enforced_nothing_is_offered(disk: Disk) -> None:
    off = {"ext4": "noquota", "xfs": "pqnoenforce"}[disk.kind]
    node = small_node(disk)
    disk.again(off)
    with node:
        assert offers(node) == (False, False)
        volumes = [node.create(name, capacity_range=sized(MIB)).volume_id for name in ("empty", "written")]
        node.stage(volumes[1])
        here = node.publish(volumes[1], "pod")
        assert write(here / "a", 2 * MIB) == 0
        assert usage(node, volumes[1], here)[0].used >= 2 * MIB
        with refused(Code.FAILED_PRECONDITION, "cannot be limited"):
            expand(node, volumes[1], here, 4 * MIB)
        code, _, err = node.cli("worktree", "add", "csi-volumes+x", "csi-volumes:empty", "--limit", "1M")
        assert code == 6, err
        node.unpublish(volumes[1], "pod")
        node.unstage(volumes[1])
    disk.again("prjquota")
    with node:
        assert offers(node) == (True, True)
        paths = []
        for volume in volumes:
            node.stage(volume)
            paths.append(node.publish(volume, f"pod-{volume}"))
        assert write(paths[0] / "a", 2 * MIB) == FULL[disk.kind], "one that is empty is held to its size"
        assert write(paths[1] / "b", MIB) == 0, "one that is not stays as it was"
        with refused(Code.FAILED_PRECONDITION, "written when nobody kept count"):
            expand(node, volumes[1], paths[1], 4 * MIB)
        for volume in volumes:
            node.unpublish(volume, f"pod-{volume}")
            node.unstage(volume)


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_csi_sanity_of_expansion(disk: Disk) -> None:
    """What of it ``e2e/test_csi_sanity.py`` has to leave out."""
    with small_node(disk) as node:
        places = ["--csi.mountdir", node.kubelet / "mount", "--csi.stagingdir", node.kubelet / "staging"]
        endpoint = ["--csi.endpoint", f"unix://{node.directory}/csi.sock"]
        options = ["--ginkgo.no-color", "--ginkgo.focus", "NodeExpandVolume"]
        program = [go_program("csi-sanity"), *options, *endpoint, *places]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "4 Passed | 0 Failed" in done.stdout


def test_no_two_worktrees_have_one_number(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of two stores on one file system, made at once; what is left of worktrees that are gone is cleared."""
    (disk.path / "files").mkdir()
    (disk.path / "files" / "f").write_text("base")
    making = []
    for name in ("a", "b"):
        monkeypatch.setenv("STRATUM_STORE", str(disk.path / name))
        monkeypatch.setenv("STRATUM_RUNTIME_DIR", str(disk.path / "run"))
        assert stratum("import", disk.path / "files", "t:v1").code == 0
        making.append(Process(target=make_worktrees, args=[disk.path / name, 8]))
    for each in making:
        each.start()
    for each in making:
        each.join()
    projects = disk.projects()
    assert {(each.inodes, each.limit) for each in projects.values()} == {(2, MIB)}
    assert len(projects) == 16

    # A reset gives a worktree another upperdir, of the same number.
    mounted = disk.path / "mounted"
    assert stratum("mount", "t+x0", mounted).code == 0
    upperdir, workdir = trees(disk.path / "b", "x0")
    taken = project_of(upperdir)
    assert write(mounted / "f", 2 * MIB) == FULL[disk.kind]
    assert stratum("reset", "t+x0", "t:v1").code == 0
    assert {project_of(upperdir), project_of(workdir)} == {taken}
    assert stratum("unmount", mounted).code == 0  # before Linux 6.5 what was shown before is there till then
    assert stratum("mount", "t+x0", mounted).code == 0
    assert write(mounted / "f", MIB // 2) == 0

    # Who has it mounted can take its root out of the project; it is in it again when that is limited.
    root = os.open(mounted, os.O_RDONLY)
    quota.join(root, 77)
    os.close(root)
    assert (project_of(upperdir), project_of(workdir)) == (77, taken)
    store = Store.open(disk.path / "b")
    store.worktrees.set_limit("t", "x0", 3 * MIB)
    assert project_of(upperdir) == taken
    assert store.worktrees.get("t", "x0").limit == 3 * MIB
    assert stratum("unmount", mounted).code == 0
    assert stratum("worktree", "remove", "t+x0").code == 0
    assert taken not in disk.projects()

    # One that was mounted when nobody kept count, and is empty, is limited at once.
    assert stratum("worktree", "add", "t+older", "t:v1").code == 0
    assert stratum("mount", "t+older", mounted).code == 0
    store.worktrees.set_limit("t", "older", MIB)
    assert write(mounted / "f", 2 * MIB) == FULL[disk.kind], "copied up, and too large"
    assert stratum("unmount", mounted).code == 0
    assert stratum("worktree", "remove", "--discard", "t+older").code == 0

    # What a kill leaves, between the end of a worktree and that of its limit.
    left = project_of(trees(disk.path / "b", "x1")[1])
    shutil.rmtree(disk.path / "b" / "refs" / "t" / "worktrees" / "x1")
    os.sync()
    assert left in disk.projects()
    while left in disk.projects():  # XFS is through with removed files a little later
        assert stratum("gc").code == 0
    assert len(disk.projects()) == 14


def make_worktrees(store: Path, count: int) -> None:
    opened = Store.open(store)
    commit = opened.resolve_commit(parse_ref("t:v1"))
    for number in range(count):
        opened.worktrees.create("t", f"x{number}", commit, limit=MIB)


def trees(store: Path, worktree: str) -> tuple[Path, Path]:
    directory = store / "refs" / "t" / "worktrees" / worktree
    return directory / "upperdir", directory / "workdir"


def project_of(directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY)
    try:
        found = quota.project_of(fd)
        assert found is not None
        return found
    finally:
        os.close(fd)
