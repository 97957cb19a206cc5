"""A transfer with a slow registry stands in nobody's way, and nobody takes away what it needs."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.oci.target import parse_target
from stratum.store import Store
from tests.e2e.hostile_registry import ACCESS, Handler, HostileRegistry
from tests.e2e.registry_artifacts import FILES, Artifact, make_artifact, make_commit
from tests.e2e.uploads import Uploads
from tests.support.archives import file, tar
from tests.support.command import SCRIPT, Command
from tests.support.pulling import pull
from tests.support.stores import check, leftovers

PATIENT = replace(ACCESS, read_timeout=60, patience=60, min_rate=1)
SOME = {name: FILES[name] for name in ("docs/readme", "bin/tool", "bin/other")}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("artifact"))


class Stalling:
    """A behaviour that answers GETs of the blob ``wanted`` once ``go`` is set; ``asked`` is when one has come."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, request: Handler) -> bool:
        if request.path.endswith(self.wanted) and request.command == "GET":
            self.asked.set()
            self.go.wait()
        return False


def stalled(artifact: Artifact) -> tuple[HostileRegistry, Stalling]:
    """A registry that stalls when the pack is asked for."""
    behaviour = Stalling("sha256:" + hashlib.sha256(artifact.packs[0][1]).hexdigest())
    return HostileRegistry(artifact, behaviour), behaviour


@contextlib.contextmanager
def verb(cli: Command, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command line that goes on beside the block."""
    process = subprocess.Popen([SCRIPT, *args], env=cli.environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_collection_beside_a_stalled_pull_leaves_it_what_it_needs(artifact: Artifact, cli: Command) -> None:
    """Also what no commit of the store needs any more."""
    store = Store.create(cli.store)
    make_commit(store, {**SOME, "loose": b"loose" * 1000})
    store.commits.remove([store.commits.list()[0]])
    registry, stall = stalled(artifact)
    with registry, verb(cli, "pull", registry.target, "app:pulled") as process:
        assert stall.asked.wait(30)
        cli.ok("gc", "--reflog-age", "0")
        assert len(list(store.objects.list())) == len(SOME)
        stall.go.set()
        assert process.wait(30) == 0
    assert store.tags.get("app", "pulled") == artifact.original.commit
    check(store)
    cli.ok("gc", "--reflog-age", "0")
    cli.ok("fsck")
    check(store)
    assert leftovers(store) == []


def test_a_killed_pull_keeps_nothing(artifact: Artifact, cli: Command) -> None:
    store = Store.create(cli.store)
    make_commit(store, SOME)
    store.commits.remove([store.commits.list()[0]])
    registry, stall = stalled(artifact)
    with registry, verb(cli, "pull", registry.target, "app:pulled") as process:
        assert stall.asked.wait(30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cli.ok("gc")
        stall.go.set()
    assert list(store.objects.list()) == []
    assert leftovers(store) == []


def test_what_disappears_meanwhile_is_fetched_again(artifact: Artifact, cli: Command) -> None:
    store = Store.create(cli.store)
    make_commit(store, SOME)
    registry, stall = stalled(artifact)
    with registry, verb(cli, "pull", registry.target, "app:pulled") as process:
        assert stall.asked.wait(30)
        for digest, _ in list(store.objects.list()):
            store.objects.path(digest).unlink()
        store.commits.remove([store.commits.list()[0]])
        stall.go.set()
        assert process.wait(30) == 0
    assert store.tags.get("app", "pulled") == artifact.original.commit
    check(store)


def test_a_commit_that_disappears_meanwhile_is_made_again(artifact: Artifact, cli: Command) -> None:
    """The store had it without a name, and lost an object of it, so that the pull takes a while."""
    store = Store.create(cli.store)
    with HostileRegistry(artifact) as honest:
        pull(store, parse_target(honest.target), ACCESS)
    digest, _ = next(iter(store.objects.list()))
    store.objects.path(digest).unlink()
    registry, stall = stalled(artifact)
    with registry, verb(cli, "pull", registry.target, "app:pulled") as process:
        assert stall.asked.wait(30)
        cli.ok("gc")
        assert store.commits.list() == []
        stall.go.set()
        assert process.wait(30) == 0
    check(store)


def test_a_collection_beside_the_stalled_import_of_an_image(cli: Command) -> None:
    layer = gzip.compress(tar(file(b"file", b"content" * 1000)))
    archive = hashlib.sha256(gzip.decompress(layer)).hexdigest()
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{archive}"]}}
    ).encode()
    digests = [f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in (config, layer)]
    kind = "application/vnd.oci.image"
    registry = HostileRegistry(behaviour=(stall := Stalling(digests[1])))
    registry.blobs = dict(zip(digests, (config, layer), strict=True))
    registry.manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": digests[0], "size": len(config)},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": digests[1], "size": len(layer)}],
        }
    ).encode()
    store = Store.create(cli.store)
    with registry, verb(cli, "import", f"docker://{registry.target}", "image") as process:
        assert stall.asked.wait(30)
        cli.ok("gc")
        stall.go.set()
        assert process.wait(30) == 0
    check(store)
    assert leftovers(store) == []
    assert cli.json("show", "image:latest")


@pytest.mark.parametrize("options", [(), ("--as", "image")])
def test_a_collection_beside_a_stalled_push(cli: Command, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Though nothing names the commit any more."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content" * 1000)
    cli.ok("import", "--bare", source, "app")
    uploads, asked, go = Uploads("none", 0, "before", b""), threading.Event(), threading.Event()

    def behaviour(request: Handler) -> bool:
        asked.set()
        go.wait()
        return uploads(request)

    with HostileRegistry(behaviour=behaviour) as registry, verb(cli, "push", *options, "app", registry.target) as push:
        assert asked.wait(30)
        cli.ok("remove", "--yes", "app")
        cli.ok("gc", "--reflog-age", "0")
        go.set()
        assert push.wait(60) == 0
        cli.ok("gc", "--reflog-age", "0")
        assert Store.open(cli.store).commits.list() == []
        cli.ok("import", f"docker://{registry.target}", "again")
    cli.ok("gc")
    assert cli.json("show", "again:latest")
    check(Store.open(cli.store))


# Objects that the artifact does not have


def without_packs(artifact: Artifact) -> Artifact:
    return replace(artifact, packs=())


@pytest.mark.parametrize("known", [False, True])
def test_a_tree_does_not_give_what_the_artifact_has_not(artifact: Artifact, tmp_path: Path, known: bool) -> None:
    """Though the store has it, be it the commit itself."""
    store = Store.create(tmp_path / "store")
    make_commit(store, FILES if known else {**FILES, "more": b""})
    before = store.commits.list()
    with HostileRegistry(without_packs(artifact)) as registry, pytest.raises(DamagedError, match="none of its packs"):
        pull(store, parse_target(registry.target), ACCESS)
    assert store.commits.list() == before


def test_an_artifact_that_lacks_an_object_is_refused_before_a_pack_is_fetched(
    artifact: Artifact, tmp_path: Path
) -> None:
    extra = make_artifact(tmp_path, {**FILES, "more": b"more" * 100})
    lacking = replace(extra, packs=artifact.packs)
    with HostileRegistry(lacking) as registry, pytest.raises(DamagedError, match="none of its packs"):
        pull(Store.create(tmp_path / "store"), parse_target(registry.target), ACCESS)
    assert not asked_for_pack(registry, artifact)


def asked_for_pack(registry: HostileRegistry, artifact: Artifact) -> bool:
    name = hashlib.sha256(artifact.packs[0][1]).hexdigest()
    return any(path.endswith(name) for _, path, _ in registry.seen)


def asked_for_tree(registry: HostileRegistry, artifact: Artifact) -> bool:
    name = hashlib.sha256(artifact.trees[0]).hexdigest()
    return any(path.endswith(name) for _, path, _ in registry.seen)


def test_an_isolated_pull_takes_nothing_from_the_store(artifact: Artifact, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    with HostileRegistry(artifact) as registry:
        pull(store, parse_target(registry.target), ACCESS)
    for isolated in (False, True, True):
        with HostileRegistry(artifact) as registry:
            done = pull(store, parse_target(registry.target), ACCESS, isolated=isolated)
        assert done.commit == artifact.original.commit
        assert asked_for_pack(registry, artifact) == isolated
        assert asked_for_tree(registry, artifact) == isolated
    check(store)
    with HostileRegistry(without_packs(artifact)) as registry, pytest.raises(DamagedError, match="none of its packs"):
        pull(store, parse_target(registry.target), ACCESS, isolated=True)


def test_an_isolated_pull_of_what_came_whole_from_the_same_repository(artifact: Artifact, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    with HostileRegistry(artifact) as registry:
        for repository, fetched in (("team/app:v1", True), ("team/app:v1", False), ("team/ap:v1", True)):
            registry.seen.clear()
            pull(store, parse_target(f"{registry.host}/{repository}"), ACCESS, isolated=True)
            assert asked_for_pack(registry, artifact) == fetched
            assert asked_for_tree(registry, artifact) == fetched
        registry.seen.clear()
        for digest, _ in store.objects.list():
            store.objects.path(digest).unlink()
        pull(store, parse_target(registry.target), ACCESS, isolated=True)
        assert asked_for_pack(registry, artifact)
    with HostileRegistry(artifact) as elsewhere:
        pull(store, parse_target(elsewhere.target), ACCESS, isolated=True)
        assert asked_for_pack(elsewhere, artifact)
    check(store)
