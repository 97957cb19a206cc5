"""Every place holds to the contract: a registry, an OCI image layout, an archive, a peer, and a toy."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stratum.errors import UsageError
from stratum.oci.access import Access
from stratum.oci.archive import ArchiveWriter
from stratum.oci.descriptor import digest_of
from stratum.oci.places import open_sink, open_source
from stratum.oci.referrers import referrers_tag
from stratum.oci.remote import Sink, Source
from stratum.oci.target import Target, parse_target
from stratum.store.peerbook import finder
from tests.contracts.places import SMALL, SharedSinkContract, Shelf, SinkContract, manifest_of, put, referrer_of
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.peers import Host
from tests.support.toyplace import Memory, ToyPlace

ACCESS = Access(connect_timeout=5, read_timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


class Named(Shelf):
    """A place that a target names."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def sink(self) -> Sink:
        return open_sink(self.target, ACCESS, create=True)

    def source(self) -> Source:
        return open_source(self.target, ACCESS)


class ToyShelf(Shelf):
    ranges = False

    def __init__(self) -> None:
        self.memory = Memory()

    def sink(self) -> Sink:
        return ToyPlace(self.memory)

    def source(self) -> Source:
        return ToyPlace(self.memory)

    def spoil(self, digest: str, data: bytes) -> None:
        self.memory.blobs[digest] = data


class TestToy(SharedSinkContract):
    @pytest.fixture
    def shelf(self) -> Shelf:
        return ToyShelf()


class LayoutShelf(Named):
    def spoil(self, digest: str, data: bytes) -> None:
        assert self.target.directory is not None
        (self.target.directory / "blobs/sha256" / digest.partition(":")[2]).write_bytes(data)


class TestLayout(SharedSinkContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return LayoutShelf(parse_target(f"oci:{tmp_path}/layout"))


class RegistryShelf(Named):
    def __init__(self, server: RegistryServer, repository: str) -> None:
        super().__init__(parse_target(f"{server.host}/{repository}"))
        self._blobs = server.directory / "data/docker/registry/v2/blobs/sha256"
        self._spoilt: dict[Path, bytes] = {}

    def spoil(self, digest: str, data: bytes) -> None:
        name = digest.partition(":")[2]
        path = self._blobs / name[:2] / name / "data"
        self._spoilt[path] = path.read_bytes()
        path.write_bytes(data)

    def restore(self) -> None:
        """Other repositories of the server have the same blobs."""
        for path, data in self._spoilt.items():
            path.write_bytes(data)


@pytest.mark.registry
@pytest.mark.usefixtures("short_pauses")
class TestRegistry(SharedSinkContract):
    @pytest.fixture
    def shelf(self, server: RegistryServer, tmp_path: Path) -> Iterator[Shelf]:
        shelf = RegistryShelf(server, f"test/{tmp_path.name.lower().replace('_', '-').rstrip('-')}")
        yield shelf
        shelf.restore()

    def test_a_mount_that_works(self, server: RegistryServer, shelf: Shelf) -> None:
        other = RegistryShelf(server, "other/repository")
        with other.sink() as sink:
            (blob,) = put(sink, SMALL)
        with shelf.sink() as sink:
            assert not sink.has_blob(blob)
            assert sink.mount_blob(blob, "other/repository")
            assert sink.has_blob(blob)


class PeerShelf(Named):
    """A stratum of a host that shares it with another, for writing."""

    def __init__(self, attic: Host, laptop: Host, name: str) -> None:
        super().__init__(parse_target(f"peer://attic/{name}"))
        attic.ok("share", name, "--with", "laptop", "--write")
        self._blobs = attic.store / "blobs/sha256"
        self._access = replace(ACCESS, peer=finder(laptop.store))
        self._spoilt: dict[Path, bytes] = {}

    def sink(self) -> Sink:
        return open_sink(self.target, self._access, create=True)

    def source(self) -> Source:
        return open_source(self.target, self._access)

    def spoil(self, digest: str, data: bytes) -> None:
        name = digest.partition(":")[2]
        path = self._blobs / name[:2] / name[2:]
        self._spoilt[path] = path.read_bytes()
        path.write_bytes(data)

    def restore(self) -> None:
        """Other strata of the host have the same blobs."""
        for path, data in self._spoilt.items():
            path.write_bytes(data)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    directory = tmp_path_factory.mktemp("peers")
    attic, laptop = Host(directory / "attic"), Host(directory / "laptop")
    attic.knows(laptop)
    with attic.serving() as address:
        laptop.knows(attic, address)
        yield attic, laptop


@pytest.mark.usefixtures("short_pauses")
class TestPeer(SharedSinkContract):
    @pytest.fixture
    def shelf(self, peers: tuple[Host, Host], tmp_path: Path) -> Iterator[Shelf]:
        shelf = PeerShelf(*peers, tmp_path.name.rstrip("._-"))
        yield shelf
        shelf.restore()

    def test_a_list_of_referrers_that_is_none(self, shelf: Shelf) -> None:  # type: ignore[override]  # of one kind
        """Whoever writes one where other places keep it: it does not count, as a peer makes the list itself."""
        with shelf.sink() as sink:
            (blob,) = put(sink, SMALL)
            data = manifest_of(blob)
            sink.put_manifest(data, "v1")
            sink.put_manifest(data, referrers_tag(digest_of(data)))
            made = referrer_of(data, "x", blob)
            sink.put_referrer(made)
            (found,) = sink.list_referrers(digest_of(data), "application/x")
            assert found.manifest.digest == digest_of(made)


class ArchiveShelf(Named):
    """Written once, from its beginning to its end; then read."""

    def __init__(self, path: Path) -> None:
        super().__init__(parse_target(f"oci-archive:{path}"))
        self._path = path
        self._written: list[bytes] = []

    def sink(self) -> Sink:
        self._writer = ArchiveWriter(self._written.append, self.target)
        return self._writer

    def source(self) -> Source:
        self._end()
        return super().source()

    def _end(self) -> None:
        if self._written:
            self._writer.finish()
            self._path.write_bytes(b"".join(self._written))
            self._written.clear()

    def spoil(self, digest: str, data: bytes) -> None:
        self._end()
        whole = self._path.with_suffix(".whole")
        self._path.rename(whole)
        with tarfile.open(whole) as old, tarfile.open(self._path, "w") as new:
            for member in old:
                file = old.extractfile(member)
                if member.name.endswith(digest.partition(":")[2]):
                    member.size, file = len(data), io.BytesIO(data)
                new.addfile(member, file)


@pytest.mark.parametrize("create", [True, False])
def test_archives_are_no_sinks(tmp_path: Path, create: bool) -> None:
    with pytest.raises(UsageError, match="can only be read"):
        open_sink(parse_target(f"oci-archive:{tmp_path}/a.tar"), ACCESS, create=create)


class TestArchive(SinkContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return ArchiveShelf(tmp_path / "a.tar")
