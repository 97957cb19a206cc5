"""Containers on strata that are not here whole: they start on names, read right bytes, and end while they wait."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import UsageError
from stratum.plugin.volumes import PluginVolumes
from stratum.podman import pausing
from tests.e2e.hooked import refused, volume, wait_for
from tests.e2e.podman_env import PodmanEnv
from tests.support import hydrating
from tests.support.command import Command
from tests.support.inprocess import stratum
from tests.support.lazily import LARGE, LARGE_SIZE, Far, until

pytestmark = [pytest.mark.root, pytest.mark.podman, pytest.mark.registry]

MAPPED = ("--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536")
SUMS = "cd /data; find . -type f | sed s,./,, | sort | xargs sha256sum"


def setting(far: Far) -> str:
    return f"{far.slow.host}/team"


def sums(far: Far, *names: str) -> str:
    """What ``sha256sum`` says of these files, or of all."""
    return "".join(f"{far.sums[name]}  {name}\n" for name in names or sorted(far.sums))


@pytest.fixture
def lazily(podman: PodmanEnv, cli: Command, far: Far) -> PodmanEnv:
    """Podman whose hook, which gets nothing of an environment, has the registry in its settings."""
    assert podman.hooks_dir is not None
    for path in podman.hooks_dir.glob("stratum-*.json"):
        definition = json.loads(path.read_bytes())
        definition["hook"].setdefault("env", []).append(f"STRATUM_REGISTRY={setting(far)}")
        path.write_text(json.dumps(definition))
    return podman


def start(podman: PodmanEnv, value: str, script: str = "exec sleep 1000", *options: str) -> None:
    podman.run("-d", "--name", "server", *options, *volume("a", value), podman.image, "sh", "-c", script)


def inside(podman: PodmanEnv, script: str) -> str:
    return podman.podman("exec", "server", "sh", "-ec", script).stdout


def stop(podman: PodmanEnv) -> None:
    podman.podman("stop", "--time", "0", "server")
    podman.wait_stopped("server")
    podman.podman("rm", "server")


@pytest.mark.parametrize("options", [(), MAPPED], ids=["plain", "userns"])
def test_a_container_starts_on_what_is_not_here_and_reads_right_bytes(
    lazily: PodmanEnv, cli: Command, far: Far, options: tuple[str, ...]
) -> None:
    start(lazily, "app:v1:/data:lazy;prefetch=none", "exec sleep 1000", *options)
    assert far.slow.ranges() == [], "it started on names alone"
    assert (
        inside(lazily, f"find /data -type f | wc -l; stat -c %s /data/{LARGE}")
        == f"{len(far.sums)}\n{LARGE_SIZE - 123}\n"
    )
    assert far.slow.ranges() == [], "and so did what looks at names"
    assert inside(lazily, "cd /data; sha256sum d0/f07 d1/f11") == sums(far, "d0/f07", "d1/f11")
    assert inside(lazily, SUMS) == sums(far)
    far.slow.die()
    assert inside(lazily, SUMS) == sums(far), "what was read is here"
    stop(lazily)


def test_a_worktree_over_what_is_not_here_is_committed(lazily: PodmanEnv, cli: Command, far: Far) -> None:
    start(lazily, "app+main:/data:create=app:v1;lazy;prefetch=none")
    inside(lazily, "cd /data; chown -R 7:8 d0; mv d0/f03 moved; rm d0/f04; echo more >> d0/f05; echo new > new")
    stop(lazily)
    assert {change["path"] for change in cli.json("diff", "app:v1", "app+main") if change["kind"] != "metadata"} == {
        "/moved",
        "/new",
        "/d0/f03",
        "/d0/f04",
        "/d0/f05",
    }
    start(lazily, "app+main:/data:ro")
    longer = hashlib.sha256((far.tree / "d0/f05").read_bytes() + b"more\n").hexdigest()
    script = "cd /data; sha256sum < d0/f05; stat -c %u:%g d0/f06 moved; sha256sum < moved"
    assert inside(lazily, script).split() == [longer, "-", "7:8", "7:8", far.sums["d0/f03"], "-"]
    stop(lazily)


def test_run_pulls_with_the_settings_of_the_shell(podman: PodmanEnv, cli: Command, far: Far) -> None:
    assert podman.hooks_dir is not None
    podman.read_hooks_from(podman.hooks_dir)
    environment = {"STRATUM_REGISTRY": setting(far)}
    done = cli("run", "--rm", "-v", "app:v1:/data:lazy", podman.image, "sha256sum", "/data/d0/f01", env=environment)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.split()[0] == far.sums["d0/f01"]
    far.slow.die()
    again = cli("run", "--rm", "-v", "app:v1:/data:lazy", podman.image, "cat", "/data/d0/f01")
    assert again.code == 0, "what is here is not looked up again"


def test_what_is_nowhere_starts_nothing(lazily: PodmanEnv, cli: Command, far: Far) -> None:
    assert "app:v9" in refused(lazily, *volume("a", "app:v9:/data:lazy"))
    far.slow.die()
    assert far.slow.host in refused(lazily, *volume("a", "app:v2:/data:lazy"))
    done = cli("run", "-v", "app:v1:/data:lazy", lazily.image, "true", env={"STRATUM_REGISTRY": ""})
    assert done.code == 3
    assert "the settings name no registry" in done.stderr


def test_a_named_volume_is_pulled_lazily(cli: Command, tmp_path: Path, far: Far) -> None:
    config = load_config(cli.environment | {"STRATUM_REGISTRY": setting(far)})
    Session(config).create_store()
    volumes = PluginVolumes(config, print)
    volumes.create("models", {"ref": "app:v1", "lazy": "true", "prefetch": "none"})
    place = Path(volumes.mount("models", "container"))
    try:
        assert far.slow.ranges() == []
        assert hashlib.sha256((place / "d3/f09").read_bytes()).hexdigest() == far.sums["d3/f09"]
    finally:
        assert volumes.unmount("models", "container") is None
    with pytest.raises(UsageError, match="is none"):
        volumes.create("other", {"ref": "app+dev", "lazy": "true"})


@pytest.mark.parametrize("word", ["kill", "stop"])
def test_a_container_that_waits_ends_at_once(lazily: PodmanEnv, cli: Command, far: Far, word: str) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.1; done; echo begun; exec cat /data/d5/f30"
    start(lazily, "app:v1:/data:lazy;prefetch=none", script)
    far.slow.tell(fault="stall", where="/blobs/")
    inside(lazily, "touch /tmp/go")
    wait_for(lazily, "server", "begun")
    time.sleep(0.5)
    before = time.monotonic()
    lazily.podman(word, *(["--time", "1"] if word == "stop" else []), "server")
    lazily.wait_stopped("server")
    assert time.monotonic() - before < 20, "a read that is not answered takes longer"


def test_a_commit_with_a_pause_says_who_waits(
    lazily: PodmanEnv, cli: Command, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.1; done; echo begun; cat /data/d5/f30 > /tmp/read; exec sleep 1000"
    start(lazily, "app+main:/data:create=app:v1;lazy;prefetch=none", script)
    inside(lazily, "echo new > /data/new")
    far.slow.tell(fault="stall", where="/blobs/")
    inside(lazily, "touch /tmp/go")
    wait_for(lazily, "server", "begun")
    time.sleep(0.5)
    with monkeypatch.context() as here:
        here.setattr(pausing, "_WAITS", (0.1,))
        here.setattr(pausing, "_WAITS_FOR_READERS", (0.1,))
        for name, value in cli.environment.items():
            here.setenv(name, value)
        done = stratum("commit", "app+main", "live")
    assert (done.code, done.stdout) == (1, "")
    assert "cannot be paused, so nothing was committed: processes in it wait in the kernel" in done.stderr
    assert "(cat /data/d5/f30)" in done.stderr
    assert "--no-pause" in done.stderr
    assert lazily.state("server") == "running"
    cli.ok("commit", "app+main", "live", "--no-pause")
    stop(lazily)


def test_a_commit_with_a_pause_waits_for_a_reader_for_a_while(lazily: PodmanEnv, cli: Command, far: Far) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.1; done; echo begun; sha256sum /data/d5/f30; exec sleep 1000"
    start(lazily, "app+main:/data:create=app:v1;lazy;prefetch=none", script)
    inside(lazily, "echo new > /data/new")
    far.slow.tell(delay=4.0)
    inside(lazily, "touch /tmp/go")
    wait_for(lazily, "server", "begun")
    time.sleep(0.5)
    cli.ok("commit", "app+main", "live")
    assert far.sums["d5/f30"] in lazily.podman("logs", "server").stdout
    assert "/new" in {change["path"] for change in cli.json("diff", "app:v1", "app:live")}
    stop(lazily)


@pytest.mark.parametrize("word", ["exit", "stop"])
def test_a_monitor_ends_with_its_container(lazily: PodmanEnv, cli: Command, far: Far, word: str) -> None:
    """Also that of the one that the keeper was started for, whose child that is; others go on reading."""
    start(lazily, "app+first:/data:create=app:v1;lazy;prefetch=none", "until [ -e /data/end ]; do sleep 0.1; done")
    keeper = hydrating.keeper(cli.runtime_dir)
    monitor = Path(f"/proc/{parent(keeper)}")
    assert (monitor / "comm").read_text() == "conmon\n"
    lazily.run("-d", "--name", "other", *volume("a", "app:v1:/data:lazy"), lazily.image, "sleep", "1000")
    script = "cd /data; until [ -e /tmp/end ]; do sha256sum d*/f0[0-3]; done > /tmp/sums"
    reading = lazily.start("exec", "other", "sh", "-ec", script)
    if word == "exit":
        inside(lazily, "touch /data/end")
    else:
        lazily.podman("stop", "--time", "0", "server")
    until(lambda: not monitor.exists(), 30, "the monitor waits for somebody")
    until(lambda: hydrating.keeper(cli.runtime_dir) not in (None, keeper))
    time.sleep(1)
    lazily.podman("exec", "other", "touch", "/tmp/end")
    assert reading.wait(60) == 0
    said = lazily.podman("exec", "other", "sort", "-u", "/tmp/sums").stdout
    names = [f"d{group}/f0{number}" for group in range(8) for number in range(4)]
    assert sorted(said.splitlines(True)) == sorted(sums(far, name) for name in names)
    assert (Path(f"/proc/{parent(hydrating.keeper(cli.runtime_dir))}") / "comm").read_text() != "conmon\n"
    assert ("/end" in [change["path"] for change in cli.json("diff", "app:v1", "app+first")]) == (word == "exit")


def parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
