"""What an argument names: a ref, what is mounted at a path, or a path in either."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from stratum.api.workplace import Workplace
from stratum.errors import NotFoundError, UsageError
from stratum.refs import Ref, is_name, parse_ref, split_ref_path


def ref_or_mountpoint(place: Workplace, text: str) -> Ref:
    """A ref, or the ref that is mounted at (or above) the path ``text``.

    An argument with '/' is a path, and so are '.' and '..'; a plain word is one where no stratum has that name but a
    mount of Stratum shows there. Raises ``UsageError`` where nothing of this store is mounted at the path.
    """
    if not means_path(place, text):
        return parse_ref(text)
    from pathlib import Path

    from stratum.mount.state import store_key

    record = place.state.find_mountpoint(Path(text), inside=True)
    if record is None:
        if not os.path.lexists(text):
            raise NotFoundError(f"{text} does not exist")
        raise UsageError(f"{text} is not at or below a mountpoint of Stratum", hint="'stratum status' lists them")
    if record.store_key != store_key(place.store.root):
        raise UsageError(f"{text} shows a ref of another store", hint=f"use --store {record.store}")
    return parse_ref(record.ref)


def means_path(place: Workplace, text: str) -> bool:
    """Whether an argument that may be a ref or a path is a path (see ``ref_or_mountpoint``)."""
    if "/" in text or text in (".", ".."):
        return True
    if not _is_directory(text) or (is_name(text) and place.store.namespaces.exists(text)):
        return False
    from pathlib import Path

    return place.state.find_mountpoint(Path(text), inside=True) is not None


def _is_directory(path: str) -> bool:
    """Whether it is one, or the mount of a user's whose server is gone, of which nobody can tell."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as exc:
        return exc.errno == errno.ENOTCONN


def ref_and_path(place: Workplace, text: str) -> tuple[Ref, str | None]:
    """(the ref, the path in it) that ``text`` names: REF:/PATH, or a path of the file system at or below a mount of
    Stratum. The path is None for a ref alone, and for the mountpoint itself. Raises as ``ref_or_mountpoint``."""
    ref_text, path = split_ref_path(text)
    if path is not None:
        return parse_ref(ref_text), path
    ref = ref_or_mountpoint(place, text)
    if not means_path(place, text):
        return ref, None
    from pathlib import Path

    record = place.state.find_mountpoint(Path(text), inside=True)
    assert record is not None
    if os.path.realpath(text) == record.mountpoint:
        return ref, None
    # The last name as it is: it can be that of a symbolic link, whose own content is meant.
    path = os.path.abspath(text)
    here = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if not here.startswith(record.mountpoint.rstrip("/") + "/"):
        here = os.path.realpath(text)
    return ref, "/" + os.path.relpath(here, record.mountpoint)


def with_paths(place: Workplace, text: str, paths: Sequence[str]) -> tuple[str, list[str]]:
    """(what names the ref, the paths in it) of REF PATH..., of REF:/PATH, and of a path below a mount of Stratum.

    ``UsageError`` for both a path in ``text`` and ``paths`` beside it; raises as ``ref_or_mountpoint``.
    """
    ref, path = split_ref_path(text)
    if path is None and not paths and means_path(place, text):
        found, path = ref_and_path(place, text)
        return str(found), [] if path is None else [path]
    if path is None:
        return text, list(paths)
    if paths:
        raise UsageError(f"{text} names a path already, and {paths[0]} is another", hint="write REF and the PATHs")
    return ref, [path]


def here(place: Workplace) -> str:
    """The ref that is mounted at the current directory, or above it. ``UsageError`` where none is."""
    from pathlib import Path

    if place.state.find_mountpoint(Path("."), inside=True) is None:
        raise UsageError(
            "it is not said what, and nothing of Stratum is mounted at the current directory",
            hint="name a REF, such as NAME or NAME:TAG; 'stratum list' shows what there is",
        )
    return str(ref_or_mountpoint(place, "."))
