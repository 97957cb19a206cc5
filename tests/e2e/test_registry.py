"""Push and pull with a real registry server and an OCI image layout, and what other programs make of the result."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError
from stratum.frozen import replace
from stratum.oci.access import Access
from stratum.oci.credentials import find_credentials
from stratum.oci.descriptor import digest_of
from stratum.oci.mediatypes import ARTIFACT_TYPE
from stratum.oci.places import open_source
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from stratum.tree.digest import metadata_hash
from tests.e2e.hostile_registry import make_certificate
from tests.e2e.registry_artifacts import FILES, assert_only_verified_objects, make_commit
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.capabilities import program
from tests.support.pulling import pull

pytestmark = pytest.mark.registry
ACCESS = Access(connect_timeout=5, read_timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


@pytest.fixture
def first(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "second")


def equal_commits(first: Store, second: Store, commit: str) -> bool:
    """Dump, image and every object are the same bytes in both stores."""
    paths = [store.images.ensure(commit) for store in (first, second)]
    objects = [dict(store.objects.list()) for store in (first, second)]
    return (
        first.commits.dump(commit).text == second.commits.dump(commit).text
        and paths[0].read_bytes() == paths[1].read_bytes()
        and all(second.objects.verify(digest) == size for digest, size in objects[1].items())
        and set(objects[1]) <= set(objects[0])
    )


def test_a_commit_goes_to_a_registry_and_comes_back(server: RegistryServer, first: Store, second: Store) -> None:
    commit = make_commit(first, FILES, message="hello")
    target = parse_target(f"{server.host}/round/trip:v1")
    pushed = push(first, commit, target, ACCESS)
    pulled = pull(second, target, ACCESS)
    assert pulled.commit == commit == pushed.commit
    assert pulled.manifest_digest == pushed.manifest_digest
    assert equal_commits(first, second, commit)
    meta, origin = second.commits.meta(commit), first.commits.meta(commit)
    assert replace(meta, origin=None) == replace(origin, origin=None)
    assert pulled.bytes_received == pushed.bytes_sent


def test_pushing_again_sends_nothing_and_asks_once(server: RegistryServer, first: Store) -> None:
    commit = make_commit(first, FILES)
    target = parse_target(f"{server.host}/push/again")
    before = push(first, commit, target, ACCESS)
    asked = len(server.requests())
    again = push(first, commit, target, ACCESS)
    assert (again.bytes_sent, again.blobs_sent) == (0, 0)
    assert again.manifest_digest == before.manifest_digest
    assert len(server.requests()) == asked + 1


def test_the_same_commit_under_another_tag_sends_the_manifest_only(server: RegistryServer, first: Store) -> None:
    commit = make_commit(first, FILES)
    push(first, commit, parse_target(f"{server.host}/other/tag:a"), ACCESS)
    again = push(first, commit, parse_target(f"{server.host}/other/tag:b"), ACCESS)
    assert again.blobs_sent == 1


def test_two_machines_make_the_same_blobs(server: RegistryServer, first: Store, second: Store) -> None:
    results = [
        push(store, make_commit(store, FILES), parse_target(f"{server.host}/machine/{number}"), ACCESS)
        for number, store in enumerate((first, second))
    ]
    assert results[0].manifest_digest == results[1].manifest_digest


def test_a_pulled_commit_pushed_back_changes_nothing(server: RegistryServer, first: Store, second: Store) -> None:
    target = parse_target(f"{server.host}/ping/pong")
    pushed = push(first, make_commit(first, FILES), target, ACCESS)
    pulled = pull(second, target, ACCESS)
    back = push(second, pulled.commit, target, ACCESS)
    assert back.manifest_digest == pushed.manifest_digest
    assert back.bytes_sent == 0


def test_a_dry_run_tells_what_a_push_would_send_and_sends_nothing(server: RegistryServer, first: Store) -> None:
    commit = make_commit(first, FILES)
    target = parse_target(f"{server.host}/dry/run")
    asked = len(server.requests())
    dry = push(first, commit, target, ACCESS, dry_run=True)
    assert {line.split()[0] for line in server.requests()[asked:]} <= {"GET", "HEAD"}
    assert push(first, commit, target, ACCESS) == dry


def test_a_small_change_costs_a_small_push_and_a_small_pull(
    server: RegistryServer, first: Store, second: Store
) -> None:
    files = {f"d{n % 10}/f{n}": random.Random(n).randbytes(20_000) for n in range(200)}
    base = make_commit(first, files)
    target = parse_target(f"{server.host}/small/change:v1")
    whole = push(first, base, target, ACCESS)
    pull(second, target, ACCESS)
    changed = {**files, "d3/f3": b"new " * 1000, "d4/extra": b"more " * 500}
    commit = make_commit(first, changed, parent=base)
    for tag in ("v1", "v2"):  # the tag moves on; a new tag finds its parent under the old one
        target = parse_target(f"{server.host}/small/change:{tag}")
        sent = push(first, commit, target, ACCESS)
        assert sent.bytes_sent < whole.bytes_sent / 50
    received = pull(second, target, ACCESS)
    assert received.bytes_received < whole.bytes_sent / 50
    assert equal_commits(first, second, commit)
    assert second.commits.meta(commit).parent_commit == base


def test_only_frames_with_missing_objects_are_fetched(server: RegistryServer, first: Store, second: Store) -> None:
    files = {f"f{n:03}": random.Random(n).randbytes(20_000) for n in range(400)}
    commit = make_commit(first, files)
    target = parse_target(f"{server.host}/some/ranges")
    whole = push(first, commit, target, ACCESS)
    del files["f100"], files["f300"]
    make_commit(second, files)
    received = pull(second, target, ACCESS)
    assert received.bytes_received < whole.bytes_sent / 2
    assert equal_commits(first, second, commit)


def test_what_the_store_has_is_not_fetched(server: RegistryServer, first: Store, second: Store) -> None:
    commit = make_commit(first, FILES)
    target = parse_target(f"{server.host}/all/there")
    push(first, commit, target, ACCESS)
    make_commit(second, {**FILES, "and": b"more"})
    pull(second, target, ACCESS)
    asked = len(server.requests())
    pull(second, target, ACCESS)
    assert len(server.requests()) == asked + 3  # the manifest, the metadata, and the index, which has to list it


def test_pulling_again_brings_back_a_lost_object(server: RegistryServer, first: Store, second: Store) -> None:
    commit = make_commit(first, FILES)
    target = parse_target(f"{server.host}/lost/object")
    push(first, commit, target, ACCESS)
    pull(second, target, ACCESS)
    digest = next(iter(second.objects.list()))[0]
    second.objects.path(digest).unlink()
    pull(second, target, ACCESS)
    assert equal_commits(first, second, commit)
    assert second.objects.has(digest)


def test_pulling_by_digest(server: RegistryServer, first: Store, second: Store) -> None:
    target = parse_target(f"{server.host}/by/digest")
    old = push(first, make_commit(first, {"a": b"old"}), target, ACCESS)
    push(first, make_commit(first, {"a": b"new"}), target, ACCESS)
    pulled = pull(second, parse_target(f"{server.host}/by/digest@{old.manifest_digest}"), ACCESS)
    assert pulled.commit == old.commit


def test_a_large_object_has_a_pack_of_its_own_and_no_copy_on_disk(
    server: RegistryServer, first: Store, second: Store
) -> None:
    large = random.Random(5).randbytes(1 << 20) * 70 + random.Random(6).randbytes(20 << 20)
    commit = make_commit(first, {**FILES, "large": large})
    target = parse_target(f"{server.host}/large/object")
    push(first, commit, target, ACCESS)
    layers = server.manifest("large/object", "latest")["layers"]
    kinds = ["tree", "index", "objects", "verity", "index", "objects"]
    assert [layer["mediaType"].split(".")[2] for layer in layers] == kinds
    pull(second, target, ACCESS)
    assert equal_commits(first, second, commit)


def test_everything_in_the_registry_reads_with_tar_zstd_and_b3sum(
    server: RegistryServer, first: Store, tmp_path: Path
) -> None:
    commit = make_commit(first, FILES)
    push(first, commit, parse_target(f"{server.host}/plain/tools"), ACCESS)
    manifest = server.manifest("plain/tools", "latest")
    assert manifest["artifactType"] == ARTIFACT_TYPE
    dump, names = b"", []
    for layer in manifest["layers"]:
        blob = server.blob("plain/tools", layer["digest"])
        assert digest_of(blob) == layer["digest"]
        plain = subprocess.run(["zstd", "-dc"], input=blob, capture_output=True, check=True).stdout
        if "tree" in layer["mediaType"]:
            dump += plain
        elif "tar" in layer["mediaType"]:
            names += subprocess.run(
                ["tar", "-t"], input=plain, capture_output=True, check=True, text=False
            ).stdout.split()
            subprocess.run(["tar", "-x", "-C", tmp_path], input=plain, check=True)
    assert metadata_hash(dump) == commit
    assert sorted(names) == sorted(
        b"%b/%b" % (d.hex()[:2].encode(), d.hex()[2:].encode()) for d, _ in first.objects.list()
    )
    for digest, _ in first.objects.list():
        name = digest.hex()
        assert (tmp_path / name[:2] / name[2:]).read_bytes() == first.objects.path(digest).read_bytes()
    config = server.blob("plain/tools", manifest["config"]["digest"])
    assert config == first.layout.commit(commit).read_bytes().split(b"\0")[0]


def test_skopeo_copies_our_artifacts(server: RegistryServer, first: Store, second: Store, tmp_path: Path) -> None:
    commit = make_commit(first, FILES)
    pushed = push(first, commit, parse_target(f"{server.host}/with/skopeo:v1"), ACCESS)
    reference = f"docker://{server.host}/with/skopeo:v1"
    skopeo = str(program("skopeo"))
    raw = subprocess.run(
        [skopeo, "inspect", "--raw", "--tls-verify=false", reference], capture_output=True, check=True
    ).stdout
    assert digest_of(raw) == pushed.manifest_digest
    subprocess.run([skopeo, "copy", "-q", "--src-tls-verify=false", reference, f"oci:{tmp_path}/layout:v1"], check=True)
    assert pull(second, parse_target(f"oci:{tmp_path}/layout:v1"), ACCESS).commit == commit
    assert equal_commits(first, second, commit)


# OCI image layouts


def test_layouts_hold_several_tags(first: Store, second: Store, tmp_path: Path) -> None:
    old = make_commit(first, FILES)
    new = make_commit(first, {**FILES, "new": b"n" * 100}, parent=old)
    layout = f"oci:{tmp_path}/some dir/layout"
    whole = push(first, old, parse_target(f"{layout}:old"), ACCESS)
    delta = push(first, new, parse_target(f"{layout}:new"), ACCESS)
    assert delta.bytes_sent < whole.bytes_sent / 100
    assert open_source(parse_target(layout), ACCESS).list_tags() == ["new", "old"]
    for tag, commit in (("new", new), ("old", old)):
        assert pull(second, parse_target(f"{layout}:{tag}"), ACCESS).commit == commit
        assert equal_commits(first, second, commit)


def test_skopeo_reads_our_layouts(first: Store, tmp_path: Path) -> None:
    pushed = push(first, make_commit(first, FILES), parse_target(f"oci:{tmp_path}/layout:v1"), ACCESS)
    done = subprocess.run(
        [program("skopeo"), "inspect", "--raw", f"oci:{tmp_path}/layout:v1"], capture_output=True, check=True
    )
    assert digest_of(done.stdout) == pushed.manifest_digest


def test_a_dry_run_makes_no_layout(first: Store, tmp_path: Path) -> None:
    commit = make_commit(first, FILES)
    target = parse_target(f"oci:{tmp_path}/layout:v1")
    dry = push(first, commit, target, ACCESS, dry_run=True)
    assert not (tmp_path / "layout").exists()
    assert push(first, commit, target, ACCESS) == dry


@pytest.mark.parametrize("damage", ["flip", "cut", "symlink", "fifo", "missing"])
def test_damaged_layouts(first: Store, second: Store, tmp_path: Path, damage: str) -> None:
    push(first, make_commit(first, FILES), parse_target(f"oci:{tmp_path}/layout:v1"), ACCESS)
    blob = max((tmp_path / "layout/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = blob.read_bytes()
    blob.unlink()
    if damage == "flip":
        middle = len(data) // 2
        blob.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "cut":
        blob.write_bytes(data[:1000])
    elif damage == "symlink":
        (tmp_path / "elsewhere").write_bytes(data)
        blob.symlink_to(tmp_path / "elsewhere")
    elif damage == "fifo":
        os.mkfifo(blob)
    with pytest.raises(StratumError) as caught:
        pull(second, parse_target(f"oci:{tmp_path}/layout:v1"), ACCESS)
    assert isinstance(caught.value, NotFoundError) == (damage == "missing")
    assert_only_verified_objects(second)


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"manifests":{}}', b'{"manifests":[1]}', b"[" * 99999])
def test_layouts_with_a_damaged_index(first: Store, second: Store, tmp_path: Path, index: bytes) -> None:
    target = parse_target(f"oci:{tmp_path}/layout:v1")
    push(first, make_commit(first, FILES), target, ACCESS)
    (tmp_path / "layout/index.json").write_bytes(index)
    with pytest.raises(DamagedError, match=r"index\.json"):
        pull(second, target, ACCESS)


def test_directories_that_are_no_layout(first: Store, second: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("precious")
    target = parse_target(f"oci:{tmp_path}/mine:v1")
    with pytest.raises(StratumError, match="neither empty nor an OCI image layout"):
        push(first, make_commit(first, FILES), target, ACCESS)
    with pytest.raises(NotFoundError):
        pull(second, target, ACCESS)
    assert os.listdir(tmp_path / "mine") == ["file"]


# What can go wrong on the way to an honest registry


def test_pushing_a_damaged_object_publishes_nothing(server: RegistryServer, first: Store) -> None:
    commit = make_commit(first, FILES)
    digest, size = next(iter(first.objects.list()))
    path = first.objects.path(digest)
    path.unlink()
    path.write_bytes(bytes(size))
    target = parse_target(f"{server.host}/damaged/object")
    with pytest.raises(DamagedError, match=digest.hex()):
        push(first, commit, target, ACCESS)
    path.unlink()
    with pytest.raises(NotFoundError, match=digest.hex()):
        push(first, commit, target, ACCESS)
    assert open_source(target, ACCESS).list_tags() == []


def test_a_push_that_was_cut_off_goes_on_where_it_stopped(server: RegistryServer, first: Store) -> None:
    files = {f"f{n}": random.Random(n).randbytes(10 << 20) for n in range(8)}  # two packs
    commit = make_commit(first, files)
    target = parse_target(f"{server.host}/cut/off")
    broken = first.objects.path(list(first.objects.list())[-1][0])
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(bytes(len(content)))
    with pytest.raises(DamagedError):
        push(first, commit, target, ACCESS)
    assert open_source(target, ACCESS).list_tags() == []
    broken.write_bytes(content)
    done = push(first, commit, target, ACCESS)
    assert done.blobs_reused > 0


def test_a_push_needs_a_tag(first: Store) -> None:
    commit = make_commit(first, FILES)
    with pytest.raises(UsageError, match="a push needs a tag"):
        push(first, commit, parse_target(f"127.0.0.1:1/x@sha256:{'0' * 64}"), ACCESS)


def test_a_tag_of_something_else(server: RegistryServer, first: Store, second: Store, tmp_path: Path) -> None:
    """An ordinary image is not pulled as a commit; a push may take its tag over."""
    layout = tmp_path / "image"
    umoci = str(program("umoci"))
    subprocess.run([umoci, "init", "--layout", layout], check=True)
    subprocess.run([umoci, "new", "--image", f"{layout}:v1"], check=True)
    skopeo = str(program("skopeo"))
    subprocess.run(
        [skopeo, "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{server.host}/an/image:v1"],
        check=True,
    )
    target = parse_target(f"{server.host}/an/image:v1")
    with pytest.raises(StratumError, match="is not a Stratum commit: it is an image"):
        pull(second, target, ACCESS)
    commit = make_commit(first, FILES)
    push(first, commit, target, ACCESS)
    assert pull(second, target, ACCESS).commit == commit


# TLS, plain HTTP, passwords


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RegistryServer, Path]]:
    """A registry with TLS and a password (user:secret), and the certificate to trust."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(directory)
    htpasswd = directory / "htpasswd"
    # bcrypt of "secret"
    htpasswd.write_text("user:$2b$05$MQF1YZuZ8sz7DQ2lYV4rKOIN.3NwVIrB6IjmTaxjoxgUe86qhfJZW\n")
    with registry_server(directory / "server", htpasswd=htpasswd, certificate=(certificate, key)) as running:
        yield running, certificate


def test_tls_is_verified(tls_server: tuple[RegistryServer, Path], first: Store) -> None:
    server, _ = tls_server
    commit = make_commit(first, FILES)
    with pytest.raises(StratumError, match=r"no TLS connection to .*certificate verify failed") as caught:
        push(first, commit, parse_target(f"https://{server.host}/a/b"), ACCESS)
    assert "--ca-file" in caught.value.hint


def test_plain_http_to_a_tls_server(tls_server: tuple[RegistryServer, Path], first: Store) -> None:
    server, _ = tls_server
    with pytest.raises(StratumError, match="HTTP request to an HTTPS server") as caught:
        push(first, make_commit(first, FILES), parse_target(f"{server.host}/a/b"), ACCESS)
    assert "https://" in caught.value.hint


def test_tls_to_a_plain_server(server: RegistryServer, first: Store) -> None:
    with pytest.raises(StratumError, match="no TLS connection"):
        push(first, make_commit(first, FILES), parse_target(f"https://{server.host}/a/b"), ACCESS)


def test_a_password_is_needed(tls_server: tuple[RegistryServer, Path], first: Store) -> None:
    server, certificate = tls_server
    access = replace(ACCESS, ca_file=certificate)
    with pytest.raises(StratumError, match="401 Unauthorized: UNAUTHORIZED: authentication required") as caught:
        push(first, make_commit(first, FILES), parse_target(f"{server.host}/a/b"), access)
    assert "stratum login" in caught.value.hint


def test_podmans_login_is_ours(
    tls_server: tuple[RegistryServer, Path], first: Store, second: Store, tmp_path: Path
) -> None:
    server, certificate = tls_server
    auth_file = tmp_path / "auth.json"
    auth_file.write_text(json.dumps({"auths": {server.host: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    environment = {"REGISTRY_AUTH_FILE": str(auth_file), "HOME": str(tmp_path)}
    access = replace(ACCESS, ca_file=certificate, credentials=partial(find_credentials, environment=environment))
    commit = make_commit(first, FILES)
    target = parse_target(f"{server.host}/with/password")
    push(first, commit, target, access)
    assert pull(second, target, access).commit == commit


def test_plain_http_elsewhere_must_be_asked_for(first: Store) -> None:
    """A host that is not loopback is spoken to in TLS unless the user says otherwise."""
    from stratum.oci.carrier import scheme_for

    target = parse_target("registry.example.com:5000/a/b")
    assert scheme_for(target, ACCESS) == "https"
    assert scheme_for(target, replace(ACCESS, plain_http=True)) == "http"
    assert scheme_for(target, replace(ACCESS, insecure_registries=("registry.example.com:5000",))) == "http"
    assert scheme_for(target, replace(ACCESS, insecure_registries=("registry.example.com",))) == "https"
    assert scheme_for(parse_target("http://registry.example.com:5000/a/b"), ACCESS) == "http"
    assert scheme_for(parse_target("https://127.0.0.1:5000/a/b"), replace(ACCESS, plain_http=True)) == "https"
    assert [scheme_for(parse_target(f"{h}/a"), ACCESS) for h in ("localhost:5", "127.9.9.9:5", "[::1]:5")] == [
        "http"
    ] * 3


class CuttingProxy:
    """Passes TCP connections on to ``port``; the first ``most`` are cut after so many bytes from the client."""

    def __init__(self, port: int, after: int, most: int) -> None:
        self._port, self._after, self._most = port, after, most
        self.cuts = 0
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _accept(self) -> None:
        workers = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            self._clients.append(client)
            workers.append(threading.Thread(target=self._serve, args=(client,)))
            workers[-1].start()
        for worker in workers:
            worker.join()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._pass, args=(server, client, None))
            back.start()
            if self._pass(client, server, self._after if self.cuts < self._most else None):
                self.cuts += 1
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, limit: int | None) -> bool:
        """Pass bytes on until the source ends (False) or ``limit`` bytes have passed (True)."""
        passed = 0
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                passed += len(data)
                if limit is not None and passed > limit:
                    return True
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return False


@pytest.mark.timeout(60)
def test_cut_connections_while_pushing(
    server: RegistryServer, first: Store, second: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stratum.oci.uploading.CHUNK", 4 << 20)
    files = {"large": random.Random(1).randbytes(18 << 20), **FILES}
    commit = make_commit(first, files)
    port = int(server.host.split(":")[1])
    with CuttingProxy(port, after=8 << 20, most=2) as proxy:
        push(first, commit, parse_target(f"{proxy.host}/cut/connections"), ACCESS)
        assert proxy.cuts == 2
    pull(second, parse_target(f"{server.host}/cut/connections"), ACCESS)
    assert equal_commits(first, second, commit)
