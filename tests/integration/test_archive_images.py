"""Ordinary container images become trees: layers with whiteouts, several platforms, and images that lie."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stratum import zstd
from stratum.api.importing import Options, import_, import_patch
from stratum.api.session import Session
from stratum.api.transfer import push
from stratum.config import load_config
from stratum.errors import NotFoundError, StratumError
from stratum.oci.image import architecture
from stratum.transfer import imagepush
from stratum.tree.model import Directory, File, lookup, walk
from stratum.tree.tarheader import DIRECTORY, HARD_LINK, SYMLINK, TarHeader
from tests.support.archives import file, tar
from tests.support.stores import check, leftovers

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def at(tmp_path: Path) -> Session:
    return Session(load_config({}, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run")))


class Maker:
    """Writes an OCI image layout, right or wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs/sha256"
        self.blobs.mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def json(self, media_type: str, value: object) -> dict[str, Any]:
        return self.blob(media_type, json.dumps(value).encode())

    def image(
        self,
        *layers: bytes,
        compress: Callable[[bytes], bytes] = gzip.compress,
        kind: str = LAYER + "+gzip",
        config: Callable[[dict[str, Any]], object] = lambda _: None,
        manifest: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> dict[str, Any]:
        """The descriptor of an image; ``config`` and ``manifest`` may change what they are given."""
        diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        settings: dict[str, Any] = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        config(settings)
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.json(CONFIG, settings),
            "layers": [self.blob(kind, compress(layer)) for layer in layers],
        }
        manifest(value)
        return self.json(MANIFEST, value)

    def index(self, *entries: dict[str, Any]) -> str:
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        return f"oci:{self.root}"


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "layout")


def paths(at: Session, commit: str) -> list[str]:
    return [path.decode() for path, _ in walk(at.store.commits.tree(commit))]


BASE = tar(
    TarHeader(b"./", DIRECTORY, 0o700, mtime=5),
    TarHeader(b"etc/", DIRECTORY, 0o750, uid=3),
    file(b"etc/passwd", b"root"),
    file(b"etc/old", b"old"),
    TarHeader(b"lib", SYMLINK, linkname=b"usr/lib"),
    file(b"usr/lib/a", b"a"),
    file(b"var/x/y", b"y"),
    file(b"var/x/z", b"z"),
)


def test_layers_are_laid_over_one_another(at: Session, make: Maker) -> None:
    second = tar(
        file(b"etc/.wh.old"),
        file(b"etc/new", b"new"),
        TarHeader(b"etc/hard", HARD_LINK, linkname=b"etc/passwd"),
        file(b"var/x/.wh..wh..opq"),
        file(b"var/x/only", b"o"),
        file(b".wh.nothing"),
    )
    third = tar(file(b"lib/b", b"b"), file(b".wh.usr"))
    done = import_(at, make.index(make.image(BASE, second, third)), "x")
    commit = done.commit.metadata_hash
    assert paths(at, commit) == [
        "/", "/etc", "/etc/hard", "/etc/new", "/etc/passwd", "/lib", "/lib/b", "/var", "/var/x", "/var/x/only",
    ]  # fmt: skip
    tree = at.store.commits.tree(commit)
    assert (tree.mode, tree.mtime) == (0o40700, 5)
    etc = lookup(tree, b"etc")
    assert isinstance(etc, Directory)
    assert (etc.mode, etc.uid) == (0o40750, 3)  # what a layer does not say stays as it was below
    assert etc.children[b"hard"] is etc.children[b"passwd"]
    assert done.commit.origin is not None
    assert str(done.commit.origin["manifest"]).startswith("sha256:")


@pytest.mark.parametrize(
    ("compress", "kind"),
    [(lambda data: data, LAYER), (zstd.compress, LAYER + "+zstd"), (gzip.compress, LAYER)],
    ids=["plain", "zstd", "gzip that says it is plain"],
)
def test_every_compression(at: Session, make: Maker, compress: Callable[[bytes], bytes], kind: str) -> None:
    done = import_(at, make.index(make.image(BASE, compress=compress, kind=kind)), "x")
    assert done.commit.file_count == 5


def test_the_image_for_this_machine_is_taken(at: Session, make: Maker) -> None:
    other, ours = make.image(tar(file(b"other"))), make.image(tar(file(b"ours")))
    entries = [
        {**other, "platform": {"os": "linux", "architecture": "vax"}},
        {**ours, "platform": {"os": "linux", "architecture": architecture()}},
        {**other, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    both = make.json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    assert paths(at, import_(at, make.index(both), "x").commit.metadata_hash) == ["/", "/ours"]
    none = [entries[0], {**other, "platform": {"os": "windows", "architecture": architecture()}}]
    neither = make.json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": none})
    with pytest.raises(StratumError, match=rf"has no image for linux/{architecture()}"):
        import_(at, make.index(neither), "x")


def test_an_image_as_a_patch(at: Session, make: Maker, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(BASE)
    import_(at, str(tmp_path / "x.tar"), "app:v1")
    patch = make.index(make.image(tar(file(b"etc/.wh.old")), tar(file(b"var/x/.wh.z"), file(b"new"))))
    done = import_patch(at, patch, "app:v2", "app:v1")
    left = set(paths(at, done.commit.metadata_hash))
    assert {"/etc/old", "/var/x/z"}.isdisjoint(left)
    assert {"/etc/passwd", "/var/x/y", "/new"} <= left
    etc = lookup(at.store.commits.tree(done.commit.metadata_hash), b"etc")
    assert etc is not None
    assert etc.mode == 0o40750


def test_an_image_that_would_have_too_many_layers_is_written_as_one(
    at: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagepush, "LAYERS_MAX", 3)
    counts = []
    for number in range(5):
        (tmp_path / "x.tar").write_bytes(tar(*(file(b"%d" % n) for n in range(number + 1))))
        commit = import_(at, str(tmp_path / "x.tar"), "app").commit.metadata_hash
        done = push(at, "app", f"oci:{tmp_path}/layout", access=at.access(), image="gzip")
        manifest = json.loads((tmp_path / "layout/blobs/sha256" / done.manifest_digest[7:]).read_bytes())
        counts.append(len(manifest["layers"]))
        assert import_(at, f"oci:{tmp_path}/layout", "back").commit.metadata_hash == commit
    assert counts == [1, 2, 3, 1, 2]


HOSTILE: dict[str, tuple[Callable[[Maker], dict[str, Any]], str]] = {
    "a layer that is another": (
        lambda make: make.image(BASE, config=lambda c: c["rootfs"].update(diff_ids=["sha256:" + "0" * 64])),
        "is not the layer that the image's configuration names",
    ),
    "fewer layers than it says": (
        lambda make: make.image(BASE, BASE, manifest=lambda m: m["layers"].pop()),
        "has 1 layers, and 2 in its configuration",
    ),
    "no configuration": (
        lambda make: make.image(BASE, manifest=lambda m: m.update(config=make.blob(CONFIG, b"[]"))),
        "its configuration has no list of layers",
    ),
    "a configuration of another kind": (
        lambda make: make.image(BASE, manifest=lambda m: m["config"].update(mediaType="text/plain")),
        "is neither a commit nor a container image",
    ),
    "a layer of another kind": (
        lambda make: make.image(BASE, kind="application/vnd.oci.image.layer.nondistributable.v1.tar"),
        "layer 0 has the media type",
    ),
    "a layer elsewhere": (
        lambda make: make.image(BASE, manifest=lambda m: m["layers"][0].update(urls=["http://127.0.0.1:1/"])),
        "has 'urls'",
    ),
    "a layer of another size": (
        lambda make: make.image(BASE, manifest=lambda m: m["layers"][0].update(size=7)),
        "sent more than the 7 bytes",
    ),
    "a missing layer": (
        lambda make: make.image(BASE, manifest=lambda m: m["layers"][0].update(digest="sha256:" + "1" * 64)),
        "is missing from",
    ),
    "both kinds": (
        lambda make: make.image(BASE, manifest=lambda m: m.update(manifests=[])),
        "malformed",
    ),
    "an index of an index": (
        lambda make: make.json(
            INDEX,
            {"schemaVersion": 2, "manifests": [make.json(INDEX, {"schemaVersion": 2, "manifests": []})]},
        ),
        "has no image for|no image manifest",
    ),
    "traversal": (lambda make: make.image(tar(file(b"../x"))), "leads out of the archive"),
    "a whiteout of the parent": (lambda make: make.image(BASE, tar(file(b"etc/.wh..."))), "whiteout of no valid name"),
    "a directory that is a whiteout": (
        lambda make: make.image(tar(TarHeader(b".wh.x/", DIRECTORY))),
        "directory with the name of a whiteout",
    ),
    "a layer that is no archive": (lambda make: make.image(b"text" * 500), "is not a tar header"),
    "a smuggled redirect": (
        lambda make: make.image(tar(TarHeader(b"d/", DIRECTORY, xattrs=((b"trusted.overlay.redirect", b"/x"),)))),
        "refers to another layer",
    ),
    "no layers": (lambda make: make.image(), "there is nothing to import"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_images_that_lie_are_refused(at: Session, make: Maker, case: str) -> None:
    build, message = HOSTILE[case]
    with pytest.raises(StratumError, match=message):
        import_(at, make.index(build(make)), "x", Options(devices=True))
    with contextlib.suppress(NotFoundError):
        check(at.store)
        assert (at.store.names(), at.store.commits.list(), leftovers(at.store)) == ([], [], [])


def test_a_layer_with_other_bytes_is_refused(at: Session, make: Maker) -> None:
    source = make.index(make.image(BASE))
    for path in make.blobs.iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StratumError, match=r"do not match|cannot be decompressed"):
        import_(at, source, "x")


def test_content_is_the_layers(at: Session, make: Maker) -> None:
    data = bytes(range(256)) * 300
    done = import_(at, make.index(make.image(tar(file(b"big", data)))), "x")
    inode = lookup(at.store.commits.tree(done.commit.metadata_hash), b"big")
    assert isinstance(inode, File)
    assert inode.digest is not None
    assert at.store.objects.path(inode.digest).read_bytes() == data
