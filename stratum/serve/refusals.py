"""Errors of the distribution API: a status, a code of its table, and words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

REALM = "stratum"
CHALLENGE = {"WWW-Authenticate": f'Basic realm="{REALM}", charset="UTF-8"'}

CODES_OF_STATUS = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    416: "BLOB_UPLOAD_INVALID",
    421: "DENIED",
    429: "TOOMANYREQUESTS",
    503: "TOOMANYREQUESTS",
}
"""Status -> the code that says it where a route says no better one."""


class Refusal(HTTPException):
    """An answer other than success, raised. ``message`` is one line for people; it names nothing that who asks did not
    name, or may not see."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code or CODES_OF_STATUS.get(status, "UNSUPPORTED")

    def response(self) -> Response:
        """The answer: JSON in the form that the specification has."""
        return refused(self.status_code, self.code, self.detail, self.headers)


def refused(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with one error."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": {}}]})
    return Response(body, status, headers, "application/json")


def unauthorized(message: str = "a name and a password are needed") -> Refusal:
    """401, with what to answer it by."""
    return Refusal(401, message, headers=CHALLENGE)
