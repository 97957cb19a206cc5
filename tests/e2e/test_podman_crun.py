"""The hook under crun. Debian's crun refuses the cgroup v1/v2 hybrid that some machines have, so it gets a mount
namespace that shows cgroup v2 only, and no cgroups of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.capabilities import program
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]

CGROUP2_ONLY = """\
set -e
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
"""


def test_volumes_under_crun(cli: Command, tmp_path: Path) -> None:
    program("crun")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_text("first\n")
    first = cli.ok("import", "--bare", tmp_path / "source", "app")
    hooks = tmp_path / "hooks"
    cli.ok("hook", "install", "--force", hooks)
    with PodmanEnv(runtime="crun", hooks_dir=hooks) as podman:
        run = '"$@" run --cgroups disabled --annotation stratum.dev/volume.a=app:/some/where'
        script = f"""\
            {run} --rm {podman.image} sh -c 'cat /some/where/one; echo plain > /some/where/plain'
            {run} --rm --read-only --tmpfs /some {podman.image} sh -c 'echo tmpfs > /some/where/tmpfs'
            {run} --rm --uidmap 0:100000:65536 {podman.image} sh -ec '
                cd /some/where; stat -c %u:%g . one; echo x > mapped; chown 7:8 mapped'
            {run} --rm --annotation stratum.dev/volume.b=app:nothing:/b \\
                --annotation run.oci.hooks.stderr={tmp_path}/said {podman.image} true || cat {tmp_path}/said
            {run} -d --name victim {podman.image} sh -c 'echo killed > /some/where/killed; exec sleep 1000' > /dev/null
            until "$@" exec victim test -s /some/where/killed; do sleep 0.1; done
            "$@" kill --signal KILL victim > /dev/null
            "$@" wait victim
            "$@" rm --force --time 0 victim > /dev/null
        """
        line = ["unshare", "--mount", "sh", "-c", CGROUP2_ONLY + script, "sh", *podman.prefix]
        done = subprocess.run(line, env=podman.environment, capture_output=True, text=True, check=False, timeout=200)
        podman.remove_all()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["first", "0:0", "0:0"]
    assert lines[3].startswith("stratum: there is no tag app:nothing")
    assert lines[4:] == ["137"]
    target = tmp_path / "look"
    target.mkdir()
    cli.ok("mount", "app+main", target, "--read-only")
    shown = {path.name: (path.read_text(), path.stat().st_uid, path.stat().st_gid) for path in target.iterdir()}
    cli.ok("unmount", target)
    assert shown == {
        "one": ("first\n", 0, 0),
        "plain": ("plain\n", 0, 0),
        "tmpfs": ("tmpfs\n", 0, 0),
        "mapped": ("x\n", 7, 8),
        "killed": ("killed\n", 0, 0),
    }
    commits = [entry["metadata_hash"] for entry in (one["commit"] for one in cli.json("log", "app+main"))]
    assert len(commits) == 5
    assert commits[-1] == first
