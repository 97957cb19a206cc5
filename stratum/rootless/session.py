"""Entering the session namespace: Podman's, where a user has Podman, else one of Stratum's.

An ordinary user may mount, and have files of many owners, only in a user namespace of their own. All commands of a
user share one, so that each sees the mounts of the others. The process itself enters it, before it has threads:
everything after that finds user 0, the user's files owned by 0 as in the user's containers, and mounts that it may
make. What is mounted in there is not seen outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.rootless.found import Found
from stratum.rootless.keeper import elsewhere, make_ours, ours, passing
from stratum.rootless.places import all_there, out_of_sight
from stratum.rootless.podmans import podmans
from stratum.sys.userns import id_ranges, in_initial_namespace

_obstacles: list[StratumError] = []


class Place(Protocol):
    """What is needed of the settings."""

    @property
    def runtime_dir(self) -> Path: ...

    @property
    def environment(self) -> Mapping[str, str]: ...


def enter(
    place: Place, *, make: bool, paths: Iterable[str] = (), mounts: bool = True, stays: bool = True
) -> list[str] | None:
    """Move this process, which must have one thread, into the user's session namespace; with ``make`` it is made where
    there is none yet.

    The working directory stays what it is by its path. ``paths`` are those that the process is going to use: absolute,
    without symlinks. Returns what is to be told of a namespace that was made, mostly nothing; None where this process
    is in none afterwards: it is root of the machine, there is none, or ``obstacle`` tells why none can be made. Does
    nothing in a process that is in a user namespace already.

    Raises ``UnsupportedError`` where the working directory or one of ``paths`` cannot be seen in there. Who needs no
    ``mounts`` of the session is then in a namespace like it, which ends with this process; and so is, where there is no
    session yet, who wants none that ``stays``.
    """
    _obstacles.clear()
    if not in_initial_namespace():
        return []
    if os.geteuid() == 0:
        return None
    notes: list[str] = []
    found = ours(place.runtime_dir) or podmans(place.environment)
    if found is None and make and stays:
        found = _made(place, notes)
    if found is None and (stays or not make):
        return None
    try:
        if found is None:
            _pass()
        else:
            _move(found, paths, mounts)
    except UnsupportedError as exc:
        if found is not None:
            raise
        _obstacles.append(exc)
        return None
    except OSError as exc:
        _obstacles.append(UnsupportedError(f"cannot enter the session namespace: {os_error_text(exc)}"))
        return None
    return notes


def obstacle() -> StratumError | None:
    """Why the last ``enter`` could make no namespace, with a hint; None where it did, or was not to."""
    return _obstacles[0] if _obstacles else None


def variables() -> dict[str, str]:
    """The environment variables by which Podman knows, in a session namespace, that it is in its own; as in
    ``podman unshare``. Empty where this process is in none."""
    users, groups = id_ranges("uid_map"), id_ranges("gid_map")
    if in_initial_namespace() or os.geteuid() != 0 or not users or not groups:
        return {}
    (inside, user, _), (_, group, _) = users[0], groups[0]
    if inside != 0:
        return {}
    return {
        "_CONTAINERS_USERNS_CONFIGURED": "done",
        "_CONTAINERS_ROOTLESS_UID": str(user),
        "_CONTAINERS_ROOTLESS_GID": str(group),
    }


def _made(place: Place, notes: list[str]) -> Found | None:
    from stratum.rootless.podmans import start_podmans

    try:
        if (found := elsewhere(place.runtime_dir)) is not None:
            return found
        start_podmans(place.environment)
        if (found := podmans(place.environment)) is not None:
            return found
        found, note = make_ours(place.runtime_dir)
    except StratumError as exc:
        _obstacles.append(exc)
        return None
    except OSError as exc:
        _obstacles.append(StratumError(f"cannot make a session namespace: {os_error_text(exc)}"))
        return None
    if note:
        notes.append(note)
    return found


def _move(found: Found, paths: Iterable[str], mounts: bool) -> None:
    """Enter, with the working directory that has the same path in there."""
    before, directory = _working_directory()
    try:
        outside, inside = _mounts("self"), _mounts(str(found.pid))
        if not all_there(outside, inside):
            hidden = out_of_sight([directory, *paths] if directory else paths, outside, inside)
            if hidden is not None:
                found.close()
                if mounts:
                    raise _unseen(hidden[0], f"{hidden[1]} was mounted later", found)
                _pass()
                return
        found.enter()
        try:
            if directory is not None:
                os.chdir(directory)
            elif before is not None:
                os.fchdir(before)
            else:
                _go_nowhere()
        except OSError as exc:
            raise _unseen(directory or "the working directory", os_error_text(exc), found) from None
    finally:
        if before is not None:
            os.close(before)


def _pass() -> None:
    with passing() as own:
        _move(own, (), mounts=True)


def _working_directory() -> tuple[int | None, str | None]:
    """The working directory, and its path. Without a path it was removed, and is kept as what it is; without both this
    user may not enter it, as that of whoever has used sudo."""
    try:
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return None, None
    with suppress(FileNotFoundError):
        path = os.getcwd()
        return before, path if path.startswith("/") else None
    return before, None


def _go_nowhere() -> None:
    """Have a working directory in which nothing is or can be: a relative path must not lead to what is in another."""
    import tempfile

    place = tempfile.mkdtemp(prefix="stratum-")
    os.chdir(place)
    os.rmdir(place)


def _mounts(pid: str) -> bytes:
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return file.read()


def _unseen(path: str, why: str, found: Found) -> UnsupportedError:
    return UnsupportedError(
        f"{path} is not to be seen in the session namespace: {why}",
        hint=f"when nothing is in use there any more, end it with 'kill {found.pid}'; the next command makes a new one",
    )
