"""Kubernetes volumes with a history: begun when they are staged, kept while pods write, gone with the volume."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from stratum.csi import csi_pb2 as csi
from stratum.history.wire import flush
from stratum.store import Store
from stratum.store.histories import Histories
from tests.support import watching
from tests.support.capabilities import CHECKOUT
from tests.support.command import SCRIPT
from tests.support.csi import Node, refused

pytestmark = pytest.mark.root

Code = grpc.StatusCode
HISTORY = {"history": "true"}
INLINE = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "team-a"}


@pytest.fixture
def node(tmp_path: Path, runtime_dir: Path) -> Iterator[Node]:
    with Node(tmp_path / "n1", "--allow-inline") as node:
        yield node
        assert not node.mounts()
    watching.stop(node.cli.runtime_dir)


def histories(node: Node) -> Histories:
    return Store.open(node.cli.store).histories


def written(node: Node, volume_id: str) -> list[tuple[str, bytes | None]]:
    """(operation, path) of all that is recorded by now, oldest first."""
    name, _, worktree = volume_id.partition("+")
    return [(record.op, record.path) for record in histories(node).records(name, worktree) if record.path is not None]


def condition(node: Node, volume_id: str, place: Path) -> tuple[bool, str]:
    request = csi.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(place))
    found = node.node.NodeGetVolumeStats(request, timeout=60).volume_condition
    return found.abnormal, found.message


def test_a_class_with_a_history(node: Node) -> None:
    volume = node.create("pvc-1", HISTORY)
    volume_id, context = volume.volume_id, dict(volume.volume_context)
    assert context["history"] == "true"
    node.stage(volume_id, context)
    place = node.publish(volume_id, "pod-1", context)
    (place / "save").write_text("first")
    assert flush(node.cli.runtime_dir, node.cli.store, *volume_id.split("+"))
    node.restart()
    (place / "save").write_text("second")
    (place / "save").unlink()
    node.unpublish(volume_id, "pod-1")
    assert ("delete", b"/save") in written(node, volume_id), (
        "all that the pod did is in it, at the latest when it ended"
    )
    assert (
        len([op for op, path in written(node, volume_id) if path == b"/save" and op in ("create", "write", "version")])
        >= 2
    )
    node.cli.ok("history", volume_id, "/save")
    node.stage(volume_id, context)
    node.publish(volume_id, "pod-2", context)
    node.unpublish(volume_id, "pod-2")
    node.unstage(volume_id)
    assert not [line for line in node.cli.json("history", volume_id) if line["op"] == "gap"], (
        "a killed driver is no gap"
    )
    node.delete(volume_id)
    assert histories(node).watched() == []
    assert histories(node).each() == [], "it goes with the claim"


def test_settings_of_a_history_that_is_on_stay(node: Node, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    node.cli.ok("import", "--bare", tmp_path / "source", "app")
    node.cli.ok("worktree", "add", "app+work", "app:latest")
    node.cli.ok("history", "on", "app+work", "--exclude", "*.tmp")
    node.stage("app+work", HISTORY)
    place = node.publish("app+work", "pod-1", HISTORY)
    (place / "a.tmp").write_text("x")
    (place / "b").write_text("x")
    node.unpublish("app+work", "pod-1")
    assert [path for op, path in written(node, "app+work") if op == "create"] == [b"/b"]
    node.stage("app+work", {})
    assert node.publish("app+work", "pod-1", {}).joinpath("b").write_text("y")
    node.unpublish("app+work", "pod-1")
    assert written(node, "app+work")[-1] == ("write", b"/b"), "without the attribute it goes on"
    node.unstage("app+work")


def test_only_worktrees_have_one(node: Node, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    node.cli.ok("import", "--bare", tmp_path / "source", "app")
    with refused(Code.INVALID_ARGUMENT, "history needs a worktree"):
        node.stage("app:latest", HISTORY)
    with refused(Code.INVALID_ARGUMENT, "cannot be readOnly and have a history"):
        node.stage("app", {**HISTORY, "readOnly": "true"})
    with refused(Code.INVALID_ARGUMENT, "none of true, false"):
        node.create("pvc-1", {"history": "on"})
    assert not node.mounts()


def test_an_inline_volume_with_a_history(node: Node, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    node.cli.ok("import", "--bare", tmp_path / "source", "app")
    context = {**INLINE, **HISTORY, "source": "app:latest"}
    with refused(Code.INVALID_ARGUMENT, "a read-only volume has no history"):
        node.publish("csi-1", "pod-1", context, readonly=True, staging_target_path="")
    place = node.publish("csi-1", "pod-1", context, staging_target_path="")
    (place / "x").write_text("1")
    ((name, worktree),) = histories(node).watched()
    node.cli.ok("history", f"{name}+{worktree}")
    assert ("create", b"/x") in written(node, f"{name}+{worktree}"), "who lists waits for what was closed"
    node.unpublish("csi-1", "pod-1")
    assert histories(node).each() == [], "it goes with the pod"


def test_what_the_manifest_gives_is_enough_to_watch(tmp_path: Path, runtime_dir: Path) -> None:
    """The container ``watch`` of ``k8s/base/hydrate.yaml``: with its capabilities, another user's files are kept; the
    driver starts none of its own, and pods start without it."""
    daemonset = yaml.safe_load((CHECKOUT / "k8s/base/hydrate.yaml").read_text("utf-8"))
    (watch,) = (each for each in daemonset["spec"]["template"]["spec"]["containers"] if each["name"] == "watch")
    given = ",".join(["-all", *(f"+{name.lower()}" for name in watch["securityContext"]["capabilities"]["add"])])
    with Node(tmp_path / "n1", "--external-keeper") as node:
        volume = node.create("pvc-1", HISTORY)
        volume_id, context = volume.volume_id, dict(volume.volume_context)
        node.stage(volume_id, context)
        place = node.publish(volume_id, "pod-1", context)
        assert watching.processes(node.cli.runtime_dir) == []
        assert condition(node, volume_id, place) == (True, "its history is not kept now: nobody watches it")
        (place / "before").write_text("x")
        line = ["setpriv", "--bounding-set", given, "--inh-caps", given, SCRIPT, "watch"]
        watcher = subprocess.Popen(line, env=node.cli.environment, stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 60
            while flush(node.cli.runtime_dir, node.cli.store, *volume_id.split("+")) is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert condition(node, volume_id, place)[0] is False
            os.chown(place, 1234, 1234)
            place.chmod(0o700)
            write = "umask 077; echo 1 > private; mkdir sub; echo 2 > sub/private; sleep 0.1; echo 3 > sub/private"
            subprocess.run(["setpriv", "--reuid=1234", "--clear-groups", "sh", "-c", write], cwd=place, check=True)
            node.unpublish(volume_id, "pod-1")
            node.unstage(volume_id)
            name, _, worktree = volume_id.partition("+")
            found = [
                each for each in histories(node).records(name, worktree) if (each.path or b"").endswith(b"/private")
            ]
            assert {record.path for record in found} == {b"/private", b"/sub/private"}
            assert {record.why for record in found} == {None}, "their contents are kept"
            assert ("create", b"/before") in written(node, volume_id)
        finally:
            watcher.terminate()
            _, said = watcher.communicate(timeout=60)
            watching.stop(node.cli.runtime_dir)
        assert b"Traceback" not in said
