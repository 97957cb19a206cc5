"""Descriptors of blobs and the strict reading of JSON that came from outside (OCI image specification 1.1)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stratum.errors import quoted

MANIFEST_MAX = 4 << 20
"""Largest manifest read or written, in bytes: what registries accept everywhere."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class MalformedError(ValueError):
    """The manifest breaks a rule; the text says which."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob: its media type, ``sha256:`` digest and size in bytes."""

    media_type: str
    digest: str
    size: int

    @property
    def hex(self) -> str:
        """The digest's 64 hex digits."""
        return self.digest.partition(":")[2]


def describe(media_type: str, data: bytes) -> Descriptor:
    """The descriptor of a blob that is at hand."""
    return Descriptor(media_type, digest_of(data), len(data))


def digest_of(data: bytes) -> str:
    """``sha256:`` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 digest in the one form that is accepted."""
    return _DIGEST.fullmatch(text) is not None


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, at most ``MANIFEST_MAX`` bytes; ``MalformedError`` otherwise."""
    if len(data) > MANIFEST_MAX:
        raise MalformedError(f"it is larger than {MANIFEST_MAX} bytes")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise MalformedError("it is nested too deeply") from None
    except MalformedError:
        raise
    except ValueError as exc:
        raise MalformedError(f"it is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise MalformedError("it is not a JSON object")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuses a key given twice: readers would disagree on which one counts."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise MalformedError("a key is given twice")
    return value


def read_descriptor(value: object, what: str, size_max: Mapping[str, int]) -> Descriptor:
    """The descriptor in a manifest, of one of the media types in ``size_max``; ``MalformedError`` otherwise."""
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a descriptor")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or media_type not in size_max:
        raise MalformedError(f"{what} has the media type {quoted(media_type)}")
    if not isinstance(digest, str) or not is_digest(digest):
        raise MalformedError(f"{what} has no sha256 digest")
    if type(size) is not int or not 0 < size <= size_max[media_type]:
        raise MalformedError(f"{what} has the size {quoted(size)}")
    for key in ("urls", "data"):
        if key in value:
            raise MalformedError(f"{what} has '{key}': its bytes must come from the registry itself")
    read_annotations(value.get("annotations"), what)
    return Descriptor(media_type, digest, size)


def read_annotations(value: object, what: str) -> dict[str, str]:
    """The annotations of ``what``; ``MalformedError`` where they are not texts."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedError(f"the annotations of {what} are not texts")
    return value
