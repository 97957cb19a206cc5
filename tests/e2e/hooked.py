"""Containers with the hook of a test's store: how they are started, and what the store says of them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

FILES = {"one": "first\n", "sub/two": "second\n", "sub/deep/three": "third\n"}


def volume(volume_id: str, value: str) -> tuple[str, str]:
    """The command line for one volume."""
    return "--annotation", f"stratum.dev/volume.{volume_id}={value}"


def pod(podman: PodmanEnv, directory: Path, annotation: str, script: str) -> Path:
    """The file of a pod ``server`` for ``podman play kube``, with this line as its annotation."""
    unit = directory / "pod.yaml"
    unit.write_text(f"""\
apiVersion: v1
kind: Pod
metadata:
  name: server
  annotations:
    {annotation}
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: main
    image: {podman.image}
    command: [/bin/sh, -c, "{script}"]
""")
    return unit


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
    """Why the head of a worktree moved, oldest first, its making and what people call a container left out."""
    lines = (cli.store / "refs" / name / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    moved = [e for e in entries if e["kind"] == "worktree" and e["which"] == worktree and e["old"] is not None]
    return [re.sub(r" \(.*\) stopped$", " stopped", e["why"]) for e in moved]


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


def last_container(cli: Command) -> str:
    """The short ID of the container that the reflog names last."""
    line = (cli.store / "refs/app/log.jsonl").read_text().splitlines()[-1]
    return str(json.loads(line)["why"].split()[1])
