"""HTTP as a distrustful client speaks it.

Bounded in time and size; redirects are followed for reads only, never from HTTPS to HTTP, and what was meant for one
origin (scheme, host and port) is sent to no other. Nothing is read from the process's environment or ``.netrc``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.utils import should_bypass_proxies

from stratum.errors import (
    DamagedError,
    DeniedError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UntrustedError,
    UsageError,
    os_error_text,
)
from stratum.oci.access import Access
from stratum.oci.deadline import Account, Adapter, Pace, TooLongError, pace_of
from stratum.oci.target import is_loopback
from stratum.oci.tls import TlsAdapter, system_authorities

_PIECE = 256 << 10
POOL: dict[str, Any] = {"pool_connections": 4, "pool_maxsize": 16, "max_retries": 0}
"""How many connections a session keeps."""
_ERROR_BODY_MAX = 64 << 10
_WORDS_MAX = 300
_REDIRECTS_MAX = 5
_ATTEMPTS = 4
_BUSY = (429, 500, 502, 503, 504)
PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_SLACK = 10
"""How many answers may use up all patience before that is too slow."""
_CONTROL = re.compile(r"[^ -~\u00a1-\uffff]+")


class ConnectionCutError(UnreachableError):
    """The connection broke in the middle of something; trying again may help."""


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a URL: what credentials are bound to. ``StratumError`` where it is no HTTP URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        name = parts.hostname or ""
        if not name or parts.username is not None or not all(c.isalnum() or c in "-._:" for c in name):
            raise ValueError(url)
    except (ValueError, KeyError):
        raise StratumError(f"the registry sent a URL that cannot be used: {shown(url)}") from None
    return parts.scheme, name, port


def resolve(base: str, place: str) -> str:
    """The URL of a Location header found at ``base``. ``StratumError`` where it is no HTTP URL."""
    try:
        url = urljoin(base, place)
    except ValueError:
        url = place
    origin(url)
    return url


class PlainSession(requests.Session):
    """A session that adds nothing of its own: no environment, no ``.netrc``, no cookies, no redirects."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """``Transport`` follows redirects itself."""
        return


class Asked(dict[str, str]):
    """The headers of a request, and what else belongs to it, on their way through oras, which hands them on.

    ``secret`` is the Authorization header for the URL's origin. ``scopes`` are what a token has to allow; None where
    the URL is not the registry's, so that no challenge is answered. ``again`` and ``pace`` are ``Transport.send``'s.
    """

    def __init__(self, headers: Mapping[str, str], again: bool, pace: Pace | None) -> None:
        super().__init__(headers)
        self.again = again
        self.pace = pace
        self.scopes: Sequence[str] | None = None
        self.secret: str | None = None


class Transport:
    """HTTP requests to one registry and to where it redirects."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._account = Account(_SLACK * access.patience, access.min_rate)
        self._session, self._verify = self._connected()

    def _connected(self) -> tuple[requests.Session, str | bool]:
        """What makes the connections, and requests' ``verify``."""
        access = self._access
        if access.ca_file is not None and not access.ca_file.is_file():
            raise UsageError(f"there is no certificate file {access.ca_file}")
        first, *others = (access.ca_file,) if access.ca_file else access.authorities or (system_authorities(),)
        adapter = TlsAdapter(others, **POOL)
        return PlainSession(adapter), str(first) if first is not None else True  # those that came with requests

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def pace(self) -> Pace:
        """A new pace, for one answer with all the tries that it takes."""
        return Pace(self._access.patience, self._access.min_rate, self._account)

    def request(
        self, method: str, url: str, *, headers: Asked, data: bytes | None, **_constant: object
    ) -> requests.Response:
        """``send``, as oras calls its session; what it says of TLS and streams does not count."""
        return self.send(method, url, headers, secret=headers.secret, data=data, again=headers.again, pace=headers.pace)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        secret: str | None = None,
        data: bytes | None = None,
        again: bool = False,
        pace: Pace | None = None,
    ) -> requests.Response:
        """One request and, for GET and HEAD, the redirects that it leads to; the body is not read yet.

        ``secret`` is the Authorization header, for the origin of ``url`` only. Reads, and what may be sent ``again``,
        are tried again when the connection breaks, the server is busy or stumbles. ``pace`` is that of the answer that
        this is a part of. Raises ``StratumError``; ``ConnectionCutError`` where it was cut.
        """
        pace = pace or self.pace()
        attempts = _ATTEMPTS if again or method in ("GET", "HEAD") else 1
        for attempt in range(1, attempts + 1):
            wait = pause(attempt)
            try:
                response = self._follow(method, url, headers, secret, data, pace)
            except ConnectionCutError:
                if attempt == attempts or pace.left <= wait:
                    raise
            else:
                wait = retry_after(response, wait)
                if not is_busy(response) or attempt == attempts or pace.left <= wait:
                    return response
                self.done(response)
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], secret: str | None, data: bytes | None, pace: Pace
    ) -> requests.Response:
        home = origin(url)
        for _ in range(_REDIRECTS_MAX + 1):
            sent = {"Accept-Encoding": "identity", **headers}
            if secret is not None and origin(url) == home:
                sent["Authorization"] = secret
            response = self._once(method, url, sent, data, pace)
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            self.done(response)
            place = resolve(url, response.headers.get("Location", ""))
            if method not in ("GET", "HEAD"):
                raise StratumError(f"{home[1]} redirects a {method} to {shown(place)}; only reads are redirected")
            if home[0] == "https" and origin(place)[0] != "https":
                raise StratumError(f"{home[1]} redirects to {shown(place)}, which has no TLS; not followed")
            url = place
        raise StratumError(f"{home[1]} redirects more than {_REDIRECTS_MAX} times")

    def _once(
        self, method: str, url: str, headers: dict[str, str], data: bytes | None, pace: Pace
    ) -> requests.Response:
        host = urlsplit(url).netloc
        try:
            with pace.applied():
                return self._session.request(
                    method,
                    url,
                    data=data,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    verify=self._verify,
                    proxies=self._proxies(url),
                    timeout=(self._access.connect_timeout, self._access.read_timeout),
                )
        except requests.exceptions.SSLError as exc:
            raise UntrustedError(
                f"no TLS connection to {host}: {_reason(exc)}",
                hint="--ca-file names the authority that signed its certificate; --plain-http goes without TLS",
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise UnreachableError(f"{host} does not answer within {self._access.connect_timeout:g} s") from None
        except requests.exceptions.ReadTimeout:
            if pace.over:
                raise UnreachableError(f"{host} answers too slowly: {pace}") from None
            raise UnreachableError(f"{host} gives no whole answer within {self._access.read_timeout:g} s") from None
        except requests.exceptions.ConnectionError as exc:
            if _never_connected(exc):
                raise UnreachableError(f"cannot connect to {host}: {_reason(exc)}") from None
            if isinstance(_innermost(exc), TooLongError):
                raise DamagedError(f"{host} sends {_reason(exc)}") from None
            raise ConnectionCutError(f"the connection to {host} broke: {_reason(exc)}") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise StratumError(f"cannot ask {host}: {_reason(exc)}") from None

    def _proxies(self, url: str) -> dict[str, str]:
        """The proxies on the way to ``url``; this machine is always reached directly."""
        named = self._access.proxies
        if is_loopback(urlsplit(url).netloc) or should_bypass_proxies(url, named.get("no_proxy")):
            return {}
        return {scheme: named[f"{scheme}_proxy"] for scheme in ("http", "https") if f"{scheme}_proxy" in named}

    def body(self, response: requests.Response, limit: int, what: str) -> Iterator[bytes]:
        """The body in pieces as it arrives, at most ``limit`` bytes, and then closed.

        Raises ``DamagedError`` for a longer or an endless one, ``ConnectionCutError`` for one cut short and
        ``StratumError`` for one that comes too slowly (``deadline.Pace``).
        """
        host, received, pace = urlsplit(response.url).netloc, 0, pace_of(response)
        too_slow = f"{host} sends {what} too slowly"
        try:
            while piece := response.raw.read1(_PIECE, decode_content=False):
                received += len(piece)
                if received > limit:
                    raise DamagedError(f"{host} sent more than the {limit} bytes of {what}")
                pace.count(len(piece))
                if pace.over:
                    raise StratumError(f"{too_slow}: {pace}")
                yield piece
        except urllib3.exceptions.ReadTimeoutError:
            if pace.over:
                raise StratumError(f"{too_slow}: {pace}") from None
            raise ConnectionCutError(f"{host} stopped sending {what} after {received} bytes") from None
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise ConnectionCutError(
                f"the connection to {host} broke {received} bytes into {what}: {_reason(exc)}"
            ) from None
        finally:
            response.close()

    def done(self, response: requests.Response) -> None:
        """Be done with a response whose body does not matter: read what little there is, so that the connection can
        be used again."""
        with suppress(StratumError):
            for _ in self.body(response, _ERROR_BODY_MAX, "an answer"):
                pass

    def words(self, response: requests.Response) -> str:
        """What a failing server says: the status, and its errors in the form of the distribution specification."""
        status = f"{response.status_code} {shown(response.reason or '')}".strip()
        text = b""
        try:
            for piece in self.body(response, _ERROR_BODY_MAX, "its error message"):
                text += piece
        except StratumError:
            return status
        return ": ".join(filter(None, (status, _error_words(text))))


def failure(words: str, status: int, doing: str, host: str, hint: str) -> StratumError:
    """The error for a request that ``host`` refused; ``hint`` is what whoever may not do this can try."""
    message = f"cannot {doing}: the registry answered {words}"
    if status == 404:
        return NotFoundError(message)
    if status in (401, 403):
        return DeniedError(message, hint=hint)
    if status == 400 and "HTTPS" in words:
        return StratumError(message, hint=f"write https://{host}/... to use TLS")
    return StratumError(message)


def shown(text: str) -> str:
    """Somebody else's text, safe to print: no control characters, cut to a readable length."""
    text = _CONTROL.sub(" ", text).strip()
    return text if len(text) <= _WORDS_MAX else text[: _WORDS_MAX - 3] + "..."


def _error_words(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        errors = json.loads(text)["errors"]
        parts = [f"{error.get('code', '')}: {error.get('message', '')}".strip(": ") for error in errors]
        return shown("; ".join(parts))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "" if "<" in text[:20] else shown(text)  # an HTML page says nothing that the status does not


def is_busy(response: requests.Response) -> bool:
    """Whether the server could not do now what it may do in a moment."""
    return response.status_code in _BUSY


def pause(attempt: int) -> float:
    """The seconds to wait after the try ``attempt``, which counts from 1."""
    return min(PAUSE * 3.0**attempt, 20.0)


def retry_after(response: requests.Response, otherwise: float) -> float:
    """The seconds after which the server wants to be asked again, as long as that makes sense."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_PAUSE) if value.isdecimal() and len(value) < 6 else otherwise


def _never_connected(exc: requests.exceptions.ConnectionError) -> bool:
    """Whether the connection was refused or the host unknown, rather than an open connection cut."""
    reason = getattr(exc.args[0] if exc.args else None, "reason", None)
    return isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ProxyError))


def _reason(exc: BaseException) -> str:
    """The innermost cause in its own words, without the wrapping of three libraries."""
    innermost = _innermost(exc)
    return shown(os_error_text(innermost) if isinstance(innermost, OSError) else str(innermost)) or type(exc).__name__


def _innermost(exc: BaseException) -> BaseException:
    """What an exception was made of."""
    current: BaseException | None = exc
    innermost = exc
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        innermost = current
        inner = (getattr(current, "reason", None), *current.args, current.__cause__, current.__context__)
        current = next((each for each in inner if isinstance(each, BaseException)), None)
    return innermost
