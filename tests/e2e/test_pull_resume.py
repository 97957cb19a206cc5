"""A pull that is killed goes on where it was: what has arrived is not fetched again, and is not believed either."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from stratum.csi import csi_pb2 as csi
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from tests.e2e.hostile_registry import Handler, HostileRegistry
from tests.e2e.registry_artifacts import Artifact, make_artifact, make_commit
from tests.e2e.registry_server import registry_server
from tests.support.command import SCRIPT, Command
from tests.support.csi import Node, capability
from tests.support.injection import killed_at
from tests.support.pulling import pull
from tests.support.stores import check, leftovers

pytestmark = [pytest.mark.root, pytest.mark.registry]

FILES = {f"file-{number}": random.Random(number).randbytes(500_000) for number in range(12)}
ARRIVED = 3_000_000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    made = make_artifact(tmp_path_factory.mktemp("artifact"), FILES)
    assert len(made.packs) == 1
    return made


class Stalling:
    """A registry's behaviour: of the pack it sends ``ARRIVED`` bytes and no more, until it is told to ``go_on``.

    ``served`` counts the bytes of the pack, ``ranges`` tells whether parts of it can be had.
    """

    def __init__(self, artifact: Artifact, *, ranges: bool = True) -> None:
        self._pack = artifact.packs[0][1]
        self._ranges = ranges
        self._go = threading.Event()
        self.stalled = threading.Event()
        self.served = 0

    def go_on(self) -> None:
        self._go.set()
        self.served = 0

    def __call__(self, request: Handler) -> bool:
        if request.registry_blob() != self._pack:
            return False
        if not self._ranges:
            del request.headers["Range"]
        wanted = request.headers.get("Range")
        if self._go.is_set():
            first, last = wanted.removeprefix("bytes=").split("-") if wanted else ("0", str(len(self._pack) - 1))
            self.served += int(last) + 1 - int(first)
            return False
        request.send_response(200)
        request.send_header("Content-Length", str(len(self._pack)))
        request.end_headers()
        request.wfile.write(self._pack[:ARRIVED])
        request.wfile.flush()
        self.stalled.set()
        self._go.wait(60)
        request.close_connection = True
        return True


def packs(store: Path) -> list[Path]:
    directory = store / "cache" / "packs"
    return sorted(directory.iterdir()) if directory.exists() else []


def until_arrived(store: Path) -> int:
    """Wait until most of what was sent is in the store; how much it is."""
    while not (found := packs(store)) or found[0].stat().st_size < ARRIVED * 0.9:
        time.sleep(0.02)
    return found[0].stat().st_size


def killed(cli: Command, registry: HostileRegistry) -> int:
    """Pull in a process of its own, and kill it in the middle of the pack; the bytes that are in the store."""
    command = [SCRIPT, "pull", registry.target, "app"]
    with subprocess.Popen(command, env=cli.environment, stderr=subprocess.DEVNULL) as process:
        until_arrived(cli.store)
        os.kill(process.pid, signal.SIGKILL)
    return packs(cli.store)[0].stat().st_size


def assert_pulled(cli: Command) -> None:
    store = Store.open(cli.store)
    check(store)
    assert store.objects.list()
    assert not leftovers(store)
    assert packs(cli.store) == []
    cli.ok("verify", "app:v1")


def test_a_killed_pull_fetches_the_rest_of_a_pack(cli: Command, artifact: Artifact) -> None:
    behaviour = Stalling(artifact)
    with HostileRegistry(artifact, behaviour) as registry:
        arrived = killed(cli, registry)
        behaviour.go_on()
        cli.ok("pull", registry.target, "app")
    assert behaviour.served == len(artifact.packs[0][1]) - arrived
    assert_pulled(cli)


def test_a_killed_driver_fetches_the_rest_of_a_pack(tmp_path: Path, runtime_dir: Path, artifact: Artifact) -> None:
    behaviour = Stalling(artifact)
    inline = {"csi.storage.k8s.io/ephemeral": "true"}
    with HostileRegistry(artifact, behaviour) as registry, Node(tmp_path / "n", "--allow-inline") as node:
        request = csi.NodePublishVolumeRequest(
            volume_id="csi-1",
            volume_context=inline | {"source": registry.target},
            volume_capability=capability(),
            target_path=node.target("pod"),
        )
        with pytest.raises(grpc.RpcError):
            node.node.NodePublishVolume(request, timeout=1)
        arrived = until_arrived(node.cli.store)
        node.restart()
        behaviour.go_on()
        node.node.NodePublishVolume(request, timeout=60)
        assert behaviour.served == len(artifact.packs[0][1]) - arrived
        assert (Path(request.target_path) / "file-3").read_bytes() == FILES["file-3"]
        node.unpublish("csi-1", "pod")
        assert packs(node.cli.store) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(bytes(ARRIVED)),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(random.Random(1).randbytes(10_000_000)),
        lambda path: os.truncate(path, 12_345),
    ],
    ids=["zeros", "empty", "longer", "shorter"],
)
def test_what_a_power_cut_leaves_is_not_believed(
    cli: Command, artifact: Artifact, spoil: Callable[[Path], object]
) -> None:
    behaviour = Stalling(artifact)
    with HostileRegistry(artifact, behaviour) as registry:
        killed(cli, registry)
        spoil(packs(cli.store)[0])
        behaviour.go_on()
        cli.ok("pull", registry.target, "app")
    assert_pulled(cli)


def test_a_registry_without_ranges_sends_the_pack_again(cli: Command, artifact: Artifact) -> None:
    behaviour = Stalling(artifact, ranges=False)
    with HostileRegistry(artifact, behaviour) as registry:
        killed(cli, registry)
        behaviour.go_on()
        cli.ok("pull", registry.target, "app")
    assert_pulled(cli)


def test_what_one_repository_sent_serves_no_other(cli: Command, artifact: Artifact) -> None:
    """Else whoever knows a digest could have what somebody else was let in to fetch."""
    behaviour = Stalling(artifact)
    with HostileRegistry(artifact, behaviour) as registry:
        killed(cli, registry)
        behaviour.go_on()
        cli.ok("pull", f"{registry.host}/other/app:v1", "app")
    assert behaviour.served == len(artifact.packs[0][1])
    assert len(packs(cli.store)) == 1
    cli.ok("gc")
    assert packs(cli.store) == [], "a garbage collection takes what nobody is fetching"


def test_gc_leaves_a_pack_that_is_being_fetched(cli: Command, artifact: Artifact) -> None:
    behaviour = Stalling(artifact)
    with HostileRegistry(artifact, behaviour) as registry:
        command = [SCRIPT, "pull", registry.target, "app"]
        with subprocess.Popen(command, env=cli.environment, stderr=subprocess.DEVNULL) as process:
            until_arrived(cli.store)
            assert not [path for path in cli.json("gc", "--dry-run")["removed_leftovers"] if "packs" in path]
            other = Store.open(cli.store)
            behaviour.go_on()
            pull(other, parse_target(registry.target), Access())
            assert process.wait(60) == 0
    assert_pulled(cli)


def test_what_had_arrived_when_it_was_killed_while_unpacking_is_not_fetched_again(tmp_path: Path) -> None:
    origin = Store.create(tmp_path / "origin")
    make_commit(origin, FILES)
    with registry_server(tmp_path / "registry") as registry:
        cli = Command(origin.root, tmp_path / "run")
        (commit,) = origin.commits.list()
        origin.tags.set("app", "v1", commit)
        cli.ok("push", "app:v1", f"{registry.host}/team/app:v1")
        target = parse_target(f"{registry.host}/team/app:v1")
        pack = max(registry.manifest("team/app", "v1")["layers"], key=lambda layer: layer["size"])["digest"]

        def fetched() -> int:
            return sum(line.startswith("GET") and line.endswith(pack) for line in registry.requests())

        store = Store.create(tmp_path / "store")
        for call, number in (("syncfs", 1), ("renameat2", 1), ("syncfs", 2)):
            outcome = killed_at(lambda: pull(store, target, Access()), call, number)
            assert outcome.status == -signal.SIGKILL
        assert fetched() == 1
        pull(store, target, Access())
        assert fetched() == 1
        assert packs(store.root) == []
        check(store)
