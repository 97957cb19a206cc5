"""What the manifests of an object store name, as an earlier garbage collection read it: kept there, so that the next
one reads only manifests that are new.

::

    gc/manifests/<id>      zstd: one JSON object a line, one line a manifest; the last line is the SHA-256 of the others
    gc/tags                the same for what tags name

A manifest is named by its digest, so what it names does not change. A record says of which version of the object it
was made; where the object has become another, it is read again, and found damaged. A record that cannot be read, or is
of another version of Stratum, is as if it were not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_hex
from typing import Any

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.bucketstore import ALWAYS, BucketStore, Entry
from stratum.oci.descriptor import MalformedError, json_object
from stratum.oci.links import Links
from stratum.oci.sweeprecord import is_hex

MANIFESTS = "gc/manifests/"
TAGS_KEY = "gc/tags"
_VERSION = 1
_PART = 4 << 20
"""Bytes of lines in one object, but for the last line."""
_TEXT_MAX = 16 << 20
_STORED_MAX = 16 << 20
_TAGS_MAX = 64 << 20
_MANY = 16
_NAME = re.compile(r"gc/manifests/[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Known:
    """Where the record of a manifest is, and of which object it was made: size in bytes and version."""

    part: str
    size: int
    version: str


class KnownManifests:
    """The records of manifests. With ``save``, new ones are kept; parts are not read again while they are in use."""

    def __init__(self, store: BucketStore, *, save: bool) -> None:
        self._store = store
        self._save = save
        self._known: dict[str, Known] = {}
        self._parts: dict[str, None] = {}
        self._open: tuple[str, list[dict[str, Any]]] = ("", [])
        self._new: list[str] = []
        self._new_bytes = 0

    def load(self) -> None:
        """Find out which manifests are known."""
        for entry in self._store.list(MANIFESTS):
            if not is_part(entry.key):
                continue
            self._parts[entry.key] = None
            for value in self._read(entry.key):
                self._known[value["manifest"]] = Known(entry.key, value["size"], value["version"])

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def fits(self, entry: Entry, digest: str) -> bool:
        """Whether what is known of a manifest was read of this object."""
        known = self._known[digest]
        return (known.size, known.version) == (entry.size, entry.version)

    def forget(self, digest: str) -> None:
        """Have a manifest read again."""
        self._known.pop(digest, None)

    def of(self, digests: Iterable[str]) -> Iterator[tuple[str, Links]]:
        """What those of the manifests name that are known."""
        wanted: dict[str, set[str]] = {}
        for digest in digests:
            known = self._known.get(digest)
            if known is not None:
                wanted.setdefault(known.part, set()).add(digest)
        for part, some in wanted.items():
            for value in self._read(part):
                if value["manifest"] in some:
                    some.discard(value["manifest"])
                    yield value["manifest"], _links(value)
            for digest in some:  # the record has gone meanwhile
                self.forget(digest)

    def others(self, is_named: Callable[[str], bool]) -> Iterator[tuple[str, Links]]:
        """All that are known but not ``is_named``."""
        return self.of([digest for digest in self._known if not is_named(digest)])

    def add(self, digest: str, links: Links, size: int, version: str) -> None:
        """Keep what a manifest names, which was just read."""
        if not self._save:
            return
        line = _line(digest, links, size, version)
        self._new.append(line)
        self._new_bytes += len(line)
        if self._new_bytes > _PART:
            self.flush()

    def flush(self) -> None:
        """Write what is new."""
        if self._new and self._save:
            key = MANIFESTS + token_hex(16)
            self._store.put(key, _packed(self._new), when=ALWAYS)
            self._parts[key] = None
        self._new, self._new_bytes = [], 0

    def tidy(self, is_there: Callable[[str], bool]) -> None:
        """Where there are many parts, or much in them is of manifests that are gone, write them anew."""
        self.flush()
        gone = sum(not is_there(digest) for digest in self._known)
        if len(self._parts) <= _MANY and gone * 2 <= len(self._known):
            return
        before, self._parts = list(self._parts), {}
        for part in before:
            for value in self._read(part):
                if is_there(value["manifest"]):
                    self.add(value["manifest"], _links(value), value["size"], value["version"])
        self.flush()
        self._store.delete(before)

    def _read(self, part: str) -> list[dict[str, Any]]:
        """The lines of a part; none where it cannot be read."""
        if self._open[0] != part:
            self._open = (part, read_part(self._stored(part)))
        return self._open[1]

    def _stored(self, part: str) -> bytes:
        try:
            return self._store.get(part, _STORED_MAX)[0]
        except (NotFoundError, DamagedError):
            return b""


def is_part(key: str) -> bool:
    """Whether ``key`` is that of an object with records of manifests."""
    return _NAME.fullmatch(key) is not None


def read_part(data: bytes) -> list[dict[str, Any]]:
    """The records in an object; none where one is not what it should be."""
    try:
        return [_checked(line) for line in _lines(data, _TEXT_MAX)]
    except (MalformedError, DamagedError):
        return []


def write_part(records: Iterable[tuple[str, Links, int, str]]) -> bytes:
    """The object that ``read_part`` reads: for each manifest what it names, and the size and version of its object."""
    return _packed([_line(*record) for record in records])


def read_tags(data: bytes) -> dict[str, tuple[str, float, str]]:
    """Key of a tag -> (version, when it was written, hex digits of the manifest that it names)."""
    found = {}
    try:
        for line in _lines(data, _TAGS_MAX):
            value = json_object(line)
            key, version, modified, digest = (value.get(name) for name in ("key", "version", "modified", "manifest"))
            if not (isinstance(key, str) and isinstance(version, str) and isinstance(modified, (int, float))):
                raise MalformedError("a line is no tag's")
            if not isinstance(digest, str) or not is_hex(digest):
                raise MalformedError("a tag has no digest")
            found[key] = (version, float(modified), digest)
    except (MalformedError, DamagedError):
        return {}
    return found


def write_tags(tags: dict[str, tuple[str, float, str]]) -> bytes:
    """The object that ``read_tags`` reads."""
    names = ("key", "version", "modified", "manifest")
    return _packed([_json(dict(zip(names, (key, *value), strict=True))) for key, value in sorted(tags.items())])


def _packed(lines: list[str]) -> bytes:
    from stratum.tree.zstdframe import compress

    body = "".join(f"{line}\n" for line in [_json({"format": _VERSION}), *lines]).encode()
    return compress(body + sha256(body).hexdigest().encode() + b"\n")


def _lines(data: bytes, limit: int) -> list[bytes]:
    from stratum.tree.zstdframe import decompress

    text = decompress(data, limit, "a record of manifests")
    body, last = text[:-65], text[-65:]
    if sha256(body).hexdigest().encode() + b"\n" != last:
        raise MalformedError("it does not match its checksum")
    lines = body.split(b"\n")[:-1]
    if not lines or json_object(lines[0]).get("format") != _VERSION:
        raise MalformedError("it is of another version")
    return lines[1:]


def _line(digest: str, links: Links, size: int, version: str) -> str:
    return _json(
        {
            "manifest": digest,
            "size": size,
            "version": version,
            "contents": links.contents,
            "metadata": links.metadata,
            "manifests": links.manifests,
            "subject": links.subject,
        }
    )


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _checked(line: bytes) -> dict[str, Any]:
    value = json_object(line)
    subject = value.get("subject")
    names = [value.get("manifest"), *([subject] if subject is not None else [])]
    for key in ("contents", "metadata", "manifests"):
        entries = value.get(key)
        if not isinstance(entries, list):
            raise MalformedError(f"'{key}' is no list")
        names += entries
    if not all(isinstance(name, str) and is_hex(name) for name in names):
        raise MalformedError("a name is no digest")
    if type(value.get("size")) is not int or not isinstance(value.get("version"), str):
        raise MalformedError("it has no size or version")
    return value


def _links(value: dict[str, Any]) -> Links:
    return Links(value["contents"], value["metadata"], value["manifests"], value["subject"])
