"""What the demo runs on: a directory of its own, commands that are shown before they are run, and the clean-up."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support import hydrating
from tests.support.leftovers import Session, unmount_below
from tests.support.small import limited

STRATUM = Path(sys.executable).with_name("stratum")
SHOWN_LINES = 6
ADDRESS_SPACE = 2 << 30
"""Bytes that each of Stratum's processes gets, as on a small machine."""


class DemoError(Exception):
    """A step did not do what it should."""


class Stage:
    """A directory with three stores and a runtime directory; leaving it takes everything down, whatever happened."""

    def __init__(self) -> None:
        # Not /tmp: Debian 13 keeps that in memory.
        self.directory = Path(tempfile.mkdtemp(prefix="stratum-demo.", dir="/var/tmp"))
        self.first = self.directory / "first-store"
        self.second = self.directory / "second-store"
        self.third = self.directory / "third-store"
        self.runtime_dir = self.directory / "run"
        self.session = Session(self.directory, alone=False)
        self.started = time.monotonic()
        self.steps = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        hydrating.stop(self.runtime_dir)  # it would end by itself, ten seconds after the last lazy mount
        left = self.session.leftovers()
        unmount_below(self.directory)
        shutil.rmtree(self.directory)
        if left and kind is None:
            raise DemoError("the demo left behind: " + "; ".join(left))

    def step(self, title: str) -> None:
        """Announce a step."""
        self.steps += 1
        print(f"\n[{time.monotonic() - self.started:5.1f} s] {self.steps}. {title}", flush=True)

    def say(self, text: str) -> None:
        """One line of explanation or result."""
        print(f"    {text}", flush=True)

    def check(self, holds: bool, what: str) -> None:
        """Say what was checked; fail where it does not hold."""
        if not holds:
            raise DemoError(f"not so: {what}")
        self.say(f"ok: {what}")

    def show(self, *command: str | Path) -> None:
        """Show a command line as the user could type it; paths below the demo's directory start with $DEMO."""
        line = shlex.join(str(word) for word in command)
        print(f"    $ {line.replace(str(self.directory), '$DEMO')}", flush=True)

    def stratum(self, *args: str | Path, store: Path | None = None, quiet: bool = False) -> str:
        """Run ``stratum --store STORE ARGS`` (default: the first store) and show it; its stdout."""
        store = store or self.first
        line = [str(STRATUM), "--store", str(store), "--runtime-dir", str(self.runtime_dir), *map(str, args)]
        if not quiet:
            self.show("stratum", "--store", store, *args)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STRATUM_")}
        line = list(map(str, limited(line, ADDRESS_SPACE)))
        done = subprocess.run(line, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise DemoError(f"stratum {shlex.join(map(str, args))}: exit {done.returncode}\n{done.stderr.rstrip()}")
        if not quiet:
            self.print_output(done.stdout + done.stderr)
        return done.stdout.removesuffix("\n")

    def print_output(self, text: str) -> None:
        """What a command printed, shortened."""
        lines = text.replace(str(self.directory), "$DEMO").splitlines()
        for line in lines[:SHOWN_LINES]:
            print(f"      {line}")
        if len(lines) > SHOWN_LINES:
            print(f"      ... {len(lines) - SHOWN_LINES} more lines")
        sys.stdout.flush()
