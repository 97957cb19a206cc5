"""What a worktree begins with that a container's volume makes: owner and mode, nothing at all, the image's content."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import SCRIPT, Command

pytestmark = [pytest.mark.root, pytest.mark.podman]

MAPPED = ("--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536")
FULL = "localhost/full:latest"
MAKE_IMAGE = r"""
mkdir -p /srv/data/sub /outside
cd /srv/data
echo one > one; chown 1000:1001 one; chmod 640 one
head -c 5000 /dev/zero > sub/big; ln sub/big sub/same
ln -s ../../outside/secret link; ln -s /etc/passwd abs
mkfifo pipe; echo secret > /outside/secret
touch -d '2001-02-03 04:05:06' one
chown 1000:1001 /srv/data; chmod 2775 /srv/data
ln -s srv/data /linked
mkdir /bad; mknod /bad/null c 1 3; touch /file
"""
LOOK = r"""cd /v && stat -c '%n %F %u:%g %a %s' . one sub/big link pipe; readlink link; readlink abs
cat one; stat -c %h sub/same; stat -c %Y one"""
SEEN = """\
. directory 1000:1001 2775 4096
one regular file 1000:1001 640 4
sub/big regular file 0:0 644 5000
link symbolic link 0:0 777 20
pipe fifo 0:0 644 0
../../outside/secret
/etc/passwd
one
2
981173106
""".splitlines()


@pytest.fixture(scope="module")
def engine() -> Iterator[PodmanEnv]:
    with PodmanEnv() as environment:
        environment.run("--name", "maker", environment.image, "sh", "-ec", MAKE_IMAGE)
        environment.podman("commit", "-q", "maker", FULL)
        environment.remove("maker")
        yield environment


@pytest.fixture
def podman(engine: PodmanEnv, cli: Command, tmp_path: Path) -> PodmanEnv:
    """Podman with the hook of this test's store, which holds ``app:latest``, one file."""
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o111)
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    cli.ok("import", "--bare", source, "app")
    cli.ok("hook", "install", tmp_path / "hooks")
    engine.hooks_dir = tmp_path / "hooks"
    return engine


def volume(value: str) -> tuple[str, str]:
    return "--annotation", f"stratum.dev/volume.data={value}"


def owner(cli: Command, ref: str, tmp_path: Path) -> str:
    """uid:gid:mode of the root of what ``ref`` shows."""
    target = tmp_path / "look"
    target.mkdir(exist_ok=True)
    cli.ok("mount", ref, target)
    info = target.stat()
    cli.ok("unmount", target)
    return f"{info.st_uid}:{info.st_gid}:{info.st_mode & 0o7777:o}"


@pytest.mark.parametrize("users", [(), MAPPED], ids=["host-users", "user-namespace"])
def test_a_user_of_the_container_writes_in_a_volume_that_comes_into_being(
    podman: PodmanEnv, cli: Command, tmp_path: Path, users: tuple[str, ...]
) -> None:
    new = volume("fresh+main:/data:create;uid=1000;gid=1001;mode=0750;tag=stop")
    run = ("--rm", *users, "--user", "1000:1001", *new, podman.image, "sh", "-ec")
    # On a busy machine Podman may lose what a container prints just before it ends.
    done = podman.run(*run, "touch /data/u; stat -c %u:%g:%a /data /data/u; sleep 0.2")
    assert done.stdout.splitlines() == ["1000:1001:750", "1000:1001:644"]
    done = podman.run(*run, "ls /data; stat -c %u:%g:%a /data; sleep 0.2")
    assert done.stdout.splitlines() == ["u", "1000:1001:750"]
    assert owner(cli, "fresh:stop", tmp_path) == "1000:1001:750"


def test_the_owner_alone_is_in_the_first_commit(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    podman.run("--rm", *volume("app+w:/data:create=app:latest;uid=7;mode=700"), podman.image, "true")
    assert len(cli.json("log", "app+w")) == 2
    assert owner(cli, "app+w", tmp_path) == "7:0:700"
    assert [change["path"] for change in cli.json("diff", "app:latest", "app+w")] == ["/"]


def test_they_are_for_a_worktree_that_is_made(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    cli.ok("worktree", "add", "app+old", "app:latest")
    podman.run("--rm", *volume("app+old:/data:create=app:latest;uid=7;copy-up"), FULL, "true")
    assert owner(cli, "app+old", tmp_path).startswith("0:0:")
    refused = podman.run("--rm", *volume("app+other:/data:uid=7"), podman.image, "true", check=False)
    assert refused.returncode != 0
    assert "add create=BASE" in refused.stderr
    podman.run("--rm", *volume("app:/data:uid=7"), podman.image, "true")  # main is made from latest
    assert owner(cli, "app+main", tmp_path).startswith("7:0:")


def test_a_scratch_volume_has_an_owner_too(podman: PodmanEnv) -> None:
    podman.run("--rm", "--user", "5", *volume("app:latest:/data:scratch;uid=5"), podman.image, "touch", "/data/x")


@pytest.mark.parametrize("users", [(), MAPPED], ids=["host-users", "user-namespace"])
@pytest.mark.parametrize("destination", ["/srv/data", "/linked"])
def test_the_image_s_content_is_what_a_new_volume_begins_with(
    podman: PodmanEnv, cli: Command, users: tuple[str, ...], destination: str
) -> None:
    new = volume(f"fresh+main:{destination}:create;copy-up")
    script = LOOK.replace("/v", destination, 1)
    first = podman.run(
        "--rm", *users, *new, FULL, "sh", "-ec", f"{script}; rm {destination}/one; echo > {destination}/two"
    )
    lines = [line.rsplit(" ", 1)[0] if line.startswith(". ") else line for line in first.stdout.splitlines()]
    assert lines == [line.rsplit(" ", 1)[0] if line.startswith(". ") else line for line in SEEN]
    again = podman.run("--rm", *users, *new, FULL, "sh", "-ec", f"ls {destination}")
    assert again.stdout.split() == ["abs", "link", "pipe", "sub", "two"]
    assert len(cli.json("log", "fresh+main")) == 2  # what the image had, and the first stop


def test_the_owner_that_is_asked_for_is_not_the_image_s(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    new = volume("fresh+main:/srv/data:create;copy-up;uid=33;mode=711")
    podman.run("--rm", *new, FULL, "true")
    assert owner(cli, "fresh+main", tmp_path) == "33:1001:711"


def test_only_an_empty_beginning_is_filled(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    shown = podman.run("--rm", *volume("app+w:/srv/data:create=app:latest;copy-up"), FULL, "ls", "/srv/data").stdout
    assert shown.split() == ["one"]
    (tmp_path / "nothing").mkdir()
    cli.ok("import", "--bare", tmp_path / "nothing", "empty")
    shown = podman.run("--rm", *volume("empty:/srv/data:copy-up"), FULL, "ls", "/srv/data").stdout
    assert "link" in shown.split()
    shown = podman.run("--rm", *volume("gone+main:/not/there:create;copy-up"), FULL, "ls", "-A", "/not/there").stdout
    assert shown == ""


def test_what_is_mounted_in_the_container_is_not_the_image(podman: PodmanEnv, tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "data").mkdir(parents=True)
    (host / "data/private").write_text("of the host\n")
    for mount in (f"{host}:/srv", f"{host}:/srv/data/sub"):
        name = "a" if mount.endswith("/srv") else "b"
        done = podman.run(
            "--rm", "-v", mount, *volume(f"{name}+main:/srv/data:create;copy-up"), FULL, "find", "/srv/data"
        )
        assert "private" not in done.stdout
        assert "/srv/data/one" in done.stdout


@pytest.mark.parametrize(("destination", "words"), [("/bad", "device node"), ("/file", "not a directory")])
def test_an_image_that_cannot_be_copied_stops_the_container(
    podman: PodmanEnv, cli: Command, destination: str, words: str
) -> None:
    done = podman.run("--rm", *volume(f"fresh+main:{destination}:create;copy-up"), FULL, "true", check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert cli("list", "fresh").code == 3


def test_run_and_named_volumes_have_them_too(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    podman.read_hooks_from(tmp_path / "hooks")
    line = ("run", "--rm", "-u", "1000", "-v", "fresh:/srv/data:create;uid=1000;copy-up", FULL, "touch", "/srv/data/u")
    cli.ok(*line, env=podman.for_stratum)
    assert owner(cli, "fresh+main", tmp_path).startswith("1000:1001:")
    path = Path("/tmp") / f"stratum-plugin.{os.getpid()}.begin"
    server = subprocess.Popen(
        [SCRIPT, "volume-plugin", "--socket", path], env=cli.environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        server.stderr.readline()
        podman.use_volume_plugin("stratum", path)
        create = ("volume", "create", "--driver", "stratum", "--opt", "ref=named+main")
        refused = podman.podman(*create, "--opt", "create=", "--opt", "copy-up=", "one", check=False)
        assert "copy-up is for annotations" in refused.stderr
        podman.podman(*create, "--opt", "create=", "--opt", "uid=1000", "--opt", "mode=700", "one")
        podman.run("--rm", "--user", "1000", "-v", "one:/data", podman.image, "touch", "/data/u")
        podman.podman("volume", "rm", "one")
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert owner(cli, "named+main", tmp_path) == "1000:0:700"


def test_worktree_add_takes_them(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    cli.ok("import", "--bare", tmp_path / "src", "app")
    cli.ok("worktree", "add", "app+w", "--uid", "1000", "--mode", "0700")
    assert owner(cli, "app+w", tmp_path) == "1000:0:700"
    cli.ok("commit", "app+w", "first")
    assert owner(cli, "app:first", tmp_path) == "1000:0:700"
    for option, value in (("--uid", "root"), ("--gid", "4294967295"), ("--mode", "999"), ("--mode", "17777")):
        refused = cli("--format", "json", "worktree", "add", "app+x", option, value)
        assert refused.code == 2
        assert json.loads(refused.stderr)["id"] == "usage"
