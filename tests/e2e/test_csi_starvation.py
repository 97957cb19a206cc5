"""One pod author asks for more than the driver can do; what others ask for is answered all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from tests.e2e.registry_server import registry_server
from tests.support.csi import Node, capability

pytestmark = [pytest.mark.root, pytest.mark.registry]

Code = grpc.StatusCode
GREEDY_VOLUMES = 140
DEADLINE = 20.0
"""Seconds. A driver whose threads all wait for the silent registry answers after a minute."""


@pytest.fixture
def silent() -> Iterator[str]:
    """HOST:PORT of a registry that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        connections: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


def inline(namespace: str, source: str) -> dict[str, str]:
    return {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.namespace": namespace,
        "source": source,
    }


def outcome(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as exc:
        return exc.code()
    return Code.OK


class Greedy:
    """Pods of one namespace whose volumes never come: the kubelet asks for each again and again."""

    def __init__(self, node: Node, registry: str) -> None:
        self.codes: set[grpc.StatusCode] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._insist, args=(node, number, f"{registry}/x/app{number}:1"))
            for number in range(GREEDY_VOLUMES)
        ]

    def _insist(self, node: Node, number: int, source: str) -> None:
        request = csi.NodePublishVolumeRequest(
            volume_id=f"csi-greedy-{number}",
            volume_context=inline("greedy", source),
            volume_capability=capability(),
            target_path=node.target(f"greedy-{number}"),
        )
        while not self._stop.wait(0.3):
            self.codes.add(outcome(lambda: node.node.NodePublishVolume(request, timeout=120)))

    def __enter__(self) -> Greedy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_namespace_that_asks_a_silent_registry_starves_nobody(tmp_path: Path, runtime_dir: Path, silent: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    with (
        registry_server(tmp_path / "registry") as registry,
        Node(tmp_path / "n", "--allow-inline") as node,
    ):
        node.cli.ok("import", "--bare", source, "app")
        node.cli.ok("push", "app:latest", f"{registry.host}/team/app:v1")
        node.publish("csi-1", "modest", inline("modest", "app"), staging_target_path="")
        with Greedy(node, silent) as greedy:
            while Code.ABORTED not in greedy.codes:
                node.identity.Probe(csi.ProbeRequest(), timeout=DEADLINE)
            for round_ in range(5):
                node.identity.Probe(csi.ProbeRequest(), timeout=DEADLINE)
                node.identity.GetPluginInfo(csi.GetPluginInfoRequest(), timeout=DEADLINE)
                request = csi.NodePublishVolumeRequest(
                    volume_id=f"csi-pulled-{round_}",
                    volume_context=inline("modest", f"{registry.host}/team/app:v1"),
                    volume_capability=capability(),
                    target_path=node.target(f"pulled-{round_}"),
                )
                node.node.NodePublishVolume(request, timeout=DEADLINE)
                assert (Path(request.target_path) / "file").read_text() == "content"
                ended = csi.NodeUnpublishVolumeRequest(volume_id=request.volume_id, target_path=request.target_path)
                node.node.NodeUnpublishVolume(ended, timeout=DEADLINE)
            ended = csi.NodeUnpublishVolumeRequest(volume_id="csi-1", target_path=node.target("modest"))
            node.node.NodeUnpublishVolume(ended, timeout=DEADLINE)
            # A greedy pod that is deleted goes, too, while its pull is under way.
            ended = csi.NodeUnpublishVolumeRequest(volume_id="csi-greedy-0", target_path=node.target("greedy-0"))
            while (code := outcome(lambda: node.node.NodeUnpublishVolume(ended, timeout=DEADLINE))) != Code.OK:
                assert code == Code.ABORTED, "unless the same volume is just being published"
            assert node.threads() < 140
        assert greedy.codes == {Code.ABORTED}
        assert not node.mounts()
