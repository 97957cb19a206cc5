"""Who reads, and what for: threads that wait for an object, as ``/proc`` shows them while they wait.

All of this may be wrong a moment later, as threads go on, end, and leave their numbers to others. So nothing depends on
it but whether content is fetched early or when it is opened, how soon a killed reader ends, and what status tells.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from stratum.sys.actors import read_proc, status_fields

_SIGNALS = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")

_METADATA_CALLS: Mapping[str, frozenset[int]] = {
    "x86_64": frozenset(
        {82, 86, 264, 265, 316}  # rename, link and their like
        | {90, 91, 268, 452}  # chmod
        | {92, 93, 94, 260}  # chown
        | {132, 235, 261, 280}  # utime
        | {188, 189, 190, 197, 198, 199, 463, 466, 469}  # setxattr, removexattr, file_setattr
        | {85}  # creat
    ),
    "aarch64": frozenset(
        {37, 38, 276}  # linkat, renameat, renameat2
        | {52, 53, 452}  # chmod
        | {54, 55}  # chown
        | {88}  # utimensat
        | {5, 6, 7, 14, 15, 16, 463, 466, 469}  # setxattr, removexattr, file_setattr
    ),
}
"""The system calls that need a file, but not what is in it, by architecture."""

_OPEN_CALLS: Mapping[str, Mapping[int, int]] = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}
"""Those that open a file, and which of their arguments are the flags."""


def needs_content(tid: int) -> bool:
    """Whether the thread waits for a file because of what is in it. True where that cannot be told."""
    try:
        text = read_proc(f"/proc/{tid}/syscall") if tid > 0 else b""
    except OSError:
        return True
    return call_needs_content(text, os.uname().machine)


def call_needs_content(text: bytes, machine: str) -> bool:
    """As ``needs_content``, of the text of ``/proc/TID/syscall`` on an architecture as uname(2) names it.

    chmod, rename and the like do not need it, nor does an open that cuts the file to nothing. But overlayfs looks the
    content up for them, too, as it looks it up for everything that writes to the upperdir.
    """
    fields = text.split()
    try:
        number = int(fields[0])
        if number in _METADATA_CALLS.get(machine, ()):
            return False
        flags = _OPEN_CALLS.get(machine, {}).get(number)
        return flags is None or not int(fields[1 + flags], 16) & os.O_TRUNC
    except (ValueError, IndexError):  # "running", or nothing
        return True


def is_dying(tid: int) -> bool:
    """Whether the thread is gone, or has a signal that ends it. A signal that it blocks, ignores or handles does not,
    and neither does anything where its number is not known (0)."""
    if tid <= 0:
        return False
    try:
        return has_fatal_signal(read_proc(f"/proc/{tid}/status"))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


def has_fatal_signal(status: bytes) -> bool:
    """Whether a signal waits that ends the thread, by the text of ``/proc/TID/status``."""
    fields = status_fields(status)
    try:
        own, shared, blocked, ignored, caught = (int(fields[name.encode()], 16) for name in _SIGNALS)
    except (KeyError, ValueError):
        return False
    return bool((own | shared) & ~blocked & ~ignored & ~caught)
