"""Pulling from a registry that lies: one clear error each, and nothing in the store but verified objects."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.descriptor import digest_of
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer import packs
from stratum.transfer.packs import PackIndex
from stratum.tree.digest import merkle_summary, metadata_hash
from stratum.zstd import compress, decompress
from tests.e2e.hostile_registry import ACCESS, Handler, HostileRegistry, refused
from tests.e2e.registry_artifacts import Artifact, make_artifact
from tests.support.pulling import pull


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def test_an_honest_registry_is_believed(artifact: Artifact, store: Store) -> None:
    with HostileRegistry(artifact) as registry:
        done = pull(store, parse_target(registry.target), ACCESS)
    assert store.commits.list() == [done.commit] == [artifact.original.commit]
    assert done.manifest_digest == digest_of(artifact.manifest)
    meta = store.commits.meta(done.commit)
    assert (meta.message, meta.timestamp) == ("for testing", "2024-05-06T07:08:09Z")
    assert meta.origin == {"kind": "pull", "reference": registry.target, "manifest": done.manifest_digest}


# What a server can do wrong in HTTP


def on_blob(number: int, behave: Callable[[Handler, bytes], None]) -> Callable[[Handler], bool]:
    """Misbehave on the GET of the artifact's blob ``number`` (0 config, 1 tree, then index and pack)."""

    def behaviour(request: Handler) -> bool:
        registry = request.server.registry
        if request.path.endswith(list(registry.blobs)[number]):
            behave(request, list(registry.blobs.values())[number])
            return True
        return False

    return behaviour


CONFIG, TREE, INDEX, PACK = range(4)


@pytest.mark.parametrize("number", [CONFIG, TREE, INDEX, PACK])
def test_wrong_bytes(artifact: Artifact, store: Store, number: int) -> None:
    def lie(request: Handler, data: bytes) -> None:
        request.send(200, data[:-1] + bytes([data[-1] ^ 1]))

    error = refused(store, HostileRegistry(artifact, on_blob(number, lie)))
    assert isinstance(error, DamagedError)
    assert "do not match the digest" in error.message


@pytest.mark.parametrize("number", [CONFIG, PACK])
def test_wrong_size(artifact: Artifact, store: Store, number: int) -> None:
    error = refused(
        store, HostileRegistry(artifact, on_blob(number, lambda request, data: request.send(200, data + b"more")))
    )
    assert isinstance(error, DamagedError)
    assert "instead of" in error.message


@pytest.mark.parametrize("number", [CONFIG, PACK])
def test_extra_bytes_without_a_length(artifact: Artifact, store: Store, number: int) -> None:
    def lie(request: Handler, data: bytes) -> None:
        request.start_chunked()
        request.chunk(data)
        request.chunk(b"more")
        request.chunk(b"")

    error = refused(store, HostileRegistry(artifact, on_blob(number, lie)))
    assert isinstance(error, DamagedError)
    assert "more than" in error.message


def test_a_body_that_ends_early(artifact: Artifact, store: Store) -> None:
    def lie(request: Handler, data: bytes) -> None:
        request.start_chunked()
        request.chunk(data[:100])
        request.chunk(b"")

    error = refused(store, HostileRegistry(artifact, on_blob(PACK, lie)))
    assert isinstance(error, DamagedError)
    assert "sent 100 of the" in error.message


@pytest.mark.parametrize("number", [CONFIG, PACK])
def test_an_endless_body(artifact: Artifact, store: Store, number: int) -> None:
    def lie(request: Handler, _data: bytes) -> None:
        request.start_chunked()
        while True:
            request.chunk(bytes(1 << 16))

    error = refused(store, HostileRegistry(artifact, on_blob(number, lie)))
    assert "more than" in error.message


def test_an_endless_manifest(artifact: Artifact, store: Store) -> None:
    def lie(request: Handler) -> bool:
        request.start_chunked()
        while True:
            request.chunk(b" " * (1 << 16))

    error = refused(store, HostileRegistry(artifact, lie))
    assert "more than the 4194304 bytes" in error.message


@pytest.mark.parametrize("start", [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
def test_headers_that_trickle(artifact: Artifact, store: Store, start: bytes) -> None:
    def lie(request: Handler) -> bool:
        request.wfile.write(start)
        for _ in range(200):
            request.wfile.write(b"2\r\nX: y\r\n" if start.endswith(b"\n") else b"2")
            time.sleep(0.05)
        return True

    access = replace(ACCESS, read_timeout=0.3)
    error = refused(store, HostileRegistry(artifact, lie), access)
    assert "no whole answer within 0.3 s" in error.message


def test_a_body_that_trickles(artifact: Artifact, store: Store) -> None:
    def lie(request: Handler, data: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        for byte in data:
            request.wfile.write(bytes([byte]))
            time.sleep(0.05)

    error = refused(store, HostileRegistry(artifact, on_blob(PACK, lie)))
    assert "too slowly" in error.message


def test_silence(artifact: Artifact, store: Store) -> None:
    def lie(_request: Handler) -> bool:
        time.sleep(3)
        return True

    error = refused(store, HostileRegistry(artifact, lie), replace(ACCESS, read_timeout=0.3))
    assert "gives no whole answer within 0.3 s" in error.message


@pytest.mark.parametrize("number", [CONFIG, TREE, INDEX, PACK])
def test_a_missing_blob(artifact: Artifact, store: Store, number: int) -> None:
    def gone(request: Handler, _data: bytes) -> None:
        request.send(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')

    error = refused(store, HostileRegistry(artifact, on_blob(number, gone)))
    assert isinstance(error, NotFoundError)
    assert "404 Not Found: BLOB_UNKNOWN: blob unknown to registry" in error.message


def test_a_server_error_in_its_own_words(artifact: Artifact, store: Store) -> None:
    def fail(request: Handler) -> bool:
        request.send(500, b'{"errors":[{"code":"UNKNOWN","message":"disk on fire\\u001b[31m"}]}')
        return True

    error = refused(store, HostileRegistry(artifact, fail))
    assert error.exit_code == 1
    assert "500 Internal Server Error: UNKNOWN: disk on fire [31m" in error.message


def test_an_unknown_tag(artifact: Artifact, store: Store) -> None:
    registry = HostileRegistry(artifact)
    registry.tag = "other"
    assert isinstance(refused(store, registry), NotFoundError)


def test_a_manifest_that_does_not_match_its_digest(artifact: Artifact, store: Store) -> None:
    registry = HostileRegistry(artifact)
    wanted = "sha256:" + "1" * 64
    registry.behaviour = lambda request: wanted in request.path and not request.send(200, registry.manifest)
    registry.target = f"{registry.host}/team/app@{wanted}"
    assert "does not match its digest" in refused(store, registry).message


def test_a_manifest_over_4_mib(artifact: Artifact, store: Store) -> None:
    registry = HostileRegistry(artifact)
    registry.manifest = registry.manifest[:-1] + b" " * (4 << 20) + b"}"
    assert "more than the 4194304 bytes" in refused(store, registry).message


def test_a_compressed_body_is_not_inflated(artifact: Artifact, store: Store) -> None:
    def lie(request: Handler, data: bytes) -> None:
        request.send(200, data, {"Content-Encoding": "gzip"})

    with HostileRegistry(artifact, on_blob(PACK, lie)) as registry:
        pull(store, parse_target(registry.target), ACCESS)


def test_cut_connections_are_taken_up_again(artifact: Artifact, store: Store) -> None:
    def cut(request: Handler, data: bytes) -> None:
        first = int((request.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(data) - first))
        request.end_headers()
        request.wfile.write(data[first : first + 500_000])
        request.cut()

    with HostileRegistry(artifact, on_blob(PACK, cut)) as registry:
        done = pull(store, parse_target(registry.target), ACCESS)
    assert store.commits.list() == [done.commit]
    ranges = [headers["Range"] for _, _, headers in registry.seen if "Range" in headers]
    assert [text.split("-")[0] for text in ranges] == [f"bytes={n * 500_000}" for n in range(1, len(ranges) + 1)]


def test_a_connection_that_is_always_cut(artifact: Artifact, store: Store) -> None:
    def cut(request: Handler, data: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.cut()

    error = refused(store, HostileRegistry(artifact, on_blob(CONFIG, cut)))
    assert "broke" in error.message


def test_nobody_listens(store: Store) -> None:
    with HostileRegistry() as registry:
        target = registry.target
    with pytest.raises(StratumError, match=r"cannot connect to 127\.0\.0\.1:\d+: Connection refused"):
        pull(store, parse_target(target), ACCESS)


# What a manifest can say


def edited(artifact: Artifact, edit: Callable[[dict[str, Any]], object]) -> HostileRegistry:
    registry = HostileRegistry(artifact)
    value = json.loads(registry.manifest)
    edit(value)
    registry.manifest = json.dumps(value).encode()
    return registry


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(manifests=[]), "both 'layers' and 'manifests'"),
        (lambda m: (m.pop("layers"), m.pop("config"), m.update(manifests=[])), "an index of several images"),
        (lambda m: m.update(schemaVersion=1), "'schemaVersion' is not 2"),
        (lambda m: m.update(schemaVersion=True), "'schemaVersion' is not 2"),
        (lambda m: m.update(mediaType="text/html"), "is not valid: its media type is 'text/html'"),
        (lambda m: m.update(artifactType="application/other"), "artifactType is 'application/other'"),
        (lambda m: m.pop("artifactType"), "is an image"),
        (lambda m: m.update(layers={}), "'layers' is not a list"),
        (lambda m: m["config"].update(mediaType="application/json"), "config has the media type"),
        (lambda m: m["layers"][0].update(urls=["http://127.0.0.1:1/"]), "has 'urls'"),
        (lambda m: m["layers"][0].update(data="AA=="), "has 'data'"),
        (lambda m: m["layers"][0].update(mediaType="application/x-tar"), "layer 0 has the media type"),
        (lambda m: m["layers"][0].update(size=-1), "layer 0 has the size -1"),
        (lambda m: m["layers"][0].update(size=1 << 40), "layer 0 has the size"),
        (lambda m: m["layers"][0].update(size=1.5), "layer 0 has the size 1.5"),
        (lambda m: m["layers"][0].update(size=True), "layer 0 has the size True"),
        (lambda m: m["layers"][0].update(digest="sha512:" + "0" * 128), "no sha256 digest"),
        (lambda m: m["layers"][0].update(digest="sha256:../../etc/passwd"), "no sha256 digest"),
        (lambda m: m["layers"][1]["annotations"].update(m["layers"][0]["annotations"]), "the same title"),
        (lambda m: m["layers"].append(m["layers"][-1]), "listed twice"),
        (lambda m: m["layers"].pop(), "not in pairs"),
        (lambda m: m["layers"].reverse(), "do not come first"),
        (lambda m: m["layers"].pop(0), "do not come first"),
        (lambda m: m["annotations"].update({"dev.stratum.commit": "../x"}), "not a commit hash"),
        (lambda m: m["annotations"].update({"dev.stratum.commit": "0" * 64}), "different commits"),
        (lambda m: m["annotations"].update({"dev.stratum.parent": "x"}), "not a commit hash"),
        (lambda m: m.update(annotations=[1]), "are not texts"),
    ],
)
def test_manifests_that_break_the_rules(
    artifact: Artifact, store: Store, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    assert message in refused(store, edited(artifact, edit), lazily=True).message


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"schemaVersion":2,"schemaVersion":2}', b"\xff", b"1" * 5000, b"null"],
)
def test_manifests_that_are_none(artifact: Artifact, store: Store, manifest: bytes) -> None:
    registry = HostileRegistry(artifact)
    registry.manifest = manifest
    assert isinstance(refused(store, registry), DamagedError)


# What can be wrong inside, with every digest of the manifest right


def edit_index(artifact: Artifact, pattern: bytes, replacement: bytes) -> Artifact:
    index, pack = artifact.packs[0]
    text = re.sub(pattern, replacement, decompress(index), count=1)
    assert text != decompress(index)
    return replace(artifact, packs=((compress(text), pack),))


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb"(object [0-9a-f]{64}) 512 ", rb"\1 1024 "),  # an offset
        (rb"(object [0-9a-f]{64} \d+) \d+", rb"\1 99999"),  # a size
        (rb"(object [0-9a-f]{64} \d+) \d+", rb"\1 -1"),
        (rb"object [0-9a-f]{64}", b"object " + b"0" * 64),  # a digest
        (rb"object .*\n", b""),  # one object less
        (rb"object (.*)\n", rb"object \1\nobject \1\n"),  # one twice
        (rb"frame \d+", b"frame 1"),
        (rb"(frame \d+) \d+", rb"\1 99999999999999"),
        (rb"frame .*\n", b""),
        (rb"stratum-index 1", b"stratum-index 2"),
        (rb"\Z", b"trailing"),
    ],
)
def test_an_index_that_lies(artifact: Artifact, store: Store, pattern: bytes, replacement: bytes) -> None:
    error = refused(store, HostileRegistry(edit_index(artifact, pattern, replacement)), lazily=True)
    assert isinstance(error, DamagedError)


def repack(artifact: Artifact, edit: Callable[[bytes, PackIndex], bytes]) -> Artifact:
    """The artifact with the archive of its pack edited, in one frame, and an index that fits as well as it can."""
    index_blob, pack = artifact.packs[0]
    index = packs.read_index(index_blob, len(pack), "test")
    archive = b"".join(decompress(frame) for frame in _frames(index, pack))
    archive = edit(archive, index)
    frame = compress(archive)
    frames = ((len(frame), len(archive)),)
    new = PackIndex(frames, index.members)
    return replace(artifact, packs=((packs.write_index(new), frame + packs.seek_table(frames)),))


def _frames(index: PackIndex, pack: bytes) -> list[bytes]:
    starts = index.frame_starts[0]
    return [pack[start:end] for start, end in pairwise(starts)]


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "header",
    [
        member("../../../../etc/cron.d/evil", size=800),
        member("/etc/passwd", size=800),
        member("00/11", tarfile.SYMTYPE, "/etc/passwd"),
        member("00/11", tarfile.LNKTYPE, "/etc/passwd"),
        member("00/11", tarfile.CHRTYPE),
        member("00/11", tarfile.DIRTYPE),
        bytes(512),
    ],
)
@pytest.mark.parametrize("position", [0, -1])
def test_members_that_are_not_in_the_index(artifact: Artifact, store: Store, header: bytes, position: int) -> None:
    def edit(archive: bytes, index: PackIndex) -> bytes:
        start = index.offsets[position] - 512
        return archive[:start] + header + archive[start + 512 :]

    error = refused(store, HostileRegistry(repack(artifact, edit)))
    assert isinstance(error, DamagedError)
    assert "is something else than object" in error.message


def test_an_additional_member(artifact: Artifact, store: Store) -> None:
    extra = repack(artifact, lambda archive, _index: archive[:-1024] + member("00/11") + bytes(1024))
    assert isinstance(refused(store, HostileRegistry(extra)), DamagedError)


def test_bytes_after_the_last_member(artifact: Artifact, store: Store) -> None:
    hidden = repack(artifact, lambda archive, _index: archive[:-10] + b"x" * 10)
    assert "belong to no object" in refused(store, HostileRegistry(hidden)).message


def test_object_bytes_that_do_not_match_their_digest(artifact: Artifact, store: Store) -> None:
    def edit(archive: bytes, index: PackIndex) -> bytes:
        at = index.offsets[1]
        return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]

    error = refused(store, HostileRegistry(repack(artifact, edit)))
    assert "do not match its digest" in error.message
    assert len(list(store.objects.list())) < 5


def test_a_frame_that_is_a_bomb(artifact: Artifact, store: Store) -> None:
    index_blob, pack = artifact.packs[0]
    index = packs.read_index(index_blob, len(pack), "test")
    bomb = compress(bytes(1 << 30))
    frames = ((len(bomb), index.frames[0][1]), *index.frames[1:])
    lying = PackIndex(frames, index.members)
    body = bomb + pack[index.frames[0][0] : sum(size for size, _ in index.frames)] + packs.seek_table(frames)
    bad = replace(artifact, packs=((packs.write_index(lying), body),))
    assert "decompresses to more than" in refused(store, HostileRegistry(bad)).message


@pytest.mark.parametrize("where", ["tree", "index"])
def test_bombs_elsewhere(artifact: Artifact, store: Store, where: str) -> None:
    bomb = compress(bytes(1 << 30))
    bad = (
        replace(artifact, trees=(bomb,))
        if where == "tree"
        else replace(artifact, packs=((bomb, artifact.packs[0][1]),))
    )
    assert "decompresses to more than" in refused(store, HostileRegistry(bad), lazily=True).message


@pytest.mark.parametrize("blob", [b"no zstd", compress(b"x") + b"y", compress(b"x" * 1000)[:-5], b"x"])
@pytest.mark.parametrize("where", ["tree", "index"])
def test_blobs_that_are_no_zstd(artifact: Artifact, store: Store, where: str, blob: bytes) -> None:
    bad = (
        replace(artifact, trees=(blob,))
        if where == "tree"
        else replace(artifact, packs=((blob, artifact.packs[0][1]),))
    )
    assert isinstance(refused(store, HostileRegistry(bad), lazily=True), DamagedError)


def unchecked(config: bytes) -> bytes:
    """The metadata without their check, which is for accidents: who writes hostile metadata writes one that fits."""
    body, table, _ = config.partition(b"\n[check]\n")
    assert table
    return body


def with_dump(artifact: Artifact, dump: bytes, *, merkle: str | None = None) -> Artifact:
    """The artifact of another dump, with metadata that fit."""
    commit, root = metadata_hash(dump), merkle_summary(dump).root if dump else "0" * 64
    config = unchecked(artifact.config).decode()
    config = re.sub(r'metadata_hash = "\w+"', f'metadata_hash = "{commit}"', config)
    config = re.sub(r'merkle_root = "\w+"', f'merkle_root = "{merkle or root}"', config)
    return replace(
        artifact,
        config=config.encode(),
        trees=(compress(dump),),
        original=replace(artifact.original, commit=commit),
    )


FILE_LINE = b"%b 6 100644 1 0 0 0 0.0 - inline -\n"


@pytest.mark.parametrize(
    "edit",
    [
        lambda dump: dump + FILE_LINE % b"/../evil",
        lambda dump: dump + FILE_LINE % b"/zz/..",
        lambda dump: dump + FILE_LINE % b"/small",
        lambda dump: dump + FILE_LINE % b"/nowhere/file",
        lambda dump: dump + FILE_LINE % b"relative",
        lambda dump: dump + FILE_LINE % b"/z\\x2f..\\x2f..\\x2fevil",
        lambda dump: dump + FILE_LINE % b"/zz\\x00",
        lambda dump: dump + b"/zz 0 @100644 2 0 0 0 0.0 /nothing - -\n",
        lambda dump: dump + b"\n",
        lambda dump: dump[:-1],
        lambda dump: dump.replace(b"/small", b"/sm\\x61ll"),
        lambda dump: dump.replace(b" 40755 ", b" 040755 ", 1),
        lambda dump: b"".join(sorted(dump.splitlines(keepends=True), reverse=True)),
        lambda dump: b"",
        lambda dump: b"garbage\n",
        lambda dump: re.sub(rb"\w\w/\w{62} - \w{64}", b"../../../etc/passwd - " + b"0" * 64, dump, count=1),
        lambda dump: re.sub(rb"\w\w/\w{62} - \w{64}", b"ab/cd - abcd", dump, count=1),
        lambda dump: dump.replace(b" - - ", b" -"),
    ],
)
def test_trees_that_are_not_canonical(artifact: Artifact, store: Store, edit: Callable[[bytes], bytes]) -> None:
    dump = b"".join(map(decompress, artifact.trees))
    bad = edit(dump)
    assert bad != dump
    error = refused(store, HostileRegistry(with_dump(artifact, bad)), lazily=True)
    assert isinstance(error, DamagedError)


def test_an_object_that_no_pack_has(artifact: Artifact, store: Store) -> None:
    dump = b"".join(map(decompress, artifact.trees))
    digest = "12" * 32
    line = f"/zz 100 100644 1 0 0 0 0.0 {digest[:2]}/{digest[2:]} - {digest}\n".encode()
    error = refused(store, HostileRegistry(with_dump(artifact, dump + line)), lazily=True)
    assert digest in error.message


def test_a_size_in_the_tree_that_is_not_the_objects(artifact: Artifact, store: Store) -> None:
    dump = b"".join(map(decompress, artifact.trees))
    bad = dump.replace(b" 200000 ", b" 200001 ")
    assert bad != dump
    assert isinstance(refused(store, HostileRegistry(with_dump(artifact, bad)), lazily=True), DamagedError)


def test_metadata_of_another_tree(artifact: Artifact, store: Store) -> None:
    dump = b"".join(map(decompress, artifact.trees))
    other = compress(dump.replace(b" 1000 1000 ", b" 0 0 "))
    error = refused(store, HostileRegistry(replace(artifact, trees=(other,))), lazily=True)
    assert "not " + artifact.original.commit in error.message


def test_a_merkle_root_of_another_tree(artifact: Artifact, store: Store) -> None:
    dump = b"".join(map(decompress, artifact.trees))
    error = refused(store, HostileRegistry(with_dump(artifact, dump, merkle="0" * 64)), lazily=True)
    assert "Merkle root" in error.message


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb'metadata_hash = "\w+"', b'metadata_hash = "' + b"0" * 64 + b'"'),
        (rb'timestamp = "[^"]+"', b'timestamp = "yesterday"'),
        (rb'timestamp = "[^"]+"', b'timestamp = "2024-01-01T00:00:00"'),
        (rb'merkle_root = "\w+"', b""),
        (rb"\[commit\]", b"[other]"),
        (rb"\A", b"= not toml"),
        (rb"\A", b"\xff"),
    ],
)
def test_metadata_that_make_no_sense(artifact: Artifact, store: Store, pattern: bytes, replacement: bytes) -> None:
    config = re.sub(pattern, replacement, unchecked(artifact.config), count=1)
    assert config != unchecked(artifact.config)
    assert isinstance(refused(store, HostileRegistry(replace(artifact, config=config)), lazily=True), DamagedError)


def test_what_arrived_before_a_failure_is_not_fetched_again(artifact: Artifact, store: Store) -> None:
    def edit(archive: bytes, index: PackIndex) -> bytes:
        at = index.offsets[-1]
        return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]

    refused(store, HostileRegistry(repack(artifact, edit)))
    assert len(list(store.objects.list())) == 4
    with HostileRegistry(artifact) as registry:
        pull(store, parse_target(registry.target), ACCESS)
    assert any("Range" in headers for _, _, headers in registry.seen)


def test_a_tar_reader_agrees_with_the_archive(artifact: Artifact) -> None:
    index_blob, pack = artifact.packs[0]
    index = packs.read_index(index_blob, len(pack), "test")
    archive = b"".join(decompress(frame) for frame in _frames(index, pack))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [info.name.replace("/", "") for info in tar] == [m.digest.hex() for m in index.members]
