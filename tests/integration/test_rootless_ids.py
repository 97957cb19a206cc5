"""A user's commits have the IDs that root's have of the same trees, whatever is in them and however mounts are made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.rootless import User

pytestmark = pytest.mark.root

SOURCE = r"""
set -e
mkdir -p d/sub/deep gone
printf inline > d/small
head -c 5000 /dev/zero > d/large
head -c 200000 /dev/zero | tr '\0' x > big
echo old | tee d/sub/f d/sub/deep/f gone/f > closed
ln d/large hard
ln -s ../big d/link
mkfifo d/fifo
setfattr -n user.a -v 1 d/small
setfattr -n user.overlay.redirect -v /etc/shadow d/large
setfattr -n user.overlay.opaque -v y d/sub
setfacl -m u:1000:rwx,d:u:1000:r d/sub
setcap cap_net_raw+ep big
chmod 4711 d/large
chown 1000:100 d/sub/deep
chown -h 1000:0 d/link
chmod 0 closed
find . -exec touch -h -d @1700000000.5 {} +
"""
CHANGES = r"""
set -e
printf more >> d/small
echo new > new
: > empty
chmod 600 big
chown 1000:1000 d/sub/f
setfattr -n user.overlay.b -v 2 d/small
setfacl -m u:2000:r new
setcap cap_net_bind_service+ep new
mv hard moved
ln moved moved2
ln d/link another
rm -r d/sub/deep gone
mkdir gone
echo again > gone/g
mv d/fifo fifo
mkdir -m 1777 wide
ln -s nowhere wide/link
chmod 0 new
find . -newermt @1700000001 -exec touch -h -d @1700000002.25 {} +
"""


def test_the_ids_are_those_of_root(cli: Command, user: User, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    _sh(SOURCE, tmp_path / "source")
    user.run("mkdir", user.home / "source")
    user.inside("sh", "-c", SOURCE, cwd=user.home / "source")
    first = cli.ok("import", tmp_path / "source", "app:v1")
    assert user.ok("import", user.home / "source", "app:v1") == first

    target = tmp_path / "mnt"
    target.mkdir()
    cli.ok("worktree", "add", "app+data", "app:v1")
    cli.ok("mount", "app+data", target)  # and it stays: a user's of the same name is another one
    _sh(CHANGES, target)
    second = cli.ok("commit", "app+data")

    for way in ("metadata", "data", "directory"):
        env, view = {"STRATUM_USER_MOUNTS": way}, user.home / way
        user.ok("worktree", "add", f"app+{way}", "app:v1")
        user.ok("mount", f"app+{way}", view, env=env)
        user.inside("sh", "-c", CHANGES, cwd=view)
        assert user.ok("commit", f"app+{way}", env=env) == second, way
    assert user.ok("diff", "app+data", "app:v1") == cli.ok("diff", "app+data", "app:v1")


def test_owners_without_an_id_are_kept(cli: Command, user: User, tmp_path: Path) -> None:
    """They are shown as nobody, and are in the next commit what they were. What root owns outside is 0."""
    source = tmp_path / "source"
    (source / "theirs").mkdir(parents=True)
    (source / "theirs" / "f").write_text("theirs\n")
    os.chown(source / "theirs" / "f", 70_000, 4_000_000)
    cli.ok("import", "--bare", source, "app:v1")
    layout = f"oci:{user.home}/layout"
    cli.ok("push", "app:v1", f"{layout}:v1")
    _sh("chown -R $0 layout", user.home, str(user.uid))
    user.ok("pull", f"{layout}:v1", "app:v1")
    user.ok("worktree", "add", "app+dev", "app:v1")
    user.ok("mount", "app+dev", user.home / "mnt")
    user.inside("sh", "-c", "cat theirs/f; stat -c %u theirs/f; touch new; ! echo >> theirs/f", cwd=user.home / "mnt")
    user.ok("commit", "app+dev")
    changes = user.ok("diff", "app:v1", "app+dev")
    assert "theirs" not in changes
    assert cli.ok("import", "--bare", "/usr/share/zoneinfo/Etc", "zone") == user.ok(
        "import", "--bare", "/usr/share/zoneinfo/Etc", "zone"
    )


def _sh(script: str, directory: Path, *args: str) -> None:
    subprocess.run(["sh", "-c", script, *args], cwd=directory, check=True)
