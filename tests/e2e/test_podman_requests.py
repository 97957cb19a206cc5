"""What annotations ask for: options, and refusals: one line, no start, nothing held."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.hooked import head, pod, records, refused, volume
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]


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
    unit = pod(podman, tmp_path, "stratum.dev/volumes.a: app+dev:/data", "echo it ran")
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
