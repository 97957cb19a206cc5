"""A listing of an object store that does not come to an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from stratum.errors import UnreachableError
from stratum.oci.access import Access
from stratum.oci.bucketremote import RemoteBucket, memory_of
from stratum.oci.target import parse_target


class Endless:
    """Two pages, and a third that does not come until ``released``."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.pages = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> list[Any]:
        self.pages += 1
        if self.pages > 2:
            self.released.wait()
            raise StopIteration
        return []


def test_a_page_that_does_not_come_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_target("memory://listed")
    assert target.bucket is not None
    clients = memory_of(target.bucket)
    bucket = RemoteBucket(target.bucket, clients, replace(Access(), patience=0.2))
    bucket.put("tags/one", b"1")
    assert [entry.key for entry in bucket.list("")] == ["tags/one"]
    endless = Endless()
    monkeypatch.setattr(bucket._library, "list", lambda *_args, **_options: endless)
    try:
        with pytest.raises(UnreachableError, match=r"named nothing for 0\.2 seconds"):
            list(islice(bucket.list(""), 5))
    finally:
        endless.released.set()
    assert endless.pages == 3
