"""Programs that outlive who starts them: new interpreters in sessions of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import stratum

_PROGRAM = "import sys; sys.path[:] = {paths!r}; from {module} import main; main({argument!r})"
_HIGH = 64
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def spawn(
    module: str, argument: Any, *, stdin: int | None = None, stderr: int | None = None, passing: Iterable[int] = ()
) -> int:
    """Start ``main(argument)`` of ``module``, found where this process finds modules; its process ID.

    Its standard files are ``stdin`` and ``stderr``, descriptors, or /dev/null, and those from 3 on the descriptors
    ``passing``; it gets nothing of this one's environment, but what is open here and inheritable. Raises ``OSError``.
    """
    with contextlib.ExitStack() as opened:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, null)
        files = [null if stdin is None else stdin, null, null if stderr is None else stderr]
        for fd in passing:  # from numbers that none of them is to get
            files.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH))
            opened.callback(os.close, files[-1])
        return os.posix_spawn(
            sys.executable,
            _arguments(module, argument),
            _ENVIRONMENT,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)],
            setsid=True,
            setsigmask=(),
        )


def become(module: str, argument: Any) -> NoReturn:
    """The same in place of this process, with its files and session. Raises ``OSError``."""
    os.execve(sys.executable, _arguments(module, argument), _ENVIRONMENT)  # noqa: S606  (just that is wanted)


def _arguments(module: str, argument: Any) -> list[str]:
    program = _PROGRAM.format(paths=search_path(), module=module, argument=argument)
    return [sys.executable, "-I", "-S", "-c", program]


def search_path() -> list[str]:
    """Where this process finds modules, but for what depends on a working directory."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(stratum.__file__)))
    found = [path for path in sys.path if os.path.isabs(path)]
    return found if package in found else [*found, package]
