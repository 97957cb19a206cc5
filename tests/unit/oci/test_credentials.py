"""Files with passwords: what is no such file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.errors import StratumError
from stratum.oci.credentials import holds


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "auth.json")
    with pytest.raises(StratumError, match=r"auth\.json: not a regular file"):
        holds(tmp_path / "auth.json", "example.org")
