"""What a real kubelet, csi-provisioner and csi-snapshotter called, called again of a real driver, in the order in which
it came, and at once what came at once. ``tests/data/calls`` has it; ``tests.support.calls`` says how to record."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.json_format import MessageToDict, ParseDict

from stratum.csi import csi_pb2 as csi
from stratum.csi import csi_pb2_grpc
from tests.support.calls import KILLED, REBOOTED, Call, read, readable, recorded
from tests.support.capabilities import CHECKOUT
from tests.support.csi import Node

pytestmark = pytest.mark.root

RECORDED = sorted((CHECKOUT / "tests/data/calls").glob("*.yaml"))
SUITE = CHECKOUT / "k8s/e2e"
KUBELET = "/var/lib/kubelet/"
PATIENCE = 60.0
KILLS = ("UNAVAILABLE", "CANCELLED", "UNKNOWN")
"""The answers of a driver that is killed."""

PASSING = ("OK", "ABORTED", "DEADLINE_EXCEEDED", *KILLS)
"""Answers that depend on when what happened, after which callers call again."""

NOT_SAME = {"creation_time", "size_bytes", "capacity_bytes"}
"""What of an answer is of its own time and place."""


class Replay:
    """The kubelet's part: directories that it makes and removes, and pods that read and write what they were given."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names: dict[str, str] = {}
        self.contents: dict[str, set[str]] = {}
        self._learning = threading.Lock()

    def here(self, value: Any) -> Any:
        """What was recorded, with this node's directories and the IDs that this driver gave."""
        if isinstance(value, dict):
            return {self.here(key): self.here(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.here(item) for item in value]
        if isinstance(value, str):
            return self.names.get(value, value).replace(KUBELET, f"{self.node.kubelet}/")
        return value

    def call(self, call: Call) -> None:
        """Make the call as its caller did, and look at what it did."""
        request = ParseDict(self.here(call.request), getattr(csi, f"{call.method}Request")())
        before = self._before(call, request)
        response = self._answered(call, request)
        if response is not None:
            assert call.answer in PASSING, f"{call.number} {call.method} was {call.answer}"
            if call.answer == "OK":
                self._learn(call, response)
            self._after(call, request, before)

    def _answered(self, call: Call, request: Any) -> Any:
        """The response, of as many calls as it takes; None for a failure as the recorded one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer, response = self._once(call, request)
            if answer == "OK":
                return response
            if answer == call.answer or (answer in KILLS and call.answer in KILLS):
                return None
            assert answer in PASSING, f"{call.number} {call.method}: {answer}, {response}"
            assert time.monotonic() < deadline, f"{call.number} {call.method}: {answer} for too long"
            time.sleep(0.05)

    def _once(self, call: Call, request: Any) -> tuple[str, Any]:
        stub = getattr(self.node, call.service.lower())
        try:
            return "OK", getattr(stub, call.method)(request, timeout=PATIENCE)
        except grpc.RpcError as exc:
            return exc.code().name, exc.details()
        except ValueError as exc:  # its channel was closed when the driver was killed
            return "CANCELLED", exc

    def _learn(self, call: Call, response: Any) -> None:
        """Note the IDs that this driver gives, and compare the rest of the answer with what was recorded."""
        told = MessageToDict(response, preserving_proto_field_name=True)
        for kind, key in (("volume", "volume_id"), ("snapshot", "snapshot_id")):
            if kind in told and kind in call.response:
                with self._learning:
                    self.names[call.response[kind][key]] = told[kind][key]
                assert _lasting(told[kind]) == _lasting(self.here(call.response[kind])), f"{call.number} {call.method}"

    def _before(self, call: Call, request: Any) -> set[str]:
        if call.method == "NodeStageVolume":
            Path(request.staging_target_path).mkdir(parents=True, exist_ok=True)
        elif call.method == "NodePublishVolume":
            Path(request.target_path).parent.mkdir(parents=True, exist_ok=True)
        elif call.method == "CreateSnapshot":
            return set(self.contents.get(request.source_volume_id, ()))
        elif call.method == "CreateVolume":
            source = request.volume_content_source
            return set(self.contents.get(source.snapshot.snapshot_id or source.volume.volume_id, ()))
        return set()

    def _after(self, call: Call, request: Any, before: set[str]) -> None:
        if call.method == "NodePublishVolume":
            self._pod_runs(request)
        elif call.method == "NodeUnpublishVolume":
            assert not Path(request.target_path).exists(), f"{call.number}: the target is there"
            shutil.rmtree(Path(request.target_path).parent, ignore_errors=True)
        elif call.method == "NodeUnstageVolume":
            assert request.staging_target_path not in self.node.mounts(), f"{call.number}: it is staged"
        elif call.answer == "OK" and call.method in ("CreateSnapshot", "CreateVolume"):
            kind, key = ("snapshot", "snapshot_id") if call.method == "CreateSnapshot" else ("volume", "volume_id")
            self.contents.setdefault(self.here(call.response[kind][key]), before)

    def _pod_runs(self, request: Any) -> None:
        """A pod sees what all before it wrote, and writes."""
        target = Path(request.target_path)
        assert str(target) in self.node.mounts()
        expected = self.contents.setdefault(request.volume_id, set())
        there = {path.name for path in target.iterdir()}
        assert expected <= there, f"{request.volume_id} has {there} and lacks {expected - there}"
        mark = f"of-{target.parts[-4]}"
        if request.readonly or request.volume_context.get("readOnly") == "true":
            with pytest.raises(OSError, match="Read-only"):
                (target / mark).write_text("")
            return
        (target / mark).write_text(mark)
        if request.volume_context.get("csi.storage.k8s.io/ephemeral") != "true":
            expected.add(mark)


def _lasting(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in NOT_SAME}


def _ended(running: dict[int, Future[None]], keep: tuple[int, ...] = ()) -> None:
    for number in running.keys() - set(keep):
        running.pop(number).result()


@pytest.fixture
def node(tmp_path: Path, runtime_dir: Path) -> Iterator[Node]:
    """A node called as the recorded one, with a commit that inline volumes name."""
    with Node(tmp_path / "n1", "--allow-inline", "--inline-source=e2e:model", name="node1") as node:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("1 2 3")
        node.cli.ok("import", "--bare", tmp_path / "model", "e2e:model")
        yield node


@pytest.mark.parametrize("recording", RECORDED, ids=lambda path: path.stem)
def test_what_kubernetes_called(node: Node, recording: Path) -> None:
    replay, running = Replay(node), dict[int, Future[None]]()
    with ThreadPoolExecutor(64) as pool:
        for step in read(recording):
            if isinstance(step, Call):
                _ended(running, keep=step.during)
                running[step.number] = pool.submit(replay.call, step)
            elif step == KILLED:
                node.restart()
            elif step == REBOOTED:
                _ended(running)
                node.reboot()
        _ended(running)
    assert not node.mounts()
    assert not node.cli.json("worktree", "list")


def test_what_the_recorder_writes_is_what_is_read(node: Node, tmp_path: Path) -> None:
    recorder, listen, out = SUITE / "recording" / "record.py", tmp_path / "rec.sock", tmp_path / "calls.jsonl"
    with subprocess.Popen([sys.executable, recorder, listen, node.directory / "csi.sock", out]) as running:
        try:
            with grpc.insecure_channel(f"unix:{listen}") as channel:
                identity, controller = csi_pb2_grpc.IdentityStub(channel), csi_pb2_grpc.ControllerStub(channel)
                identity.Probe(csi.ProbeRequest(), wait_for_ready=True, timeout=30)
                subprocess.run([sys.executable, recorder, listen, KILLED], check=True, timeout=30)
                with pytest.raises(grpc.RpcError, match="no name"):
                    controller.CreateVolume(csi.CreateVolumeRequest(secrets={"password": "s3cret"}))
                identity.Probe(csi.ProbeRequest())
        finally:
            running.kill()
    assert "s3cret" not in out.read_text()
    (tmp_path / "calls.yaml").write_text(yaml.safe_dump(readable(recorded(out))))
    first, event, refused, last = read(tmp_path / "calls.yaml")
    assert event == KILLED
    assert isinstance(first, Call)
    assert isinstance(refused, Call)
    assert isinstance(last, Call)
    assert (first.method, first.answer, first.response) == ("Probe", "OK", {"ready": True})
    assert (refused.service, refused.method, refused.answer) == ("Controller", "CreateVolume", "INVALID_ARGUMENT")
    assert (last.number, last.method) == (3, "Probe")
