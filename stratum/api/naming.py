"""What an argument names: a ref, or what is mounted at a path."""

from __future__ import annotations

import os

from stratum.api.workplace import Workplace
from stratum.errors import NotFoundError, UsageError
from stratum.refs import Ref, is_name, parse_ref


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
    if not os.path.isdir(text) or (is_name(text) and place.store.namespaces.exists(text)):
        return False
    from pathlib import Path

    return place.state.find_mountpoint(Path(text), inside=True) is not None
