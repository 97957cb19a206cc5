"""Who looks at a page, and how what they ask is answered, also where that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from anyio import CapacityLimiter, to_thread

from stratum.errors import DeniedError, StratumError, UnsupportedError, UsageError
from stratum.serve.door import is_foreign
from stratum.serve.page import answers
from stratum.serve.page.signing import COOKIE, Signing

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from stratum.serve.door import Door
    from stratum.serve.visibility import Visibility

AT_ONCE = 8
"""Pages that are made at the same time; threads of their own, so that the registry has its own, too."""
FORM_MAX = 16 << 10
"""Bytes of a form."""
_FIELDS_MAX = 20
_ELSEWHERE = "Not all of it is on this machine, and nothing is fetched by looking at it."
_FAILED = "The server cannot do that; its log says why."
_TITLES = {400: "Not understood", 403: "Not allowed", 404: "Not found", 409: "Changed meanwhile", 501: "Not here",
           503: "Busy"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: the user that is signed in, what they see, and what a form of theirs carries."""

    user: str | None
    sees: Visibility
    token: str | None
    signs_in: bool
    here: str
    """The address of the page, to come back to."""
    query: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int = 1) -> int:
        """A number of the query, from 0 on, of at most 15 digits; ``default`` where there is none."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else default


Show = Callable[["Request", Visitor], "Response"]
Act = Callable[["Request", Visitor, Mapping[str, str]], "Response"]


class Visits:
    """Makes endpoints of functions that show something, or do what a form says."""

    def __init__(self, door: Door, log: Callable[[str], None]) -> None:
        self._door = door
        self._log = log
        self._limiter = CapacityLimiter(AT_ONCE)
        self.signing = Signing(door)

    def showing(self, show: Show) -> Callable[[Request], Any]:
        """An endpoint that answers with what ``show`` makes of the request. It runs in a thread."""

        async def endpoint(request: Request) -> Response:
            def answer() -> Response:
                visitor = self._visitor(request)
                try:
                    return show(request, visitor)
                except StratumError as exc:
                    return self.failure(visitor, exc)

            return await to_thread.run_sync(answer, limiter=self._limiter)

        return endpoint

    def acting(self, act: Act) -> Callable[[Request], Any]:
        """An endpoint that does what the form says that was sent, where it is one of this page's."""

        async def endpoint(request: Request) -> Response:
            data = await _body(request)

            def answer() -> Response:
                visitor = self._visitor(request)
                try:
                    if is_foreign(request):
                        raise DeniedError("This form came from another site.")
                    return act(request, visitor, parse_form(data))
                except StratumError as exc:
                    return self.failure(visitor, exc)

            return await to_thread.run_sync(answer, limiter=self._limiter)

        return endpoint

    def _visitor(self, request: Request) -> Visitor:
        door = self._door
        by_cookie = self.signing.user(request.cookies.get(COOKIE, ""), time.time()) if door.signs_in else None
        user = by_cookie if by_cookie is not None else door.user(request.scope)
        query = dict(request.query_params)
        here = request.scope["raw_path"].decode("ascii", "replace")
        here += f"?{request.url.query}" if request.url.query else ""
        token = self.signing.token(user) if user is not None else None
        return Visitor(user, door.visibility(request.scope, by_cookie), token, door.signs_in, here, query)

    def check_token(self, visitor: Visitor, form: Mapping[str, str]) -> str:
        """The user whose form it is. ``DeniedError`` where it was not made for who sent it."""
        if visitor.user is None or not self.signing.is_token(visitor.user, form.get("token", "")):
            raise DeniedError("This form is not valid any more.", hint="Sign in, and try again.")
        return visitor.user

    def failure(self, visitor: Visitor, exc: StratumError) -> Response:
        """The page that tells of an error: only what is about what was asked."""
        status = answers.status_of(exc)
        message, hint = exc.message, exc.hint
        if status == 500:
            self._log(exc.told)
            message, hint = _FAILED, ""
        elif isinstance(exc, UnsupportedError):  # it tells where the content is
            message, hint = _ELSEWHERE, ""
        elif status == 404:
            hint = ""  # it names what is there, in words of the command line
        about = {"visitor": visitor, "title": _TITLES.get(status, "Failed"), "message": message, "hint": hint}
        return answers.page("error.html", about, status)


async def _body(request: Request) -> bytes:
    """What was sent, of which one byte more than allowed is enough."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > FORM_MAX:
            break
    return data


def parse_form(data: bytes) -> dict[str, str]:
    """The fields of a form as browsers send them. ``UsageError`` for what is none."""
    if len(data) > FORM_MAX:
        raise UsageError("The form is too long.")
    try:
        return dict(parse_qsl(data.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX))
    except ValueError:
        raise UsageError("This is no form.") from None


def own_address(text: str) -> str:
    """``text`` where it is an address of this page to go on to, else that of the first page."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isascii() and text.isprintable()
    return text if is_own and "\\" not in text else "/"
