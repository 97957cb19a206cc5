"""Who asks, and what exists for them.

What somebody may not see answers exactly as what does not exist: all that is served is asked of the ``Visibility`` of
the asker before the store is. What a ``Visibility`` says depends on names only, never on what is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection


class Visibility(Protocol):
    """What there is for one asker. Asked for each request anew, from any thread."""

    def reads(self, repository: str) -> bool:
        """Whether the repository, or the stratum of that name, exists for the asker."""
        ...

    def writes(self, repository: str) -> bool:
        """Whether the asker may push there, and set tags."""
        ...

    def deletes(self, repository: str) -> bool:
        """Whether the asker may delete tags, manifests and blobs there."""
        ...


@dataclass(frozen=True, slots=True)
class Everywhere:
    """The same of every repository."""

    read: bool = True
    write: bool = False
    delete: bool = False

    def reads(self, repository: str) -> bool:
        return self.read

    def writes(self, repository: str) -> bool:
        return self.write

    def deletes(self, repository: str) -> bool:
        return self.delete


NOTHING = Everywhere(read=False)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: ``name`` is that of a user or peer, None of anybody else. ``may_sign_in`` is whether another answer
    may come to who asks with a password: then what is refused is answered by 401."""

    name: str | None
    sees: Visibility
    may_sign_in: bool = False


Who = Callable[[HTTPConnection], Awaitable[Asker]]
"""Tells who asks. Raises ``Refusal`` (401) for a wrong password, and 429 where too many came."""


def asker_of(connection: HTTPConnection) -> Asker:
    """Who asks, as ``make_app`` found it before any route was reached."""
    asker = connection.state.asker
    assert isinstance(asker, Asker)
    return asker
