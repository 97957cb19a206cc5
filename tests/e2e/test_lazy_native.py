"""What was read of a lazy mount is native in the end, with no process behind it: what was read in parts, and what had
its metadata changed first, too."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stratum.hydrate import serving
from tests.support import hydrating
from tests.support.lazily import LARGE, Far, Lazily

pytestmark = [pytest.mark.root, pytest.mark.registry]


def test_files_that_were_read_are_native(far: Far, tmp_path: Path) -> None:
    with Lazily(tmp_path, far, worktree=True) as lazily:
        read = [*far.group(0)[:10], LARGE]
        for path in read:
            (lazily.mnt / path).chmod(0o600)
        assert not lazily.landed()
        assert not lazily.read(read)
        time.sleep(2 * serving._REFRESH)
        hydrating.kill(hydrating.keeper(lazily.run), hydrating.worker(lazily.run))
        assert not lazily.read(read)
        assert lazily.read([far.group(7)[-1]])  # which nobody had read
