"""User namespaces: which IDs this process has, what it may with them, and how to make a namespace or enter one.

Who has user ID 0 is not yet root: in a namespace that a user made, 0 is that user. So the ID maps decide, not the ID.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Collection, Iterable, Sequence
from functools import cache

from stratum.sys.namespaces import CLONE_NEWNS, setns
from stratum.sys.syscalls import libc_call

CLONE_NEWUSER = 0x10000000

IdRange = tuple[int, int, int]
"""(first ID inside, first ID outside, how many)."""

ALL_IDS: tuple[IdRange, ...] = ((0, 0, 0xFFFFFFFF),)
"""The map of the namespace that the machine started with."""

NS_GET_OWNER_UID = 0xB704
_OVERFLOW = "/proc/sys/kernel/overflowuid"
_MAPS_SECONDS = 20


def _overflow_id() -> int:
    try:
        with open(_OVERFLOW, "rb") as file:
            return int(file.read(16))
    except (OSError, ValueError):
        return 65534


OVERFLOW_ID = _overflow_id()
"""What the kernel shows for the owner of a file that the user namespace has no ID for."""


@cache
def id_ranges(name: str) -> tuple[IdRange, ...]:
    """The ranges of ``uid_map`` or ``gid_map`` of this process; all IDs where there is no ``/proc``."""
    try:
        with open(f"/proc/self/{name}", "rb") as file:
            return tuple(_range(line) for line in file)
    except OSError:
        return ALL_IDS


def _range(line: bytes) -> IdRange:
    inside, outside, count = map(int, line.split())
    return inside, outside, count


def in_initial_namespace() -> bool:
    """Whether this process is in the user namespace that the machine started with, where IDs are what they are."""
    return id_ranges("uid_map") == ALL_IDS


def is_privileged() -> bool:
    """Whether this process is root of the machine: everybody else mounts as users do."""
    return os.geteuid() == 0 and in_initial_namespace()


def owns_system() -> bool:
    """Whether the files of the system belong to this process: it is root, if only that of a system container.

    Not so for somebody who is 0 in a namespace of their own, as in ``podman unshare``: the system is somebody else's.
    """
    return os.geteuid() == 0 and (in_initial_namespace() or _root_directory_is_ours())


def system_owners() -> frozenset[int]:
    """The user IDs that root of the machine is seen as: in a user's own namespace that is the overflow ID, as for
    everybody that such a namespace has no ID for. Only for what none of these could have put there."""
    return frozenset({0}) if in_initial_namespace() or _root_directory_is_ours() else frozenset({0, OVERFLOW_ID})


def _root_directory_is_ours() -> bool:
    return os.stat("/").st_uid == 0


def outer_uid() -> int:
    """The user ID that this process has outside of its user namespace: that of the person."""
    user = os.geteuid()
    for inside, outside, count in id_ranges("uid_map"):
        if inside <= user < inside + count:
            return outside + user - inside
    return user


def is_mapped(number: int, kind: str = "uid_map") -> bool:
    """Whether ``number``, as seen from here, is an ID of this user namespace, and not the overflow ID of others.
    ``kind`` is ``gid_map`` for a group."""
    return any(inside <= number < inside + count for inside, _, count in id_ranges(kind))


def is_own_process(pid: int) -> bool:
    """Whether process ``pid`` is this user's: in the first namespace by its ID, in others by any ID that they have.
    False where it is gone."""
    try:
        user = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return False
    if in_initial_namespace():
        return user == os.geteuid()
    return user != OVERFLOW_ID and is_mapped(user)  # which the users of others are seen as


def owner_of(users: int) -> int:
    """The ID, as seen from here, of who made the user namespace ``users`` (an fd). Raises ``OSError``."""
    (uid,) = struct.unpack("=I", fcntl.ioctl(users, NS_GET_OWNER_UID, bytes(4)))
    return int(uid)


def new_namespace() -> None:
    """Move this process, which must have one thread, into a new user namespace and a new mount namespace.

    It has no IDs there before somebody outside gives it some (``give_ids``). Raises ``OSError``: EPERM where users may
    not, ENOSPC or EUSERS where there are too many.
    """
    libc_call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    id_ranges.cache_clear()


def join(users: int, mounts: int) -> None:
    """Move this process, which must have one thread, into the user and mount namespaces ``users`` and ``mounts`` (fds).

    It is user and group 0 there, and its working directory is ``/``.

    Raises ``OSError``: EINVAL where the process has more threads, EPERM where the namespaces are not this user's.
    """
    setns(users, CLONE_NEWUSER)
    id_ranges.cache_clear()
    setns(mounts, CLONE_NEWNS)
    if os.getresgid() != (0, 0, 0):
        os.setresgid(0, 0, 0)
    if os.getresuid() != (0, 0, 0):
        os.setresuid(0, 0, 0)


def subordinate_ids(kind: str, uid: int) -> list[tuple[int, int]]:
    """(first, count) of the ranges that user ``uid`` was given in ``/etc/subuid`` or ``/etc/subgid`` (``kind`` is
    ``subuid`` or ``subgid``) or, where there is nothing, by what ``getsubids`` asks."""
    found = []
    with contextlib.suppress(OSError), open(f"/etc/{kind}", encoding="utf-8", errors="replace") as file:
        found = ranges_of({str(uid), _login(uid)}, file)
    return found or _asked_for(kind, uid)


def ranges_of(names: Collection[str], lines: Iterable[str]) -> list[tuple[int, int]]:
    """(first, count) of the lines NAME:FIRST:COUNT of one of ``names``; whatever else there is counts for nothing."""
    found = []
    for line in lines:
        name, _, numbers = line.strip().partition(":")
        if name in names:
            found += _subordinate(numbers.split(":"))
    return found


def _login(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _asked_for(kind: str, uid: int) -> list[tuple[int, int]]:
    """The ranges that come from a directory service."""
    import shutil
    import subprocess

    program = shutil.which("getsubids", path="/usr/bin:/bin:/usr/local/bin")
    if program is None:
        return []
    argv = [program, *(["-g"] if kind == "subgid" else []), _login(uid)]
    try:
        answer = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_MAPS_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.split() for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    return [pair for words in lines for pair in _subordinate(words[-2:])]  # 0: user 100000 65536


def _subordinate(numbers: Sequence[str]) -> list[tuple[int, int]]:
    if len(numbers) != 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
        return []
    first, count = map(int, numbers)
    return [(first, count)] if first > 0 and count > 0 and first + count < 1 << 32 else []


def give_ids(pid: int, uid: int, gid: int, uids: Sequence[tuple[int, int]], gids: Sequence[tuple[int, int]]) -> None:
    """Give process ``pid``, in a new user namespace, its IDs, as Podman does.

    0 is ``uid`` and ``gid`` of this process, and from 1 on are the ranges ``uids`` and ``gids``, (first, count), one
    after the other. With ranges newuidmap(1) and newgidmap(1) do it, without any the kernel lets this process. Raises
    ``OSError`` with what those say.
    """
    if not uids or not gids:
        for name, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        return
    programs = [_program(name) for name in ("newgidmap", "newuidmap")]  # both, before one has done its part
    for program, own, ranges in zip(programs, (gid, uid), (gids, uids), strict=True):
        _run_setuid(program, [str(pid), "0", str(own), "1", *_in_a_row(ranges)])


def _in_a_row(ranges: Sequence[tuple[int, int]]) -> list[str]:
    words, inside = [], 1
    for first, count in ranges:
        words += [str(inside), str(first), str(count)]
        inside += count
    return words


def _program(name: str) -> str:
    import shutil

    path = shutil.which(name, path="/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return path


def _run_setuid(path: str, arguments: list[str]) -> None:
    import subprocess

    program = os.path.basename(path)
    try:
        done = subprocess.run(
            [path, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_MAPS_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), program) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise PermissionError(errno.EPERM, said.removeprefix(f"{program}: "), program)
