"""Faults at chosen system calls: a child process runs a function under strace(1), which kills it at, or makes it fail,
the Nth call of one kind.

The child is forked from the test, so nothing is started while calls are counted: equal runs make equal calls. Its
threads are followed; each counts its own calls.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stratum.errors import StratumError
from tests.support.capabilities import program

WRITING = (
    "write,pwrite64,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,"
    "fsync,fdatasync,syncfs,ftruncate,fchmod,chmod,fchmodat,chown,lchown,fchown,setxattr,utimensat"
)
"""The calls that change files or make changes durable."""
MOUNTING = "fsopen,fsconfig,fsmount,move_mount,open_tree,mount_setattr,umount2,mount"
"""The calls that mount and unmount."""

DONE = 0
REFUSED = 3
"""Exit status of a child whose function raised ``StratumError``."""
_CRASHED = 4
_CALL = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(\w+)\(")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended: its exit status, or the negative number of the signal that killed it; its last words."""

    status: int
    message: str


def calls_of(function: Callable[[], object], calls: str = WRITING) -> Counter[str]:
    """How often a run of ``function`` makes each of ``calls``."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        outcome = _run(function, f"trace={calls}", "-o", str(log))
        assert outcome.status == DONE, outcome
        lines = log.read_text("utf-8", "replace").splitlines()
    return Counter(match[1] for line in lines if (match := _CALL.match(line)))


def killed_at(function: Callable[[], object], call: str, number: int) -> Outcome:
    """Run ``function`` in a child that is killed at its ``number``th ``call`` (from 1)."""
    return _run(function, f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")


def failed_at(function: Callable[[], object], call: str, number: int, error: str) -> Outcome:
    """Run ``function`` in a child whose ``number``th ``call`` fails with ``error`` (``ENOSPC``, ...)."""
    return _run(function, f"trace={call}", "-e", f"inject={call}:error={error}:when={number}")


def undisturbed(function: Callable[[], object]) -> Outcome:
    """Run ``function`` in a child as it is."""
    child, ours = _waiting(function)
    with ours:
        ours.send(b"go")
        return _ended(child, ours)


def _waiting(function: Callable[[], object]) -> tuple[int, socket.socket]:
    """A child that runs ``function`` when it is told to on the socket, and says there how it went."""
    # A socket, as the calls on it are not among those that are counted.
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _child(function, theirs)
    theirs.close()
    return child, ours


def _run(function: Callable[[], object], trace: str, *options: str) -> Outcome:
    strace = program("strace")
    child, ours = _waiting(function)
    command = [strace, "-f", "-qq", "-p", str(child), "-e", trace, *options]
    with ours, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        _wait_until_traced(child, tracer)
        ours.send(b"go")
        return _ended(child, ours)


def _ended(child: int, ours: socket.socket) -> Outcome:
    with ours.makefile("rb") as words:
        message = _received(words)
    _, status = os.waitpid(child, 0)
    return Outcome(os.waitstatus_to_exitcode(status), message)


def _received(words: BinaryIO) -> str:
    try:
        return words.read().decode("utf-8", "replace")
    except ConnectionResetError:  # killed before it read what we sent
        return ""


def _child(function: Callable[[], object], parent: socket.socket) -> None:
    status, message = _CRASHED, ""
    try:
        parent.recv(2)
        function()
        status = DONE
    except StratumError as exc:
        status, message = REFUSED, exc.message
    except BaseException as exc:
        message = repr(exc)
    finally:
        parent.send(message.encode("utf-8", "replace"))
        os._exit(status)


def _wait_until_traced(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    while True:
        assert tracer.poll() is None, "strace could not attach"
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
        if f"TracerPid:\t{tracer.pid}\n" in status:
            return
        time.sleep(0.001)
