"""Mounts with a gate as each kernel makes them, and as containers with users of their own get them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import UnsupportedError
from stratum.frozen import replace
from stratum.mount.build import attach, build_detached, opened_gate
from stratum.mount.idmap import IdMap, build_idmapped
from stratum.mount.plan import LayerSyntax, Method, MountPlan
from tests.support.lazily import Far, Lazily, until
from tests.support.leftovers import unmount_below

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture
def lazily(tmp_path: Path, far: Far) -> Iterator[Lazily]:
    with Lazily(tmp_path, far, worktree=True) as mounted:
        mounted.cli.ok("unmount", mounted.mnt)
        yield mounted
        unmount_below(tmp_path)


def plan_of(lazily: Lazily) -> MountPlan:
    """The plan of the worktree."""
    session = Session(load_config(lazily.cli.environment))
    with session.hold("app+dev") as held:
        return held.plan(source="stratum-0123456789abcdef:app+dev")


def read(lazily: Lazily, mount: int, path: str) -> None:
    """Compare a file below a mount fd with what it should be."""
    fd = os.open(path, os.O_RDONLY, dir_fd=mount)
    with open(fd, "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == lazily.far.sums[path]


@pytest.mark.parametrize("syntax", [LayerSyntax.FD, LayerSyntax.APPENDED, LayerSyntax.DATA_ONLY])
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("writable", [False, True])
def test_every_way_to_make_it(lazily: Lazily, syntax: LayerSyntax, attached: bool, writable: bool) -> None:
    plan = plan_of(lazily)
    if not writable:
        plan = replace(plan, upperdir=None, workdir=None)
    mount = build_detached(plan, Method(syntax, attached_layers=attached))
    attach(mount, lazily.mnt)
    os.close(mount)
    assert not lazily.read([*lazily.far.group(0)[:3], "tiny", "program"])
    if writable:
        with (lazily.mnt / "tiny").open("ab") as file:
            file.write(b" and more")
        assert (lazily.mnt / "tiny").read_bytes() == b"ten bytes! and more"


def test_an_old_kernel_is_told_to_fetch_first(lazily: Lazily) -> None:
    """There a file's content is looked up when its name is: listing would fetch everything."""
    method = Method(LayerSyntax.LIST, attached_layers=True)
    with pytest.raises(UnsupportedError, match=r"6\.5"):
        build_detached(plan_of(lazily), method)
    with opened_gate(replace(plan_of(lazily), gate=None), method) as gate:
        assert gate is None


@pytest.mark.parametrize("syntax", [LayerSyntax.FD, LayerSyntax.APPENDED])
def test_a_container_with_users_of_its_own(lazily: Lazily, syntax: LayerSyntax) -> None:
    plan = plan_of(lazily)
    namespace = subprocess.Popen(["unshare", "--user", "sleep", "100"])
    try:
        while os.readlink(f"/proc/{namespace.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            assert namespace.poll() is None
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{namespace.pid}/{kind}").write_text("0 100000 65536\n")
        users = os.open(f"/proc/{namespace.pid}/ns/user", os.O_RDONLY)
        method = Method(syntax, attached_layers=syntax is LayerSyntax.APPENDED)
        mount = build_idmapped(plan, IdMap(users, 100000, 100000), method)
        for path in (*lazily.far.group(1)[:2], "program"):
            read(lazily, mount, path)
            assert os.stat(path, dir_fd=mount).st_uid == 100000
        os.chown("d3/f01", 100005, 100005, dir_fd=mount)
        fd = os.open("d2/f00", os.O_WRONLY | os.O_APPEND, dir_fd=mount)
        os.write(fd, b"x")
        os.close(fd)
        upper = plan.upperdir
        assert upper is not None
        assert (upper / "d3/f01").stat().st_uid == 5
        assert (upper / "d2/f00").stat().st_uid == 0
        os.close(mount)
        os.close(users)
    finally:
        namespace.kill()
        namespace.wait()


def test_a_mount_that_cannot_be_made_leaves_no_filesystem_behind(lazily: Lazily) -> None:
    before = set(os.listdir("/sys/fs/fuse/connections"))
    plan = replace(plan_of(lazily), context="no such label")
    with pytest.raises(Exception, match="context"):
        build_detached(plan)
    until(lambda: set(os.listdir("/sys/fs/fuse/connections")) == before)
