"""An OCI image layout (image-layout 1.0.0) as a place to push to and pull from.

::

    oci-layout                        {"imageLayoutVersion":"1.0.0"}
    index.json                        the manifests, each with its tag as org.opencontainers.image.ref.name
    blobs/sha256/<64 hex digits>      manifests, configs and layers

Blobs appear whole, by rename, before ``index.json`` names them. Writers of one layout take turns by a lock on
``index.json.lock``; what dead ones left in progress is removed by the next. A layout may come from a stranger, or be
where one can write: only regular files are read, no symbolic link below the directory that the user names is followed
by reading or writing, and everything is verified like what a registry sends.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stratum.errors import DamagedError, NotFoundError, StratumError, os_error_text
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, digest_of, is_digest
from stratum.oci.imageindex import (
    LAYOUT_VERSION,
    Entry,
    digest_of_tag,
    make_entry,
    read_entries,
    tag_of,
    tags_of,
    write_entries,
)
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.remote import Sink, Upload, verified
from stratum.oci.target import Target
from stratum.sys.atomic import is_temporary, make_directories, new_file, remove_abandoned, write_atomic
from stratum.sys.locks import FileLock, locked
from stratum.sys.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_PIECE = 1 << 20
_LAYOUT = "oci-layout"
_BLOBS = "blobs/sha256"


class Layout(Sink):
    """The layout in ``target.directory``."""

    local = True

    def __init__(self, target: Target, *, create: bool = False) -> None:
        assert target.directory is not None
        self.target = target
        self._root = target.directory
        self._fd: int | None = None
        if create:
            with self._making(f"make an OCI image layout in {self._root}"):
                make_directories(self._root)
        try:
            self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StratumError(f"cannot open {self._root}: {os_error_text(exc)}") from None
        self._close = weakref.finalize(self, os.close, self._fd)
        if create:
            with self._making(f"make an OCI image layout in {self._root}"):
                self._prepare(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            self._fd = None
            self._close()

    def _prepare(self, root: int) -> None:
        """Make a layout of the directory, which is one already, or empty but for what an interrupted one left."""
        names = os.listdir(root)
        is_layout = _LAYOUT in names
        if not is_layout and not all(is_temporary(name) or (name == "blobs" and self._is_bare(name)) for name in names):
            raise StratumError(
                f"{self._root} is neither empty nor an OCI image layout", hint="give an empty or a new directory"
            )
        remove_abandoned(root)
        if not is_layout:
            write_atomic(Path(_LAYOUT), LAYOUT_VERSION, directory=root)
        for parent, name in ((".", "blobs"), ("blobs", "sha256")):
            with self._directory(parent) as fd, suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
                os.fsync(fd)
        with self._directory(_BLOBS) as fd:
            remove_abandoned(fd)

    def _is_bare(self, name: str) -> bool:
        """Whether ``blobs`` is a directory in which no blob is."""
        with self._directory(name) as fd:
            names = os.listdir(fd)
        return not names or (names == ["sha256"] and self._is_bare(f"{name}/sha256"))

    @contextmanager
    def _making(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StratumError(f"cannot {doing}: {os_error_text(exc)}") from None

    def _open_beneath(self, name: str, flags: int) -> int:
        """Open what is below the root, through no symbolic link; ``OSError`` as open(2)."""
        if self._fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root))
        try:
            return openat2(self._fd, name, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.EXDEV):
                raise
            raise StratumError(
                f"{self._root}/{name} is a symbolic link, or is reached through one; in a layout none is followed",
                hint="name the directory that has the layout's files in it",
            ) from None

    @contextmanager
    def _directory(self, name: str) -> Iterator[int]:
        fd = self._open_beneath(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        digest = reference if is_digest(reference) else self._tagged(reference)
        data = b"".join(self._pieces(digest, 0, MANIFEST_MAX + 1))
        if len(data) > MANIFEST_MAX:
            raise DamagedError(f"the manifest of {self.target} is larger than {MANIFEST_MAX} bytes")
        if digest_of(data) != digest:
            raise DamagedError(f"the manifest of {self.target} does not match its digest")
        return data, digest

    def _tagged(self, tag: str) -> str:
        return digest_of_tag(self.entries(), tag, f"an OCI image layout {self._root}")

    def entries(self) -> list[Entry]:
        """What ``index.json`` lists, unchecked."""
        try:
            with self._open("index.json") as file:
                data = file.read(MANIFEST_MAX)
        except FileNotFoundError:
            return []
        return read_entries(data, f"{self._root}/index.json")

    def has_blob(self, blob: Descriptor) -> bool:
        try:
            with self._open(f"{_BLOBS}/{blob.hex}") as file:
                return os.fstat(file.fileno()).st_size == blob.size
        except (OSError, DamagedError):
            return False

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._pieces(blob.digest, 0, blob.size + 1), blob, str(self._root))

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        return self._open_blob(blob.digest), 0

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return b"".join(self._pieces(blob.digest, start, size))

    def _pieces(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        with self._open_blob(digest) as file:
            file.seek(start)
            while size and (piece := file.read(min(_PIECE, size))):
                size -= len(piece)
                yield piece

    def _open_blob(self, digest: str) -> BinaryIO:
        try:
            return self._open(f"{_BLOBS}/{digest.partition(':')[2]}")
        except FileNotFoundError:
            raise NotFoundError(f"blob {digest} is missing from {self._root}") from None

    def _open(self, name: str) -> BinaryIO:
        try:
            fd = self._open_beneath(name, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise StratumError(f"cannot read {self._root}/{name}: {os_error_text(exc)}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DamagedError(f"{self._root}/{name} is not a regular file")
        return os.fdopen(fd, "rb", buffering=0)

    def list_tags(self) -> list[str]:
        return tags_of(self.entries())

    # Writing

    def put_blob(self, upload: Upload) -> None:
        with self._making(f"write to {self._root}/{_BLOBS}"), self._directory(_BLOBS) as blobs, ExitStack() as undo:
            fd, temporary = new_file(Path(), 0o644, directory=blobs)
            file = undo.enter_context(os.fdopen(fd, "wb"))
            undo.callback(_unlink, temporary, blobs)
            for piece in verified(upload.read(0), upload.descriptor, "the store"):
                file.write(piece)
            file.flush()
            os.fsync(fd)
            os.rename(temporary, upload.descriptor.hex, src_dir_fd=blobs, dst_dir_fd=blobs)
            os.fsync(blobs)

    def put_manifest(self, data: bytes, tag: str) -> None:
        manifest = Descriptor(MANIFEST_MEDIA_TYPE, digest_of(data), len(data))
        self.put_blob(Upload.of_bytes(manifest, data))
        with self._making(f"write {self._root}/index.json"), self._locked():
            entries = [other for other in self.entries() if tag_of(other) != tag]
            text = write_entries([*entries, make_entry(data, tag)])
            write_atomic(Path("index.json"), text, directory=self._fd)

    def _locked(self) -> FileLock:
        # By way of the descriptor: the directory's name may be somebody else's by now.
        return locked(Path(f"/proc/self/fd/{self._fd}/index.json.lock"), what=f"the OCI image layout {self._root}")


def _unlink(path: Path, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path, dir_fd=directory)
