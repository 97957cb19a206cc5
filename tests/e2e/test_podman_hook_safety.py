"""The hook by itself, with containers made by hand: hostile and broken input, and stops in every order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.containers import Container

pytestmark = pytest.mark.root


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[[], Container]]:
    """Makes containers, which end with the test."""
    made: list[Container] = []

    def make() -> Container:
        made.append(Container(tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> str:
    """The stratum ``app`` with a file ``one`` and a worktree ``dev``; its first commit."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("first\n")
    commit = cli.ok("import", "--bare", source, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    return commit


def hook(
    cli: Command, stage: str, state: bytes, cwd: Path = Path("/"), env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run one stage as an engine does; its exit status and stderr."""
    environment = {"STRATUM_STORE": str(cli.store), "STRATUM_RUNTIME_DIR": str(cli.runtime_dir)}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "stratum.hook", stage],
        input=state,
        env=environment | (env or {}),
        cwd=cwd,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.count("\n") == (0 if done.returncode == 0 else 1), text
    assert done.returncode == 0 or text.startswith("stratum: ")
    return done.returncode, text.removeprefix("stratum: ").rstrip("\n")


def held(cli: Command) -> list[str]:
    """What is on record as mounted, or leased."""
    state = cli.runtime_dir / "state"
    mounts = [record["ref"] for record in json.loads(state.read_text())["mounts"]] if state.exists() else []
    return mounts + [str(path) for path in cli.store.glob("refs/*/worktrees/*/lease.toml")]


def head(cli: Command) -> str:
    """The commit that the worktree ``app+dev`` is at."""
    return str(cli.json("show", "app+dev")["commit"]["metadata_hash"])


def moves(cli: Command) -> int:
    """How often a commit moved the head of ``app+dev``."""
    lines = (cli.store / "refs/app/log.jsonl").read_text().splitlines()
    return sum(entry["which"] == "dev" and entry["old"] is not None for entry in map(json.loads, lines))


# Input


@pytest.mark.parametrize("stage", ["createRuntime", "poststop"])
@pytest.mark.parametrize(
    ("state", "says"),
    [
        (b"", "is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "'id' is missing"),
        (b" " * (5 << 20), "larger than"),
    ],
    ids=["empty", "cut", "list", "object", "huge"],
)
def test_no_state(cli: Command, stage: str, state: bytes, says: str) -> None:
    code, said = hook(cli, stage, state)
    assert (code, says in said) == (1, True)


def test_no_stdin_at_all(cli: Command) -> None:
    command = [sys.executable, "-I", "-m", "stratum.hook", "createRuntime"]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"stratum: cannot read the runtime's state JSON: Bad file descriptor" in done.stderr


@pytest.mark.parametrize("args", [[], ["prestart"], ["createRuntime", "x"], ["--help"]])
def test_wrong_arguments(args: list[str]) -> None:
    line = [sys.executable, "-I", "-m", "stratum.hook", *args]
    done = subprocess.run(line, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_a_container_without_volumes_is_left_alone(cli: Command, container: Callable[[], Container]) -> None:
    assert hook(cli, "createRuntime", container().state(pid=0, bundle="/nonexistent")) == (0, "")
    assert not cli.store.exists()


def test_a_megabyte_of_annotation(cli: Command, app: str, container: Callable[[], Container]) -> None:
    code, said = hook(cli, "createRuntime", container().state({"v": "app+dev:/" + "x" * (1 << 20)}))
    assert (code, "at most 8192" in said) == (2, True)


def test_a_process_that_is_dead(cli: Command, app: str, container: Callable[[], Container]) -> None:
    dead = container()
    dead.stop()
    for pid in (dead.process.pid, 0, (1 << 31) - 1):
        code, said = hook(cli, "createRuntime", dead.state({"v": "app+dev:/data"}, pid=pid))
        assert (code, f"process {pid} is gone" in said) == (3, True)
    assert held(cli) == []


def test_a_process_of_the_host(cli: Command, app: str, container: Callable[[], Container]) -> None:
    one = container()
    code, said = hook(cli, "createRuntime", one.state({"v": f"app+dev:{one.rootfs}"}, pid=os.getpid()))
    assert (code, "is in the host's mount namespace" in said) == (1, True)
    assert held(cli) == []


@pytest.mark.parametrize("config", [None, "", "{}", '{"root": {"path": "nowhere"}}'])
def test_a_broken_bundle(cli: Command, app: str, container: Callable[[], Container], config: str | None) -> None:
    one = container()
    (one.bundle / "config.json").unlink()
    if config is not None:
        (one.bundle / "config.json").write_text(config)
    code, _ = hook(cli, "createRuntime", one.state({"v": "app+dev:/data"}))
    assert code == 1
    assert held(cli) == []


def test_hostile_surroundings(cli: Command, app: str, container: Callable[[], Container], tmp_path: Path) -> None:
    """Modules in the working directory or in PYTHONPATH are not loaded; PATH and locale do not matter."""
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("json", "os", "stratum", "tomllib", "ctypes"):
        (trap / f"{name}.py").write_text(f"raise SystemExit('loaded {name}')")
    env = {"PYTHONPATH": str(trap), "PYTHONSTARTUP": str(trap / "os.py"), "PATH": str(trap), "LC_ALL": "C"}
    one = container()
    assert hook(cli, "createRuntime", one.state({"v": "app+dev:/data"}), cwd=trap, env=env) == (0, "")
    assert one.inside("cat", f"{one.rootfs}/data/one") == "first\n"


def test_no_store(cli: Command, container: Callable[[], Container]) -> None:
    code, said = hook(cli, "createRuntime", container().state({"v": "app+dev:/data"}))
    assert (code, "there is no store" in said) == (3, True)
    assert not cli.store.exists()


def test_an_unknown_engine_gets_nothing(cli: Command, app: str, container: Callable[[], Container]) -> None:
    for engine in ({}, {"io.container.manager": "cri-o", "io.kubernetes.pod.namespace": "default"}):
        annotations = engine | {"stratum.dev/volume.v": "app+dev:/data"}
        code, said = hook(cli, "createRuntime", container().state(annotations=annotations))
        assert (code, said.startswith("policy: ")) == (1, True)


def test_a_locked_worktree_is_waited_for_and_named(cli: Command, app: str, container: Callable[[], Container]) -> None:
    lock = cli.store / "refs/app/worktrees/dev.lock"
    holder = subprocess.Popen(["flock", lock, "sh", "-c", "echo locked; exec sleep 2"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    assert hook(cli, "createRuntime", container().state({"v": "app+dev:/data"})) == (0, "")
    holder.communicate()


# Swapped destinations


def test_a_destination_never_leaves_the_root(
    cli: Command, app: str, container: Callable[[], Container], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    one = container()
    (one.rootfs / "up").symlink_to("../" * 30 + str(outside)[1:])
    (one.rootfs / "away").symlink_to(outside)
    (one.rootfs / "magic").symlink_to("/proc/self/cwd")
    for destination in ("/up", "/away/below", "/magic"):
        hook(cli, "createRuntime", one.state({"v": f"app:latest:{destination}"}))
    assert one.inside("ls", "-A", str(outside)) == ""
    assert list(outside.iterdir()) == []


def test_a_destination_that_is_swapped_all_the_time(
    cli: Command, app: str, container: Callable[[], Container], tmp_path: Path
) -> None:
    """Another container that shares a directory renames and replaces it while the hook looks for its destination."""
    outside = tmp_path / "outside"
    outside.mkdir()
    script = (
        "import os, sys\n"
        "root, outside = sys.argv[1:]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    os.mkdir(root + '/a'); os.rename(root + '/a', root + '/b')\n"
        "    os.symlink(outside, root + '/a'); os.rename(root + '/b', root + '/c'); os.unlink(root + '/a')\n"
        "    os.system('rm -r ' + root + '/c 2>/dev/null; umount ' + root + '/c 2>/dev/null; rm -rf ' + root + '/c')\n"
    )
    one = container()
    (one.rootfs / "shared").mkdir()
    line = [sys.executable, "-c", script, f"{one.rootfs}/shared", str(outside)]
    swapper = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert swapper.stdout is not None
    swapper.stdout.readline()
    try:
        for _ in range(10):
            hook(cli, "createRuntime", one.state({"v": "app:latest:/shared/a/deep"}))
    finally:
        swapper.kill()
        swapper.communicate()
    assert one.inside("ls", "-A", str(outside)) == ""
    assert list(outside.iterdir()) == []


# Stops


def test_poststop_without_a_start(cli: Command, app: str, container: Callable[[], Container]) -> None:
    assert hook(cli, "poststop", container().state({"v": "app+dev:/data"}, status="stopped", pid=0)) == (0, "")
    assert head(cli) == app


def test_poststop_twice(cli: Command, app: str, container: Callable[[], Container]) -> None:
    one = container()
    assert hook(cli, "createRuntime", one.state({"v": "app+dev:/data"})) == (0, "")
    one.inside("touch", f"{one.rootfs}/data/new")
    assert len(held(cli)) == 2
    one.stop()
    for _ in range(2):
        assert hook(cli, "poststop", one.state(status="stopped", pid=0)) == (0, "")
    assert moves(cli) == 1
    assert held(cli) == []
    upperdir = cli.store / "refs/app/worktrees/dev/upperdir"
    assert list(upperdir.iterdir()) == []


def test_poststop_at_the_same_time(cli: Command, app: str, container: Callable[[], Container]) -> None:
    one = container()
    assert hook(cli, "createRuntime", one.state({"v": "app+dev:/data"})) == (0, "")
    one.inside("touch", f"{one.rootfs}/data/new")
    one.stop()
    environment = {"STRATUM_STORE": str(cli.store), "STRATUM_RUNTIME_DIR": str(cli.runtime_dir)}
    line = [sys.executable, "-I", "-m", "stratum.hook", "poststop"]
    running = [subprocess.Popen(line, stdin=subprocess.PIPE, env=environment) for _ in range(3)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write(one.state(status="stopped", pid=0))
        process.stdin.close()
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert moves(cli) == 1
    assert held(cli) == []


def test_the_hook_killed_anywhere_leaves_a_worktree_that_works(
    cli: Command, app: str, container: Callable[[], Container]
) -> None:
    """SIGKILL after ever longer times: the next container gets the worktree, and nothing is lost."""
    environment = {"STRATUM_STORE": str(cli.store), "STRATUM_RUNTIME_DIR": str(cli.runtime_dir)}
    line = [sys.executable, "-I", "-m", "stratum.hook", "createRuntime"]
    for delay in (0.05, 0.07, 0.08, 0.09, 0.1, 0.12):
        victim = container()
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert process.stdin is not None
        process.stdin.write(victim.state({"v": "app+dev:/data"}))
        process.stdin.close()
        time.sleep(delay)
        process.kill()
        process.wait()
        victim.stop()
    one = container()
    assert hook(cli, "createRuntime", one.state({"v": "app+dev:/data"})) == (0, "")
    one.inside("touch", f"{one.rootfs}/data/new")
    one.stop()
    assert hook(cli, "poststop", one.state(status="stopped", pid=0)) == (0, "")
    assert moves(cli) == 1
    assert held(cli) == []


@pytest.fixture
def small_disk(store_dir: Path, runtime_dir: Path) -> Path:
    """The store's directory is a file system of 6 MiB, which the fixture ``runtime_dir`` takes down again."""
    store_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "none", store_dir], check=True)
    return store_dir


def test_a_store_that_is_full_loses_nothing(
    small_disk: Path, cli: Command, app: str, container: Callable[[], Container]
) -> None:
    """The failed commit is told, kept for ``status``, and made up for by the next stop of any container."""
    one = container()
    assert hook(cli, "createRuntime", one.state({"v": "app+dev:/data:tag=saved"})) == (0, "")
    one.inside("sh", "-c", f"head -c 4000000 /dev/urandom > {one.rootfs}/data/work")
    one.stop()
    for _ in range(2):
        code, said = hook(cli, "poststop", one.state(status="stopped", pid=0))
        assert code == 1
        assert said.startswith("app+dev: ")
        assert "No space left on device" in said
    assert moves(cli) == 0
    assert (small_disk / "refs/app/worktrees/dev/upperdir/work").stat().st_size == 4000000
    assert "No space left on device" in cli.ok("status", "app")
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    other = container()
    assert hook(cli, "poststop", other.state(status="stopped", pid=0)) == (0, "")
    assert moves(cli) == 1
    assert str(cli.json("show", "app:saved")["commit"]["metadata_hash"]) == head(cli)
    assert held(cli) == []


def test_a_container_starts_on_work_that_could_not_be_committed(
    small_disk: Path, cli: Command, app: str, container: Callable[[], Container]
) -> None:
    one = container()
    assert hook(cli, "createRuntime", one.state({"v": "app+dev:/data"})) == (0, "")
    one.inside("sh", "-c", f"head -c 4000000 /dev/urandom > {one.rootfs}/data/work")
    one.stop()
    assert hook(cli, "poststop", one.state(status="stopped", pid=0))[0] == 1
    other = container()
    assert hook(cli, "createRuntime", other.state({"v": "app+dev:/data"})) == (0, "")
    assert "No space left on device" in cli.ok("status", "app")
    other.inside("rm", f"{other.rootfs}/data/work")
    other.stop()
    assert hook(cli, "poststop", other.state(status="stopped", pid=0)) == (0, "")
    assert moves(cli) == 1
    assert held(cli) == []
