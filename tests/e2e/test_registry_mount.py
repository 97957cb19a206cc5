"""Blobs that another repository of the registry has are mounted, not sent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.hostile_registry import Handler, HostileRegistry
from tests.e2e.registry_artifacts import Artifact, make_commit
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.pulling import pull

pytestmark = pytest.mark.registry

FILES = {f"file{n}": random.Random(n).randbytes(50_000) for n in range(40)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("mount") / "server") as running:
        yield running


@pytest.fixture
def pulled(server: RegistryServer, tmp_path: Path) -> tuple[Store, str]:
    """A store with a commit that was pulled from ``team/staging``."""
    origin, store = Store.create(tmp_path / "origin"), Store.create(tmp_path / "store")
    staging = parse_target(f"{server.host}/team/staging")
    push(origin, make_commit(origin, FILES), staging, Access())
    return store, pull(store, staging, Access()).commit


def test_the_same_commit_into_another_repository(
    server: RegistryServer, pulled: tuple[Store, str], tmp_path: Path
) -> None:
    store, commit = pulled
    target = parse_target(f"{server.host}/same/production")
    would = push(store, commit, target, Access(), dry_run=True)
    pushed = push(store, commit, target, Access())
    assert pushed.bytes_sent == would.bytes_sent < 20_000
    third = Store.create(tmp_path / "third")
    assert pull(third, target, Access()).commit == commit


def test_a_descendant_into_another_repository(
    server: RegistryServer, pulled: tuple[Store, str], tmp_path: Path
) -> None:
    store, parent = pulled
    commit = make_commit(store, {**FILES, "more": b"more" * 5000}, parent=parent)
    target = parse_target(f"{server.host}/descendant/production")
    assert push(store, commit, target, Access()).bytes_sent < 20_000
    assert pull(Store.create(tmp_path / "third"), target, Access()).commit == commit


def test_where_it_came_from_is_gone(server: RegistryServer, pulled: tuple[Store, str], tmp_path: Path) -> None:
    store, commit = pulled
    for path in (server.directory / "data/docker/registry/v2/repositories/team/staging").glob("_manifests"):
        path.rename(path.with_name("gone"))
    target = parse_target(f"{server.host}/gone/production")
    assert push(store, commit, target, Access()).bytes_sent > 1_000_000
    assert pull(Store.create(tmp_path / "third"), target, Access()).commit == commit


@pytest.mark.parametrize("answer", [202, 401, 403, 404, 500])
def test_a_registry_that_does_not_mount(tmp_path: Path, answer: int) -> None:
    """It takes everything but the mount, and keeps no upload open."""
    store, commit, artifact = pulled_from_layout(tmp_path)
    deleted = []

    def behaviour(request: Handler) -> bool:
        if "mount=" in request.path:
            request.send(answer, b"", {"Location": "/v2/other/app/blobs/uploads/unwanted"})
        elif request.command == "DELETE":
            deleted.append(request.path)
            request.send(204, b"")
        elif request.command == "POST":
            request.send(202, b"", {"Location": "/v2/other/app/blobs/uploads/wanted"})
        elif request.command == "PUT":
            request.rfile.read(int(request.headers["Content-Length"]))
            request.send(201, b"")
        elif "/other/app/" in request.path:
            request.send(404, b"")
        else:
            return False
        return True

    with HostileRegistry(artifact, behaviour=behaviour) as registry:
        pull(store, parse_target(registry.target), Access())
        target = parse_target(registry.target.replace("team/app", "other/app"))
        assert push(store, commit, target, Access()).bytes_sent > 1_000_000
    assert bool(deleted) == (answer == 202)


def pulled_from_layout(tmp_path: Path) -> tuple[Store, str, Artifact]:
    origin = Store.create(tmp_path / "origin")
    commit = make_commit(origin, FILES)
    push(origin, commit, parse_target(f"oci:{tmp_path}/layout"), Access())
    return Store.create(tmp_path / "store"), commit, Artifact.of_layout(tmp_path / "layout")
