"""Where an import reads from, told by what is there.

::

    DIRECTORY                        its content; with an OCI image layout in it, the layout's (not with bare)
    FILE                             a tar archive, plain or compressed; with an OCI image layout in it, the layout's;
                                     a zip or 7z archive
    oci:DIRECTORY[:TAG]              an OCI image layout
    oci-archive:FILE[:TAG]           one in a tar
    docker://HOST/REPOSITORY[:TAG]   a registry
    s3://BUCKET[/PREFIX][:TAG]       an object store (``oci.bucketname`` has all schemes); where an object has just that
                                     name, what a FILE can be
    -                                standard input: what a FILE can be

A layout, a registry or an object store holds commits, which are taken as they are, or container images, whose layers
become a tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError
from stratum.frozen import field, frozen
from stratum.progress import Progress

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.ingest.selection import Excludes, LeftOut
    from stratum.ingest.unchanged import Listing
    from stratum.oci.archive import ArchiveReader
    from stratum.oci.descriptor import Descriptor
    from stratum.oci.image import Image, ImageLayer
    from stratum.oci.layout import Layout
    from stratum.oci.remote import Source
    from stratum.oci.target import Target
    from stratum.store import Store
    from stratum.store.transaction import Transaction
    from stratum.tree.model import Directory

DOCKER = "docker://"
STDIN = "-"
REFERENCE_PREFIXES = ("oci:", "oci-archive:", DOCKER, "s3://", "gs://", "az://", "file://", "memory://")


@frozen
class Reading:
    """What reading a tree needs besides its source."""

    store: Store
    tx: Transaction
    jobs: int = 1
    devices: bool = False
    progress: Progress | None = None
    excludes: Excludes | None = None
    """What a directory is to be taken without; other sources are taken whole."""


class TreeSource(Protocol):
    """Something with a tree in it. ``what`` names it; ``origin`` goes into the commit's metadata."""

    @property
    def what(self) -> str: ...

    @property
    def origin(self) -> dict[str, Any]: ...

    def read(self, reading: Reading, base: Directory | None) -> tuple[Directory, list[str]]:
        """The tree, or with ``base`` that one with this source's changes; and warnings."""


class DirectorySource:
    """A directory; over a base, one with whiteouts."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.origin: dict[str, Any] = {}
        self.listing: Listing | None = None
        self.left_out: LeftOut | None = None

    def unchanged(self, reading: Reading) -> str | None:
        """The commit that the directory is, where that is known without reading it (``ingest.unchanged``)."""
        from stratum.ingest.selection import NOTHING, LeftOut
        from stratum.ingest.unchanged import find_unchanged

        self.left_out = LeftOut()
        return find_unchanged(
            reading.store,
            Path(self.what),
            devices=reading.devices,
            excludes=reading.excludes or NOTHING,
            left_out=self.left_out,
        )

    def read(self, reading: Reading, base: Directory | None) -> tuple[Directory, list[str]]:
        from stratum.ingest.directory import import_directory
        from stratum.ingest.selection import NOTHING, LeftOut
        from stratum.ingest.unchanged import Listing

        self.listing, self.left_out = Listing(), LeftOut()
        tree, warnings = import_directory(
            reading.store,
            reading.tx,
            Path(self.what),
            jobs=reading.jobs,
            devices=reading.devices,
            progress=reading.progress,
            listing=self.listing,
            excludes=reading.excludes or NOTHING,
            left_out=self.left_out,
        )
        return laid_over(base, tree), warnings

    def remember(self, reading: Reading, commit: str) -> None:
        """What ``read`` gave, over nothing, has become ``commit``."""
        from stratum.ingest.unchanged import remember

        if self.listing is not None:
            remember(reading.store, Path(self.what), self.listing, commit, devices=reading.devices)


@frozen
class TarSource:
    """A tar archive; over a base, one with whiteouts."""

    what: str
    file: str
    origin: dict[str, Any] = field(default_factory=dict)

    def read(self, reading: Reading, base: Directory | None) -> tuple[Directory, list[str]]:
        from stratum.ingest.tarball import read_tar_file

        tree, warnings = read_tar_file(
            reading.tx, Path(self.file), self.what, base=base, devices=reading.devices, progress=reading.progress
        )
        if {b"index.json", b"blobs"} <= tree.children.keys():
            raise UsageError(
                f"{self.what} is an OCI image layout that is compressed or damaged",
                hint="decompress it, so that it can be checked before anything is read",
            )
        return laid_over(base, tree), warnings


@frozen
class ZipSource:
    """A zip archive, or with ``seven`` a 7z archive; over a base, one with whiteouts."""

    what: str
    file: str
    seven: bool
    origin: dict[str, Any] = field(default_factory=dict)

    def read(self, reading: Reading, base: Directory | None) -> tuple[Directory, list[str]]:
        from stratum.ingest.sevenzip import read_sevenzip_file
        from stratum.ingest.zipped import read_zip_file

        read = read_sevenzip_file if self.seven else read_zip_file
        tree, warnings = read(reading.tx, self.file, self.what, base=base, progress=reading.progress)
        return laid_over(base, tree), warnings


class ImageSource:
    """A container image: its layers, lowest first. ``directory`` is where their blobs are, by digest, once they were
    fetched."""

    def __init__(self, remote: Source, image: Image) -> None:
        self.remote = remote
        self.image = image
        self.directory: Path | None = None

    @property
    def what(self) -> str:
        return str(self.remote.target)

    @property
    def origin(self) -> dict[str, Any]:
        return {"reference": self.what, "manifest": self.image.digest}

    def read(self, reading: Reading, base: Directory | None) -> tuple[Directory, list[str]]:
        tree = base
        warnings: list[str] = []
        for layer in self.image.layers:
            tree, more = self._layer(reading, layer, tree)
            warnings += more
        if tree is None:
            raise StratumError(f"the image {self.what} has no layers, so there is nothing to import")
        return tree, warnings

    def _layer(self, reading: Reading, layer: ImageLayer, base: Directory | None) -> tuple[Directory, list[str]]:
        import hashlib

        from stratum.ingest.compression import decompressed, reader_of
        from stratum.ingest.tarball import read_tar

        what = f"layer {layer.blob.digest} of {self.what}"
        sha = hashlib.sha256()
        read = decompressed(reader_of(self._blob(layer.blob)), what)

        def hashed(size: int) -> bytes:
            data = read(size)
            sha.update(data)
            return data

        tree, warnings = read_tar(
            reading.tx,
            hashed,
            what,
            base=base,
            devices=reading.devices,
            strict=False,
            progress=reading.progress,
        )
        if sha.hexdigest() != layer.diff_id:
            raise DamagedError(f"{what} is not the layer that the image's configuration names")
        return laid_over(base, tree, layer=True), warnings

    def fetch(self, directory: Path) -> None:
        """Bring the blobs of the layers to ``directory``, verified."""
        from stratum.store.layout import storing
        from stratum.sys.atomic import write_all

        for blob in dict.fromkeys(layer.blob for layer in self.image.layers):
            with ExitStack() as stack:
                with storing("write a layer to the store"):
                    file = stack.enter_context((directory / blob.hex).open("xb", buffering=0))
                for piece in self.remote.read_blob(blob):
                    with storing("write a layer to the store"):
                        write_all(file.fileno(), piece)
        self.directory = directory

    def _blob(self, blob: Descriptor) -> Iterator[bytes]:
        if self.directory is None:
            return self.remote.read_blob(blob)
        from stratum.transfer.push import file_pieces

        return file_pieces(self.directory / blob.hex, 0)


@contextmanager
def fetched(store: Store, source: TreeSource) -> Iterator[None]:
    """Have what comes over a network here, for the length of the block, before the store is locked for reading it."""
    if not isinstance(source, ImageSource) or source.remote.local:
        yield
        return
    with store.begin(f"fetching {source.what}", apart=True) as tx:
        source.fetch(tx.directory)
        yield


@frozen
class CommitSource:
    """A commit in a layout, an archive or a registry."""

    remote: Source
    reference: str


def laid_over(base: Directory | None, tree: Directory, *, layer: bool = False) -> Directory:
    """``tree``, or it laid over ``base`` with its whiteouts obeyed; a ``layer`` may have some without a base too."""
    from stratum.tree.merge import apply_layer
    from stratum.tree.patch import layer_from_patch_tree

    if base is not None:
        return apply_layer(base, layer_from_patch_tree(tree))
    if layer:
        return apply_layer(tree.with_children({}), layer_from_patch_tree(tree))
    return tree


@contextmanager
def open_source(
    session: Session, path: str, *, tag: str | None = None, bare: bool = False, progress: Progress | None = None
) -> Iterator[TreeSource | CommitSource]:
    """What is at ``path``; ``tag`` chooses between several in a layout.

    ``progress`` is told of the bytes of an archive that are checked before anything is read from it. Raises
    ``NotFoundError``, ``UsageError`` where it is not clear what is meant, ``DamagedError`` and ``StratumError``.
    """
    if path == STDIN:
        with _standard_input(session) as file, _open_file("standard input", file, tag, progress) as source:
            yield source
    elif os.path.isdir(path) and (bare or not os.path.isfile(os.path.join(path, "oci-layout"))):
        _refuse_tag(path, tag)
        yield DirectorySource(path)
    elif _is_bucket(path):
        with _in_object_store(session, path, tag, progress) as source:
            yield source
    elif path.startswith(REFERENCE_PREFIXES):
        with _of_manifest(*_open_reference(session, path, tag, progress)) as source:
            yield source
    elif os.path.isdir(path):
        from stratum.oci.target import Target

        with _of_manifest(*_open_local(Target(directory=Path(path).absolute()), tag)) as source:
            yield source
    else:
        with _open_file(path, path, tag, progress) as source:
            yield source


def _is_bucket(path: str) -> bool:
    from stratum.oci.bucketname import BUCKET_PREFIXES

    return path.startswith(BUCKET_PREFIXES)


@contextmanager
def _in_object_store(
    session: Session, text: str, tag: str | None, progress: Progress | None
) -> Iterator[TreeSource | CommitSource]:
    """A file that is an object, or what a place has under a tag: the one that is given, or the only one."""
    from stratum.api.objects import fetched_object
    from stratum.oci.places import open_source as open_place
    from stratum.oci.target import parse_target

    target, access = parse_target(text, default_tag=""), session.access()
    given = target.digest or target.tag or None
    if given is None:
        assert target.bucket is not None
        if target.bucket.scheme == "file" and os.path.isfile(target.bucket.name):
            with _open_file(target.bucket.name, target.bucket.name, tag, progress) as source:
                yield source
            return
        with fetched_object(session, target, access) as file:
            if file is not None:
                with _open_file(text, file, tag, progress) as source:
                    yield source
                return
    elif tag is not None:
        raise UsageError(f"{text} names a tag already", hint="leave --tag out")
    remote = open_place(target, access)
    try:
        chosen = given or tag or _only_tag(remote.list_tags(), target.place)
    except BaseException:
        remote.close()
        raise
    with _of_manifest(remote, chosen) as found:
        yield found


def _only_tag(tags: list[str], where: str) -> str:
    if not tags:
        raise NotFoundError(f"{where} does not exist, or has no tags")
    if len(tags) > 1:
        raise UsageError(f"{where} holds several tags: {', '.join(tags)}", hint=f"choose one: --tag {tags[0]}")
    return tags[0]


@contextmanager
def _standard_input(session: Session) -> Iterator[str]:
    """The path of a file with all of standard input, which the kernel removes: archives are read at many places."""
    import shutil
    import sys
    from tempfile import TemporaryFile

    from stratum.store.layout import storage_error

    with session.create_store().begin("reading standard input") as tx, TemporaryFile(dir=tx.directory) as file:
        try:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
            file.flush()
        except OSError as exc:
            raise storage_error(exc, "keep standard input") from None
        yield f"/proc/self/fd/{file.fileno()}"


@contextmanager
def _open_file(what: str, file: str, tag: str | None, progress: Progress | None) -> Iterator[TreeSource | CommitSource]:
    """What is in the ``file`` that ``what`` names in errors."""
    from stratum.oci.archive import is_layout_archive
    from stratum.oci.target import Target

    if not is_layout_archive(file):
        _refuse_tag(what, tag)
        yield _archive(what, file)
        return
    with _of_manifest(*_open_local(Target(archive=Path(what)), tag, file, progress)) as source:
        yield source


def _archive(what: str, file: str) -> TarSource | ZipSource:
    """The archive, told by its first bytes; what is none is found out by who reads it."""
    from stratum.ingest.sevenzip import MAGIC as MAGIC_OF_7Z
    from stratum.ingest.zipped import MAGIC as MAGIC_OF_ZIP

    with open(file, "rb") as opened:
        start = opened.read(6)
    if start.startswith(MAGIC_OF_ZIP):
        return ZipSource(what, file, seven=False)
    return ZipSource(what, file, seven=True) if start == MAGIC_OF_7Z else TarSource(what, file)


@contextmanager
def _of_manifest(remote: Source, reference: str) -> Iterator[ImageSource | CommitSource]:
    from stratum.oci.image import is_commit, read_image

    with remote:
        data, digest = remote.get_manifest(reference)
        yield CommitSource(remote, digest) if is_commit(data) else ImageSource(remote, read_image(remote, digest))


def _refuse_tag(path: str, tag: str | None) -> None:
    if tag is not None:
        raise UsageError(f"{path} is no OCI image layout, so it has no tag {tag}", hint="leave --tag out")


def _open_reference(session: Session, text: str, tag: str | None, progress: Progress | None) -> tuple[Source, str]:
    from stratum.oci.places import open_source as open_place
    from stratum.oci.target import parse_target

    if text.startswith(DOCKER):
        target = parse_target(text[len(DOCKER) :], session.config.registry)
        return open_place(target, session.access()), tag or target.reference
    target = parse_target(text)
    given = target.digest or (target.tag if text.endswith(f":{target.tag}") else None)
    if tag is not None and given is not None:
        raise UsageError(f"{text} names a tag already", hint="leave --tag out")
    return _open_local(target, tag or given, None, progress)


def _open_local(
    target: Target, tag: str | None, file: str | None = None, progress: Progress | None = None
) -> tuple[Source, str]:
    """A layout in a directory or an archive (of that name, in ``file``), and the manifest in it that is meant."""
    from stratum.oci.archive import ArchiveReader
    from stratum.oci.layout import Layout

    remote: Layout | ArchiveReader
    if target.directory is not None:
        if not target.directory.is_dir():
            raise NotFoundError(f"there is no directory {target.directory}")
        remote = Layout(target)
        return remote, _choose(remote, tag, str(target.directory))
    remote = ArchiveReader(target, file)
    try:
        remote.verify(progress)
        return remote, _choose(remote, tag, str(target.archive))
    except BaseException:
        remote.close()
        raise


def _choose(remote: Layout | ArchiveReader, tag: str | None, where: str) -> str:
    """The tag that was given, or the only one; the only manifest where none has a tag."""
    from stratum.oci.imageindex import digest_of_entry

    if tag is not None:
        return tag
    tags, entries = remote.list_tags(), remote.entries()
    if not tags and len(entries) == 1:
        return digest_of_entry(entries[0], where)
    if not tags:
        raise StratumError(f"{where} holds {len(entries)} manifests and no tag")
    return _only_tag(tags, where)


@frozen
class ToldHistory:
    """What is told of the commit of a source: in ``told`` the ancestors of commits as the manifests there say, in
    ``older`` the digests of the manifests of its parents that are in the same archive, the oldest first."""

    commit: str
    told: dict[str, tuple[str, ...]]
    older: list[str]


def told_history(source: CommitSource) -> ToldHistory:
    """What can be known of the commit before it is fetched."""
    from stratum.oci.archive import ArchiveReader
    from stratum.oci.image import is_commit
    from stratum.oci.imageindex import digest_of_entry
    from stratum.transfer.artifact import read_manifest, told_ancestors

    remote, where = source.remote, str(source.remote.target)
    named = read_manifest(remote.get_manifest(source.reference)[0], where)
    told = {named.commit: told_ancestors(named)}
    if not isinstance(remote, ArchiveReader):
        return ToldHistory(named.commit, told, [])
    parents: dict[str, tuple[str, str | None]] = {}
    for entry in remote.entries():
        digest = digest_of_entry(entry, where)
        data = remote.get_manifest(digest)[0]
        if is_commit(data):
            manifest = read_manifest(data, where)
            parents.setdefault(manifest.commit, (digest, manifest.parent))
            told.setdefault(manifest.commit, told_ancestors(manifest))
    current = named.parent
    chain: list[str] = []
    while current in parents and parents[current][0] not in (*chain, source.reference):
        digest, current = parents[current]
        chain.append(digest)
    return ToldHistory(named.commit, told, chain[::-1])
