"""The users that the tests make."""

from __future__ import annotations

import os

import pytest

from tests.support.rootless import User

pytestmark = pytest.mark.root


def test_a_user_reaches_what_it_needs_and_nothing_of_root(user: User, other_user: User, single_user: User) -> None:
    assert user.run("id", "-un").stdout == "stratum-test\n"
    assert user.ok("--version").startswith("stratum ")
    assert user.run("sh", "-c", "exec 3<>/dev/fuse").returncode == 0
    mapped = user.run("unshare", "--user", "--map-root-user", "--map-auto", "cat", "/proc/self/uid_map").stdout.split()
    assert str(user.subids) in mapped
    assert single_user.run("unshare", "-rm", "cat", "/proc/self/uid_map").stdout.split() == [
        "0",
        str(single_user.uid),
        "1",
    ]
    assert single_user.run("grep", "-c", "stratum-single", "/etc/subuid", check=False).stdout == "0\n"
    assert other_user.run("ls", user.runtime, check=False).returncode != 0
    assert os.stat("/dev/fuse").st_mode & 0o777 == 0o666
    image = user.import_image()
    assert user.podman("run", "--rm", "--network", "none", image, "id", "-u").stdout == "0\n"
    assert any("catatonit" in line for line in user.processes().values())
