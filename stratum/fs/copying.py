"""Contents written to files of this machine."""

from __future__ import annotations

from io import FileIO
from typing import Any, BinaryIO

from stratum.fs.opened import Content, ObjectContent
from stratum.fs.words import shown, translated
from stratum.sys.holes import sparse_pieces

_STEP = 8 << 20


def copy_content(content: Content, size: int, file: BinaryIO, callback: Any, path: str, *, sparse: bool) -> None:
    """Write ``content`` to ``file`` and tell ``callback`` how far it is. ``sparse``: what is zeros becomes a hole, of a
    file that is new. ``OSError`` naming ``path``."""
    callback.set_size(size)
    if sparse and isinstance(content, ObjectContent):
        with FileIO(content.fd, closefd=False) as source:
            for piece in sparse_pieces(source, size, _STEP):
                if isinstance(piece, int):
                    file.seek(piece, 1)
                else:
                    file.write(piece)
                callback.relative_update(piece if isinstance(piece, int) else len(piece))
        file.truncate(size)
        return
    for start in range(0, size, _STEP):
        with translated(shown(path)):
            data = content.read(start, min(start + _STEP, size))
        if sparse and data.count(0) == len(data):
            file.seek(len(data), 1)
        else:
            file.write(data)
        callback.relative_update(len(data))
    if sparse:
        file.truncate(size)
