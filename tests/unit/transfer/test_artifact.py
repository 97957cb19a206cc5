"""The manifest of a commit, the tree layers, and how targets are written."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError, StratumError, UnsupportedError, UsageError
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE, VERITY_MEDIA_TYPE
from stratum.oci.target import is_loopback, parse_target
from stratum.store.lineage import ANCESTORS_MAX
from stratum.transfer import packs, treeblobs
from stratum.transfer.artifact import (
    ANCESTORS_ANNOTATION,
    CONFIG_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    TREE_MEDIA_TYPE,
    Manifest,
    PackLayers,
    read_manifest,
    write_manifest,
)
from stratum.tree import zstdframe
from stratum.tree.contents import objects_of
from stratum.tree.cutting import PIECE_MIN, split_dump
from stratum.tree.digest import merkle_summary, metadata_hash
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, File


def blob(media_type: str, number: int) -> Descriptor:
    return Descriptor(media_type, f"sha256:{number:064x}", number + 1)


def manifest(trees: int, pack_count: int, parent: str | None = None, verity: Sequence[int] = ()) -> Manifest:
    """``verity``: the packs whose object's hashes go with them, all the same."""
    return Manifest(
        "c" * 64,
        "2024-01-02T03:04:05Z",
        blob(CONFIG_MEDIA_TYPE, 0),
        tuple(blob(TREE_MEDIA_TYPE, 1 + n) for n in range(trees)),
        tuple(
            PackLayers(
                blob(INDEX_MEDIA_TYPE, 10_000 + 2 * n),
                blob(PACK_MEDIA_TYPE, 10_001 + 2 * n),
                blob(VERITY_MEDIA_TYPE, 30_000) if n in verity else None,
            )
            for n in range(pack_count)
        ),
        parent,
    )


@given(st.integers(1, 5), st.integers(0, 5), st.sampled_from([None, "d" * 64]), st.sets(st.integers(0, 4)))
def test_manifests_round_trip(trees: int, pack_count: int, parent: str | None, verity: set[int]) -> None:
    value = manifest(trees, pack_count, parent, sorted(verity))
    assert read_manifest(write_manifest(value), "x") == value


@pytest.mark.parametrize("at", [0, 1, 2, 4])
def test_hashes_stand_behind_their_pack_only(at: int) -> None:
    value = json.loads(write_manifest(manifest(1, 1, verity=[0])))
    hashes = value["layers"].pop()
    read_manifest(json.dumps(value).encode(), "x")
    value["layers"].insert(at, {**hashes, "annotations": {}})
    if at == 4:
        value["layers"].append({**hashes, "annotations": {}})
    with pytest.raises(DamagedError, match=r"pairs|first"):
        read_manifest(json.dumps(value).encode(), "x")


hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.lists(hashes, unique=True, max_size=20), st.booleans())
def test_ancestors_round_trip(ancestors: list[str], whole: bool) -> None:
    value = replace(manifest(1, 0, "d" * 64), ancestors=tuple(ancestors), whole=whole and bool(ancestors))
    assert read_manifest(write_manifest(value), "x") == value


NO_LISTS = ("", "end", " ", "d" * 63, "D" * 64, "d" * 64 + " ", "d" * 64 + "  " + "e" * 64, "d" * 64 + "\n" + "e" * 64)
NO_ENDS = ("d" * 64 + " end end", "end " + "d" * 64)
TWICE = ("d" * 64 + " " + "d" * 64, "d" * 64 + " " + "c" * 64)
TOO_MANY = " ".join(f"{number:064x}" for number in range(ANCESTORS_MAX + 1))


@pytest.mark.parametrize("text", [*NO_LISTS, *NO_ENDS, *TWICE, TOO_MANY])
def test_a_list_of_ancestors_that_is_none_is_refused(text: str) -> None:
    value = json.loads(write_manifest(manifest(1, 0)))
    value["annotations"][ANCESTORS_ANNOTATION] = text
    with pytest.raises(DamagedError, match="ancestors"):
        read_manifest(json.dumps(value).encode(), "x")


@given(st.binary(max_size=200))
def test_garbage_is_no_manifest(garbage: bytes) -> None:
    with pytest.raises(StratumError):
        read_manifest(garbage, "x")


def test_a_manifest_that_no_registry_would_take() -> None:
    with pytest.raises(UnsupportedError, match=str(MANIFEST_MAX)):
        write_manifest(manifest(9_000, 9_000))


# Tree layers


def dump_of(count: int, changed: int | None = None) -> bytes:
    return b"".join(
        b"/%06d/%d 6 100644 1 0 0 0 %d.0 - inline -\n" % (n, n, 1 if n == changed else 0) for n in range(count)
    )


@given(st.integers(0, 30_000), st.integers(1, 1 << 20))
def test_pieces_join_to_the_dump(count: int, size: int) -> None:
    """However it was cut. What we cut can be frames of a store; other cuts as long as each is of many whole lines."""
    dump = dump_of(count)
    pieces, size = list(split_dump(dump)), max(size, len(dump) >> 8)
    for cut in (pieces, [dump[at : at + size] for at in range(0, len(dump), size)]):
        joined = treeblobs.join_tree(map(zstdframe.compress, cut), "x")
        assert (joined.dump.text, joined.commit) == (dump, metadata_hash(dump))
        fit = all(piece.endswith(b"\n") for piece in cut) and all(len(piece) >= PIECE_MIN for piece in cut[:-1])
        assert [(frame.data, frame.size) for frame in joined.frames] == (
            [(zstdframe.compress(piece), len(piece)) for piece in cut] if fit else []
        )
        assert fit or cut is not pieces


def test_objects_of_a_dump() -> None:
    one, two = "12" * 32, "34" * 32
    lines = [
        "/ 0 40755 2 0 0 0 0.0 - - -",
        f"/a 100 100644 1 0 0 0 0.0 12/x - {one}",
        f"/b 200 100644 1 0 0 0 0.0 34/x - {two} user.a=b",
        f"/c 100 100644 1 0 0 0 0.0 12/x - {one}",
        "/d 0 @100644 2 0 0 0 0.0 /a - -",
    ]
    dump = "\n".join([*lines, ""]).encode()
    assert list(objects_of(dump).items()) == [(bytes.fromhex(one), 100), (bytes.fromhex(two), 200)]
    for bad in (f"/e 101 100644 1 0 0 0 0.0 12/x - {one}", "/e 9 100644 1 0 0 0 0.0 12/x - abcd"):
        with pytest.raises(DamagedError):
            objects_of(dump + bad.encode() + b"\n")


# Targets


@pytest.mark.parametrize(
    ("text", "host", "repository", "reference", "shown"),
    [
        ("localhost/a", "localhost", "a", "latest", "localhost/a:latest"),
        ("localhost:5000/a/b:v1", "localhost:5000", "a/b", "v1", "localhost:5000/a/b:v1"),
        (
            "Registry.Example.COM/team/app",
            "registry.example.com",
            "team/app",
            "latest",
            "registry.example.com/team/app:latest",
        ),
        ("https://h.x/a", "h.x", "a", "latest", "h.x/a:latest"),
        ("HTTP://[::1]:5000/a:b", "[::1]:5000", "a", "b", "[::1]:5000/a:b"),
        (f"h.x/a@sha256:{'0' * 64}", "h.x", "a", f"sha256:{'0' * 64}", f"h.x/a@sha256:{'0' * 64}"),
        (f"h.x/a:t@sha256:{'0' * 64}", "h.x", "a", f"sha256:{'0' * 64}", f"h.x/a@sha256:{'0' * 64}"),
        ("app:v2", "reg.example.com", "team/app", "v2", "reg.example.com/team/app:v2"),
        ("sub/app", "reg.example.com", "team/sub/app", "latest", "reg.example.com/team/sub/app:latest"),
    ],
)
def test_targets(text: str, host: str, repository: str, reference: str, shown: str) -> None:
    target = parse_target(text, "reg.example.com/team/")
    assert (target.host, target.repository, target.reference, str(target)) == (host, repository, reference, shown)


@pytest.mark.parametrize(
    ("text", "directory", "tag"),
    [
        ("oci:/a/b", "/a/b", "latest"),
        ("oci:/a/b:v1", "/a/b", "v1"),
        ("oci:/a:b/c", "/a:b/c", "latest"),
        ("oci:/a b/ü:x", "/a b/ü", "x"),
    ],
)
def test_layout_targets(text: str, directory: str, tag: str) -> None:
    target = parse_target(text)
    assert (target.host, target.directory, target.tag) == (None, Path(directory), tag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "/app",
        "h.x",
        "h.x/",
        "h.x/A",
        "h.x/a/../b",
        "h.x/a//b",
        "h.x/a:",
        "h.x/a:-x",
        "h.x/a:" + "x" * 129,
        "h.x/" + "a" * 256,
        "h.x/a@sha256:abc",
        "h.x/a@md5:abc",
        "h.x/a b",
        "h.x/a\nb",
        "h..x/a",
        "-h.x/a",
        "h.x:/a",
        "h.x:0/a",
        "h.x:70000/a",
        "user:pw@h.x/a",
        "[::1/a",
        "[1.2.3]/a",
        "ftp://h.x/a",
        "https://http://h.x/a",
        "http://app",
        "oci:",
        "oci::tag",
        "oci:/a:.bad",
        "oci:/a\0b",
    ],
)
def test_bad_targets(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    try:
        target = parse_target(text)
    except UsageError:
        return
    assert target.directory is not None or re.fullmatch(r"[a-z0-9.:\[\]-]+", target.host or "")


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "localhost:1", "127.0.0.1:5000", "127.255.0.1", "[::1]:5000"]))
    assert not any(
        map(is_loopback, ["localhost.evil.com", "128.0.0.1", "[::2]:5000", "127.0.0.1.evil.com", "10.0.0.1"])
    )


def test_bounds_of_what_is_read() -> None:
    with pytest.raises(DamagedError, match="more than"):
        zstdframe.decompress(zstdframe.compress(bytes(1001)), 1000, "x")
    assert zstdframe.decompress(zstdframe.compress(bytes(1000)), 1000, "x") == bytes(1000)


def test_the_example_of_the_specification() -> None:
    text = (Path(__file__).resolve().parents[3] / "registry" / "ARTIFACT.md").read_text("utf-8")
    example = text.split("## Example")[1]
    data = b"a" * 100
    digest = verity_digest(data)
    file = File(0o100644, 0, 0, 0, size=len(data), digest=digest)
    dump = write_dump(Directory(0o40755, 0, 0, 0, children={b"hello": file}))
    writer = packs.PackWriter([packs.Member(digest, len(data))], lambda _digest: io.BytesIO(data))
    pack = b"".join(writer.pieces())
    (compressed, uncompressed) = writer.index.frames[0]
    archive = zstdframe.decompress(pack[:compressed], uncompressed, "the pack")
    indented = [line[4:] for line in example.splitlines() if line.startswith("    ")]
    assert "\n".join(indented[:2]) + "\n" == dump.decode()
    assert f"Commit ID: `{metadata_hash(dump)}`" in example
    assert f"Merkle root: `{merkle_summary(dump).root}`" in example
    assert f"{len(archive)} bytes and the SHA-256 `{hashlib.sha256(archive).hexdigest()}`" in example
    index = zstdframe.decompress(packs.write_index(writer.index), 1000, "the index").decode()
    assert "\n".join(indented[2:5]) + "\n" == re.sub(r"frame \d+", "frame 125", index)
    assert indented[5] == packs.seek_table([(125, uncompressed)]).hex()
