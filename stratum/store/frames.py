"""Frames: zstd frames (RFC 8878) of whole dumps, each in a file of its own, which all commits of a store share.

::

    frames/ab/<62 hex digits>    named by the SHA-256 of the file, as which it is a tree layer of artifacts

What is in a frame are lines of a dump, cut where their content says so (``tree.cutting``). A frame gets its name when
its bytes are on disk, and is never changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from stratum.errors import DamagedError
from stratum.store.layout import Layout, storage_error
from stratum.store.treerecord import FRAME_MAX, FrameRef
from stratum.sys.smallfile import READ, UnfitError, read_opened

FILE_MAX = FRAME_MAX + (FRAME_MAX >> 7) + 1024
"""Bytes of a frame's file: zstd never makes more of what cannot be compressed."""
_SHARD = 2


class Frames:
    """The frames of one store, by the SHA-256 of their files."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: bytes) -> Path:
        """Where the frame is or would be."""
        name = digest.hex()
        return self._layout.frames / name[:_SHARD] / name[_SHARD:]

    def holds(self, digest: bytes, data: bytes) -> bool:
        """Whether the frame is here, as just these bytes."""
        try:
            return self.file(digest) == data
        except DamagedError:
            return False

    def has(self, digest: bytes) -> bool:
        """Whether the frame is here, at a glance: its bytes are not looked at."""
        try:
            info = self.path(digest).lstat()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"look for frame {digest.hex()}") from None
        return stat.S_ISREG(info.st_mode)

    def file(self, digest: bytes) -> bytes:
        """The frame as it is stored. ``DamagedError`` where it is missing or no file."""
        path = self.path(digest)
        try:
            return read_opened(self._layout.open_beneath(path, READ), FILE_MAX)[1]
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing", hint="run 'stratum fsck'") from None
        except UnfitError as exc:
            raise DamagedError(f"cannot read {path}: {exc.strerror}", hint="run 'stratum fsck'") from None
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None

    def size(self, digest: bytes) -> int:
        """Bytes of the frame's file. ``DamagedError`` where it is missing or no file."""
        path = self.path(digest)
        try:
            info = path.lstat()
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing", hint="run 'stratum fsck'") from None
        except OSError as exc:
            raise storage_error(exc, f"look for {path}") from None
        if not stat.S_ISREG(info.st_mode):
            raise DamagedError(f"{path} is no file", hint="run 'stratum fsck'")
        return info.st_size

    def lines(self, frame: FrameRef, *, checked: bool = False) -> bytes:
        """What is in the frame. ``DamagedError`` where it is missing, damaged, or has another size; with ``checked``
        also where its bytes do not have its name."""
        from stratum.tree.zstdframe import decompress

        path, data = self.path(frame.sha256), self.file(frame.sha256)
        if checked and digest_of(data) != frame.sha256:
            raise DamagedError(f"{path} was changed after it was written", hint="run 'stratum fsck'")
        try:
            lines = decompress(data, frame.size, "it")
        except DamagedError as exc:
            raise DamagedError(f"{path} is damaged: {exc.message}", hint="run 'stratum fsck'") from None
        if len(lines) != frame.size:
            raise DamagedError(f"{path} holds {len(lines)} bytes and not {frame.size}", hint="run 'stratum fsck'")
        return lines

    def list(self) -> Iterator[bytes]:
        """Each frame that is here. What has no frame's name is passed over."""
        for shard in self._layout.names_in(self._layout.frames):
            if len(shard) != _SHARD:
                continue
            for name in self._layout.names_in(self._layout.frames / shard):
                with suppress(ValueError):
                    digest = bytes.fromhex(shard + name)
                    if digest.hex() == shard + name and len(digest) == 32:
                        yield digest

    def take_in(self, staged: Iterable[tuple[bytes, Path]]) -> None:
        """Give each (digest, file) its place, that of a damaged one too. Its bytes must be on disk already; making the
        name durable, by a syncfs, is left to the caller. Raises ``OSError``, and ``DamagedError`` where a directory has
        its name."""
        for digest, source in staged:
            path = self.path(digest)
            self._make_shard(path.parent)
            shard = self._layout.open_beneath(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.rename(source, path.name, dst_dir_fd=shard)
            except IsADirectoryError:
                raise DamagedError(f"{path} is a directory", hint="run 'stratum fsck --repair'") from None
            finally:
                os.close(shard)

    def _make_shard(self, path: Path) -> None:
        for directory in (self._layout.frames, path):
            with suppress(FileExistsError):
                directory.mkdir()
                directory.chmod(0o755)


def digest_of(data: bytes) -> bytes:
    """The name of a frame."""
    from hashlib import sha256

    return sha256(data).digest()
