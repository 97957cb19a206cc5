"""``.stratum.tar``: an OCI image layout (image-layout 1.0.0) in a tar archive.

Written in this order, with nothing in the headers that could differ::

    oci-layout                        {"imageLayoutVersion":"1.0.0"}
    blobs/sha256/<64 hex digits>      the blobs of each commit in the order of its manifest, then the manifest
    index.json                        the manifests; those with a tag have it as org.opencontainers.image.ref.name

Each member is a regular file, mode 0644, owner 0:0, time 0. Commits that an export brings along as history come first
and have no tag. Memory is bounded whatever the sizes, and nothing but one pack at a time is put down elsewhere.

Read is any such archive, in any order of members, from a file that can be read at any place; nothing is unpacked.
Before anything is taken from it, all members are looked at: names and types that do not belong, names that come twice,
an archive that is cut short and a blob that is not what its name says each refuse the whole. Besides that it is a
``Source`` like any other, so what is in it gets the checks of a pull.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError, os_error_text, quoted
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, digest_of, is_digest
from stratum.oci.imageindex import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    Entry,
    check_version,
    digest_of_entry,
    digest_of_tag,
    make_entry,
    read_entries,
    tags_of,
    write_entries,
)
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from stratum.oci.remote import Sink, Source, Upload, verified
from stratum.oci.target import Target
from stratum.refs import is_hash
from stratum.tree.tarheader import DIRECTORY, END, REGULAR, TarHeader, padding, write_header
from stratum.tree.tarstream import TarMember, TarReader

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_DIRECTORIES = frozenset(("", ".", "blobs", "blobs/sha256"))
_DOCKER_FILES = frozenset(("manifest.json", "repositories"))
"""What ``docker save`` adds to a layout for old versions of itself."""
_KEPT_MAX = 64 << 20
_PIECE = 1 << 20


class ArchiveWriter(Sink):
    """The archive whose bytes ``write`` takes, to push to, blob by blob in a fixed order, by one thread at a time.

    Manifests and the indexes of packs can be read again, for what comes later builds on them; other blobs cannot.
    ``finish`` ends the archive; one that a failed upload was to go into is to be thrown away. A tag that is a commit
    hash is not written: so history goes along without a name.
    """

    def __init__(self, write: Callable[[bytes], object], target: Target) -> None:
        self.target = target
        self._write = write
        self._blobs: set[str] = set()
        self._small: dict[str, bytes] = {}
        self._entries: list[Entry] = []
        self._member(LAYOUT_FILE, LAYOUT_VERSION)

    def finish(self) -> None:
        """Write what comes last: ``index.json`` and the end of the archive."""
        self._member(INDEX_FILE, write_entries(self._entries))
        self._write(END)

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        digest = reference if is_digest(reference) else digest_of_tag(self._entries, reference, str(self.target))
        return self._kept(digest), digest

    def has_blob(self, blob: Descriptor) -> bool:
        return blob.digest in self._blobs

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return iter((self._kept(blob.digest),))

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return self._kept(blob.digest)[start : start + size]

    def _kept(self, digest: str) -> bytes:
        """What a later commit of the same archive builds on: the manifest and the pack indexes of the one before."""
        if digest not in self._small:
            raise NotFoundError(f"blob {digest} is not kept")
        return self._small[digest]

    def put_blob(self, upload: Upload) -> None:
        blob = upload.descriptor
        if self.has_blob(blob):
            return
        self._write(write_header(TarHeader(f"blobs/sha256/{blob.hex}".encode(), size=blob.size)))
        keep = blob.size + sum(map(len, self._small.values())) <= _KEPT_MAX and blob.media_type == INDEX_MEDIA_TYPE
        kept = []
        for piece in verified(upload.read(0), blob, "the store"):
            self._write(piece)
            if keep:
                kept.append(piece)
        self._write(bytes(padding(blob.size)))
        self._blobs.add(blob.digest)
        if keep:
            self._small[blob.digest] = b"".join(kept)

    def put_manifest(self, data: bytes, tag: str) -> None:
        manifest = Descriptor(MANIFEST_MEDIA_TYPE, digest_of(data), len(data))
        if not self.has_blob(manifest):
            self.put_blob(Upload.of_bytes(manifest, data))
            self._small[manifest.digest] = data
        self._entries.append(make_entry(data, None if is_hash(tag) else tag))

    def list_tags(self) -> list[str]:
        return tags_of(self._entries)

    def _member(self, name: str, data: bytes) -> None:
        self._write(write_header(TarHeader(name.encode(), size=len(data))) + data + bytes(padding(len(data))))


class _Place(NamedTuple):
    """Where the data of a member is in the archive, in bytes."""

    offset: int
    size: int


class ArchiveReader(Source):
    """The layout in the file ``target.archive``.

    ``file`` is the file to open where that is only a name for it. Raises ``NotFoundError``, ``DamagedError`` for an
    archive that is damaged or hostile, and ``StratumError`` for one of something else.
    """

    local = True

    def __init__(self, target: Target, file: str | None = None) -> None:
        assert target.archive is not None
        self.target = target
        self._where = str(target.archive)
        self.lasting = file in (None, self._where)
        self._fd = _open(file or self._where)
        self._blobs: dict[str, _Place] = {}
        self._files: dict[str, _Place] = {}
        try:
            self._scan()
            self._index = self._read_index()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    # What is there

    def _scan(self) -> None:
        reader = _reader(self._fd, self._where)
        for member in reader:
            name = _plain_name(member)
            blob = _BLOB.fullmatch(name)
            if member.header.kind == DIRECTORY and name in _DIRECTORIES:
                continue
            if member.header.kind != REGULAR or member.holes is not None:
                raise DamagedError(
                    f"{self._where}: {quoted(os.fsdecode(member.header.name))} is something else than a regular file"
                )
            if blob is None and name not in (LAYOUT_FILE, INDEX_FILE, *_DOCKER_FILES):
                raise StratumError(
                    f"{self._where}: {quoted(os.fsdecode(member.header.name))} is no part of an OCI image layout"
                )
            places, key = (self._files, name) if blob is None else (self._blobs, blob[1])
            if key in places:
                raise DamagedError(f"{self._where}: {quoted(os.fsdecode(member.header.name))} is there twice")
            places[key] = _Place(member.offset, member.size)

    def _read_index(self) -> list[Entry]:
        check_version(self._file(LAYOUT_FILE), self._where)
        entries = read_entries(self._file(INDEX_FILE), f"{INDEX_FILE} of {self._where}")
        for entry in entries:
            digest = digest_of_entry(entry, f"{INDEX_FILE} of {self._where}")
            place = self._blobs.get(digest.partition(":")[2])
            if place is None:
                raise DamagedError(f"{self._where}: blob {digest}, which {INDEX_FILE} lists, is missing")
            if entry.get("size") != place.size:
                raise DamagedError(f"{self._where}: blob {digest} has not the size that {INDEX_FILE} says")
        return entries

    def _file(self, name: str) -> bytes:
        place = self._files.get(name)
        if place is None:
            raise StratumError(f"{self._where} is not an OCI image layout: it has no {name}")
        if place.size > MANIFEST_MAX:
            raise DamagedError(f"{self._where}: {name} is larger than {MANIFEST_MAX} bytes")
        return b"".join(self._pieces(place, 0, place.size))

    def entries(self) -> list[Entry]:
        """What ``index.json`` lists."""
        return self._index

    def verify(self, progress: Callable[[int, int | None], None] | None = None) -> None:
        """Read every blob; ``DamagedError`` where one is not what its name says. ``progress`` takes bytes."""
        done, total = 0, sum(place.size for place in self._blobs.values())
        for name, place in sorted(self._blobs.items(), key=lambda item: item[1].offset):
            sha = hashlib.sha256()
            for piece in self._pieces(place, 0, place.size):
                sha.update(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
            if sha.hexdigest() != name:
                raise DamagedError(f"{self._where}: the bytes of blob sha256:{name} do not match its digest")

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        digest = reference if is_digest(reference) else digest_of_tag(self._index, reference, self._where)
        place = self._place(digest)
        if place.size > MANIFEST_MAX:
            raise DamagedError(f"{self._where}: the manifest {digest} is larger than {MANIFEST_MAX} bytes")
        return b"".join(self.read_blob(Descriptor(MANIFEST_MEDIA_TYPE, digest, place.size))), digest

    def has_blob(self, blob: Descriptor) -> bool:
        place = self._blobs.get(blob.hex)
        return place is not None and place.size == blob.size

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        place = self._place(blob.digest)
        return verified(self._pieces(place, 0, place.size), blob, self._where)

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        offset = self._place(blob.digest).offset  # or its error, before anything is open
        return os.fdopen(os.dup(self._fd), "rb", buffering=0), offset

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return b"".join(self._pieces(self._place(blob.digest), start, size))

    def list_tags(self) -> list[str]:
        return tags_of(self._index)

    def _place(self, digest: str) -> _Place:
        place = self._blobs.get(digest.partition(":")[2])
        if place is None:
            raise NotFoundError(f"blob {digest} is missing from {self._where}")
        return place

    def _pieces(self, place: _Place, start: int, size: int) -> Iterator[bytes]:
        position, end = place.offset + start, place.offset + min(start + size, place.size)
        while position < end:
            piece = _pread(self._fd, min(_PIECE, end - position), position, self._where)
            if not piece:
                raise DamagedError(f"{self._where} is cut short at byte {position}")
            position += len(piece)
            yield piece


def is_layout_archive(path: str) -> bool:
    """Whether the file is an uncompressed tar with an ``oci-layout`` file at its top."""
    fd = _open(path)
    try:
        return any(_plain_name(member) == LAYOUT_FILE and member.header.kind == REGULAR for member in _reader(fd, path))
    except StratumError:
        return False  # whoever reads it as a plain tar says what is wrong
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is not a regular file", hint="an archive is read at many places, so not from a pipe")
    return fd


def _reader(fd: int, where: str) -> TarReader:
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        data = _pread(fd, size, position, where)
        position += len(data)
        return data

    def skip(size: int) -> None:
        nonlocal position
        position += size

    return TarReader(read, where, skip=skip)


def _pread(fd: int, size: int, position: int, where: str) -> bytes:
    try:
        return os.pread(fd, size, position)
    except OSError as exc:
        raise StratumError(f"cannot read {where}: {os_error_text(exc)}") from None


def _plain_name(member: TarMember) -> str:
    """A member's name without a leading './' and a trailing '/'."""
    name = member.header.name.decode("utf-8", "surrogateescape")
    return name.removeprefix("./").rstrip("/") if member.header.kind == DIRECTORY else name.removeprefix("./")
