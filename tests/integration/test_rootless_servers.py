"""What serves a user's mounts: it ends with them, and nothing is lost when it ends before them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
def app(user: User) -> User:
    """``user`` with a stratum ``app``, a worktree ``dev`` and a directory ``mnt``."""
    user.run("sh", "-c", "mkdir -p src/d mnt other; for n in 1 2 3; do seq 1000 > src/d/$n; done; echo small > src/s")
    user.ok("import", "--bare", user.home / "src", "app:v1")
    user.ok("worktree", "add", "app+dev", "app:v1")
    return user


def test_a_server_is_there_for_each_mount_and_ends_with_it(app: User) -> None:
    app.ok("mount", "app+dev", app.home / "mnt")
    app.ok("mount", "app:v1", app.home / "other")
    pids = wait_for_servers(app, 2)
    for pid in pids:
        process = Path(f"/proc/{pid}")
        assert os.readlink(process / "cwd") == "/"
        assert {os.readlink(process / "fd" / str(fd)) for fd in range(3)} == {"/dev/null"}
        assert not any("lock" in os.readlink(link) for link in (process / "fd").iterdir())
    app.ok("unmount", app.home / "other")
    assert len(wait_for_servers(app, 1)) == 1
    app.inside("umount", app.home / "mnt")
    wait_for_servers(app, 0)
    assert app.json("status", "app+dev")


def test_killed_servers_lose_nothing(app: User) -> None:
    view = app.home / "mnt"
    app.ok("mount", "app+dev", view)
    app.inside("sh", "-c", "echo kept > new; rm d/1; echo more >> d/2", cwd=view)
    (server,) = wait_for_servers(app, 1)
    os.kill(server, signal.SIGKILL)
    app.inside("sh", "-c", "cat d/3 > /dev/null; echo later > later", cwd=view, check=False)
    app.ok("commit", "app+dev", "v2")
    app.ok("reconcile")
    app.ok("unmount", view)
    app.ok("mount", "app+dev", view)
    shown = app.inside("sh", "-c", "cat new; tail -n1 d/2; ls d", cwd=view).stdout
    assert shown == "kept\nmore\n2\n3\n"
    app.ok("fsck")


def test_without_fuse_names_are_in_a_directory(app: User) -> None:
    with closed(Path("/dev/fuse")):
        app.ok("mount", "app+dev", app.home / "mnt")
        assert app.inside("cat", app.home / "mnt/d/1").stdout.endswith("1000\n")
        app.inside("sh", "-c", "echo x >> d/1", cwd=app.home / "mnt")
        assert servers(app) == []
        app.ok("commit", "app+dev", "v2")
        app.ok("unmount", app.home / "mnt")
        forced = app.stratum("mount", "app+dev", app.home / "mnt", env={"STRATUM_USER_MOUNTS": "metadata"})
        assert forced.returncode == 6
        assert "/dev/fuse" in forced.stderr
    app.ok("mount", "app+dev", app.home / "mnt")
    assert app.inside("tail", "-n1", app.home / "mnt/d/1").stdout == "x\n"


def test_a_session_that_is_gone_leaves_records_and_no_harm(app: User) -> None:
    view = app.home / "mnt"
    app.ok("mount", "app+dev", view)
    app.inside("sh", "-c", "echo kept > new", cwd=view)
    app.end()
    assert "kept" not in app.ok("status", "app+dev")
    app.ok("commit", "app+dev", "v2")
    assert app.ok("cat", "app:v2", "new") == "kept"
    app.ok("mount", "app+dev", view)
    assert app.inside("cat", view / "new").stdout == "kept\n"


def test_without_subordinate_ids_there_is_one(single_user: User) -> None:
    user = single_user
    user.run("sh", "-c", "mkdir -p src/d mnt; seq 1000 > src/d/1; echo small > src/s")
    user.ok("import", "--bare", user.home / "src", "app:v1")
    user.ok("worktree", "add", "app+dev", "app:v1")
    user.ok("mount", "app+dev", user.home / "mnt")
    user.inside("sh", "-c", "echo x >> d/1; rm s; ! chown 1000 d/1", cwd=user.home / "mnt")
    user.ok("commit", "app+dev", "v2")
    user.ok("unmount", user.home / "mnt")
    user.ok("remove", "--yes", "app")
