"""Whether a path means the same in two mount namespaces. Pure.

What is mounted after a namespace was made is not always seen there: the path is then that of the directory below the
mount, and who reads it there reads something else.
"""

from __future__ import annotations

from collections.abc import Iterable

from stratum.sys.mountinfo import MountEntry, parse

_Key = tuple[str, str, str]


def all_there(outside: bytes, inside: bytes) -> bool:
    """Whether each mount of one mountinfo text is in the other: the quick answer for nearly everybody."""
    return _keys(outside) <= _keys(inside)


def _keys(text: bytes) -> set[bytes]:
    """Device, root and mountpoint of each mount."""
    return {b" ".join(line.split(b" ", 5)[2:5]) for line in text.split(b"\n")}


def out_of_sight(paths: Iterable[str], outside: bytes, inside: bytes) -> tuple[str, str] | None:
    """The first of ``paths`` (absolute, without symlinks) on a mount of ``outside`` that ``inside`` has not, and where
    that is mounted; None where all are to be seen.

    What is mounted over it inside alone, as the mounts of a session are, is meant to be seen instead.
    """
    there, here = parse(inside), parse(outside)
    known, told = set(map(_key, there)), set(map(_key, here))
    for path in paths:
        mount, instead = _covering(path, here), _covering(path, there)
        if mount is None or _key(mount) in known or (instead is not None and _key(instead) not in told):
            continue
        return path, mount.mountpoint
    return None


def _key(entry: MountEntry) -> _Key:
    return entry.device, entry.root, entry.mountpoint


def _covering(path: str, entries: Iterable[MountEntry]) -> MountEntry | None:
    """The mount that ``path`` is on: the innermost, and of those that are stacked the last."""
    found = None
    for entry in entries:
        at = entry.mountpoint.rstrip("/")
        covers = path == at or path.startswith(f"{at}/")
        if covers and (found is None or len(entry.mountpoint) >= len(found.mountpoint)):
            found = entry
    return found
