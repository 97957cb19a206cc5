"""Keepers in a hurry: each half second they look after what they keep, and end where that is nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.inprocess import stratum

_HASTE = "from stratum.sys import keeper; keeper.Keeper.IDLE = keeper._SWEEP = keeper._ASKING = 0.5; "
_PROGRAM = "import sys; sys.path[:] = {paths!r}; " + _HASTE + "from {module} import main; main({argument!r})"
"""As ``sys.spawn`` has it."""
COMMAND = [
    sys.executable,
    "-c",
    f"from stratum.sys import spawn; spawn._PROGRAM = {_PROGRAM!r}; from stratum.cli.start import main; main()",
]
"""The ``stratum`` command, which starts, or becomes, such ones."""


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have those be so that this process starts from now on."""
    monkeypatch.setattr("stratum.sys.spawn._PROGRAM", _PROGRAM)


def mount(cli: Command, ref: str, place: Path) -> None:
    """``stratum mount``, by this process."""
    done = stratum("--store", cli.store, "--runtime-dir", cli.runtime_dir, "mount", ref, place)
    assert done.code == 0, done.stderr
