"""Which descriptors the programs that Stratum starts are given: a program in the place of another tells, then becomes
that other one."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_TELL = """\
#!{python} -IS
import json, os, sys

def held(pid):
    found = []
    for number in os.listdir("/proc/%s/fd" % pid):
        try:
            link = os.readlink("/proc/%s/fd/%s" % (pid, number))
            with open("/proc/%s/fdinfo/%s" % (pid, number)) as file:
                flags = int(file.read().partition("flags:")[2].split()[0], 8)
        except FileNotFoundError:
            continue
        found.append((int(number), link, bool(flags & os.O_CLOEXEC)))
    return found

told = {{"program": {program!r}, "own": held("self"), "starter": held(os.getppid())}}
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(log, json.dumps(told).encode() + b"\\n")
os.execv({program!r}, [{argv0!r}, *sys.argv[1:]])
"""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor that a process has, what it is of (as in /proc/PID/fd), and whether exec(2) closes it."""

    number: int
    link: str
    closes: bool


@dataclass(frozen=True, slots=True)
class Started:
    """A program that was started: what it was given, and what whoever started it had."""

    program: str
    own: tuple[Descriptor, ...]
    starter: tuple[Descriptor, ...]

    def check(self, store: Path) -> None:
        """It has its standard streams and nothing else, none of them the store's; and it would have nothing else if it
        had been started by any other means, as all that its starter has is close-on-exec."""
        given = [item for item in self.own if not item.closes]
        assert {item.number for item in given} == {0, 1, 2}, self
        for item in given:
            assert not item.link.startswith(f"{store}/"), self
            assert not item.link.endswith(".lock"), self
        assert [item for item in self.starter if item.number > 2 and not item.closes] == [], self


class Watch:
    """Programs in ``bin`` that stand for others; ``started`` are those that were started so far."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "watched"
        self.bin.mkdir()
        self._log = directory / "watched.log"

    def wrap(self, program: str | Path, name: str | None = None) -> Path:
        """A program that tells what it was given and becomes ``program``."""
        path = self.bin / (name or Path(program).name)
        text = _TELL.format(python=sys.executable, program=str(program), argv0=str(program), log=str(self._log))
        path.write_text(text)
        path.chmod(0o755)
        return path

    @property
    def path(self) -> str:
        """A PATH on which the programs in ``bin`` come first."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    @property
    def started(self) -> list[Started]:
        if not self._log.exists():
            return []
        return [_started(line) for line in self._log.read_text().splitlines()]


def _started(line: str) -> Started:
    told = json.loads(line)
    own, starter = (tuple(Descriptor(*item) for item in told[key]) for key in ("own", "starter"))
    return Started(told["program"], own, starter)
