"""Freezing all processes of cgroups for a moment, so that they write nothing; none of them is told.

Of cgroups v2 the file ``cgroup.freeze`` does it (cgroup-v2.rst), of cgroups v1 ``freezer.state`` of their hierarchy
``freezer``. However and whenever the freezing process ends, a small one that is not in its cgroup lets all go on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from stratum.errors import BusyError, StratumError, UnsupportedError, os_error_text
from stratum.frozen import frozen
from stratum.sys.daemon import move_out

_KEEPER = """\
trap '' HUP INT TERM PIPE
timeout "$0" cat >/dev/null
for word; do [ -e "${word#*:}" ] && echo "${word%%:*}" >"${word#*:}"; done
"""
"""Waits for the end of its input, for so many seconds at most, and writes a word to each file then (WORD:PATH)."""

_POLL = 0.002


@frozen
class Cgroup:
    """A cgroup that can be frozen: its directory, and whether it is one of v2."""

    directory: str
    unified: bool

    @property
    def control(self) -> str:
        """The file that freezes it."""
        return f"{self.directory}/{'cgroup.freeze' if self.unified else 'freezer.state'}"

    @property
    def thaw(self) -> str:
        """What is written to that file to let it go on."""
        return "0" if self.unified else "THAWED"

    def write(self, *, freeze: bool) -> None:
        """Freeze it, or let it go on; ``OSError``."""
        word = self.thaw if not freeze else "1" if self.unified else "FROZEN"
        with open(self.control, "w", encoding="ascii") as file:
            file.write(word)

    def is_asked(self) -> bool:
        """Whether somebody has frozen it, done or not; ``OSError``."""
        text = _text(self.control)
        return text == "1" if self.unified else text != "THAWED"

    def is_frozen(self) -> bool:
        """Whether all its processes stand still; one that is gone does. ``OSError``."""
        try:
            if not self.unified:
                return _text(self.control) == "FROZEN"
            return "frozen 1" in _text(f"{self.directory}/cgroup.events").splitlines()
        except FileNotFoundError:
            return True


def cgroup_of(cgroups: str, mountinfo: str, wanted: Callable[[str], bool]) -> Cgroup | None:
    """The outermost cgroup around a process whose name is ``wanted``, of v2 before one of v1; None where there is none.
    Pure: the texts are of ``/proc/PID/cgroup`` and of ``/proc/self/mountinfo``.

    ``UnsupportedError`` where there is one that cannot be reached from here.
    """
    found: dict[bool, list[str]] = {}
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        parts = [part for part in path.split("/") if part]
        depth = next((number for number, part in enumerate(parts) if wanted(part)), None)
        if depth is not None and (controllers == "" or "freezer" in controllers.split(",")):
            found[controllers == ""] = parts[: depth + 1]
    for unified in (True, False):
        if unified not in found:
            continue
        root = _root(mountinfo, unified)
        if root is not None and ".." not in found[unified]:
            return Cgroup("/".join([root, *found[unified]]), unified)
    if found:
        parts = next(iter(found.values()))
        raise UnsupportedError(
            f"the cgroup {'/'.join(parts)} cannot be reached from here",
            hint="who freezes needs the cgroups of the machine, as a privileged container has them",
        )
    return None


def _root(mountinfo: str, unified: bool) -> str | None:
    """Where the hierarchy is mounted as a whole."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(tail) < 3 or fields[3] != "/":
            continue
        if tail[0] == ("cgroup2" if unified else "cgroup") and (unified or "freezer" in tail[2].split(",")):
            return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return None


def cgroups_of(wanted: Callable[[str], bool]) -> list[Cgroup]:
    """The cgroups with such names that have a process in them, or in one below; see ``cgroup_of``."""
    mountinfo, found = _text("/proc/self/mountinfo"), set[Cgroup]()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
                cgroup = cgroup_of(_text(f"/proc/{name}/cgroup"), mountinfo, wanted)
                if cgroup is not None:
                    found.add(cgroup)
    return sorted(found, key=lambda cgroup: cgroup.directory)


@contextlib.contextmanager
def frozen_cgroups(cgroups: Sequence[Cgroup], *, patience: float, longest: int) -> Iterator[None]:
    """Have all processes of ``cgroups`` stand still for the block; what somebody else has frozen stays so. Who calls
    sees to it that nobody else freezes one of them by this function.

    ``BusyError`` where they do not within ``patience`` seconds, ``StratumError`` where it cannot be done, or where the
    block took more than ``longest`` seconds: they were let go on then.
    """
    mine = [cgroup for cgroup in cgroups if not _asked(cgroup)]
    keeper = _keeper(mine, longest)
    started = time.monotonic()
    try:
        try:
            _freeze(mine)
        except OSError as exc:
            raise StratumError(
                f"cannot freeze {', '.join(each.directory for each in mine)}: {os_error_text(exc)}"
            ) from None
        _wait(cgroups, patience)
        yield
        if keeper.poll() is not None or time.monotonic() - started > longest or not all(map(_still, mine)):
            raise StratumError(f"processes could be kept still for {longest} s only, and that was not enough")
    finally:
        for cgroup in mine:
            with contextlib.suppress(OSError):  # gone; what is not, the keeper tries again
                cgroup.write(freeze=False)
        keeper.communicate()


def _asked(cgroup: Cgroup) -> bool:
    try:
        return cgroup.is_asked()
    except FileNotFoundError:
        return True
    except OSError as exc:
        raise StratumError(f"cannot read {cgroup.control}: {os_error_text(exc)}") from None


def _still(cgroup: Cgroup) -> bool:
    try:
        return cgroup.is_frozen()
    except OSError:
        return False


def _freeze(cgroups: Sequence[Cgroup]) -> None:
    for cgroup in cgroups:
        with contextlib.suppress(FileNotFoundError):  # its last process ended
            cgroup.write(freeze=True)


def _wait(cgroups: Sequence[Cgroup], patience: float) -> None:
    deadline = time.monotonic() + patience
    for cgroup in cgroups:
        while not _still(cgroup):
            if time.monotonic() > deadline:
                raise BusyError(
                    f"the processes of {cgroup.directory} do not stand still within {patience:.0f} s",
                    hint="one that waits in the kernel, as for a file that is being fetched, cannot be frozen",
                )
            time.sleep(_POLL)


def _keeper(cgroups: Sequence[Cgroup], longest: int) -> subprocess.Popen[bytes]:
    """The process that lets them go on, out of the cgroup of this one: that may be ended as a whole."""
    words = [f"{cgroup.thaw}:{cgroup.control}" for cgroup in cgroups]
    null = subprocess.DEVNULL
    try:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, str(longest), *words],
            stdin=subprocess.PIPE,
            stdout=null,
            stderr=null,
            start_new_session=True,
        )
    except OSError as exc:
        raise StratumError(f"cannot run /bin/sh: {os_error_text(exc)}") from None
    move_out(keeper.pid)
    return keeper


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()
