"""What a request to the distribution API is about: the repository, if the asker may do that with it, a digest, a tag, a
body within limits."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request

from stratum.errors import NotFoundError
from stratum.serve.refusals import Refusal, unauthorized
from stratum.serve.visibility import asker_of

if TYPE_CHECKING:
    from stratum.api.registry import Registry, Repository

PAGE_MAX = 10_000
"""Names in an answer; the next page has the others."""

NAME_MAX = 255
_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*)*[._-]*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")

_PATIENCE = 60.0
"""Seconds that the next piece of a body may take."""
_SLOWEST = 1024
"""Bytes a second that a body has to come with, once ``_PATIENCE`` has gone by."""
_PIECE = 256 << 10
"""Bytes of a body that are handed on at once; more waits in the kernel."""


class Asked:
    """A request about one repository. Raises ``Refusal`` (400) where its name is none."""

    def __init__(self, request: Request, registry: Registry) -> None:
        self._request = request
        self._registry = registry
        self.name = str(request.path_params["name"])
        self._asker = asker_of(request)
        if len(self.name) > NAME_MAX or not _NAME.fullmatch(self.name):
            raise Refusal(400, "that is no name of a repository", code="NAME_INVALID")

    @property
    def by(self) -> str | None:
        """The name of who asks, if that is known."""
        return self._asker.name

    def path(self, *parts: str) -> str:
        """The path of something in this repository."""
        return "/".join(["/v2", quote(self.name), *parts])

    def readable(self) -> Repository:
        """The repository. ``NotFoundError`` where the asker may not see it; 401 where a password may help."""
        found = self.readable_if_there()
        if found is None:
            raise NotFoundError("there is no such repository")
        return found

    def readable_if_there(self) -> Repository | None:
        """The repository; None where the asker may not see it, and 401 where a password may help."""
        if self._asker.sees.reads(self.name):
            return self._registry.repository(self.name)
        if self._asker.may_sign_in:
            raise unauthorized()
        return None

    def writable(self) -> Repository:
        """The repository, to push to. ``Refusal`` where the asker may not: 401 where a password may help, else 403, or
        404 where the asker does not even see it."""
        if self._asker.sees.writes(self.name):
            return self._registry.repository(self.name)
        raise self._refused(403, "pushing there is not allowed")

    def deletable(self) -> Repository:
        """The repository, to delete in. ``Refusal`` as of ``writable``, but 405, as the specification wants it."""
        if self._asker.sees.deletes(self.name):
            return self._registry.repository(self.name)
        raise self._refused(405, "deleting there is not allowed")

    def _refused(self, status: int, message: str) -> Refusal:
        if self._asker.may_sign_in:
            return unauthorized()
        if not self._asker.sees.reads(self.name):
            return Refusal(404, "there is no such repository")
        return Refusal(status, message)

    def sees(self, name: str) -> bool:
        """Whether the asker sees another repository."""
        return self._asker.sees.reads(name)

    def digest(self, text: str | None = None) -> str:
        """The digest in the path, or ``text``; ``Refusal`` (400) where it is none."""
        digest = str(self._request.path_params["digest"]) if text is None else text
        if not _DIGEST.fullmatch(digest):
            raise Refusal(400, "that is no digest of SHA-256 or SHA-512", code="DIGEST_INVALID")
        return digest

    def reference(self) -> str:
        """The tag or digest of a manifest in the path; ``Refusal`` (400) where it is neither."""
        reference = str(self._request.path_params["reference"])
        if ":" in reference:
            return self.digest(reference)
        return check_tag(reference)


def check_tag(tag: str) -> str:
    """``tag``; ``Refusal`` (400) where it is none."""
    if not _TAG.fullmatch(tag):
        raise Refusal(400, "that is no tag", code="MANIFEST_INVALID")
    return tag


@contextmanager
def missing(code: str, message: str) -> Iterator[None]:
    """Answer 404 with ``code`` where the block raises ``NotFoundError``: for what is not there and for what the asker
    may not see, in the same words."""
    try:
        yield
    except NotFoundError:
        raise Refusal(404, message, code=code) from None


async def pieces_of(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body, in pieces of at least ``_PIECE`` bytes but for the last. ``Refusal``: 413 where it has more than
    ``most`` bytes, 408 where it is too slow. ``ClientDisconnect`` where it breaks off, after what came of it."""
    length = request.headers.get("Content-Length", "0")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    began, came, waiting = time.monotonic(), 0, bytearray()
    stream = request.stream()
    try:
        while True:
            try:
                data = await asyncio.wait_for(anext(stream), _PATIENCE)
            except StopAsyncIteration:
                break
            came += len(data)
            if came > most:
                raise _too_large(most)
            taken = time.monotonic() - began
            if taken > _PATIENCE and came < taken * _SLOWEST:
                raise TimeoutError
            waiting += data
            if len(waiting) >= _PIECE:
                yield bytes(waiting)
                waiting.clear()
    except ClientDisconnect:
        if waiting:
            yield bytes(waiting)
        raise
    except (TimeoutError, asyncio.TimeoutError):  # the same from Python 3.11 on
        raise Refusal(408, "the body comes too slowly", headers={"Connection": "close"}) from None
    if waiting:
        yield bytes(waiting)


def _too_large(most: int) -> Refusal:
    # The connection stays for a moment: who is still sending would not see the answer otherwise.
    return Refusal(413, f"more than {most} bytes are not taken")


async def body_of(request: Request, most: int) -> bytes:
    """The whole body. Raises as ``pieces_of`` does."""
    return b"".join([piece async for piece in pieces_of(request, most)])
