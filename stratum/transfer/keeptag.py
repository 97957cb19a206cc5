"""A tag that keeps a manifest from the garbage collection of its place, when the tag that it was found by moves on."""

from __future__ import annotations

from collections.abc import Iterable

from stratum.errors import StratumError, UsageError
from stratum.oci.remote import Sink, Source

_BEGINNING = "stratum-keep-"
_DIGITS = 12


def keep_tag(manifest: str) -> str:
    """The tag for the manifest with this digest."""
    return f"{_BEGINNING}{manifest.partition(':')[2][:_DIGITS]}"


def chosen(tags: Iterable[str]) -> list[str]:
    """The tags that somebody chose, without those that keep: these name what others named before."""
    return [tag for tag in tags if not tag.startswith(_BEGINNING)]


def keep(remote: Source, manifest: str) -> str:
    """Have the manifest (a digest), which is in ``remote``, tagged there; the tag.

    ``UsageError`` for a place that can only be read, ``StratumError`` in its words where it does not let us.
    """
    tag = keep_tag(manifest)
    if not isinstance(remote, Sink):
        raise UsageError(f"{remote.target.place} can only be read: it gets no tag {tag}", hint="leave --keep-tag out")
    try:
        remote.put_manifest(remote.get_manifest(manifest)[0], tag)
    except StratumError as exc:
        text = f"{remote.target.place} did not take the tag {tag}: {exc.message}"
        raise type(exc)(text, hint="leave --keep-tag out, or have it set by somebody who may push there") from None
    return tag
