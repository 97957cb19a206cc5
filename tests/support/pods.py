"""Pods for tests, by a containerd of one's own and runc, without a network: what a kubelet has made by the same socket.

::

    with Containerd() as containerd:
        pod = containerd.run("uid-1", {"a": "while :; do sleep 1; done"}, {"/data": path}, annotations={...})

Each pod has a cgroup as the kubelet's has, and a container for each script, with the volumes at those paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from tests.support.capabilities import program

IMAGE = "localhost/pod:latest"
BUSYBOX = Path("/usr/bin/busybox")
NODE = 2
"""A namespace of the node's own."""

CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{directory}/cni"
bin_dir = "{directory}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"""

messages: Any = grpc.protos("tests/support/pods.proto")


class Containerd:
    """A containerd that ends, with its pods, with the block."""

    def __init__(self) -> None:
        # Short, because Unix socket paths below it are limited to 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="stratum-pods.", dir="/var/tmp"))
        self.socket = self.directory / "cri.sock"
        self._parent = f"/kubepods-{os.getpid()}"

    def __enter__(self) -> Containerd:
        program("containerd-shim-runc-v2")
        config = self.directory / "config.toml"
        config.write_text(CONFIG.format(directory=self.directory, socket=self.socket, image=IMAGE), "utf-8")
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program("containerd"), "--config", config], stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._channel = grpc.insecure_channel(f"unix:{self.socket}")
            grpc.channel_ready_future(self._channel).result(timeout=60)
            image = self.directory / "image.tar"
            image.write_bytes(_image())
            ctr = [program("ctr"), "--address", self.socket, "--namespace", "k8s.io"]
            subprocess.run([*ctr, "images", "import", image], check=True, capture_output=True, timeout=60)
        except BaseException:
            print((self.directory / "log").read_text()[-4000:])
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, request: Any, answer: Any = None) -> Any:
        call = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=(answer or messages.Empty).FromString,
        )
        return call(request, timeout=60)

    def run(
        self,
        uid: str,
        scripts: Mapping[str, str],
        volumes: Mapping[str, Path],
        annotations: Mapping[str, str] = {},
        *,
        cgroup: str = "/pod{uid}",
    ) -> dict[str, str]:
        """Start a pod with a container for each script (name -> text for a shell); name -> ID, "" -> the pod's."""
        labels = {"io.kubernetes.pod.uid": uid, "io.kubernetes.pod.name": uid, "io.kubernetes.pod.namespace": "tests"}
        pod = messages.Pod(
            metadata=messages.PodMetadata(name=uid, uid=uid, namespace="tests"),
            labels=labels,
            annotations=annotations,
            log_directory=str(self.directory),
            linux=messages.PodLinux(
                cgroup_parent=self._parent + cgroup.format(uid=uid),
                security=messages.PodSecurity(namespaces=messages.Namespaces(network=NODE, pid=1, ipc=NODE)),
            ),
        )
        made = {"": self._call("RunPodSandbox", messages.RunPod(config=pod), messages.Id).id}
        for name, script in scripts.items():
            container = messages.Container(
                metadata=messages.ContainerMetadata(name=name),
                image=messages.Image(image=IMAGE),
                command=["/bin/sh", "-c", script],
                mounts=[messages.Mount(container_path=at, host_path=str(path)) for at, path in volumes.items()],
                labels=labels | {"io.kubernetes.container.name": name},
            )
            request = messages.CreateContainer(pod=made[""], config=container, pod_config=pod)
            made[name] = self._call("CreateContainer", request, messages.Id).id
            self._call("StartContainer", messages.Id(id=made[name]))
        return made

    def stop(self, pod: Mapping[str, str]) -> None:
        """End a pod, and remove it."""
        self._call("StopPodSandbox", messages.Id(id=pod[""]))
        self._call("RemovePodSandbox", messages.Id(id=pod[""]))

    def stop_all(self) -> None:
        """End all pods, and remove them."""
        for item in self._call("ListPodSandbox", messages.Empty(), messages.Pods).items:
            self.stop({"": item.id})

    def close(self) -> None:
        """End all pods and the runtime, and remove what they had."""
        with contextlib.suppress(grpc.RpcError):
            self.stop_all()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30)
        self._channel.close()
        for line in reversed(Path("/proc/self/mountinfo").read_text("utf-8").splitlines()):
            if (path := line.split(" ")[4]).startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", path], check=False)
        for hierarchy in (*Path("/sys/fs/cgroup").glob(f"*{self._parent}"), Path(f"/sys/fs/cgroup{self._parent}")):
            for directory, _, _ in os.walk(hierarchy, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        shutil.rmtree(self.directory)


def _image() -> bytes:
    """An OCI layout as tar: busybox, which sleeps where nothing else is asked of it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "tmp", "data"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(directory)
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "sleep", "cat", "echo", "touch", "rm", "mv", "head", "true"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    blobs: dict[str, bytes] = {}

    def keep(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    descriptor = keep(layer.getvalue(), "layer.v1.tar")
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {
        "os": "linux",
        "architecture": architecture,
        "config": {"Entrypoint": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [descriptor["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": keep(json.dumps(config).encode(), "config.v1+json"),
        "layers": [descriptor],
    }
    top = keep(json.dumps(manifest).encode(), "manifest.v1+json") | {"annotations": {"io.containerd.image.name": IMAGE}}
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in blobs.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()
