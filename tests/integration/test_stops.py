"""What containers leave when they stop is worked off, whatever is wrong beside it, and what fails is told."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.holders import Container, Holder, KubernetesVolume, Lease, NamedVolume, Promise, written
from tests.support.command import Command
from tests.support.containers import Container as Running

pytestmark = pytest.mark.root


@pytest.fixture
def container(cli: Command, tmp_path: Path) -> Iterator[Running]:
    """A container that has zzz+dev at /data and wrote there; beside it is the worktree aaa+dev."""
    (tmp_path / "source").mkdir()
    for name in ("aaa", "zzz"):
        cli.ok("import", "--bare", tmp_path / "source", name)
        cli.ok("worktree", "add", f"{name}+dev", f"{name}:latest")
    made = Running(tmp_path / "bundles")
    try:
        assert run_hook(cli, made, "createRuntime") == (0, "")
        Path(f"/proc/{made.process.pid}/root{made.rootfs}/data/new").write_text("written")
        yield made
    finally:
        made.stop()


HOOK = ("-m", "stratum.hook")
IMPATIENT_VERBS = """
import sys
from stratum.api import held
from stratum.hook.main import main
held.WORKTREE_WAIT = 0.5
sys.exit(main())
"""
"""The hook, where verbs wait for half a second and not for half a minute."""


def start_hook(
    cli: Command, container: Running, stage: str, *prefix: str, program: tuple[str, str] = HOOK
) -> subprocess.Popen[bytes]:
    """Start a stage of the hook, below the command ``prefix``."""
    gone = {"status": "stopped", "pid": 0} if stage == "poststop" else {}
    process = subprocess.Popen(
        [*prefix, sys.executable, "-I", *program, stage],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: value for key, value in cli.environment.items() if key.startswith("STRATUM_")},
    )
    assert process.stdin is not None
    process.stdin.write(container.state({"a": "zzz+dev:/data"}, **gone))
    process.stdin.close()
    process.stdin = None
    return process


def run_hook(cli: Command, container: Running, stage: str, *prefix: str) -> tuple[int, str]:
    """Run a stage of the hook; its exit status and stderr."""
    process = start_hook(cli, container, stage, *prefix)
    said = process.communicate()[1].decode()
    return process.returncode, said


def tree_of(cli: Command, ref: str) -> dict[str, object]:
    (tree,) = cli.json("status", ref)[0]["worktrees"]
    return dict(tree)


def names(cli: Command, ref: str, tmp_path: Path) -> list[str]:
    target = tmp_path / f"look-{time.monotonic_ns()}"
    target.mkdir()
    cli.ok("restore", cli.json("show", ref)["commit"]["metadata_hash"], "/", "--to", target)
    return sorted(os.listdir(target))


def test_a_damaged_lease_keeps_nobody_else_from_committing(cli: Command, container: Running, tmp_path: Path) -> None:
    lease = cli.store / "refs/aaa/worktrees/dev/lease.toml"
    lease.write_text("garbage")
    container.stop()
    code, said = run_hook(cli, container, "poststop")
    assert code == 0
    assert "aaa+dev" in said
    assert names(cli, "zzz+dev", tmp_path) == ["new"]
    assert "not valid TOML" in str(tree_of(cli, "aaa+dev")["failed"])
    done = cli("reconcile")
    assert done.code == 5
    assert "aaa+dev" in done.stderr
    assert "fsck --repair" in done.stderr
    checked = cli("fsck")
    assert checked.code == 5
    assert "refs/aaa/worktrees/dev/lease.toml" in checked.stdout + checked.stderr


def test_a_damaged_lease_of_another_worktree_is_beside_the_point_of_reconcile(
    cli: Command, container: Running, tmp_path: Path
) -> None:
    (cli.store / "refs/aaa/worktrees/dev/lease.toml").write_text("garbage")
    container.stop()
    assert cli("reconcile").code == 5
    assert names(cli, "zzz+dev", tmp_path) == ["new"]


def test_a_stop_waits_for_whoever_works_on_the_worktree(cli: Command, container: Running, tmp_path: Path) -> None:
    """For as long as the hook may, which is longer than verbs wait."""
    container.stop()
    with (cli.store / "refs/zzz/worktrees/dev.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hook = start_hook(cli, container, "poststop", program=("-c", IMPATIENT_VERBS))
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(3)
    assert hook.communicate() == (None, b"")
    assert hook.returncode == 0
    assert names(cli, "zzz+dev", tmp_path) == ["new"]


def test_a_stop_without_memory_is_told_of_and_made_up_for(cli: Command, container: Running, tmp_path: Path) -> None:
    place = Path(f"/proc/{container.process.pid}/root{container.rootfs}/data")
    for number in range(4_000):
        (place / f"{number:05d}{'x' * 200}").write_bytes(os.urandom(70))
    container.stop()
    for limit in range(34, 400, 2):
        code, said = run_hook(cli, container, "poststop", "prlimit", f"--as={limit << 20}")
        if code == 1 and "not enough memory" in said:
            break
        assert code != 0, f"it had enough with {limit} MiB, and less was not told as what it is: {said}"
    assert "not enough memory" in str(tree_of(cli, "zzz+dev")["failed"])
    cli.ok("reconcile")
    assert tree_of(cli, "zzz+dev")["failed"] is None
    assert len(names(cli, "zzz+dev", tmp_path)) == 4_001


@pytest.mark.parametrize(
    ("holder", "words", "tag"),
    [
        (
            KubernetesVolume("pvc-0a1b2c3d-4e5f"),
            "Kubernetes volume pvc-0a1b2c3d-4e5f was unpublished",
            "pvc-0a1b2c3d",
        ),
        (KubernetesVolume("db+main"), "Kubernetes volume db+main was unpublished", "db-main"),
        (NamedVolume("my.volume"), "volume my.volume was unmounted", "my.volume"),
        (NamedVolume("___"), "volume ___ was unmounted", "volume"),
        (Container("0123456789abcdef"), "container 0123456789ab stopped", "0123456789ab"),
    ],
)
def test_the_history_says_what_ended(
    cli: Command, container: Running, tmp_path: Path, holder: Holder, words: str, tag: str
) -> None:
    (tmp_path / "mnt").mkdir()
    cli.ok("mount", "aaa+dev", tmp_path / "mnt")
    (tmp_path / "mnt" / "new").write_text("written")
    cli.ok("unmount", tmp_path / "mnt")
    worktrees = Store.open(cli.store).worktrees
    worktrees.set_lease("aaa", "dev", Lease(holder, "2026-01-01T00:00:00Z", Promise(tag=f"at-{{{holder.field}}}")))
    assert tree_of(cli, "aaa+dev")["waiting"] == words.rpartition(" ")[0].removesuffix(" was")
    (done,) = cli.json("reconcile")
    assert done["tag"] == f"at-{tag}"
    assert done["holder"] == written(holder)
    assert done["container"] == (holder.id if isinstance(holder, Container) else "")
    assert words in [entry["why"] for entry in cli.json("log", "--reflog", "aaa+dev")]
