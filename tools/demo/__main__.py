"""The main job on real input: ``python -m tools.demo`` as root, after set-up (``make demo`` does both).

A tree that is on every Debian machine becomes a commit; a container works on a worktree of it; the stop of the
container commits what it did; the result travels through a registry into a second, empty store; the trees are compared;
a third store reads it lazily.
Everything lives in one new directory, which is gone at the end; so is everything that was started or mounted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from stratum.errors import UnsupportedError
from stratum.mount.plan import check_lazy
from tests.e2e.podman_env import PodmanEnv
from tests.e2e.registry_server import registry_server
from tools.demo import plan as plans
from tools.demo.stage import ADDRESS_SPACE, DemoError, Stage
from tools.demo.walk import count, differences, walk

ENOUGH_ENTRIES = 10_000
COMMIT_SECONDS = 120
CONTAINER = "demo-app"
IN_DATA = ("exec", "--workdir", "/data", CONTAINER)
WAIT_FOR_STOP = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"


def main() -> int:
    """Run the demo; 0 when every step did what it should."""
    parser = argparse.ArgumentParser(prog="make demo", description="Run Stratum's main job on a real tree.")
    parser.add_argument("--tree", type=Path, help="directory to import (default: this system's share or lib tree)")
    tree = parser.parse_args().tree or _system_tree()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    try:
        if os.geteuid() != 0:
            raise DemoError("mounting needs root")
        with ExitStack() as resources:
            tell(resources, tree)
    except (DemoError, AssertionError) as exc:  # the second is what the helpers of the tests raise
        print(f"\ndemo failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo interrupted", file=sys.stderr)
        return 130
    print(f"\nDone in {time.monotonic() - started:.0f} s: every step did what it should; nothing is left behind.")
    return 0


def tell(resources: ExitStack, tree: Path) -> None:
    """The story, step by step; ``resources`` takes down what the steps set up."""
    stage = resources.enter_context(Stage())
    print(f"$DEMO is {stage.directory}; the stores, mounts, containers and the registry of this demo are private.")
    import_tree(stage, tree)
    changes = plans.choose(tree)
    podman = start_container(stage, resources)
    work_in_container(stage, podman, tree, changes)
    stop_container(stage, podman)
    show_changes(stage, changes)
    address = resources.enter_context(registry_server(stage.directory / "registry")).host
    send_through_registry(stage, address)
    compare(stage)
    read_lazily(stage, address, tree, changes)


def import_tree(stage: Stage, tree: Path) -> None:
    """A directory becomes a commit, and a worktree is made on it."""
    stage.step(f"Import {tree}, {count(tree):,} entries")
    stage.stratum("import", "--bare", tree, "demo", "-m", f"{tree} as it is")
    stage.step("Make a worktree: a named writable layer over that commit")
    stage.stratum("worktree", "add", "demo+work", "demo:latest")


def start_container(stage: Stage, resources: ExitStack) -> PodmanEnv:
    """A container whose /data is the worktree, mounted by the OCI hook."""
    stage.step("Start a container on the worktree")
    hooks = stage.directory / "hooks"
    hooks.mkdir()
    # A clone may belong to somebody else than root; this hook goes away with the demo.
    stage.stratum("hook", "install", "--force", hooks)
    podman = resources.enter_context(PodmanEnv(runtime=_runtime(), hooks_dir=hooks, address_space=ADDRESS_SPACE))
    arguments = ["--detach", "--name", CONTAINER, "--annotation", "stratum.dev/volume.data=demo+work:/data"]
    arguments += [podman.image, "sh", "-c", WAIT_FOR_STOP]
    stage.show("podman", "--hooks-dir", hooks, "run", *arguments)
    podman.run(*arguments)
    stage.stratum("status", "demo+work")
    return podman


def work_in_container(stage: Stage, podman: PodmanEnv, tree: Path, changes: plans.Plan) -> None:
    """The container reads imported files, then changes, deletes, renames and adds some."""
    stage.step("The container reads imported files")
    stage.show("podman", *IN_DATA, "sha256sum", *changes.read)
    sums = podman.podman(*IN_DATA, "sha256sum", *changes.read).stdout
    stage.print_output(sums)
    expected = [f"{hashlib.sha256((tree / path).read_bytes()).hexdigest()}  {path}" for path in changes.read]
    stage.check(sums.splitlines() == expected, f"those are the checksums of the files in {tree}")
    seen = podman.podman(*IN_DATA, "sh", "-c", "find . | wc -l").stdout.strip()
    stage.say(f"find in the container sees {int(seen) - 1:,} entries")
    stage.step("The container changes, deletes, renames and adds")
    stage.show("podman", *IN_DATA, "sh", "-c", "...")
    stage.print_output(changes.script)
    podman.podman(*IN_DATA, "sh", "-c", changes.script)
    stage.check(not os.path.lexists(tree / plans.NEW_DIRECTORY), f"{tree} itself is untouched")


def stop_container(stage: Stage, podman: PodmanEnv) -> None:
    """The stop commits the worktree, with nobody asking for it."""
    stage.step("Stop the container: the stop commits the worktree")
    stage.show("podman", "stop", CONTAINER)
    podman.podman("stop", CONTAINER)
    head = wait_for(lambda: _head(stage), "the stop made a commit", COMMIT_SECONDS)
    podman.podman("rm", "--force", CONTAINER)
    stage.check(head != "", f"the worktree's last commit is {head[:12]}")
    stage.stratum("tag", "demo+work", "stopped")
    stage.stratum("log", "demo:stopped")


def show_changes(stage: Stage, changes: plans.Plan) -> None:
    """The diff of the two commits is exactly what the container did."""
    stage.step("Compare the two commits")
    stage.stratum("diff", "demo:latest", "demo:stopped")
    found = json.loads(stage.stratum("--format", "json", "diff", "demo:latest", "demo:stopped", quiet=True))
    kinds = {change["path"]: change["kind"] for change in found}
    wrong = {path for path in kinds.keys() | changes.expected.keys() if kinds.get(path) != changes.expected.get(path)}
    stage.check(not wrong, f"the {len(kinds)} changes are those that the container made{_listed(wrong)}")


def send_through_registry(stage: Stage, address: str) -> None:
    """Push from the first store, pull into the second, empty one."""
    stage.step(f"Push to a registry, Debian's docker-registry on {address}")
    stage.stratum("push", "demo:stopped", f"{address}/demo:stopped")
    stage.step("Pull into a second, empty store, and verify every object there")
    stage.check(not stage.second.exists(), "there is no second store yet")
    stage.stratum("pull", f"{address}/demo:stopped", "demo", store=stage.second)
    stage.stratum("verify", "demo:stopped", store=stage.second)


def compare(stage: Stage) -> None:
    """Mount the commit from both stores and read both trees with code that is not Stratum's."""
    stage.step("Mount the commit from both stores and compare the two trees")
    mounts = {stage.first: stage.directory / "first", stage.second: stage.directory / "second"}
    trees = []
    for store, mountpoint in mounts.items():
        mountpoint.mkdir()
        stage.stratum("mount", "demo:stopped", mountpoint, store=store)
        trees.append(walk(mountpoint))
    differing = differences(*trees)
    same = (
        f"all {len(trees[0]) - 1:,} entries are the same in both: types, modes, owners, times, xattrs, links, content"
    )
    stage.check(not differing, same + _listed({os.fsdecode(name) for name in differing}))
    for store, mountpoint in mounts.items():
        stage.stratum("unmount", mountpoint, store=store)


def read_lazily(stage: Stage, address: str, tree: Path, changes: plans.Plan) -> None:
    """A third store pulls names alone, mounts the commit at once, and fetches what is read."""
    stage.step("Pull lazily into a third store: names now, each file when it is first read")
    try:
        check_lazy(os.uname().release)
    except UnsupportedError as exc:
        stage.say(f"not here: {exc.message}")
        return
    mountpoint = stage.directory / "third"
    mountpoint.mkdir()
    stage.stratum("pull", "--lazy", f"{address}/demo:stopped", "demo", store=stage.third)
    stage.stratum("mount", "demo:stopped", mountpoint, store=stage.third)
    stage.say(f"find sees {count(mountpoint):,} entries")
    stage.check(not _objects(stage.third), "no content is here yet")
    same = all((mountpoint / path).read_bytes() == (tree / path).read_bytes() for path in changes.read)
    stage.check(same, f"{len(changes.read)} files were read, and are those of {tree}")
    told = json.loads(stage.stratum("--format", "json", "cache", "status", "--who", store=stage.third, quiet=True))
    came = told["mounts"][0]["fetcher"]["objects"]
    stage.say(f"{came:,} objects came for that: those beside what was read, in the packs and soon after, come with it")
    stage.stratum("unmount", mountpoint, store=stage.third)


def _objects(store: Path) -> int:
    """How many objects a store has."""
    return sum(len(names) for _, _, names in os.walk(store / "objects"))


def wait_for(condition: Callable[[], str], what: str, seconds: float) -> str:
    """The first non-empty value of ``condition``; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise DemoError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
    return value


def _head(stage: Stage) -> str:
    """The last commit made from the worktree, or an empty string."""
    [worktree] = json.loads(stage.stratum("--format", "json", "worktree", "list", "demo", quiet=True))
    return worktree["head"] or ""


def _listed(paths: set[str]) -> str:
    """For a failed check: some of the paths that are wrong."""
    return f" (wrong: {', '.join(sorted(paths)[:5])})" if paths else ""


def _system_tree() -> Path:
    """The system's share tree; its lib tree where share is small (documentation left out of a container image)."""
    share, lib = Path("/usr/share"), Path("/usr/lib")
    return share if count(share) >= ENOUGH_ENTRIES or count(share) >= count(lib) else lib


def _runtime() -> str:
    """Podman's default on Debian, crun; runc where cgroups are a v1/v2 hybrid, which crun refuses."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return "crun" if unified and shutil.which("crun") else "runc"


if __name__ == "__main__":
    sys.exit(main())
