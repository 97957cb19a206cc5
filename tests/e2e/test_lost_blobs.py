"""A push where a place has lost what it is built on: the tag is there, and not all that its manifest names."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor
from stratum.oci.image import read_image
from stratum.oci.places import open_sink, open_source
from stratum.oci.remote import fetch
from stratum.oci.target import Target, parse_target
from stratum.store import Store
from stratum.transfer.artifact import read_manifest
from stratum.transfer.imagepush import push_image
from stratum.transfer.push import push
from tests.e2e.registry_artifacts import make_commit
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.pulling import pull

ACCESS = Access(connect_timeout=5, read_timeout=20)
FILES = {f"d{n % 10}/f{n}": random.Random(n).randbytes(20_000) for n in range(40)}
CHANGED = {**FILES, "d3/f3": b"new " * 1000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


class Place:
    """A place of some kind, and where its blobs lie."""

    def __init__(self, kind: str, tmp_path: Path, server: RegistryServer) -> None:
        name = tmp_path.name.lower().replace("_", "-").rstrip("-")
        texts = {"registry": f"{server.host}/lost/{name}", "layout": f"oci:{tmp_path}/there"}
        self.text = texts.get(kind, f"file://{tmp_path}/there")
        self._blobs = tmp_path / "there/blobs/sha256"
        self.is_local = kind != "registry"
        self._data = server.directory / "data/docker/registry/v2/blobs/sha256" if kind == "registry" else None

    def target(self, tag: str) -> Target:
        return parse_target(f"{self.text}:{tag}")

    def lose(self, blob: Descriptor) -> None:
        path = self._data / blob.hex[:2] / blob.hex / "data" if self._data is not None else self._blobs / blob.hex
        path.unlink()

    def blobs(self, tag: str) -> dict[str, Descriptor]:
        """What the tag's manifest names, by kind."""
        with open_source(self.target(tag), ACCESS) as source:
            manifest = read_manifest(source.get_manifest(tag)[0], self.text)
        (pack, *_), (tree, *_) = manifest.packs, manifest.trees
        return {"index": pack.index, "pack": pack.pack, "tree": tree, "config": manifest.config}

    def is_whole(self, tag: str) -> bool:
        with open_source(self.target(tag), ACCESS) as source:
            manifest = read_manifest(source.get_manifest(tag)[0], self.text)
            return all(fetch(source, blob) for blob in manifest.blobs)


@pytest.fixture(params=[pytest.param("registry", marks=pytest.mark.registry), "layout", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: RegistryServer) -> Place:
    return Place(request.param, tmp_path, server)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.mark.parametrize(
    ("lost", "tag"),
    [(("pack",), "v1"), (("tree",), "v2"), (("index", "pack", "tree", "config"), "v2")],
    ids=["pack", "tree", "all"],
)
def test_what_was_built_on_is_sent_again(place: Place, store: Store, lost: tuple[str, ...], tag: str) -> None:
    first = make_commit(store, FILES)
    whole = push(store, first, place.target("v1"), ACCESS).bytes_sent
    blobs = place.blobs("v1")
    for kind in lost:
        place.lose(blobs[kind])
    pushed = push(store, make_commit(store, CHANGED, parent=first), place.target(tag), ACCESS)
    assert place.is_whole(tag)
    assert (pushed.bytes_sent > whole / 2) == ("pack" in lost), "what is there is not sent"


def test_a_commit_that_is_there_in_part_is_sent_where_that_is_noticed(place: Place, store: Store) -> None:
    """Files are looked at; a registry and an object store are asked when a tag is set."""
    commit = make_commit(store, FILES)
    push(store, commit, place.target("v1"), ACCESS)
    place.lose(place.blobs("v1")["pack"])
    push(store, commit, place.target("v1"), ACCESS, keep_tag=not place.is_local)
    assert place.is_whole("v1")


@pytest.mark.registry
def test_a_repository_that_was_made_anew(server: RegistryServer, store: Store, tmp_path: Path) -> None:
    target = parse_target(f"{server.host}/made/anew:v1")
    push(store, first := make_commit(store, FILES), target, ACCESS)
    (server.directory / "data/docker/registry/v2/repositories/made/anew").rename(tmp_path / "gone")
    push(store, commit := make_commit(store, CHANGED, parent=first), target, ACCESS)
    assert pull(Store.create(tmp_path / "other"), target, ACCESS).commit == commit


def test_an_image_is_sent_whole_where_its_layers_are_gone(place: Place, store: Store) -> None:
    first = make_commit(store, FILES)
    with open_sink(place.target("v1"), ACCESS, create=True) as sink:
        push_image(store, first, sink, "v1")
        place.lose(read_image(sink, "v1").layers[0].blob)
    with open_sink(place.target("v1"), ACCESS, create=True) as sink:
        push_image(store, make_commit(store, CHANGED, parent=first), sink, "v1")
        (layer,) = read_image(sink, "v1").layers
        assert fetch(sink, layer.blob)
