"""Open files: read from a commit, or written to a layer."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from stratum.composefs.verity import CHUNK_SIZE
from stratum.fs.words import translated

if TYPE_CHECKING:
    from stratum.fs.layer import Draft
    from stratum.fs.opened import Content

BLOCK = CHUNK_SIZE
"""Bytes that a file reads ahead: what is fetched and verified together."""
WINDOW_MAX = 16 << 20
"""Bytes that are fetched ahead for who reads on from where they were."""
_LINE = 8192
_KNOWN = ("cache_type", "size")


class ReadFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file of a commit, open for reading, in the state that it had when it was opened.

    ``remote``: the content is fetched, more of it at a time from who reads on and on.
    """

    def __init__(
        self, fs: AbstractFileSystem, path: str, content: Content, info: dict[str, Any], **options: Any
    ) -> None:
        self._content = content
        self._next = self._window = 0
        self._remote = bool(options.pop("remote", False))
        options = {key: value for key, value in options.items() if value is not None}
        options.setdefault("block_size", BLOCK)
        super().__init__(fs, path, "rb", **{**options, "size": info["size"]})
        self._details = info

    def _fetch_range(self, start: int, end: int) -> bytes:
        with translated(self.path):
            if not self._remote:
                return self._content.read(start, end)
            self._window = min(max(2 * self._window, BLOCK), WINDOW_MAX) if start == self._next and start else 0
            self._next = end
            if self._window and end < self.size:  # the rest waits in the cache
                return self._content.read(start, min(end + self._window, self.size))[: end - start]
            return self._content.read(start, end)

    def readline(self, size: int | None = -1) -> bytes:
        """The bytes up to and with the next line break, at most ``size`` of them."""
        begun = self.tell()
        line: bytes = self.readuntil(b"\n", blocks=_LINE)
        if size is not None and 0 <= size < len(line):
            self.seek(begun + size)
            line = line[:size]
        return line

    def close(self) -> None:
        """Let go of the content."""
        super().close()
        self._content.close()


class WriteFile(AbstractBufferedFile):  # type: ignore[misc]  # as above
    """A file that is written to a layer: it is there, whole, when it was closed, or the transaction has ended."""

    buffer: io.BytesIO

    def __init__(self, fs: AbstractFileSystem, path: str, mode: str, draft: Draft, **options: Any) -> None:
        self._draft: Draft | None = draft
        options = {key: value for key, value in options.items() if value is not None and key not in _KNOWN}
        options.setdefault("block_size", BLOCK)
        super().__init__(fs, path, mode, **options)
        self.loc = draft.size  # of what is appended to

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._draft is not None
        with translated(self.path):
            self._draft.write(self.buffer.getbuffer())
        self.buffer = io.BytesIO()
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Have it in the layer."""
        draft, self._draft = self._draft, None
        if draft is not None:
            with translated(self.path):
                draft.place()

    def discard(self) -> None:
        """Forget what was written."""
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.drop()

    def close(self) -> None:
        """Have it in the layer, unless a transaction is to decide that."""
        try:
            super().close()
        except BaseException:
            self.discard()
            raise

    def __exit__(self, kind: object, *rest: object) -> None:
        """Close it; a block that was left by an error leaves what was there before."""
        if kind is not None:
            self.discard()
            self.forced = True
        self.close()
