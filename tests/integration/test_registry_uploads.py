"""Uploads to repositories that end while others add to them, or where a server is killed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from stratum.api.registry import Repository
from stratum.errors import ConflictError, NotFoundError
from stratum.oci.descriptor import digest_of
from stratum.store import Store
from stratum.store.fsck import check
from stratum.sys.locks import locked
from tests.support.injection import killed_at
from tests.support.pushing import registry


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "here")


def repository(store: Store) -> Repository:
    return registry(store.root).repository("app")


def test_nobody_adds_to_a_blob_by_an_upload_whose_end_was_cut_short(here: Store) -> None:
    upload, whole = repository(here).begin_upload(), digest_of(b"a blob")
    upload.append([b"a blob"], 0)
    outcome = killed_at(lambda: upload.finish(whole), "unlink", 1)
    assert outcome.status == -signal.SIGKILL, outcome
    again = repository(here).upload(upload.id)
    with pytest.raises(ConflictError):
        again.append([b"more"], again.offset)
    assert not check(here).damage
    again.finish(whole)
    assert b"".join(repository(here).blob(whole).read(0, 6)) == b"a blob"
    with pytest.raises(NotFoundError):
        repository(here).upload(upload.id)


def test_who_waits_for_an_upload_that_ends_does_not_begin_it_anew(here: Store) -> None:
    upload = repository(here).begin_upload()
    path = here.repositories.directory("app", "uploads", upload.id)
    with ThreadPoolExecutor() as pool:
        with locked(path):
            waiting = pool.submit(upload.append, [b"x"], 0)
            while _opened(path) < 3:  # ours, and what waits: the file, and its lock
                pass
            path.unlink()
        with pytest.raises(NotFoundError):
            waiting.result()
    assert not path.exists()


def _opened(path: Path) -> int:
    """How often this process has the file open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}") == os.fspath(path)
    return found
