"""A node of a cluster for tests of the CSI driver: the real ``stratum-csi`` as a process, and calls to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.csi import csi_pb2_grpc
from tests.support.command import Command
from tests.support.small import limited

PROGRAM = Path(sys.executable).with_name("stratum-csi")
Modes = csi.VolumeCapability.AccessMode
TIMEOUT = 60.0
ANY_DISK = ("--gc-high", "100", "--gc-low", "100", "--pull-limit", "100")
"""A driver minds no disk that others fill; a test's own options come after these."""
_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
)
"""A channel of its own for every driver, that looks often for one that is just starting."""


def capability(mode: Modes.Mode = Modes.SINGLE_NODE_WRITER, *flags: str) -> csi.VolumeCapability:
    """A mounted volume's capability."""
    mount = csi.VolumeCapability.MountVolume(mount_flags=flags)
    return csi.VolumeCapability(mount=mount, access_mode=Modes(mode=mode))


@contextlib.contextmanager
def refused(code: grpc.StatusCode, words: str = "") -> Iterator[None]:
    """The calls of the block are answered with ``code`` and a message that has ``words`` in it."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() == code, f"{caught.value.code()}: {caught.value.details()}"
    assert words in caught.value.details()


class Node:
    """One node: a store, a kubelet's directory and a driver on them. ``with Node(directory) as node``."""

    def __init__(self, directory: Path, *options: str, name: str = "node-1") -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.name = name
        self.kubelet = directory / "kubelet"
        self.kubelet.mkdir(exist_ok=True)
        self.cli = Command(directory / "store", directory / "run")
        self.options = options
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._close()

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def start(self) -> None:
        """Start the driver, and wait until it answers."""
        endpoint = f"unix://{self.directory}/csi.sock"
        arguments = ["--endpoint", endpoint, "--node-id", self.name, "--controller", "--kubelet-dir", self.kubelet]
        arguments += ANY_DISK
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                limited([PROGRAM, *arguments, *self.options]), stderr=log, stdout=log, env=self.cli.environment
            )
        self._close()
        self._channel = grpc.insecure_channel(endpoint, _CHANNEL)
        self.identity = csi_pb2_grpc.IdentityStub(self._channel)
        self.controller = csi_pb2_grpc.ControllerStub(self._channel)
        self.node = csi_pb2_grpc.NodeStub(self._channel)
        self.groups = csi_pb2_grpc.GroupControllerStub(self._channel)
        try:
            self.identity.Probe(csi.ProbeRequest(), wait_for_ready=True, timeout=30)
        except grpc.RpcError:
            self.kill()
            raise AssertionError(f"the driver does not answer:\n{self.log.read_text()}") from None

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the driver with a signal; its exit status."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        return self._process.wait(timeout=20)

    def threads(self) -> int:
        """How many threads the driver has."""
        return len(os.listdir(self.process / "task"))

    @property
    def process(self) -> Path:
        """The driver's directory in /proc."""
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}")

    def descriptors(self) -> int:
        """How many files the driver has open."""
        return len(os.listdir(self.process / "fd"))

    def restart(self) -> None:
        """Kill the driver without warning, and start another."""
        self.kill()
        self.start()

    def staging(self, volume_id: str) -> str:
        """Where the kubelet stages a volume; the directory is made, as the kubelet makes it."""
        path = self.kubelet / "plugins" / hashlib.sha256(volume_id.encode()).hexdigest() / "globalmount"
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def target(self, pod: str) -> str:
        """Where the kubelet wants a pod's volume; only the directory above is there."""
        path = self.kubelet / "pods" / pod / "volumes" / "kubernetes.io~csi" / "data" / "mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def create(self, name: str, parameters: Mapping[str, str] = {}, **fields: Any) -> csi.Volume:
        """CreateVolume; the volume."""
        request = csi.CreateVolumeRequest(
            name=name, parameters=parameters, volume_capabilities=[capability()], **fields
        )
        return self.controller.CreateVolume(request, timeout=TIMEOUT).volume

    def snapshot(self, name: str, volume_id: str, **fields: Any) -> csi.Snapshot:
        """CreateSnapshot; the snapshot."""
        request = csi.CreateSnapshotRequest(name=name, source_volume_id=volume_id, **fields)
        return self.controller.CreateSnapshot(request, timeout=TIMEOUT).snapshot

    def group(self, name: str, *volume_ids: str, **fields: Any) -> csi.VolumeGroupSnapshot:
        """CreateVolumeGroupSnapshot; the group."""
        request = csi.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=volume_ids, **fields)
        return self.groups.CreateVolumeGroupSnapshot(request, timeout=TIMEOUT).group_snapshot

    def stage(self, volume_id: str, context: Mapping[str, str] = {}, **fields: Any) -> None:
        """NodeStageVolume."""
        fields = {"volume_capability": capability(), "staging_target_path": self.staging(volume_id), **fields}
        request = csi.NodeStageVolumeRequest(volume_id=volume_id, volume_context=context, **fields)
        self.node.NodeStageVolume(request, timeout=TIMEOUT)

    def publish(self, volume_id: str, pod: str, context: Mapping[str, str] = {}, **fields: Any) -> Path:
        """NodePublishVolume for a pod; the target."""
        fields = {
            "volume_capability": capability(),
            "staging_target_path": self.staging(volume_id),
            "target_path": self.target(pod),
            **fields,
        }
        request = csi.NodePublishVolumeRequest(volume_id=volume_id, volume_context=context, **fields)
        self.node.NodePublishVolume(request, timeout=TIMEOUT)
        return Path(fields["target_path"])

    def unpublish(self, volume_id: str, pod: str) -> None:
        """NodeUnpublishVolume of a pod's volume."""
        request = csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=self.target(pod))
        self.node.NodeUnpublishVolume(request, timeout=TIMEOUT)

    def unstage(self, volume_id: str) -> None:
        """NodeUnstageVolume."""
        request = csi.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=self.staging(volume_id))
        self.node.NodeUnstageVolume(request, timeout=TIMEOUT)

    def delete(self, volume_id: str) -> None:
        """DeleteVolume."""
        self.controller.DeleteVolume(csi.DeleteVolumeRequest(volume_id=volume_id), timeout=TIMEOUT)

    def mounts(self) -> list[str]:
        """Where something is mounted below the kubelet's directory."""
        lines = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
        return sorted(path for path in (line.split(" ")[4] for line in lines) if path.startswith(f"{self.kubelet}/"))

    def reboot(self) -> None:
        """What a power cut leaves: no driver, no mount, an empty /run."""
        self.kill()
        for path in reversed(self.mounts()):
            subprocess.run(["umount", path], check=True)
        subprocess.run(["rm", "-rf", "--one-file-system", self.directory / "run"], check=True)
        self.start()
