"""A namespace of our own, for users who have no Podman, and the process that keeps it: one that sleeps, and is nothing
else.

It lives until it is killed or the machine is restarted, as Podman's does; its number is in the file ``session`` of the
runtime directory. With it and the last process that is in the namespace, the mounts in there end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.rootless.found import Found, find
from stratum.sys import userns
from stratum.sys.forked import keep_only
from stratum.sys.mountapi import make_slave
from stratum.sys.proc import alive, start_time
from stratum.sys.smallfile import read_regular

_RECORD = "session"
_MAX_RECORD = 128
_SLEEPERS = ("/usr/bin/sleep", "/bin/sleep", "/usr/local/bin/sleep", "/run/current-system/sw/bin/sleep")
_TITLE = "stratum-session"
_SIGKILL = 9  # without loading signal, which defines an enum of all of them


def ours(runtime_dir: Path) -> Found | None:
    """The namespaces on record in the runtime directory; None where their keeper does not run, or is another's."""
    with suppress(OSError, ValueError):
        status, data = read_regular(runtime_dir / _RECORD, _MAX_RECORD, follow=False)
        pid, started = map(int, data.split())
        if status.st_uid == os.geteuid() and pid > 1 and alive(pid, started):
            return find(pid)
    return None


def elsewhere(runtime_dir: Path) -> Found | None:
    """The namespaces of a keeper, Podman's or ours, that is on record in another runtime directory, as that of a login
    is for a cron job; put on record here, so that they need not be looked for again. None where none runs.

    All sessions of a user have to be in one: what is mounted twice for writing gets damaged.
    """
    from stratum.sys.proc import processes

    for pid in processes():
        with suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.geteuid() and _keeps(pid) and (found := find(pid)):
                _make_directory(runtime_dir)
                _put_on_record(runtime_dir, pid)
                return found
    return None


def _keeps(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(256).split(b"\0")
    return words[:2] in ([_TITLE.encode(), b"infinity"], [b"catatonit", b"-P"]) or words[0] == b"podman pause"


def _put_on_record(runtime_dir: Path, pid: int) -> None:
    from stratum.sys.atomic import write_atomic

    record = f"{pid} {start_time(pid)}\n"
    write_atomic(runtime_dir / _RECORD, record.encode("ascii"), 0o600, durable=False)


def make_ours(runtime_dir: Path) -> tuple[Found, str]:
    """New namespaces and their keeper, put on record, or those that another process has just made; and what is to be
    said of them, or "". Raises ``UnsupportedError`` where users cannot have any here, and ``StratumError``."""
    from stratum.sys.locks import locked

    _make_directory(runtime_dir)
    with locked(runtime_dir / f"{_RECORD}.lock", what="the session namespace"):
        there = ours(runtime_dir)
        return (there, "") if there is not None else _made(runtime_dir)


def _make_directory(runtime_dir: Path) -> None:
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(runtime_dir)
    except OSError as exc:
        raise StratumError(
            f"cannot make the runtime directory {runtime_dir}: {os_error_text(exc)}",
            hint="let XDG_RUNTIME_DIR name a directory of yours that a reboot empties",
        ) from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise StratumError(
            f"the runtime directory {runtime_dir} is one that others can write",
            hint="remove it, or choose another with STRATUM_RUNTIME_DIR",
        )


def _made(runtime_dir: Path) -> tuple[Found, str]:
    sleep = next(filter(os.path.exists, _SLEEPERS), None)
    if sleep is None:
        raise UnsupportedError("the program sleep, which is to keep the session namespace, is not there")
    with _started(sleep) as (found, note):
        _put_on_record(runtime_dir, found.pid)
    return found, note


@contextmanager
def passing() -> Iterator[Found]:
    """Namespaces like a session's, with the same IDs and all that is mounted here, to be entered in the block: who is
    not in there after it, cannot be. Raises ``UnsupportedError`` where users cannot have any here, and ``OSError``."""
    with _started(None) as (found, _):
        yield found


@contextmanager
def _started(sleep: str | None) -> Iterator[tuple[Found, str]]:
    """New namespaces, and what is to be said of them. The process that they are made in becomes the program ``sleep``
    or, without one, ends after the block, as it does where that fails."""
    reading, telling = os.pipe()
    waiting, going = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(going)
        _keep(telling, waiting, sleep)
    os.close(telling)
    os.close(waiting)
    stays = False
    try:
        _hear(reading, "make a user namespace")
        note = _give_ids(pid)
        os.write(going, b"g")
        _hear(reading, "change mounts in a user namespace")
        found = find(pid)
        if found is None:
            raise StratumError("the process that keeps the session namespace has ended")
        yield found, note
        stays = sleep is not None
    finally:
        os.close(reading)
        os.close(going)
        if not stays:
            with suppress(ProcessLookupError):
                os.kill(pid, _SIGKILL)
            os.waitpid(pid, 0)


def _keep(telling: int, waiting: int, sleep: str | None) -> NoReturn:
    """Make the namespaces, say so, wait for IDs, say whether these let it mount, and sleep; in a process of its own."""
    try:
        os.setsid()
        userns.new_namespace()
        os.write(telling, bytes(4))
        if os.read(waiting, 1) != b"g":
            os.kill(os.getpid(), _SIGKILL)
        make_slave()
        os.chdir("/")
        if sleep is None:
            os.write(telling, bytes(4))
            os.read(waiting, 1)  # until its parent is inside
            os.kill(os.getpid(), _SIGKILL)
            raise AssertionError
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.set_inheritable(telling, False)
        keep_only({telling})
        # One binary that is many programs wants to be called by the name of the one that it is to be.
        title = _TITLE if os.path.basename(os.path.realpath(sleep)) == "sleep" else "sleep"
        os.execve(sleep, [title, "infinity"], {})  # noqa: S606  (no shell is wanted)
    except OSError as exc:
        os.write(telling, (exc.errno or errno.EIO).to_bytes(4, "little"))
    os.kill(os.getpid(), _SIGKILL)
    raise AssertionError


def _hear(reading: int, what: str) -> None:
    """Wait until the keeper says that it could, or has become what sleeps. ``UnsupportedError`` where it could not."""
    said = os.read(reading, 4)
    code = int.from_bytes(said, "little")
    if code:
        raise UnsupportedError(f"a user cannot {what} here: {os.strerror(code)}", hint=_cure(code))


def _cure(code: int) -> str:
    """What root has to do so that users can have namespaces."""
    for name, bad, good in (
        ("kernel/unprivileged_userns_clone", 0, 1),
        ("user/max_user_namespaces", 0, 15000),
        ("kernel/apparmor_restrict_unprivileged_userns", 1, 0),
    ):
        if _number(f"/proc/sys/{name}") == bad:
            key = name.replace("/", ".")
            hint = f"{key} is {bad}: as root, 'sysctl {key}={good}'"
            return f"{hint}, or install Podman, which may" if name.startswith("kernel/app") else hint
    if code in (errno.ENOSPC, errno.EUSERS):
        return "there are as many as there may be: user.max_user_namespaces, as root"
    return "a container or a security module keeps users from it; outside it is possible"


def _number(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def _give_ids(pid: int) -> str:
    """Give the new namespace its IDs; what is to be said of them."""
    uid, gid = os.geteuid(), os.getegid()
    uids, gids = (userns.subordinate_ids(kind, uid) for kind in ("subuid", "subgid"))
    note = ""
    if not uids or not gids:
        note = f"user {uid} has no ranges in /etc/subuid and /etc/subgid"
    try:
        try:
            userns.give_ids(pid, uid, gid, uids, gids)
        except FileNotFoundError as exc:
            note = f"{exc.filename} is missing (Debian's package uidmap has it)"
            userns.give_ids(pid, uid, gid, [], [])
    except OSError as exc:
        raise UnsupportedError(
            f"{exc.filename or 'the kernel'} gives the session namespace no IDs: {os_error_text(exc)}", hint=_id_cure()
        ) from None
    return note and f"{note}, so in the session namespace files can belong to nobody else than this user"


def _id_cure() -> str:
    status = _status()
    if status.get("NoNewPrivs") == "1":
        return "this process may gain no privileges (no_new_privs), which newuidmap needs: start it in another way once"
    if status.get("TracerPid", "0") != "0":
        return "under a tracer newuidmap has no privileges: run 'stratum unshare -- true' once without"
    return (
        "the user's lines in /etc/subuid and /etc/subgid must be right, and newuidmap (package uidmap) be setuid root"
    )


def _status() -> dict[str, str]:
    with suppress(OSError), open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    return {}
