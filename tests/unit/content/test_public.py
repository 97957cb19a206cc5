"""What is public of ``stratum.content``: a change here is a change of the API, and needs an entry in CHANGELOG.md."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import stratum.content
from stratum.content import ContentStore, LocalStore, MemoryStore, ObjectStore, open_content_store
from stratum.errors import NotFoundError, UsageError

PARAMETERS = {
    "CachedStore": "near far *limit=None",
    "LocalStore": "root *create=True *split=4096 *durable=True",
    "MemoryStore": "",
    "ObjectStore": "bucket *tree=False *spool=None",
    "TreeStore": "root *create=True *split=4096 *durable=True",
    "open_content_store": "where *create=True *tree=False *unsafe_concurrent=False",
}
"""Name -> its parameters; ``*`` is before those that are given by name only."""
METHODS = {
    "bring": ("ContentSource", "content_id into done who"),
    "close": ("ContentSource", ""),
    "get": ("ContentSource", "content_id"),
    "has": ("ContentSource", "content_id"),
    "size": ("ContentSource", "content_id"),
    "delete": ("ContentStore", "content_id"),
    "put": ("ContentStore", "stream"),
    "put_all": ("ContentStore", "streams"),
    "discard": ("KeptStore", "content_id"),
    "entries": ("KeptStore", ""),
    "keep": ("KeptStore", "stream"),
    "touch": ("KeptStore", "content_id"),
}


def parameters_of(name: str) -> str:
    found = inspect.signature(getattr(stratum.content, name)).parameters.values()
    return " ".join(
        ("*" if each.kind is each.KEYWORD_ONLY else "")
        + each.name
        + ("" if each.default is each.empty else f"={each.default}")
        for each in found
    )


def test_the_names() -> None:
    assert set(stratum.content.__all__) == {*PARAMETERS, "ContentSource", "ContentStore", "KeptStore"}
    assert {name: parameters_of(name) for name in PARAMETERS} == PARAMETERS
    with pytest.raises(AttributeError):
        stratum.content.Nothing  # noqa: B018


def test_the_methods() -> None:
    found = {
        name: (kind.__name__, " ".join(list(inspect.signature(member).parameters)[1:]))
        for kind in (stratum.content.KeptStore, ContentStore, stratum.content.ContentSource)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert found == METHODS


def test_stores_are_opened_by_name(tmp_path: Path) -> None:
    with open_content_store(tmp_path / "directory") as directory:
        assert isinstance(directory, LocalStore)
    with pytest.raises(NotFoundError):
        open_content_store(tmp_path / "none", create=False)
    with open_content_store(f"file://{tmp_path}/bucket", tree=True) as bucket:
        assert isinstance(bucket, ObjectStore)
        c4id = bucket.put(b"one")
    assert (tmp_path / "bucket/c4" / c4id[2:4] / c4id).read_bytes() == b"one"
    with LocalStore(tmp_path / "bucket", create=False) as copy, copy.get(c4id) as stream:
        assert stream.read() == b"one", "a copy of a tree in a bucket is a store"
    with open_content_store(f"memory://{tmp_path.name.replace('_', '-')}") as memory, pytest.raises(NotFoundError):
        memory.get(c4id)
    for wrong in (f"file://{tmp_path}/bucket:tag", "s3://", "memory://a@sha256:" + "0" * 64):
        with pytest.raises(UsageError):
            open_content_store(wrong)
    with MemoryStore() as store:
        assert not store.has(c4id)
