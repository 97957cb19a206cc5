"""A small machine: Stratum's processes in the tests and the demo get little address space.

On a machine with less memory than a single allocation asks for, Linux refuses it (``vm.overcommit_memory`` 0 and 2). A
limit on the address space refuses it here, too, so that no verb comes to need gigabytes unseen.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

ADDRESS_SPACE = 1 << 30
"""Bytes that each of Stratum's processes may have mapped in the tests."""
PROGRAMS = Path(__file__).with_name("programs")
"""Programs that Stratum starts and that need more, without the limit."""


def limited(command: Sequence[str | bytes | Path], space: int = ADDRESS_SPACE) -> list[str | bytes | Path]:
    """The command line that runs ``command`` with ``space`` bytes of address space (a soft limit, also for what it
    starts)."""
    return [_prlimit(), f"--as={space}:", "--", *command]


def programs_first(path: str) -> str:
    """A search path on which ``PROGRAMS`` are found before all others."""
    return path if path.startswith(f"{PROGRAMS}:") else f"{PROGRAMS}:{path}"


def limit_hooks(directory: Path, space: int = ADDRESS_SPACE) -> None:
    """Have the hooks of Stratum that are installed in ``directory`` run with the limit."""
    for path in directory.glob("stratum-*.json"):
        definition = json.loads(path.read_bytes())
        hook = definition["hook"]
        if hook["path"] != _prlimit():
            hook["args"] = list(map(str, limited([hook["path"], *hook["args"][1:]], space)))
            hook["path"] = _prlimit()
            path.write_text(json.dumps(definition), "utf-8")


def _prlimit() -> str:
    program = shutil.which("prlimit", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin")
    assert program is not None, "prlimit is part of util-linux, which every Debian has"
    return program
