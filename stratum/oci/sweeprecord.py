"""The two records by which garbage collections and pushes see each other in an object store. Pure.

::

    gc/sweep               of the collection: who it is, how far, and what it is about to delete
    gc/pushes/<id>-<n>     of a push: what the manifest that it is about to tag needs

Each is one JSON object in the first line; that of a sweep is followed by the keys that it is about to delete, one a
line. Who reads and writes them when, and why that is safe, is in ``oci.guard``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from stratum.oci.descriptor import MANIFEST_MAX, MalformedError, is_digest, json_object

SWEEP_KEY = "gc/sweep"
PUSHES = "gc/pushes/"
BLOBS, TAGS, REFERRERS = "blobs/sha256/", "tags/", "referrers/"

KEYS_MAX = 10_000
"""Keys in the record of one sweep."""
SWEEP_MAX = 4 << 20
"""Bytes of a sweep's record, at most."""
PUSH_MAX = MANIFEST_MAX
"""Bytes of a push's record, at most: it names no more than a manifest does, in fewer words."""

FREE, MARKING, LOOKING, SWEEPING = "free", "marking", "looking", "sweeping"
_STATES = {FREE, MARKING, LOOKING, SWEEPING}
_ID = re.compile(r"[0-9a-f]{32}")
_PUSH = re.compile(r"gc/pushes/[0-9a-f]{32}-[0-9]{1,9}")
_HEX = re.compile(r"[0-9a-f]{64}")
_TEXT_MAX = 255


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. Together they are what the safety of a sweep assumes of time, and of nothing but time.

    A collection deletes no later than ``renew`` after its record was last written, so much it knows by its own clock;
    its record is another's to take, and to be ignored, when by the clock of the object store nobody wrote it for
    ``stale``. What lies between is for a request under way, and for a machine that stands still. A push moves its tag
    no later than ``fresh`` after its record was written; that is ignored when it is older than ``forgotten``. A process
    that is known to be gone is not waited for longer than ``grace``, the time for its last request to arrive; a
    collection waits as long after a request that was answered after ``slow`` only, as it may have been sent twice.
    Clocks of the store's machines differ by no more than ``skew``. What came up to ``young`` before a push began is
    taken for its.
    """

    renew: float = 120
    stale: float = 1800
    fresh: float = 600
    forgotten: float = 86400
    grace: float = 60
    slow: float = 10
    skew: float = 60
    young: float = 60


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Who:
    """The process that collects: its host, and what ``sys.proc`` tells it from others by."""

    host: str
    pid: int
    started: int
    namespace: str
    boot: str


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """How far a collection is. ``run`` names it, ``swept`` its last sweep that deletes anything: both are random.

    ``state``: nobody collects (``free``); it finds out what nothing names (``marking``); it is about to delete ``keys``
    and looks whether somebody wants them (``looking``); it deletes them (``sweeping``). ``marks`` names what was marked
    (``transfer.marks``), in so many ``chunks``.
    """

    run: str
    who: Who
    state: str
    swept: str
    marks: str | None = None
    chunks: int = 0
    keys: tuple[str, ...] = ()

    @property
    def deletes(self) -> bool:
        """Whether something is about to be deleted, or is being deleted."""
        return self.state in (LOOKING, SWEEPING)

    def to_bytes(self, write: str) -> bytes:
        """As it is stored; ``write`` is other than that of any record before, so that versions differ."""
        value = {
            "format": 1,
            "run": self.run,
            "write": write,
            "host": self.who.host,
            "pid": self.who.pid,
            "started": self.who.started,
            "namespace": self.who.namespace,
            "boot": self.who.boot,
            "state": self.state,
            "swept": self.swept,
            "marks": self.marks,
            "chunks": self.chunks,
        }
        return "\n".join([json.dumps(value, separators=(",", ":")), *self.keys, ""]).encode()


def read_sweep(data: bytes) -> SweepRecord:
    """The record of a sweep. ``MalformedError``."""
    head, _, rest = data.partition(b"\n")
    value = _head(head)
    state, marks, chunks = value.get("state"), value.get("marks"), value.get("chunks")
    if state not in _STATES:
        raise MalformedError("its state is none that is known")
    if marks is not None and not _is_id(marks):
        raise MalformedError("what it marked has no ID")
    try:
        keys = tuple(rest.decode("ascii").split("\n")[:-1]) if rest else ()
    except UnicodeDecodeError:
        raise MalformedError("it has keys that are not ASCII") from None
    if len(keys) > KEYS_MAX or not all(key.startswith((BLOBS, TAGS, REFERRERS)) for key in keys):
        raise MalformedError("it has keys that no collection would delete")
    who = Who(
        _text(value, "host"),
        _count(value.get("pid")),
        _count(value.get("started")),
        _text(value, "namespace"),
        _text(value, "boot"),
    )
    return SweepRecord(_id(value, "run"), who, state, _id(value, "swept"), marks, _count(chunks), keys)


@dataclass(frozen=True, slots=True)
class PushRecord:
    """What a push needs to stay. ``begun`` is when it began, by the server's clock; None where only the record's own
    time says so. Until it knows what its manifest will be, ``manifest`` and ``key`` are None.

    ``key`` is that of the tag, or of the index of referrers, that the manifest is going into. ``manifest`` and what it
    names, ``manifests`` and ``blobs``, are by 64 hex digits.
    """

    begun: float | None = None
    key: str | None = None
    manifest: str | None = None
    manifests: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        value = {
            "format": 1,
            "begun": self.begun,
            "key": self.key,
            "manifest": self.manifest,
            "manifests": list(self.manifests),
            "blobs": list(self.blobs),
        }
        return json.dumps(value, separators=(",", ":")).encode()


def read_push(data: bytes) -> PushRecord:
    """The record of a push. ``MalformedError``."""
    value = _head(data)
    begun, key, manifest = value.get("begun"), value.get("key"), value.get("manifest")
    if begun is not None and (type(begun) not in (int, float) or not 0 <= begun < 1e12):
        raise MalformedError("its begin is no time")
    if key is not None and not isinstance(key, str):
        raise MalformedError("its key is no text")
    if manifest is not None and not _is_hex(manifest):
        raise MalformedError("its manifest has no sha256 digest")
    lists = []
    for name in ("manifests", "blobs"):
        entries = value.get(name)
        if not isinstance(entries, list) or not all(map(_is_hex, entries)):
            raise MalformedError(f"its {name} are not sha256 digests")
        lists.append(tuple(entries))
    return PushRecord(begun, key, manifest, *lists)


def is_push_key(key: str) -> bool:
    """Whether ``key`` is that of a push's record."""
    return _PUSH.fullmatch(key) is not None


def is_hex(text: str) -> bool:
    """Whether ``text`` is the name of a blob: 64 hex digits."""
    return _HEX.fullmatch(text) is not None


def blob_key(digest: str) -> str:
    """The key of the blob with this digest, ``sha256:...`` or its hex digits."""
    return BLOBS + (digest.partition(":")[2] if is_digest(digest) else digest)


def _head(data: bytes) -> dict[str, Any]:
    value = json_object(data)
    if value.get("format") != 1:
        raise MalformedError("it is of another version of Stratum")
    return value


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and is_hex(value)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _id(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not _is_id(text):
        raise MalformedError(f"'{key}' is no ID")
    return str(text)


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or len(text) > _TEXT_MAX:
        raise MalformedError(f"'{key}' is no text")
    return text


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise MalformedError("a number is none")
    return value
