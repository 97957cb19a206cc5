"""``/proc/PID/mountinfo``, proc(5): what is mounted where, in one mount namespace or in all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stratum.frozen import frozen
from stratum.sys import userns

_ESCAPED = frozenset(" \t\n\\#")
"""What the kernel writes as an escape."""


@frozen
class MountEntry:
    """One mount: ``id`` and ``parent`` are the recycled mount numbers, ``device`` the filesystem's "major:minor".

    ``shared`` tells whether mounts made on it appear elsewhere too (it is in a propagation peer group).
    """

    id: int
    parent: int
    device: str
    root: str
    mountpoint: str
    options: str
    fstype: str
    source: str
    super_options: str
    shared: bool = False


def _text(field: bytes) -> str:
    if b"\\" in field:  # which is rare
        field = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
    return os.fsdecode(field)


def parse(data: bytes, containing: bytes = b"") -> list[MountEntry]:
    """The mounts in mountinfo text whose lines hold ``containing``, in the kernel's order; names are unescaped, as
    file-system strings."""
    entries = []
    # Only newlines end a line: the kernel escapes those in names, but not carriage returns.
    for line in data.split(b"\n"):
        if containing not in line:
            continue
        before, _, after = line.partition(b" - ")
        fields, tail = before.split(b" "), after.split(b" ", 2)
        if len(fields) < 6 or len(tail) < 3:
            continue
        entries.append(
            MountEntry(
                id=int(fields[0]),
                parent=int(fields[1]),
                device=fields[2].decode(),
                root=_text(fields[3]),
                mountpoint=_text(fields[4]),
                options=fields[5].decode(),
                fstype=_text(tail[0]),
                source=_text(tail[1]),
                super_options=_text(tail[2]),
                shared=any(field.startswith(b"shared:") for field in fields[6:]),
            )
        )
    return entries


def read(pid: int | str = "self", containing: str = "") -> list[MountEntry]:
    """The mounts that process ``pid`` sees below its root; empty where it is gone.

    Only those with ``containing`` (of characters that the kernel does not escape) somewhere in their lines: there can
    be thousands of others.
    """
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            data = file.read()
    except OSError:
        return []
    return parse(data, os.fsencode(containing))


def topmost(mountpoint: Path) -> MountEntry | None:
    """The mount whose root is what ``mountpoint`` (an absolute path without symlinks) shows, or None."""
    place = str(mountpoint)
    stacked = [entry for entry in read(containing="" if _ESCAPED & set(place) else place) if entry.mountpoint == place]
    parents = {entry.parent for entry in stacked}
    # A mount beneath another is the parent of the one above it, and has the same mountpoint.
    tops = [entry for entry in stacked if entry.id not in parents]
    return tops[-1] if tops else None


def below(mount: MountEntry, pid: int | str = "self") -> list[MountEntry]:
    """The mounts attached somewhere on ``mount``, directly or on one another."""
    found: list[MountEntry] = []
    reached = {mount.id}
    entries = [entry for entry in read(pid) if entry.id != mount.id]
    while new := [entry for entry in entries if entry.parent in reached and entry.id not in reached]:
        reached.update(entry.id for entry in new)
        found.extend(new)
    return found


def namespaces() -> Iterator[tuple[str, int]]:
    """Every mount namespace that some process is in, as (its "mnt:[inode]" name, the ID of one such process).

    A user in a namespace of their own is not told the namespaces of their processes outside of it: they are told apart
    by the numbers of their first mounts, which no two mount namespaces share.
    """
    seen: set[str] = set()
    for name in sorted((name for name in os.listdir("/proc") if name.isdecimal()), key=int):
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
        except PermissionError:
            if not userns.is_own_process(int(name)):
                continue
            namespace = _first_mount(name)
        except OSError:
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield namespace, int(name)


def _first_mount(pid: str) -> str:
    """The number of the first mount that ``pid`` sees; empty where it sees none, or is gone."""
    try:
        file = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(file, 16).split(b" ")[0].decode()  # of more than is asked for the kernel would make text, too
    except OSError:
        return ""
    finally:
        os.close(file)


def everywhere(containing: str = "") -> Iterator[tuple[int, MountEntry]]:
    """All mounts of all mount namespaces, each with the ID of a process that sees it; ``containing`` as in ``read``."""
    for _, pid in namespaces():
        for entry in read(pid, containing):
            yield pid, entry


def ids_of_device(device: str) -> frozenset[int]:
    """The mountinfo numbers of every mount of one filesystem, in all mount namespaces."""
    return frozenset(entry.id for _, entry in everywhere() if entry.device == device)
