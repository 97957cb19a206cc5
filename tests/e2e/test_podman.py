"""Containers on strata, with the real Podman and runc: mounted at the start, committed at the stop, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]

FILES = {"one": "first\n", "sub/two": "second\n", "sub/deep/three": "third\n"}


@pytest.fixture(scope="module")
def engine() -> Iterator[PodmanEnv]:
    """One private Podman for all tests of this module."""
    with PodmanEnv() as environment:
        yield environment


@pytest.fixture
def podman(engine: PodmanEnv, cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """Podman with the hook of this test's store installed; at the end nothing is mounted, on record or leased."""
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    engine.hooks_dir = tmp_path / "hooks"
    cli.environment |= engine.for_stratum
    try:
        yield engine
    finally:
        engine.remove_all()
    assert not engine.container_mounts()
    assert strata_mounts(cli) == []
    assert records(cli) == []
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))
    assert not list((cli.store / "tmp").glob("*/owner"))


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> str:
    """The stratum ``app`` with a tag ``latest`` of ``FILES`` and a worktree ``dev``; its first commit."""
    source = tmp_path / "source"
    for name, text in FILES.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    commit = cli.ok("import", "--bare", source, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    return commit


def volume(volume_id: str, value: str) -> tuple[str, str]:
    """The command line for one volume."""
    return "--annotation", f"stratum.dev/volume.{volume_id}={value}"


def strata_mounts(cli: Command) -> list[str]:
    """The host's mounts of strata of this test's store."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if " - overlay stratum-" in line and f"{cli.store}/" in line]


def records(cli: Command) -> list[dict[str, object]]:
    """The mount records of this test's runtime directory, stale ones included."""
    path = cli.runtime_dir / "state"
    mounts: list[dict[str, object]] = json.loads(path.read_text())["mounts"] if path.exists() else []
    return mounts


def head(cli: Command, ref: str) -> str:
    """The commit that ``ref`` means."""
    return str(cli.json("show", ref)["commit"]["metadata_hash"])


def moves(cli: Command, name: str, worktree: str) -> list[str]:
    """Why the head of a worktree moved, oldest first, its making left out."""
    lines = (cli.store / "refs" / name / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [e["why"] for e in entries if e["kind"] == "worktree" and e["which"] == worktree and e["old"] is not None]


def content(cli: Command, ref: str, tmp_path: Path) -> dict[str, str]:
    """The files of the commit that ``ref`` means, read from a mount of it."""
    target = tmp_path / "look"
    target.mkdir(exist_ok=True)
    cli.ok("mount", head(cli, ref), target)
    try:
        return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    finally:
        cli.ok("unmount", target)


def wait_for(podman: PodmanEnv, container: str, text: str) -> None:
    """Wait until the container has printed ``text``."""
    deadline = time.monotonic() + 30
    while text not in podman.podman("logs", container).stdout:
        assert time.monotonic() < deadline, f"{container} did not print {text!r}"
        time.sleep(0.05)


def refused(podman: PodmanEnv, *args: str) -> str:
    """Run a container that must not start; what the hook said, in one line."""
    done = podman.run("--rm", *args, podman.image, "echo", "it ran", check=False)
    assert done.returncode != 0
    assert "it ran" not in done.stdout
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    return lines[0].partition("stderr: stratum: ")[2]


# Volumes and the commit at the stop


def test_two_volumes_in_one_container(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    done = podman.run(
        "--rm", *volume("a", "app+dev:/data"), *volume("b", "app:latest:/srv/seed"), podman.image,
        "sh", "-ec", "cat /data/one /srv/seed/sub/two; rm /data/one; mv /data/sub /data/moved; echo new > /data/new",
    )  # fmt: skip
    assert done.stdout == "first\nsecond\n"
    assert content(cli, "app+dev", tmp_path) == {
        "new": "new\n",
        "moved/two": "second\n",
        "moved/deep/three": "third\n",
    }
    assert head(cli, "app:latest") == app
    assert moves(cli, "app", "dev") == [f"container {last_container(cli)} stopped"]


def last_container(cli: Command) -> str:
    """The short ID of the container that the reflog names last."""
    line = (cli.store / "refs/app/log.jsonl").read_text().splitlines()[-1]
    return str(json.loads(line)["why"].split()[1])


def test_a_tag_is_read_only(podman: PodmanEnv, app: str) -> None:
    done = podman.run(
        "--rm", *volume("a", "app:latest:/data"), podman.image,
        "sh", "-c", "cat /data/one; touch /data/x; rm /data/one; mount -o remount,rw /data", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == "first\n"
    assert "touch: /data/x: Read-only file system" in done.stderr
    assert "can't remove '/data/one': Read-only file system" in done.stderr


@pytest.mark.parametrize("remove", [(), ("--rm",)], ids=["kept", "rm"])
def test_committed_after_a_kill(
    podman: PodmanEnv, cli: Command, app: str, tmp_path: Path, remove: tuple[str, ...]
) -> None:
    script = "echo saved > /data/new; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "victim", *remove, *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "victim", "ready")
    assert strata_mounts(cli) == []
    assert [record["ref"] for record in records(cli)] == ["app+dev"]
    podman.podman("kill", "--signal", "KILL", "victim")
    podman.wait_stopped("victim")
    assert content(cli, "app+dev", tmp_path) == FILES | {"new": "saved\n"}
    assert len(moves(cli, "app", "dev")) == 1


def test_an_unchanged_worktree_keeps_its_commit(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "cat", "/data/one")
    assert head(cli, "app+dev") == app
    assert moves(cli, "app", "dev") == []


def test_every_start_goes_on_where_the_last_stop_was(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    podman.podman(
        "create", "--name", "again", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", "echo run >> /data/runs"
    )
    for _ in range(3):
        podman.podman("start", "--attach", "again")
        podman.wait_stopped("again")
    assert content(cli, "app+dev", tmp_path)["runs"] == "run\n" * 3
    assert len(moves(cli, "app", "dev")) == 3


def test_restart(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    script = "echo run >> /data/runs; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "server", "ready")
    podman.podman("restart", "--time", "0", "server")
    wait_for(podman, "server", "ready\nready")
    assert len(moves(cli, "app", "dev")) == 1
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    assert content(cli, "app+dev", tmp_path)["runs"] == "run\n" * 2
    assert len(moves(cli, "app", "dev")) == 2


def test_a_container_that_podman_restarts(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    script = "echo run >> /data/runs; echo ready; exit 1"
    podman.read_hooks_from(tmp_path / "hooks")
    podman.run(
        "-d", "--name", "server", "--restart", "always", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script
    )
    wait_for(podman, "server", "ready\n" * 3)
    podman.remove("server")
    runs = content(cli, "app+dev", tmp_path)["runs"].count("run\n")
    assert runs >= 3
    assert len(moves(cli, "app", "dev")) == runs


def test_play_kube(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    unit = tmp_path / "pod.yaml"
    unit.write_text(f"""\
apiVersion: v1
kind: Pod
metadata:
  name: server
  annotations:
    stratum.dev/volume.a: app+dev:/data:create=app:latest,tag=from-kube
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: main
    image: {podman.image}
    command: [/bin/sh, -c, "cat /data/one; touch /data/new"]
""")
    podman.podman("play", "kube", unit)
    wait_for(podman, "server-main", "first")
    podman.wait_stopped("server-main")
    podman.podman("pod", "rm", "--force", "--time", "0", "server")
    assert head(cli, "app:from-kube") == head(cli, "app+dev") != app


# Options


def test_commit_never_keeps_the_changes_in_the_worktree(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app+dev:/data:commit=never"), podman.image, "touch", "/data/new")
    assert head(cli, "app+dev") == app
    shown = podman.run("--rm", *volume("a", "app+dev:/data:ro"), podman.image, "ls", "/data").stdout
    assert shown.split() == ["new", "one", "sub"]
    assert head(cli, "app+dev") == app


def test_create_and_tag_template(podman: PodmanEnv, cli: Command, app: str) -> None:
    options = "create=app:latest;tag=save-{worktree}-{commit}"
    podman.run("--rm", *volume("a", f"game+new:/data:{options}"), podman.image, "touch", "/data/new")
    made = head(cli, "game+new")
    assert made != app
    assert head(cli, f"game:save-new-{made[:12]}") == made


def test_main_is_made_from_latest(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app:/data"), podman.image, "touch", "/data/new")
    assert head(cli, "app+main") != app
    assert head(cli, "app:latest") == app


def test_scratch_is_thrown_away(podman: PodmanEnv, cli: Command, app: str) -> None:
    script = "ls /data; rm -r /data/sub; echo x > /data/new; mkdir -p /data/a/b; ls /data"
    for _ in range(2):
        done = podman.run("--rm", *volume("a", "app:/data:scratch"), podman.image, "sh", "-ec", script)
        assert done.stdout.split() == ["one", "sub", "a", "new", "one"]
    podman.run("--name", "kept", *volume("a", "app:/data:scratch"), podman.image, "sh", "-ec", script)
    podman.wait_stopped("kept")
    assert not list(podman.directory.rglob("stratum-scratch"))
    assert head(cli, "app:latest") == app
    assert cli.json("worktree", "list", "app")[0]["worktree"].endswith("dev")


def test_scratch_of_a_name_is_the_last_commit_of_its_main(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app:/data"), podman.image, "touch", "/data/new")
    both = (*volume("a", "app:/data"), *volume("b", "app:/seed:scratch"))
    script = "touch /data/more /seed/thrown-away; ls /seed"
    done = podman.run("--rm", *both, podman.image, "sh", "-ec", script)  # it does not hold the worktree
    assert done.stdout.split() == ["new", "one", "sub", "thrown-away"]
    assert [change["path"] for change in cli.json("diff", "app:latest", "app")] == ["/more", "/new"]


# Refusals: one line, no start, nothing held


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("nothing:/data", "there is no stratum nothing"),
        ("app:nothing:/data", "there is no tag app:nothing"),
        ("app+nothing:/data", "there is no worktree app+nothing"),
        ("app+x:/data:create=nothing", "there is no stratum nothing"),
        ("app+dev:/data:sync", "unknown option 'sync'"),
        ("app+dev:data", "no absolute destination"),
        ("app+dev:/data/../etc", "has '..' in it"),
        ("app+dev:/bin/busybox", "destination /bin/busybox is not a directory in the container"),
        ("app+dev:/bin/busybox/x", "destination /bin/busybox/x is not a directory in the container"),
        ("app+dev:/da\tta", "control character"),
        ("app+dev:/" + "x" * 100_000, "at most 8192"),
    ],
    ids=lambda value: value[:24],
)
def test_what_cannot_be_mounted_does_not_start(
    podman: PodmanEnv, cli: Command, app: str, value: str, says: str
) -> None:
    assert says in refused(podman, *volume("a", value))
    assert records(cli) == []


@pytest.mark.parametrize("key", ["volumes.a", "volume", "volume.", "volume.a b", "Volume.a"])
def test_a_misspelt_annotation_stops_the_container(podman: PodmanEnv, cli: Command, app: str, key: str) -> None:
    said = refused(podman, "--annotation", f"stratum.dev/{key}=app+dev:/data")
    assert f"'stratum.dev/{key}'" in said or "is not a valid volume id" in said
    assert records(cli) == []
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))


def test_an_annotation_without_a_value_stops_the_container(podman: PodmanEnv, app: str) -> None:
    assert "has no absolute destination" in refused(podman, "--annotation", "stratum.dev/volume.a=")


def test_a_misspelt_annotation_of_a_pod_stops_it(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    unit = tmp_path / "pod.yaml"
    unit.write_text(f"""\
apiVersion: v1
kind: Pod
metadata:
  name: server
  annotations:
    stratum.dev/volumes.a: app+dev:/data
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: main
    image: {podman.image}
    command: [/bin/sh, -c, "echo it ran"]
""")
    done = podman.podman("play", "kube", unit, check=False)
    assert "annotation 'stratum.dev/volumes.a' is not known" in done.stderr
    assert "it ran" not in podman.podman("logs", "server-main", check=False).stdout


def test_annotations_of_others_do_not_matter(podman: PodmanEnv, app: str) -> None:
    others = ("io.podman.annotations.label", "org.opencontainers.image.stopSignal", "example.com/stratum.dev/volume")
    arguments = [word for key in others for word in ("--annotation", f"{key}=x")]
    assert podman.run("--rm", *arguments, podman.image, "echo", "it ran").stdout == "it ran\n"


def test_options_after_a_comma(podman: PodmanEnv, cli: Command, app: str) -> None:
    """Podman 4 takes what follows the comma for another annotation; later ones hand the whole value on."""
    arguments = [*volume("a", "app+dev:/data:rw,commit=never"), podman.image, "touch", "/data/new"]
    done = podman.run("--rm", *arguments, check=False)
    if done.returncode != 0:
        assert "the option commit=never became an annotation of its own" in done.stderr
        assert records(cli) == []
    assert head(cli, "app+dev") == app


def test_one_bad_volume_stops_all(podman: PodmanEnv, cli: Command, app: str) -> None:
    said = refused(podman, *volume("a", "app+dev:/data"), *volume("b", "nothing:/other"))
    assert said.startswith("there is no stratum nothing")
    assert records(cli) == []
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "true")


def test_the_same_destination_twice(podman: PodmanEnv, app: str) -> None:
    said = refused(podman, *volume("a", "app+dev:/data"), *volume("b", "app:latest:/data/"))
    assert said == "volumes a and b have the same destination /data"


def test_a_held_worktree_names_its_holder(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    podman.run("-d", "--name", "first", *volume("a", "app+dev:/data"), podman.image, "sleep", "1000")
    holder = podman.podman("inspect", "--format", "{{.Id}}", "first").stdout[:12]
    said = refused(podman, *volume("a", "app+dev:/data"))
    assert said.startswith(f"app+dev is mounted already, at /data, by container {holder}")
    assert f"podman stop {holder}" in said
    (tmp_path / "host").mkdir()
    mounted = cli("mount", "app+dev", tmp_path / "host")
    assert (mounted.code, mounted.stdout) == (4, "")
    podman.remove("first")
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "true")


def test_a_worktree_that_the_host_mounted(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    cli.ok("mount", "app+dev", tmp_path / "host")
    assert "by this host" in refused(podman, *volume("a", "app+dev:/data"))
    cli.ok("unmount", tmp_path / "host")


def test_of_two_containers_that_race_one_gets_the_worktree(podman: PodmanEnv, cli: Command, app: str) -> None:
    for name in ("left", "right"):
        podman.podman("create", "--name", name, *volume("a", "app+dev:/data"), podman.image, "sleep", "1000")
    for _ in range(3):
        started = [podman.start("start", name) for name in ("left", "right")]
        codes = sorted(process.wait(timeout=60) for process in started)
        assert codes[0] == 0
        assert codes[1] != 0
        podman.podman("stop", "--all", "--time", "0")
        for name in ("left", "right"):
            podman.wait_stopped(name)


# Destinations


@pytest.mark.parametrize(
    ("destination", "seen_at"),
    [
        ("/not/there/yet", "/not/there/yet"),
        ("/links/absolute", "/tmp"),
        ("/links/relative/below", "/var/below"),
        ("/links/outside", "/outside"),
        ("/links/dangling", "/new/place"),
        ("/links/dangling/below", "/new/place/below"),
        ("/run/tmpfs/below", "/run/tmpfs/below"),
    ],
)
def test_destinations(podman: PodmanEnv, app: str, destination: str, seen_at: str) -> None:
    podman.import_image("localhost/links:latest", links={
        "links/absolute": "/tmp",
        "links/relative": "../var",
        "links/outside": "../../../../outside",
        "links/dangling": "/new/place",
    })  # fmt: skip
    done = podman.run(
        "--rm", "--read-only", "--tmpfs", "/run/tmpfs", *volume("a", f"app+dev:{destination}"),
        "localhost/links:latest", "cat", f"{seen_at}/one",
    )  # fmt: skip
    assert done.stdout == "first\n"
    assert not Path("/outside").exists()


def test_a_symlink_loop(podman: PodmanEnv, app: str) -> None:
    podman.import_image("localhost/loop:latest", links={"loop": "loop", "ping": "pong/x", "pong": "ping/x"})
    for destination in ("/loop", "/ping/x"):
        done = podman.run("--rm", *volume("a", f"app+dev:{destination}"), "localhost/loop:latest", "true", check=False)
        assert f"stratum: cannot mount at {destination} in the container: Too many levels" in done.stderr


def test_nested_volumes(podman: PodmanEnv, cli: Command, app: str) -> None:
    done = podman.run(
        "--rm", *volume("z", "app+dev:/data"), *volume("a", "app:latest:/data/sub/deep"),
        *volume("b", "app:latest:/data/made/here"), podman.image, "cat", "/data/sub/deep/one", "/data/made/here/one",
    )  # fmt: skip
    assert done.stdout == "first\n" * 2


def test_a_missing_destination_in_a_read_only_volume(podman: PodmanEnv, app: str) -> None:
    said = refused(podman, *volume("a", "app:latest:/data"), *volume("b", "app+dev:/data/none"))
    assert said == "cannot mount at /data/none in the container: Read-only file system"


def test_beside_a_bind_mount(podman: PodmanEnv, app: str, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    done = podman.run(
        "--rm", "-v", f"{tmp_path}/host:/data", *volume("a", "app+dev:/data/below"), podman.image,
        "cat", "/data/below/one",
    )  # fmt: skip
    assert done.stdout == "first\n"
    assert os.listdir(tmp_path / "host" / "below") == []


def test_nothing_is_mounted_where_the_host_would_see_it(podman: PodmanEnv, app: str, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    subprocess.run(["mount", "--bind", host, host], check=True)
    subprocess.run(["mount", "--make-shared", host], check=True)
    try:
        said = refused(podman, "-v", f"{host}:/data:rshared", *volume("a", "app+dev:/data/below"))
    finally:
        subprocess.run(["umount", host], check=True)
    assert said.startswith("destination /data/below is on a mount that the container shares with the host")


# What else containers do


def test_exec_cp_and_pause_see_the_volume(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sleep", "1000")
    assert podman.podman("exec", "server", "cat", "/data/one").stdout == "first\n"
    podman.podman("exec", "server", "sh", "-c", "echo exec > /data/exec")
    podman.podman("pause", "server")
    podman.podman("unpause", "server")
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    assert content(cli, "app+dev", tmp_path)["exec"] == "exec\n"


def test_a_commit_while_the_container_runs(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    script = "echo before > /data/log; exec 3>> /data/log; echo ready; while sleep 0.1; do :; done"
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "server", "ready")
    live = cli.ok("commit", "app+dev", "live")
    podman.podman("exec", "server", "sh", "-c", "echo after >> /data/log")
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    assert content(cli, "app:live", tmp_path)["log"] == "before\n"
    assert content(cli, "app+dev", tmp_path)["log"] == "before\nafter\n"
    assert [entry["commit"]["metadata_hash"] for entry in cli.json("log", "app+dev")][1:] == [live, app]


def test_a_user_without_privileges(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "chown", "-R", "1234:5678", "/data")
    done = podman.run(
        "--rm", "--user", "1234:5678", "--cap-drop", "ALL", *volume("a", "app+dev:/data"), podman.image,
        "sh", "-ec", "echo mine > /data/sub/mine; stat -c '%u:%g' /data/sub/mine /data/one /data",
    )  # fmt: skip
    assert done.stdout == "1234:5678\n" * 3


def test_a_user_namespace(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    """Inside, files belong to the container's users; what is committed has the IDs that are the same everywhere."""
    mapped = ("--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536")
    script = "cd /not/there; stat -c %u:%g . one /not /ro/one; echo x > root; echo y > user; chown 7:8 user"
    done = podman.run(
        "--rm", *mapped, *volume("a", "app+dev:/not/there"), *volume("b", "app:latest:/ro"), podman.image,
        "sh", "-ec", script,
    )  # fmt: skip
    assert done.stdout == "0:0\n" * 4
    target = tmp_path / "look"
    target.mkdir()
    cli.ok("mount", head(cli, "app+dev"), target)
    owners = {name: (target / name).stat() for name in ("one", "root", "user")}
    cli.ok("unmount", target)
    assert {name: (info.st_uid, info.st_gid) for name, info in owners.items()} == {
        "one": (0, 0),
        "root": (0, 0),
        "user": (7, 8),
    }


def test_a_pod_with_two_containers(podman: PodmanEnv, cli: Command, app: str) -> None:
    cli.ok("worktree", "add", "app+other", "app:latest")
    podman.podman("pod", "create", "--name", "two", "--infra=false")
    for worktree in ("dev", "other"):
        podman.run("--pod", "two", *volume("a", f"app+{worktree}:/data"), podman.image, "touch", f"/data/{worktree}")
    podman.podman("pod", "rm", "--force", "--time", "0", "two")
    assert len(moves(cli, "app", "dev")) == len(moves(cli, "app", "other")) == 1


# Stops that nobody reports


def test_a_start_that_fails_after_the_hook(podman: PodmanEnv, cli: Command, app: str) -> None:
    done = podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "no-such-program", check=False)
    assert done.returncode == 127
    podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "touch", "/data/new")
    assert len(moves(cli, "app", "dev")) == 1


def test_a_killed_monitor_is_made_up_for_by_the_next_container(
    podman: PodmanEnv, cli: Command, app: str, tmp_path: Path
) -> None:
    script = "echo saved > /data/new; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "lost", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "lost", "ready")
    inspected = json.loads(podman.podman("inspect", "lost").stdout)[0]
    os.kill(int(Path(inspected["ConmonPidFile"]).read_text()), signal.SIGKILL)
    os.kill(inspected["State"]["Pid"], signal.SIGKILL)
    podman.wait_stopped("lost")
    assert moves(cli, "app", "dev") == []
    shown = podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "cat", "/data/new").stdout
    assert shown == "saved\n"
    assert moves(cli, "app", "dev") == [f"container {inspected['Id'][:12]} stopped"]
    assert content(cli, "app+dev", tmp_path)["new"] == "saved\n"
    podman.remove_all()
    assert len(moves(cli, "app", "dev")) == 1


def test_a_reboot_is_made_up_for(podman: PodmanEnv, cli: Command, app: str) -> None:
    """A reboot takes the processes and the runtime directory; the lease in the store is what remains."""
    script = "echo saved > /data/new; echo ready; exec sleep 1000"
    podman.run("-d", "--name", "lost", *volume("a", "app+dev:/data"), podman.image, "sh", "-c", script)
    wait_for(podman, "lost", "ready")
    inspected = json.loads(podman.podman("inspect", "lost").stdout)[0]
    os.kill(int(Path(inspected["ConmonPidFile"]).read_text()), signal.SIGKILL)
    os.kill(inspected["State"]["Pid"], signal.SIGKILL)
    podman.wait_stopped("lost")
    for file in cli.runtime_dir.iterdir():
        file.unlink()
    done = cli.json("reconcile")
    assert [(one["worktree"], one["container"], one["commit"]) for one in done] == [
        ("app+dev", inspected["Id"], head(cli, "app+dev"))
    ]
    assert len(moves(cli, "app", "dev")) == 1
    assert cli.json("reconcile") == []


def test_reconcile_leaves_running_containers_alone(podman: PodmanEnv, cli: Command, app: str) -> None:
    podman.run("-d", "--name", "server", *volume("a", "app+dev:/data"), podman.image, "sleep", "1000")
    podman.podman("exec", "server", "touch", "/data/new")
    assert cli.json("reconcile") == []
    assert head(cli, "app+dev") == app
    assert podman.podman("exec", "server", "ls", "/data/new").stdout == "/data/new\n"


def test_uninstalled_hooks_mount_nothing(podman: PodmanEnv, cli: Command, app: str, tmp_path: Path) -> None:
    removed = cli.ok("hook", "uninstall", tmp_path / "hooks").splitlines()
    assert sorted(Path(path).name for path in removed) == ["stratum-createruntime.json", "stratum-poststop.json"]
    done = podman.run("--rm", *volume("a", "app+dev:/data"), podman.image, "ls", "/data", check=False)
    assert done.returncode != 0
    assert records(cli) == []
