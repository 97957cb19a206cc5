"""Containers whose users Podman chooses (``--userns=auto``), and containers with less than the usual rights.

Podman takes the IDs for ``auto`` from the ranges of the user ``containers`` in /etc/subuid and /etc/subgid, which a
machine may not have; so Podman runs in a mount namespace where these files are the test's.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]

SCRIPT = """\
set -e
mount --bind "$0" /etc/subuid
mount --bind "$0" /etc/subgid
run="$* run --rm --annotation stratum.dev/volume.a=app+main:/data"
$run --userns=auto $IMAGE sh -ec '
    read -r inside outside size < /proc/self/uid_map
    echo $outside; stat -c %u:%g /data /data/one
    echo auto > /data/auto; chown 7:8 /data/auto'
$run --userns=auto:size=2000 --user 7:8 --cap-drop ALL --security-opt no-new-privileges --read-only $IMAGE sh -ec '
    echo more >> /data/auto; stat -c %u:%g /data/auto; cat /data/auto; ! touch /data/denied 2> /dev/null
    grep Seccomp: /proc/self/status'
"""


def test_users_that_podman_chooses(cli: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    cli.ok("import", "--bare", source, "app")
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    ranges = tmp_path / "subid"
    ranges.write_text("containers:2147483647:2147483648\n")
    with PodmanEnv(hooks_dir=tmp_path / "hooks") as podman:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", SCRIPT, ranges, *podman.prefix],
            env=podman.environment | {"IMAGE": podman.image},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert int(lines[0]) >= 2147483647
    assert lines[1:] == ["0:0", "0:0", "7:8", "auto", "more", "Seccomp:\t2"]
    target = tmp_path / "look"
    target.mkdir()
    cli.ok("mount", "app+main", target)
    owner = (target / "auto").stat()
    cli.ok("unmount", target)
    assert (owner.st_uid, owner.st_gid) == (7, 8)
