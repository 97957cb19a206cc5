"""What users do who are signed in: download what is in a commit, and set tags. Also signing in and out."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING

from stratum.api.archives import archive
from stratum.api.tags import tag as set_tag
from stratum.errors import BusyError, DeniedError, ExistsError, UsageError
from stratum.refs import check_name
from stratum.serve.limits import Allowance, network_of
from stratum.serve.page import answers, words
from stratum.serve.page.looking import Looking
from stratum.serve.page.signing import COOKIE, LASTS
from stratum.serve.page.visiting import Visitor, Visits, own_address

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from stratum.serve.door import Door

_TREE = 4
_WRONG_BURST = 10
_WRONG_SECOND = 0.2
"""Wrong passwords that one address may give at once, and how many more a second."""
_MEDIA_TYPES = {"tar": "application/x-tar", "zip": "application/zip"}


class Acting:
    """The endpoints that change something, or give much."""

    def __init__(self, looking: Looking, visits: Visits, door: Door) -> None:
        self._looking = looking
        self._visits = visits
        self._door = door
        self._counting = threading.Lock()
        self._wrong = Allowance(_WRONG_SECOND, _WRONG_BURST)

    def archive(self, request: Request, visitor: Visitor) -> Response:
        """What is at a path, as tar or zip."""
        params, kind = request.path_params, visitor.query.get("as", "tar")
        name = self._looking.stratum(params["name"], visitor.sees)
        if visitor.user is None:
            raise DeniedError("Who is not signed in downloads single files only.")
        commit = self._looking.commit(name, params["ref"])
        path = words.tail(request.scope["raw_path"], _TREE)
        whole = f"{name}-{commit[: words.SHORT]}"
        made = archive(self._looking.session, commit, path.decode("utf-8", "surrogateescape"), kind, whole)
        base = path.rpartition(b"/")[2]
        save_as = f"{words.name_text(base) if base else whole}.{kind}"
        return answers.Streamed(made, _MEDIA_TYPES[kind], save_as=save_as)

    def tag(self, request: Request, visitor: Visitor, form: Mapping[str, str]) -> Response:
        """Set a tag of a stratum to a commit of its history."""
        user = self._visits.check_token(visitor, form)
        name = self._looking.stratum(request.path_params["name"], visitor.sees)
        if not visitor.sees.writes(name):
            raise DeniedError(f"Tags of {name} are not to be set here.")
        commit = self._looking.commit(name, form.get("commit", ""))
        tag = check_name(form.get("tag", "").strip(), "tag")
        try:
            set_tag(self._looking.session, f"{name}:{commit}", f"{name}:{tag}", force="move" in form, by=user)
        except ExistsError as exc:
            raise ExistsError(exc.message, hint="Go back, and choose that it is moved.") from None
        return answers.redirect(words.in_stratum("c", name, commit))

    def sign_in_page(self, _request: Request, visitor: Visitor) -> Response:
        """The form for name and password."""
        return self._form(visitor, own_address(visitor.query.get("next", "/")), wrong=False)

    def _form(self, visitor: Visitor, following: str, *, wrong: bool) -> Response:
        about = {"visitor": visitor, "following": following, "wrong": wrong}
        return answers.page("signin.html", about, 403 if wrong else 200)

    def sign_in(self, request: Request, visitor: Visitor, form: Mapping[str, str]) -> Response:
        """Check name and password; a right one gets a cookie."""
        if not self._door.signs_in:
            raise UsageError("This server has no users.")
        user, following = form.get("user", ""), own_address(form.get("next", "/"))
        right = self._checked(request, user, form.get("password", ""))
        value = self._visits.signing.cookie(user, time.time()) if right else None
        if value is None:
            return self._form(visitor, following, wrong=True)
        return answers.redirect(following, _cookie(request, value, LASTS))

    def _checked(self, request: Request, user: str, password: str) -> bool:
        """Whether the password is right; ``BusyError`` where too many from there were wrong."""
        asker = network_of(request.client.host if request.client else "")
        with self._counting:
            wait = self._wrong.wait(asker)
            if wait > 0:
                raise BusyError("These are too many wrong passwords.", hint=f"Try again in {ceil(wait)} seconds.")
            self._wrong.take(asker)
        with self._looking.turn():
            right = self._door.checks(user, password)
        if right:
            with self._counting:
                self._wrong.give_back(asker)
        return right

    def sign_out(self, request: Request, visitor: Visitor, form: Mapping[str, str]) -> Response:
        """Take the cookie back."""
        self._visits.check_token(visitor, form)
        return answers.redirect("/", _cookie(request, "", 0))


def _cookie(request: Request, value: str, seconds: int) -> str:
    secure = "; Secure" if request.url.scheme == "https" else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
