"""Containers whose worktree has a history: what they write is in it, when it was written, by whom, also what they wrote
last before they were stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratum.api.session import Session
from stratum.api.watching import watch_status
from stratum.config import load_config
from stratum.store import Store
from stratum.tree.model import File
from stratum.tree.oplog import Record, inode_of
from tests.e2e.hooked import refused, volume, wait_for
from tests.e2e.podman_env import PodmanEnv
from tests.support import watching
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


@pytest.fixture
def podman(podman: PodmanEnv, cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """Podman with the hook of this test's store, also for ``stratum run``; at the end nobody watches."""
    podman.read_hooks_from(tmp_path / "hooks")
    yield podman
    podman.remove_all()
    assert cli("watch", "--stop").code in (0, 3)
    watching.stop(cli.runtime_dir)


def lines(cli: Command, *args: str) -> list[dict[str, Any]]:
    """What ``history`` lists, oldest first."""
    listed: list[dict[str, Any]] = cli.json("history", *args)
    return listed[::-1]


def records(cli: Command) -> list[Record]:
    """The log of app+dev."""
    return list(Store.open(cli.store).histories.records("app", "dev"))


def files(cli: Command, path: bytes) -> list[File]:
    """What the file at ``path`` was, one after the other."""
    found = [inode_of(record.entry) for record in records(cli) if record.path == path and record.entry is not None]
    assert all(isinstance(inode, File) for inode in found)
    return [inode for inode in found if isinstance(inode, File)]


def contents(cli: Command, path: bytes) -> list[bytes | None]:
    return [file.content for file in files(cli, path)]


def change(cli: Command, content: bytes) -> str:
    """The CHANGE that first brought this content."""
    found = ((record.n, inode_of(record.entry)) for record in records(cli) if record.entry is not None)
    return str(next(n for n, inode in found if isinstance(inode, File) and inode.content == content))


def start(podman: PodmanEnv, script: str, *options: str, value: str = "app+dev:/data:history") -> str:
    """Start the container ``writer``; its ID."""
    line = ["-d", "--name", "writer", *options, *volume("v", value), podman.image, "sh", "-ec", script]
    return podman.run(*line).stdout.strip()


def test_who_did_what_is_listed_while_it_runs(podman: PodmanEnv, cli: Command, app: str) -> None:
    script = "echo 1 > /data/new; rm -r /data/sub; echo 2 > /data/new; echo 3 > /data/one; echo done; sleep 1000; :"
    container = start(podman, script)
    wait_for(podman, "writer", "done")
    listed = lines(cli, "app+dev")
    assert [line["op"] for line in listed if line["path"] == "/one"] == ["write"]
    assert {line["path"] for line in listed if line["op"] == "delete"} == {
        "/sub",
        "/sub/two",
        "/sub/deep",
        "/sub/deep/three",
    }
    shell = [line for line in listed if line["path"] in ("/new", "/one")]
    assert {(line["by"], line["container"]) for line in shell} == {("sh", container)}
    assert contents(cli, b"/new")[-1] == b"2\n"
    back = cli.runtime_dir / "back"
    back.mkdir()
    cli.ok("restore", f"app+dev@{listed[0]['change']}", "/sub", "--to", back)
    assert (back / "sub" / "deep" / "three").read_text() == "third\n"
    podman.remove("writer")


def test_all_that_was_closed_is_there_after_the_stop(podman: PodmanEnv, cli: Command, app: str) -> None:
    # Renamed over the one before, as then the kernel holds each version until it was taken, however late that is.
    save = "echo $i > /data/new; mv /data/new /data/counter; echo x > /data/f$((i%9))"
    start(podman, f"i=0; while :; do i=$((i+1)); {save}; echo $i; sleep 0.02; done")
    wait_for(podman, "writer", "\n25\n")
    podman.podman("kill", "writer")
    podman.podman("wait", "writer")
    said = podman.podman("logs", "writer").stdout.split()
    deadline = time.monotonic() + 60
    while list(cli.store.glob("refs/*/worktrees/*/lease.toml")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    known = {*contents(cli, b"/counter"), *contents(cli, b"/new")}
    assert [number for number in said if f"{number}\n".encode() not in known] == []
    epochs = [record for record in records(cli) if record.op == "base"]
    assert len(epochs) == 2, "the stop's commit is the base of what comes next"
    assert cli.json("diff", f"app+dev@{epochs[1].n - 1}", "app+dev") == [], "which is what was recorded"
    podman.podman("rm", "writer")
    again = podman.run("--rm", *volume("v", "app+dev:/data"), podman.image, "sh", "-c", "echo after > /data/one")
    assert again.returncode == 0
    assert contents(cli, b"/one")[-1] == b"after\n", "it stays on"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_monitor_ends_with_the_container_that_the_watcher_was_started_for(
    podman: PodmanEnv, cli: Command, app: str
) -> None:
    """Another keeper takes its place, and misses nothing."""
    start(podman, "until [ -e /data/end ]; do sleep 0.1; done")
    status = watch_status(Session(load_config(cli.environment)))
    assert status is not None
    monitor = Path(f"/proc/{parent(status['pid'])}")
    assert (monitor / "comm").read_text() == "conmon\n"
    podman.podman("exec", "writer", "sh", "-c", "echo last > /data/new; touch /data/end")
    deadline = time.monotonic() + 60
    while monitor.exists():
        assert time.monotonic() < deadline, "the monitor waits for somebody"
        time.sleep(0.05)
    cli.ok("watch", "--once")
    after = watch_status(Session(load_config(cli.environment)))
    assert after is not None
    assert after["pid"] != status["pid"]
    assert (Path(f"/proc/{parent(after['pid'])}") / "comm").read_text() != "conmon\n"
    assert contents(cli, b"/new")[-1] == b"last\n"
    assert "gap" not in {record.op for record in records(cli)}
    podman.remove("writer")


def test_a_version_is_brought_back_while_it_runs(podman: PodmanEnv, cli: Command, app: str) -> None:
    script = (
        "echo good > /data/save; chown 5:6 /data/save; sleep 1; echo bad > /data/save; rm -r /data/sub; echo done;"
        " sleep 1000"
    )
    start(podman, script)
    wait_for(podman, "writer", "done")
    there = cli.json("history", "app+dev")[-1]["change"]
    bad = max(line["change"] for line in cli.json("history", "app+dev", "/save"))
    cli.ok("restore", "app+dev", "/save", change(cli, b"good\n"))
    cli.ok("restore", "app+dev", "/sub", str(there))
    shown = podman.podman("exec", "writer", "sh", "-c", "cat /data/save /data/sub/deep/three; stat -c %u:%g /data/save")
    assert shown.stdout == "good\nthird\n5:6\n"
    assert [line["by"] for line in cli.json("history", "app+dev", "/save") if line["change"] > bad] == ["stratum"]
    podman.remove("writer")


def test_users_with_other_ids_are_told_how(podman: PodmanEnv, cli: Command, app: str) -> None:
    start(podman, "echo good > /data/save; echo done; sleep 1000", "--uidmap", "0:200000:65536")
    wait_for(podman, "writer", "done")
    assert lines(cli, "app+dev", "/save")
    refused_by = cli("restore", "app+dev", "/save", change(cli, b"good\n"))
    assert (refused_by.code, refused_by.stdout) == (2, "")
    assert "whose users have other IDs" in refused_by.stderr
    assert "podman cp" in refused_by.stderr
    podman.remove("writer")


def test_a_version_is_brought_back_after_the_stop(podman: PodmanEnv, cli: Command, app: str) -> None:
    run = ["--rm", *volume("v", "app+dev:/data:history"), podman.image, "sh", "-ec"]
    for text in ("good", "bad"):
        podman.run(*run, f"echo {text} > /data/save; chmod 640 /data/save; chown 5:6 /data/save")
    cli.ok("restore", "app+dev", "/save", change(cli, b"good\n"))
    done = [line["op"] for line in lines(cli, "app+dev", "/save") if line["op"] not in ("base", "commit", "version")]
    assert done == ["create", "write", "write"], "a restore is a change too"
    assert podman.run(*run, "cat /data/save").stdout == "good\n"
    cli.ok("restore", "app+dev", "/save", change(cli, b"bad\n"))
    assert podman.run(*run, "cat /data/save; stat -c '%a %u:%g' /data/save").stdout == "bad\n640 5:6\n"


@pytest.mark.parametrize("options", [("--uidmap", "0:200000:65536"), ("--read-only",)], ids=["users", "read-only"])
def test_owners_are_those_in_the_container(podman: PodmanEnv, cli: Command, app: str, options: tuple[str, ...]) -> None:
    script = (
        "echo 1 > /data/mine; chown 7:8 /data/mine; chmod 600 /data/mine; echo 2 >> /data/mine; echo done; sleep 1000"
    )
    start(podman, script, *options)
    wait_for(podman, "writer", "done")
    podman.remove("writer")
    last = files(cli, b"/mine")[-1]
    assert (last.uid, last.gid, last.mode & 0o7777, last.content) == (7, 8, 0o600, b"1\n2\n")
    assert all((file.uid, file.gid) in ((0, 0), (7, 8)) for file in files(cli, b"/mine"))
    assert cli.json("diff", f"app+dev@{next(r.n for r in records(cli)[::-1] if r.op == 'base') - 1}", "app+dev") == []


def test_what_cannot_have_a_history(podman: PodmanEnv, cli: Command, app: str) -> None:
    needs = "annotation 'stratum.dev/volume.v': option 'history' needs a worktree, app:latest is a commit"
    assert refused(podman, *volume("v", "app:latest:/data:history")).startswith(needs)
    assert "'ro' and 'history' exclude each other" in refused(podman, *volume("v", "app+dev:/data:ro;history"))
    done = cli("run", "--rm", "-v", "app:latest:/data:history", podman.image, "true")
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "", 2)
    assert Store.open(cli.store).histories.watched() == []


def test_run_with_a_history(podman: PodmanEnv, cli: Command, app: str) -> None:
    done = cli("run", "--rm", "-v", "app+dev:/data:history;commit=never", podman.image, "sh", "-c", "echo x > /data/y")
    assert done.code == 0, done.stderr
    assert contents(cli, b"/y") == [b"x\n"]
