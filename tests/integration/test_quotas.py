"""Project quotas, in a machine whose kernel has them (``machine/quotas.py``)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.gotools import go_program
from tests.support.machine import run_in_machine

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]  # the first time, csi-sanity is built


def test_sizes_are_enforced_by_ext4_and_xfs(tmp_path: Path) -> None:
    go_program("csi-sanity")  # the machine has no network
    code, output = run_in_machine([sys.executable, "-m", "pytest", "-q", "tests/machine/quotas.py"], tmp_path)
    assert code == 0, output
