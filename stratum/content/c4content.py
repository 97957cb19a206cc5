"""C4 IDs as the names of contents: what all stores by C4 ID do alike."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from stratum.c4.ids import C4Id, hasher, id_of_digest, parse
from stratum.content.base import Stream
from stratum.content.streams import PIECE, file_pieces, open_stream, pieces_of, verified
from stratum.errors import NotFoundError, UsageError
from stratum.store.layout import storing
from stratum.sys.atomic import write_all

HELD = PIECE
"""Contents of up to so many bytes are held in memory until they have their ID."""


def c4_id(text: object) -> C4Id:
    """``text`` as the ID of a content: 90 characters that are the name of a file everywhere. ``UsageError``."""
    if not isinstance(text, str):
        raise UsageError(f"a C4 ID is text, not {type(text).__name__}")
    return parse(text)


def content_words(c4id: C4Id) -> str:
    """What errors call the content."""
    return f"content {c4id}"


def not_there(c4id: C4Id, where: str) -> NotFoundError:
    """The content is not in the store ``where``."""
    return NotFoundError(f"{content_words(c4id)} is not in {where}")


def checked(pieces: Iterable[bytes | memoryview], c4id: C4Id, where: str) -> Iterator[bytes | memoryview]:
    """The pieces of the content in the store ``where``, as ``streams.verified`` gives them."""
    state = hasher()
    return verified(pieces, state, lambda: id_of_digest(state.digest()) == c4id, f"{content_words(c4id)} in {where}")


def checked_stream(
    pieces: Iterable[bytes | memoryview], c4id: C4Id, where: str, closed: Callable[[], object] | None = None
) -> BinaryIO:
    """The same as an open file; ``closed`` is called once, when it is closed or forgotten."""
    return open_stream(checked(pieces, c4id, where), closed)


class Spooled:
    """A content that was read to its end, with its ID: in memory (``data``) where it has up to ``HELD`` bytes, else in
    the file that ``new_file`` opened when it was needed (``fd``), which is the caller's.

    ``StratumError`` where that cannot be written, and whatever the stream raises.
    """

    def __init__(self, stream: Stream, new_file: Callable[[], int]) -> None:
        state, held = hasher(), list[bytes | memoryview]()
        self.size = 0
        self.fd: int | None = None
        for piece in pieces_of(stream):
            state.update(piece)
            self.size += len(piece)
            held.append(piece)
            if self.size > HELD:
                with storing("write a content that is to be stored"):
                    if self.fd is None:
                        self.fd = new_file()
                    for each in held:
                        write_all(self.fd, each)
                held.clear()
        self.data = b"".join(held) if self.fd is None else None
        self.id = id_of_digest(state.digest())

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The content from its beginning on. ``StratumError``."""
        if self.data is not None:
            yield from pieces_of(self.data)
        elif self.fd is not None:
            os.lseek(self.fd, 0, os.SEEK_SET)
            with io.FileIO(self.fd, closefd=False) as file:
                yield from file_pieces(file, "read a content that is to be stored")
