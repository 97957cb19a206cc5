"""``stratum run`` and ``stratum ps`` with the real Podman."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import SCRIPT, Command
from tests.support.watched import until

pytestmark = [pytest.mark.root, pytest.mark.podman]


@pytest.fixture
def podman(engine: PodmanEnv, cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """Podman with the hook of this test's store, which has ``app:latest`` with one file."""
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    engine.read_hooks_from(tmp_path / "hooks")
    cli.environment |= engine.for_stratum
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    cli.ok("import", "--bare", source, "app")
    try:
        yield engine
    finally:
        engine.remove_all()
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))
    assert cli.json("ps") == []


def containers(podman: PodmanEnv) -> list[str]:
    return podman.podman("ps", "--all", "--format", "{{.Names}}").stdout.split()


def test_output_exit_code_and_commit(podman: PodmanEnv, cli: Command) -> None:
    script = "cat /data/one; echo oops >&2; echo $GREETING $PWD > /data/new; id -u; exit 7"
    done = cli(
        "run", "--rm", "-v", "app+main:/data:tag=run-{worktree}", "-e", "GREETING=hello", "-w", "/tmp",
        podman.image, "sh", "-c", script,
    )  # fmt: skip
    assert (done.code, done.stdout) == (7, "first\n0\n")
    assert done.stderr.splitlines()[0] == "oops"
    assert containers(podman) == []
    changes = cli.json("diff", "app:latest", "app:run-main")
    assert [change["path"] for change in changes if change["kind"] == "added"] == ["/new"]
    whys = [entry["why"] for entry in cli.json("log", "--reflog", "app+main")]
    assert re.fullmatch(rf"container [0-9a-f]{{12}} \([a-z_]+, {podman.image}\) stopped", whys[0])
    again = cli("run", "--name", "again", podman.image, "cat", "/data/new", "-v", "app:/data")
    assert (again.code, again.stdout) == (0, "hello /tmp\n")
    assert containers(podman) == ["again"]


def test_much_output_and_standard_input(podman: PodmanEnv, cli: Command) -> None:
    script = "cat > /data/in; wc -c < /data/in; head -c 3000000 /dev/zero"
    done = cli("run", "--rm", "-i", "-v", "app:/data", podman.image, "sh", "-c", script, stdin="x" * 200_000)
    assert done.code == 0
    assert done.stdout == "200000\n" + "\0" * 3_000_000


def test_signals_reach_the_container(podman: PodmanEnv, cli: Command) -> None:
    script = "trap 'echo got it > /data/got; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    command = [SCRIPT, "run", "--rm", "-v", "app+main:/data", podman.image, "sh", "-c", script]
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 5
    assert "/got" in [change["path"] for change in cli.json("diff", "app:latest", "app+main")]


def test_a_signal_before_the_container_runs_waits_for_it(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    slow = tmp_path / "programs" / "podman"
    slow.parent.mkdir()
    slow.write_text(SLOW_START.format(path=cli.environment["PATH"], reached=tmp_path))
    slow.chmod(0o755)
    cli.environment |= {"PATH": f"{slow.parent}:{cli.environment['PATH']}"}
    # Not the first process of a namespace, which the kernel keeps from signals that it does not expect.
    command = [SCRIPT, "run", "--rm", "--pid=host", "-v", "app+main:/data", podman.image, "sleep", "100"]
    with subprocess.Popen(command, env=cli.environment) as process:
        until((tmp_path / "starting").exists, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


SLOW_START = """\
#!/bin/sh
case " $* " in
*" start "*) touch {reached}/starting; until [ -e {reached}/told ]; do sleep 0.1; done ;;
*" kill "*) touch {reached}/told ;;
esac
PATH={path} exec podman "$@"
"""


def test_a_signal_to_all_processes_of_the_command_comes_once(podman: PodmanEnv, cli: Command) -> None:
    """As one from the terminal does."""
    script = "trap 'echo got it' INT; trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    command = [SCRIPT, "run", "--rm", "-v", "app:/data", podman.image, "sh", "-c", script]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=cli.environment, **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "got it\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait(60) == 5


def test_a_terminal(podman: PodmanEnv, cli: Command) -> None:
    ours, theirs = pty.openpty()
    script = "tty; read -r line; echo got $line > /data/got; trap 'exit 5' INT; echo ready; while :; do sleep 0.1; done"
    command = [SCRIPT, "run", "--rm", "-it", "-v", "app+main:/data", podman.image, "sh", "-c", script]
    with subprocess.Popen(
        command, env=cli.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        with open(ours, "r+b", buffering=0) as terminal:
            read_until(terminal, b"/dev/")
            terminal.write(b"word\r")
            read_until(terminal, b"ready")
            terminal.write(b"\x03")
            assert process.wait(60) == 5
    assert "/got" in [change["path"] for change in cli.json("diff", "app:latest", "app+main")]


def typed(terminal: io.RawIOBase, keys: bytes) -> bool:
    """Type keys one by one: Podman knows its own only where it reads each alone."""
    for key in keys:
        terminal.write(bytes([key]))
        time.sleep(0.3)
    return True


def read_until(terminal: io.RawIOBase, text: bytes) -> None:
    seen = b""
    while text not in seen:
        seen += terminal.read(1000) or b""


def test_the_size_of_a_terminal_and_the_keys_that_leave_it(podman: PodmanEnv, cli: Command) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (30, 90))
    before = termios.tcgetattr(theirs)
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done"
    command = [SCRIPT, "run", "--name", "box", "-it", "-v", "app+main:/data", podman.image, "sh", "-c", script]
    with (
        subprocess.Popen(
            command, env=cli.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process,
        open(ours, "r+b", buffering=0) as terminal,
    ):
        read_until(terminal, b"30 90")
        termios.tcsetwinsize(ours, (40, 132))
        process.send_signal(signal.SIGWINCH)
        read_until(terminal, b"40 132")
        until(lambda: typed(terminal, b"\x10\x11") and process.poll() is not None, 60)
        assert process.returncode == 0
        read_until(terminal, b"goes on")
        assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    assert podman.podman("ps", "--format={{.Names}}").stdout.split() == ["box"]
    assert [item["ref"] for item in cli.json("ps")] == ["app+main"]


def test_volumes_of_the_host_and_of_podman(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    podman.podman("volume", "create", "kept")
    podman.podman("volume", "create", "app")
    volumes = ["-v", f"{tmp_path}/dir:/abs:ro,Z", "-v./dir:/rel", "--volume=kept:/kept:U", "-v", "/no-name"]
    script = "echo a > /rel/a; cat /abs/a; ! touch /abs/b 2>&1; touch /kept/c /no-name/d; cat /data/one"
    done = cli("run", "--rm", *volumes, "-v", "app:latest:/data", podman.image, "sh", "-c", script, cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["a", "touch: /abs/b: Read-only file system", "first"]
    assert (tmp_path / "dir" / "a").read_text() == "a\n"
    mountpoint = podman.podman("volume", "inspect", "--format={{.Mountpoint}}", "kept").stdout.strip()
    assert os.listdir(mountpoint) == ["c"]
    assert sorted(podman.podman("volume", "ls", "--quiet").stdout.split()) == ["app", "kept"]
    done = cli("run", "--rm", "-v", "app:/data", podman.image, "true")
    assert done.code == 2
    assert "write app+main:/data for the stratum, or --mount=type=volume,source=app,destination=/data" in done.stderr
    podman.podman("volume", "rm", "app", "kept")


def test_options_with_and_without_equals_signs(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FROM_FILE=x\n")
    options = [
        "--env-file",
        tmp_path / "env",
        "--entrypoint",
        "sh",
        "-ieWORD=y",
        "--user=7:8",
        "-w/tmp",
        "--net",
        "none",
    ]
    options += ["--label", "a=b", "--cap-drop=all", "--mount", "type=tmpfs,dst=/scratch", "--rm=true", "-h", "box"]
    script = "echo $FROM_FILE $WORD $(id -u) $(id -g) $PWD $(hostname); ls -d /scratch; cat"
    done = cli("run", *options, "-v", "app:/data", podman.image, "-c", script, stdin="in\n")
    assert (done.code, done.stdout) == (0, "x y 7 8 /tmp box\n/scratch\nin\n")
    assert containers(podman) == []


def test_other_options_are_podmans(podman: PodmanEnv, cli: Command) -> None:
    args = ["--hostname=box", "--read-only", "-e", "WORD=a b", "-v", "app:/data"]
    script = "hostname; echo $WORD; ! touch /denied 2>&1; touch /data/new; exit 125"
    done = cli("run", "--rm", *args, podman.image, "sh", "-c", script)
    assert (done.code, done.stdout) == (125, "box\na b\ntouch: /denied: Read-only file system\n")


def test_a_container_in_the_background_and_ps(podman: PodmanEnv, cli: Command) -> None:
    script = "echo a > /data/a; echo ready; exec sleep 1000"
    done = cli("run", "-d", "--rm", "-v", "app+main:/data", "-v", "app:latest:/seed", podman.image, "sh", "-c", script)
    container = done.stdout.strip()
    until(lambda: "ready" in podman.podman("logs", container).stdout)
    held = {(item["ref"], item["mountpoint"], item["read_only"], item["changes"]) for item in cli.json("ps")}
    assert held == {("app+main", "/data", False, 1), ("app:latest", "/seed", True, None)}
    assert {item["holder"]["id"] for item in cli.json("ps")} == {container}
    rows = sorted(line.split("\t") for line in cli.ok("ps").splitlines())
    assert [row[:4] for row in rows] == [
        [container[:12], "app+main", "/data", "rw"],
        [container[:12], "app:latest", "/seed", "ro"],
    ]
    assert [row[5] for row in rows] == ["1", "-"]
    podman.podman("stop", "--time", "0", container)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-v", "app+none:/data"], 125, "there is no worktree app+none"),
        (["-v", "app+main:data"], 2, "no absolute destination"),
        (["-v", "app:/data", "-v", "app:latest:/data"], 2, "same destination"),
        (["-e", "=x"], 125, "podman create: "),
        (["-p", "none"], 125, "podman create: "),
        (["--no-such=1"], 125, "podman create: unknown flag: --no-such"),
        (["--no-such", "1"], 125, "podman create: unknown flag: --no-such"),
        (["-itX"], 125, "unknown shorthand flag: 'X'"),
        (["--rm=maybe"], 2, "--rm is true or false, not 'maybe'"),
        (["--restart", "always"], 2, "--detach"),
        (["-a", "stdout"], 2, "attaches all streams"),
        (["--sig-proxy=false"], 2, "--detach"),
        (["-v", "none:/data"], 3, "no stratum none, and Podman has no volume"),
    ],
)
def test_what_cannot_run(podman: PodmanEnv, cli: Command, args: list[str], code: int, says: str) -> None:
    done = cli("run", *args, podman.image, "echo", "it ran")
    assert (done.code, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert containers(podman) == []


def test_nothing_runs_where_no_hook_mounts_the_volumes(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    cli.ok("hook", "uninstall", tmp_path / "hooks")
    done = cli("run", "-v", "app:/data", podman.image, "echo", "it ran")
    assert (done.code, done.stdout) == (6, "")
    assert "stratum hook install" in done.stderr
    assert containers(podman) == []


def test_an_image_or_program_that_is_not_there(podman: PodmanEnv, cli: Command) -> None:
    done = cli("run", "-v", "app:/data", "localhost/none:1", "true")
    assert done.code == 125
    assert "localhost/none" in done.stderr
    done = cli("--format", "json", "run", "-v", "app:/data", podman.image, "no-such-program")
    assert (done.code, json.loads(done.stderr)["id"]) == (127, "podman")
    assert "no-such-program" in json.loads(done.stderr)["message"]
    assert cli("run", "-v", "app:/data", podman.image, "/etc").code == 126
    assert containers(podman) == []
