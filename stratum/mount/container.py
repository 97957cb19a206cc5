"""A container's first process: the namespaces it leads to, and mounts built the way its users see files.

With a user namespace, the IDs of a stratum's files are those inside of it (``mount.idmap``); ``/proc/PID/uid_map`` and
``gid_map`` tell which IDs of the host its user and group 0 are, whoever made the namespace.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal

from stratum.errors import NotFoundError, StratumError, UnsupportedError, os_error_text
from stratum.frozen import replace
from stratum.mount.build import build_detached
from stratum.mount.idmap import IdMap, build_idmapped
from stratum.mount.plan import Lower, MountPlan
from stratum.sys import proc, userns

_CONTEXT = r'(?:^|,)context=(?:"([^"]*)"|([^,]*))'


class ContainerProcess:
    """The first process of a container, held by its namespaces: a recycled process ID cannot take its place.

    A context manager. ``mount_namespace`` and ``user_namespace`` are fds, ``start_time`` is in ticks since boot.
    """

    def __init__(self, pid: int, start_time: int | None = None, *, who: str = "") -> None:
        """``start_time``, where it is known, is what the process must have; ``who`` it is in messages.

        Raises ``NotFoundError`` where the process is gone, ``StratumError`` where it is in the host's mount namespace.
        """
        self.pid = pid
        self._who = who or f"the container's process {pid}"
        started = proc.start_time(pid) if pid > 0 else None
        with contextlib.ExitStack() as opened:
            try:
                self.mount_namespace = _open(f"/proc/{pid}/ns/mnt", opened)
                self.user_namespace = _open(f"/proc/{pid}/ns/user", opened)
                own = os.stat("/proc/self/ns/mnt")
            except (FileNotFoundError, ProcessLookupError):
                raise self._gone() from None
            except OSError as exc:
                raise StratumError(f"cannot reach {self._who}: {os_error_text(exc)}") from None
            if started is None or start_time not in (None, started) or not proc.alive(pid, started):
                raise self._gone()
            self.start_time = started
            if os.path.samestat(own, os.fstat(self.mount_namespace)):
                raise StratumError(f"process {pid} is in the host's mount namespace, so it is no container's")
            self._opened = opened.pop_all()

    def __enter__(self) -> ContainerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _gone(self) -> NotFoundError:
        return NotFoundError(f"{self._who} is gone")

    @functools.cached_property
    def owner(self) -> tuple[int, int]:
        """The host's IDs of the container's user and group 0: (0, 0) without a user namespace.

        Raises ``StratumError`` where its root has none.
        """
        if not self.has_user_namespace:
            return 0, 0
        return self._root_of("uid_map"), self._root_of("gid_map")

    @property
    def has_user_namespace(self) -> bool:
        """Whether the container's users have other IDs on the host."""
        return not os.path.samestat(os.stat("/proc/self/ns/user"), os.fstat(self.user_namespace))

    def _root_of(self, kind: str) -> int:
        root = parse_id_map(self._map(kind))
        if root is None:
            raise StratumError(f"the container's {kind} gives its root user no ID on the host")
        return root

    def id_ranges(self, kind: Literal["uid_map", "gid_map"]) -> list[tuple[int, int, int]]:
        """The lines of ``/proc/PID/uid_map`` or ``gid_map``: first ID inside, first ID outside, how many."""
        return parse_id_ranges(self._map(kind))

    def _map(self, kind: str) -> str:
        try:
            text = Path(f"/proc/{self.pid}/{kind}").read_text("ascii")
        except OSError as exc:
            raise StratumError(f"cannot read /proc/{self.pid}/{kind}: {os_error_text(exc)}") from None
        if not proc.alive(self.pid, self.start_time):
            raise self._gone()
        return text

    def build(self, plan: MountPlan) -> int:
        """The detached mount of ``plan`` with owners as the container sees them; an fd (see ``build_detached``).

        Who is not root cannot idmap a mount. Where the container's users are users here, too, none is needed; else what
        shows the commit translates its owners, and a worktree, whose changes nobody translates, is refused
        (``UnsupportedError``).
        """
        if not self.has_user_namespace:
            return build_detached(plan)
        if userns.is_privileged():
            return build_idmapped(plan, IdMap(self.user_namespace, *self.owner))
        if self._has_our_root:
            return build_detached(plan)
        if plan.upperdir is not None:
            self.check_writable("a worktree")
        if plan.method is not None and plan.method.lower is Lower.DIRECTORY:
            raise UnsupportedError(
                f"nothing translates owners for {self._who}: its users have other IDs than those of the files, and only"
                " what serves a commit by /dev/fuse knows these",
                hint="start it with --userns=keep-id or without --userns",
            )
        from stratum.metafs.ids import IdTable

        ids = IdTable(tuple(self.id_ranges("uid_map")), tuple(self.id_ranges("gid_map")))
        return build_detached(replace(plan, ids=ids))

    def check_writable(self, what: str) -> None:
        """``UnsupportedError`` where ``what`` cannot be mounted, as nobody translates the owners of what is written
        there; see ``build``."""
        if self.has_user_namespace and not userns.is_privileged() and not self._has_our_root:
            raise UnsupportedError(
                f"{what} cannot be mounted for {self._who}: its users have other IDs than those of the files",
                hint="start it with --userns=keep-id or without --userns, or mount a tag or a commit, read-only",
            )

    @functools.cached_property
    def _has_our_root(self) -> bool:
        return has_our_root(self.id_ranges("uid_map")) and has_our_root(self.id_ranges("gid_map"))


def has_our_root(ranges: Iterable[tuple[int, int, int]]) -> bool:
    """Whether our ID 0 is one of those that the lines ``ranges`` of an ID map give to somebody."""
    return any(outside == 0 and count > 0 for _, outside, count in ranges)


def parse_id_map(text: str) -> int | None:
    """The outside ID of the inside ID 0 in the text of a ``/proc/PID/uid_map`` (user_namespaces(7)), or None."""
    return next((outside for inside, outside, count in parse_id_ranges(text) if inside == 0 and count > 0), None)


def parse_id_ranges(text: str) -> list[tuple[int, int, int]]:
    """(inside, outside, count) of each line in the text of a ``/proc/PID/uid_map``."""
    found = []
    for line in text.splitlines():
        inside, outside, count = map(int, line.split())
        found.append((inside, outside, count))
    return found


def context_of(super_options: str) -> str | None:
    """The SELinux label that a mount was made with (``context=``), from its super options in mountinfo."""
    found = re.search(_CONTEXT, super_options)
    return (found[1] or found[2]) if found else None


def _open(path: str, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd
