"""What an object store says where something fails, in words for people. Pure.

obstore's errors are long texts with the request, its URL, the answer and all causes in them. Only what is known to be
harmless is taken out of them: the status, the code and the message of the answer, and which kind of failure it was.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from stratum.errors import (
    ChangedError,
    DamagedError,
    DeniedError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UntrustedError,
)

_ASKED = re.compile(r"Error performing [A-Z]+ [a-z]+://([^/\s?]{1,300})")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9._ -]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,1000})</Message>")
_JSON_MESSAGE = re.compile(r'\\?"(?:error_description|message)\\?"\s*:\s*\\?"([^"\\]{1,300})')
_REGION = re.compile(r"<Region>([a-z0-9-]{2,40})</Region>")
_CONTROL = re.compile(r"[^ -~\u00a1-\uffff]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_WORDS_MAX = 300

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "AccountNotFound"}
_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired"}
_WRONG_KEY = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
    "XAdminUserNotFound",
    "XAdminNoSuchUser",
}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
_CONFLICT = {
    "ConditionalRequestConflict",
    "PreconditionFailed",
    "ConditionNotMet",
    "BlobAlreadyExists",
    "UpdateConflict",
}
_BUSY = {"429", "500", "502", "503", "504"}

_KEYS = {
    "s3": "see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and ~/.aws",
    "gs": "see GOOGLE_APPLICATION_CREDENTIALS, or run 'gcloud auth application-default login'",
    "az": "see AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN and the like, or run 'az login'",
}


class NoBucketError(NotFoundError):
    """There is not even a bucket; where only an object is missing, the error is a plain ``NotFoundError``."""


class Place:
    """An object store as errors name it: ``name`` (the reference), ``host``; ``secrets`` are never in an error.
    ``trouble`` is why credentials could not be renewed the last time."""

    def __init__(self, name: str, host: str, scheme: str = "s3", secrets: Iterable[str] = ()) -> None:
        self.name, self.host, self.keys_hint = name, host, _KEYS.get(scheme, "")
        self.kind = "container" if scheme == "az" else "bucket"
        self._secrets: list[str] = []
        self.trouble: StratumError | None = None
        self.keep(secrets)

    def keep(self, secrets: Iterable[str | None]) -> None:
        """Show none of these, either."""
        found = {*self._secrets, *(each for each in secrets if each and len(each) > 3)}
        self._secrets = sorted(found, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """``text`` without secrets, URLs and control characters, cut to a readable length."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _CONTROL.sub(" ", _URL.sub("...", text)).strip()
        return text if len(text) <= _WORDS_MAX else text[: _WORDS_MAX - 3] + "..."


def failure(exc: Exception, doing: str, place: Place) -> StratumError:
    """The error for ``exc``, which obstore raised while ``doing`` something at ``place``."""
    text = str(exc)[:100_000]
    message = f"cannot {doing}"
    if place.trouble is not None and "credential provider" in text:
        return DeniedError(
            f"{message}: {place.clean(place.trouble.message)}", hint=place.trouble.hint or place.keys_hint
        )
    status, code, asked = _first(_STATUS, text), _first(_CODE, text), _first(_ASKED, text).rpartition("@")[2]
    if asked and _without_port(asked) != _without_port(place.host):  # whoever gives out credentials
        said = f"{asked} answered {status}" if status else _unanswered(exc, text, asked, Place("", asked)).message
        return DeniedError(f"{message}: no credentials for {place.host} could be had: {said}", hint=place.keys_hint)
    if status:
        return _answered(text, status, code, message, place)
    return _unanswered(exc, text, message, place)


def status_of(exc: Exception) -> int:
    """The status of the answer that ``exc`` was made of; 0 where there was none."""
    return int(_first(_STATUS, str(exc)) or 0)


def _answered(text: str, status: str, code: str, message: str, place: Place) -> StratumError:
    said = place.clean(html.unescape(_first(_MESSAGE, text) or _first(_JSON_MESSAGE, text)))
    words = ": ".join(filter(None, (f"{place.host} answered {status} {code}".strip(), said)))
    if code in _NO_BUCKET:
        return NoBucketError(
            f"{message}: {place.host} has no such {place.kind} ({words.partition(' answered ')[2]})",
            hint=f"make the {place.kind} with the store's own tools, or see that name and endpoint are right",
        )
    if code in _EXPIRED or "has expired" in said:
        return DeniedError(f"{message}: the credentials have expired ({words})", hint="log in again, and try again")
    if code in _WRONG_REGION or status == "301":
        right = _first(_REGION, text)
        hint = f"add ?region={right}" if right else "add ?region=NAME with the bucket's own region"
        return StratumError(f"{message}: this is not the region of the bucket ({words})", hint=hint)
    if code in _WRONG_KEY or status in ("401", "403"):
        skewed = code == "RequestTimeTooSkewed"
        return DeniedError(f"{message}: {words}", hint="set this machine's clock" if skewed else place.keys_hint)
    if code in _CONFLICT or status == "412" or (status == "409" and not code):
        return ChangedError(f"{message}: it was changed by somebody else meanwhile ({words})", hint="try again")
    if status == "404":
        return NotFoundError(f"{message}: {words}")
    if status in _BUSY:
        return UnreachableError(f"{message}: {words}")
    return StratumError(f"{message}: {words}")


_REASONS: tuple[tuple[str, type[StratumError], str, str], ...] = (
    (
        r"Received redirect without LOCATION",
        StratumError,
        "this is not the region of the bucket, says {host}",
        "add ?region=NAME with the bucket's own region",
    ),
    (
        r"non-partial response|Requested [0-9]+\.\.",
        DamagedError,
        "{host} sent something else than the part that was asked for",
        "",
    ),
    (r"invalid path", DamagedError, "{host} lists an object whose name cannot be one", ""),
    (r"dns error|failed to lookup address|Name or service not known", UnreachableError, "there is no host {host}", ""),
    (r"ConnectionRefused|Connection refused", UnreachableError, "{host} refused the connection", ""),
    (r"NetworkUnreachable|HostUnreachable|No route to host", UnreachableError, "there is no way to {host}", ""),
    (
        r"UnknownIssuer|InvalidCertificate|CertNotValid|NotValidForName|CertificateExpired|invalid peer certificate",
        UntrustedError,
        "the certificate of {host} is signed by nobody who is trusted, or is for another host",
        "name its certificate authority with --ca-file",
    ),
    (
        r"InvalidContentType|InvalidMessage|CorruptMessage|received corrupt message",
        UnreachableError,
        "{host} does not speak TLS",
        "write ?endpoint=http://... where that is meant",
    ),
    (
        r"kind: Timeout|TimedOut|operation timed out|deadline has elapsed",
        UnreachableError,
        "{host} did not answer in time",
        "",
    ),
    (
        r"IncompleteMessage|ConnectionReset|BrokenPipe|UnexpectedEof|connection closed|response body|kind: Decode",
        UnreachableError,
        "the connection to {host} broke",
        "",
    ),
    (
        r"[Ii]nvalid (?:[a-z]{1,20} ){0,4}response|unexpected|missing field",
        DamagedError,
        "{host} gave an answer that is none of an object store",
        "see that the endpoint is right",
    ),
    (
        r"Missing(?:ETag|LastModified|ContentLength)|ETag Header missing|header missing",
        DamagedError,
        "{host} gave an answer that is none of an object store",
        "see that the endpoint is right",
    ),
    (
        r"credential|Credential|OAuth|Unauthenticated|token|169\.254\.169\.254|metadata\.google",
        DeniedError,
        "no credentials for {host} could be had",
        "",
    ),
    (r"kind: Connect|error sending request|kind: Request", UnreachableError, "{host} cannot be reached", ""),
)


def _unanswered(exc: Exception, text: str, message: str, place: Place) -> StratumError:
    name = type(exc).__name__
    if name in ("AlreadyExistsError", "PreconditionError"):
        return ChangedError(f"{message}: it was changed by somebody else meanwhile", hint="try again")
    if isinstance(exc, FileNotFoundError):
        return NotFoundError(f"{message}: it is not there")
    for pattern, kind, words, hint in _REASONS:
        if re.search(pattern, text):
            otherwise = place.keys_hint if kind is DeniedError else ""
            return kind(f"{message}: {words.format(host=place.host)}", hint=hint or otherwise)
    said = place.clean(text.partition("\n\nDebug source")[0])
    return StratumError(f"{message}: {said or name}")


def _without_port(host: str) -> str:
    return re.sub(r":[0-9]+\Z", "", host.lower())


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
