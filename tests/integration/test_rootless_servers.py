"""What serves a user's mounts: it ends with them, and nothing is lost when it ends before them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import SCRIPT
from tests.support.rootless import User

pytestmark = pytest.mark.root


def servers(user: User) -> list[int]:
    """The processes of ``user`` that have FUSE open."""
    found = []
    for pid in user.processes():
        with contextlib.suppress(OSError):
            if any(os.readlink(link) == "/dev/fuse" for link in Path(f"/proc/{pid}/fd").iterdir()):
                found.append(pid)
    return sorted(found)


def wait_for_servers(user: User, count: int) -> list[int]:
    deadline = time.monotonic() + 10
    while len(found := servers(user)) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def closed(device: Path) -> Iterator[None]:
    """``device``, of this test process, as no ordinary user may open it."""
    device.chmod(0o600)
    try:
        yield
    finally:
        device.chmod(0o666)


def with_app(user: User) -> Path:
    """A stratum ``app`` of the user, with the tag ``latest``; where its worktree ``main`` is mounted."""
    user.run("sh", "-ec", "mkdir -p mnt/d; cd mnt; for n in 1 2 3; do seq 1000 > d/$n; done; echo small > s")
    user.ok("init", "app", user.home / "mnt", "--migrate", "--no-persist")
    return user.home / "mnt"


def test_a_server_is_there_for_each_mount_and_ends_with_it(user: User) -> None:
    view = with_app(user)
    user.ok("mount", "app:latest", user.home / "other")
    for pid in wait_for_servers(user, 2):
        process = Path(f"/proc/{pid}")
        assert os.readlink(process / "cwd") == "/"
        assert {os.readlink(process / "fd" / str(fd)) for fd in range(3)} == {"/dev/null"}
        assert not any("lock" in os.readlink(link) for link in (process / "fd").iterdir())
    user.ok("unmount", user.home / "other")
    wait_for_servers(user, 1)
    user.inside("umount", view)
    wait_for_servers(user, 0)


def test_where_no_server_can_be_started_a_mount_fails_and_does_not_wait(user: User) -> None:
    """A user may have so many processes; the server is started by the second of two."""
    with_app(user)
    mount = f"{SCRIPT} mount app:latest {user.home / 'other'}"
    script = f"for n in $(seq 9); do prlimit --nproc=$n {mount} && exit; ls {user.home / 'other'}; done; exit 1"
    assert "Resource temporarily unavailable" in user.inside("sh", "-c", script).stderr
    wait_for_servers(user, 2)


def test_a_mount_that_nobody_can_see_here_keeps_its_upperdir(user: User) -> None:
    """As that of a container that has the store: other processes, other mounts, and another runtime directory."""
    view = with_app(user)
    (user.home / "other").mkdir(mode=0o777)
    again = f"umount {view} 2>/dev/null; STRATUM_RUNTIME_DIR={user.home}/run2 {SCRIPT} mount app {user.home / 'other'}"
    apart = ("unshare", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-c", again)
    refused = user.inside(*apart, check=False)
    assert refused.returncode == 4
    assert "error: another mount, which cannot be seen from here, writes to " in refused.stderr
    user.ok("unmount", view)
    user.inside(*apart, check=False)
    user.ok("mount", "app", view)


def test_killed_servers_lose_nothing(user: User) -> None:
    view = with_app(user)
    user.inside("sh", "-ec", "echo kept > new; rm d/1; echo more >> d/2", cwd=view)
    (server,) = wait_for_servers(user, 1)
    os.kill(server, signal.SIGKILL)
    user.inside("sh", "-c", "cat d/3 > /dev/null; echo later > later", cwd=view, check=False)
    user.ok("commit", "app", "v2")
    user.ok("unmount", view)
    user.ok("mount", "app", view)
    shown = user.inside("sh", "-ec", "cat new; tail -n1 d/2; ls d", cwd=view).stdout
    assert shown == "kept\nmore\n2\n3\n"
    user.ok("fsck")


def test_without_fuse_names_are_in_a_directory(user: User) -> None:
    with closed(Path("/dev/fuse")):
        view = with_app(user)
        assert user.inside("cat", view / "d/1").stdout.endswith("1000\n")
        user.inside("sh", "-c", "echo x >> d/1", cwd=view)
        assert servers(user) == []
        user.ok("unmount", view)
        forced = user.stratum("mount", "app", view, env={"STRATUM_USER_MOUNTS": "metadata"})
        assert forced.returncode == 6
        assert "/dev/fuse" in forced.stderr
    user.ok("mount", "app", view)
    assert user.inside("tail", "-n1", view / "d/1").stdout == "x\n"


def test_a_session_that_is_gone_leaves_records_and_no_harm(user: User) -> None:
    """What keeps it is killed, alone: the servers end with the namespace."""
    view = with_app(user)
    user.inside("sh", "-c", "echo kept > new", cwd=view)
    (keeper,) = (pid for pid in user.processes() if pid not in servers(user))
    os.kill(keeper, signal.SIGKILL)
    wait_for_servers(user, 0)
    user.ok("commit", "app", "v2")
    assert user.ok("cat", "app:v2", "new") == "kept"
    user.ok("mount", "app", view)
    assert user.inside("cat", view / "new").stdout == "kept\n"


def test_without_subordinate_ids_there_is_one(single_user: User) -> None:
    view = with_app(single_user)
    single_user.inside("sh", "-ec", "echo x >> d/1; rm s; ! chown 1000 d/1", cwd=view)
    single_user.ok("commit", "app", "v2")
    assert single_user.ok("cat", "app:v2", "d/1").endswith("x")
