"""Differences line by line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING

from stratum.api.reading import pieces
from stratum.api.session import Session
from stratum.api.unreal import bring
from stratum.errors import one_line, path_text
from stratum.frozen import frozen
from stratum.progress import Progress
from stratum.tree.model import File, Inode, content_unknown

if TYPE_CHECKING:
    from typing import TypeGuard

    from stratum.tree.diff import Change

PATCH_MAX = 1 << 20
"""Bytes of a file that is compared line by line."""
_IN_MEMORY = 8 << 20
_SOME = 64
"""Files whose contents are fetched together."""


@frozen
class Patch:
    """A change, and ``text``, the difference of its lines in the unified format; or why there is none: ``binary``,
    ``large`` (more than ``PATCH_MAX`` bytes, or too much to compare), ``unknown`` (nobody knows a content), or nothing
    of that."""

    change: Change
    text: str | None
    why: str | None


def patches(
    session: Session,
    first: str,
    second: str | None = None,
    paths: Sequence[str] = (),
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Iterator[Patch]:
    """What changed from ``first`` to ``second``, as ``api.history.diff`` has it, each with the difference of its lines.

    What is not here is fetched first, with ``offline`` it is an error. All is compared before the first one is given,
    so that whoever reads slowly keeps nobody from collecting garbage; what has not room in memory waits in a file.
    Raises as ``diff`` does.
    """
    from stratum.api.history import diff

    found: list[tuple[Change, int, str | None]] = []
    with SpooledTemporaryFile(_IN_MEMORY) as spool:
        with ExitStack() as keeping:
            changes = list(diff(session, first, second, paths, keeping=keeping))
            for start in range(0, len(changes), _SOME):
                some = changes[start : start + _SOME]
                small = [i for change in some for i in (change.old, change.new) if _is_small(i)]
                _bring_any(session, small, offline, progress)
                for change in some:
                    text, why = _patch(session, change)
                    data = text.encode("utf-8", "surrogateescape") if text is not None else b""
                    spool.write(data)
                    found.append((change, len(data) if text is not None else -1, why))
        spool.seek(0)
        for change, size, why in found:
            yield Patch(change, spool.read(size).decode("utf-8", "surrogateescape") if size >= 0 else None, why)


def _is_small(inode: Inode | None) -> TypeGuard[File]:
    return isinstance(inode, File) and inode.size <= PATCH_MAX and not content_unknown(inode)


def _bring_any(session: Session, files: list[File], offline: bool, progress: Progress | None) -> None:
    """Have the contents here that any commit of the store has a source of."""
    store = session.store
    missing = store.residence.missing({file.digest: file.size for file in files if file.digest is not None})
    if missing:
        partial = [commit for commit in store.commits.list() if store.sources.is_partial(commit)]
        bring(session, partial, missing, offline=offline, progress=progress)


def _patch(session: Session, change: Change) -> tuple[str | None, str | None]:
    """(the difference of the lines, why there is none)."""
    sides = [inode for inode in (change.old, change.new) if inode is not None]
    if change.kind == "metadata" or not all(isinstance(inode, File) for inode in sides):
        return None, None
    if any(content_unknown(inode) for inode in sides):
        return None, "unknown"
    if not all(map(_is_small, sides)):
        return None, "large"
    from stratum.tree.linediff import TooMuchError, unified

    old, new = (_lines(session, inode) for inode in (change.old, change.new))
    if old is None or new is None:
        return None, "binary"
    name = one_line(path_text(change.path))  # a line break in it would begin a line of the patch
    before, after = (f"a{name}" if change.old else "/dev/null"), (f"b{name}" if change.new else "/dev/null")
    try:
        lines = list(unified(old, new, before, after))
    except TooMuchError:
        return None, "large"
    whole = (line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return "".join(whole), None


def _lines(session: Session, inode: Inode | None) -> list[str] | None:
    """The lines of a file, none where there is no file; None where it is no text."""
    if inode is None:
        return []
    assert isinstance(inode, File)
    fd = session.store.objects.open(inode.digest) if inode.digest is not None else -1
    try:
        data = b"".join(pieces(inode, fd))
    finally:
        if fd >= 0:
            os.close(fd)
    if b"\0" in data:
        return None
    *lines, last = data.split(b"\n")  # of all that ends lines elsewhere, such as a carriage return, nothing does here
    ended = [line + b"\n" for line in lines]
    return [line.decode("utf-8", "surrogateescape") for line in (*ended, *([last] if last else []))]
