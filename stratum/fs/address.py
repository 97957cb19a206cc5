"""Where a path of the file system is: which commit, and what in it. Pure.

A path is that of a URL without ``stratum://``, or any path given to a file system that has no ref of its own::

    REF/PATH                                 a commit of the local store, named as on the command line: NAME, NAME:TAG,
                                             HASH, NAME+WORKTREE (its last commit), REF~2, REF@{yesterday}
    REF:/PATH  NAME:TAG:PATH                 the same, as the command line writes it
    HOST[:PORT]/REPOSITORY:TAG/PATH          a commit in a registry; also http://HOST... and https://HOST...
    SCHEME://BUCKET[/PREFIX]:TAG/PATH        a commit in an object store: s3, gs, az, file, memory
    peer://PEER/NAME:TAG/PATH                a commit of a peer
    oci:DIRECTORY:TAG/PATH                   a commit in an OCI image layout; ``oci-archive:FILE:TAG/PATH``

Where an object store is (``?endpoint=URL``) is said by options of the file system or by the settings, not in a path.

In a place, TAG may be followed by or be ``@sha256:DIGEST``. The reference of a place ends with the first part of the
path (what is between two '/') that has a tag or digest at its end; a ':' right before a '/' ends it too, with the tag
``latest`` where it has none (``HOST/REPOSITORY:/PATH``).

A first part that looks like a host, as for container tools (there is a '.' or a ':PORT' in it, or it is ``localhost``),
is one where a reference of a place ends behind it. So a file with a ':' in its path, in a stratum whose name has a '.'
in it or whose tag is a number, is written ``REF:/PATH``, which is never a place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stratum.errors import UsageError, quoted
from stratum.oci.target import is_tag, parse_target
from stratum.refs import DEFAULT_TAG, split_ref_path

_SCHEME = re.compile(r"(s3|gs|az|file|memory|peer|https?)://", re.IGNORECASE)
_BUCKETS = ("s3://", "gs://", "az://")
_LAYOUT = re.compile(r"oci(?:-archive)?:(?=[/.])")
_DIGEST = re.compile(r"[^@]*@sha256:[0-9a-f]{64}")
_MOMENT = re.compile(r"@\{[^{}]*\}")
_PORT = re.compile(r"[^:]+:[0-9]{1,5}")
_HINT = "write it as HOST[:PORT]/REPOSITORY:TAG/PATH, s3://BUCKET/PREFIX:TAG/PATH or NAME:TAG/PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """A commit: a ``reference`` in a place (``place``), or a ref of the local store."""

    reference: str
    place: bool

    @property
    def like_host(self) -> bool:
        """Whether it is a ref whose paths can read as those of a place."""
        return not self.place and looks_like_host(self.reference)

    def path(self, inner: str) -> str:
        """The path of what is at ``inner`` in the commit; ``split_path`` gives both again."""
        if not inner:
            return self.reference
        text = f"{self.reference}/{inner}"
        if self.like_host and (":" in inner or "@" in inner) and split_path(text) != (self, inner):
            return f"{self.reference}:/{inner}"
        return text


def looks_like_host(part: str) -> bool:
    """Whether container tools take the first part of a reference for a host."""
    return "." in part.partition(":")[0] or _PORT.fullmatch(part) is not None or part == "localhost" or part[:1] == "["


def clean(inner: str) -> str:
    """A path in a commit without empty parts and such as are ``.``."""
    if inner and inner[0] not in "./" and "//" not in inner and "/." not in inner and inner[-1] != "/":
        return inner
    return "/".join(part for part in inner.split("/") if part not in ("", "."))


def split_path(path: str) -> tuple[Address | None, str]:
    """(commit, path in it) of a path; (None, "") of the root, above all commits. ``UsageError`` for what is none."""
    text = path.lstrip("/")
    if not text:
        return None, ""
    scheme = _SCHEME.match(text) or _LAYOUT.match(text)
    if scheme is not None:
        begun = scheme.end()
        first = 1 if scheme.group().lower().startswith(("http", "peer")) else 0
        found = _place(text, begun, first)
        if "?" in (found[0].reference if found is not None else text) and scheme.group().lower() in _BUCKETS:
            raise UsageError(
                f"{quoted(path)}: where an object store is, is no part of a path",
                hint="give endpoint= and region= as options, or place= with the whole reference",
            )
        if found is None:
            raise UsageError(f"{quoted(path)} has no tag, so nothing says where its reference ends", hint=_HINT)
        return found
    if looks_like_host(text.partition("/")[0]):
        found = _place(text, 0, 1)
        if found is not None and found[0].reference.count("/") and _is_reference(found[0].reference):
            return found
    ref, inner = split_ref_path(text)
    if inner is None:
        masked = _MOMENT.sub(lambda moment: "." * len(moment[0]), text)
        cut = masked.find("/")
        ref, inner = (text, "") if cut < 0 else (text[:cut], text[cut + 1 :])
    return Address(ref.removesuffix(":"), False), clean(inner)


def _place(text: str, begun: int, first: int) -> tuple[Address, str] | None:
    """The reference of a place that ``text`` begins with, and what follows; it does not end before the part with the
    number ``first``, of those from ``begun`` on. None where it does not end."""
    position = begun
    for number, part in enumerate(text[begun:].split("/")):
        end = position + len(part)
        if number >= first:
            head, colon, tag = part.rpartition(":")
            if colon and not tag:
                reference = text[: end - 1]
                has_tag = ":" in head or _DIGEST.fullmatch(head) is not None
                return Address(reference if has_tag else f"{reference}:{DEFAULT_TAG}", True), clean(text[end:])
            if _DIGEST.fullmatch(part) or (head and is_tag(tag) and "@" not in part):
                return Address(text[:end], True), clean(text[end:])
        position = end + 1
    return None


def _is_reference(text: str) -> bool:
    try:
        parse_target(text)
    except UsageError:
        return False
    return True
