"""Commands in a container around a commit of what it writes, with the real Podman."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import SCRIPT, Command
from tests.support.watched import until

pytestmark = [pytest.mark.root, pytest.mark.podman]

WRITER = """\
number=0
while :; do
    number=$((number+1)); echo $number > /data/one; sleep 0.2; echo $number > /data/two
    if [ -e /tmp/hold ]; then touch /tmp/held; while [ -e /tmp/hold ]; do sleep 0.1; done; rm /tmp/held; fi
done
"""
"""Between its two files it is not to be committed; while /tmp/hold is there it stops after the second."""
HOLD = "touch /tmp/hold; until [ -e /tmp/held ]; do sleep 0.1; done"
RELEASE = "rm -f /tmp/hold && echo released >> /tmp/log"


@pytest.fixture
def podman(engine: PodmanEnv, cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """Podman with the hook of this test's store, and the empty ``app+main`` in it."""
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    engine.read_hooks_from(tmp_path / "hooks")
    cli.environment |= engine.for_stratum
    (tmp_path / "empty").mkdir()
    cli.ok("import", "--bare", tmp_path / "empty", "app")
    try:
        yield engine
    finally:
        engine.remove_all()


def start(podman: PodmanEnv, options: str = "", script: str = WRITER) -> None:
    annotation = f"stratum.dev/volume.a=app+main:/data{options}"
    podman.run("-d", "--name", "server", "--annotation", annotation, podman.image, "sh", "-c", script)


def inside(podman: PodmanEnv, script: str) -> str:
    return podman.podman("exec", "server", "sh", "-c", script, check=False).stdout


def test_a_commit_waits_for_the_container_to_hold_still_and_lets_it_go_on(podman: PodmanEnv, cli: Command) -> None:
    start(podman, f":pre-commit=/tmp/hold.sh;post-commit={RELEASE}")
    inside(podman, f"echo '{HOLD}' > /tmp/hold.sh; chmod +x /tmp/hold.sh")
    for tag in ("t1", "t2", "t3"):
        cli.ok("commit", "app", tag)
        assert cli.ok("cat", f"app:{tag}", "/one") == cli.ok("cat", f"app:{tag}", "/two")
    assert inside(podman, "cat /tmp/log").split() == ["released"] * 3
    until(lambda: inside(podman, "ls /tmp/hold /tmp/held; true") == "", 60)
    cli.ok("commit", "app", "--no-quiesce")
    cli.ok("commit", "app", "--quiesce", "echo mine >> /tmp/log")
    assert inside(podman, "cat /tmp/log").split() == [*["released"] * 3, "mine", "released"]
    podman.podman("stop", "--time", "0", "server")
    assert len(cli.json("log", "app+main")) >= 5, "the stop runs no command, and commits"
    done = cli("commit", "app", "--quiesce", "true")
    assert (done.code, "no container writes to app+main" in done.stderr) == (2, True)


def test_a_command_that_fails(podman: PodmanEnv, cli: Command) -> None:
    start(podman, ":post-commit=echo post >> /tmp/log", "echo a > /data/a; exec sleep 1000")
    until(lambda: inside(podman, "ls /data") == "a\n", 60)
    before = cli.json("log", "app+main")
    done = cli("commit", "app", "tag", "--quiesce", "echo it is locked >&2 && exit 3")
    assert done.code == 1
    assert "nothing was committed" in done.stderr
    assert "ended with exit code 3: it is locked" in done.stderr
    assert (cli.json("log", "app+main"), cli("show", "app:tag").code) == (before, 3)
    assert inside(podman, "cat /tmp/log") == "post\n"
    done = cli("commit", "app", "tag", "--unquiesce", "head -c 3000000 /dev/zero | tr '\\0' x && exit 4")
    assert done.code == 0
    assert "ended with exit code 4: xxx" in done.stderr
    assert len(done.stderr) < 2000
    assert cli.ok("cat", "app:tag", "/a") == "a"
    podman.podman("pause", "server")
    assert cli("commit", "app", "other", "--quiesce", "true").code == 1
    podman.podman("unpause", "server")


def test_the_command_after_runs_when_the_commit_is_killed(podman: PodmanEnv, cli: Command) -> None:
    start(
        podman,
        ":pre-commit=touch /tmp/hold && sleep 1000;post-commit=rm /tmp/hold && touch /tmp/went-on",
        "exec sleep 1000",
    )
    with subprocess.Popen([SCRIPT, "commit", "app"], env=cli.environment) as process:
        until(lambda: inside(podman, "ls /tmp/hold") != "", 60)
        process.send_signal(signal.SIGKILL)
    until(lambda: inside(podman, "ls /tmp/went-on") != "", 60)
    assert inside(podman, "ls /tmp/hold") == ""
