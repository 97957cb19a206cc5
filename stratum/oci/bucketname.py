"""Object stores as the user names them. Pure.

::

    s3://BUCKET[/PREFIX]        S3, or what speaks like it
    gs://BUCKET[/PREFIX]        Google Cloud Storage
    az://CONTAINER[/PREFIX]     Azure Blob Storage
    file:///DIRECTORY           the same in a directory
    memory://[NAME][/PREFIX]    the same in this process, gone with it

A tag and a digest follow as in every reference: ``s3://BUCKET/PREFIX:TAG@sha256:DIGEST``. At the very end, or before a
digest, ``?endpoint=URL&region=NAME`` may say where the store is. A URL with a password in it is refused, and is not
repeated in the error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stratum.errors import UsageError, quoted

SCHEMES = ("s3", "gs", "az", "file", "memory")
BUCKET_PREFIXES = tuple(f"{scheme}://" for scheme in SCHEMES)
"""What the text of a reference to an object store begins with."""

NETWORK = ("s3", "gs", "az")
"""The schemes of stores that are asked by HTTP."""

GRAMMAR = "write it as s3://BUCKET[/PREFIX][:TAG], with ?endpoint=URL&region=NAME at the end where that is needed"
_KNOWN_BY = {"gcs": "gs", "s3a": "s3", "azure": "az", "abfs": "az", "abfss": "az", "mem": "memory"}
_NAMES = {
    "s3": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,221}"),
    "az": re.compile(r"\$?[a-z0-9](?:-?[a-z0-9]){1,62}"),
    "memory": re.compile(r"[A-Za-z0-9._-]{0,63}"),
}
_SEGMENT = re.compile(r"[A-Za-z0-9!$'()*+,;=_.~-]+")
_PREFIX_MAX = 512
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")
_ENDPOINT = re.compile(
    r"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[A-Za-z0-9._~-]+)*)/?"
)
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_TAG_BEHIND = re.compile(r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})")


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a reference says of an object store.

    ``name`` is the bucket or container; of ``file`` the absolute directory. ``prefix`` is what all keys begin with,
    without slashes at its ends, or empty. ``endpoint`` (a URL without a slash at its end) and ``region`` are None where
    the reference leaves them to the settings.
    """

    scheme: str
    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None

    def __str__(self) -> str:
        """The reference as far as it says which objects are meant."""
        return f"{self.root}/{self.prefix}" if self.prefix else self.root

    @property
    def root(self) -> str:
        """The whole bucket: what settings name it by."""
        return f"{self.scheme}://{self.name}"

    @property
    def query(self) -> str:
        """Where the reference says that the store is, with its question mark; empty where it does not.

        A tag or a digest may follow: a URL that a tag could be taken for the port of ends with a slash.
        """
        endpoint = self.endpoint
        if endpoint is not None and re.fullmatch(r"[a-z]+://(?:[^/:\[]*|\[[^]/]*\])", endpoint):
            endpoint += "/"
        parts = [f"{key}={value}" for key, value in (("endpoint", endpoint), ("region", self.region)) if value]
        return "?" + "&".join(parts) if parts else ""

    @property
    def last(self) -> str:
        """The last part of the name: what a stratum is called that has no other name."""
        return f"{self.name}/{self.prefix}".rstrip("/").rpartition("/")[2]


def split_bucket(text: str) -> tuple[Bucket, str | None, str | None]:
    """(bucket, tag, digest) of ``text``, a reference that begins with one of ``BUCKET_PREFIXES``.

    The tag is not checked. Raises ``UsageError`` that says what is wrong, and repeats nothing that may be a secret.
    """
    scheme, _, rest = text.partition("://")
    rest, digest = _without_digest(rest)
    rest, question, query = rest.partition("?")
    if digest is None:
        rest, digest = _without_digest(rest)
    if "@" in rest:
        raise UsageError(
            f"what stands around '@' in a reference to {scheme}:// is neither a bucket nor a digest",
            hint=f"{GRAMMAR}; passwords are never a part of it",
        )
    path, tag = _without_tag(rest)
    endpoint, region, tag_behind = _read_query(query, f"{scheme}://{path}") if question else (None, None, None)
    if tag is not None and tag_behind is not None:
        raise UsageError(f"{scheme}://{path} is given two tags, {tag!a} and {tag_behind!a}", hint=GRAMMAR)
    if scheme not in NETWORK and (endpoint is not None or region is not None):
        raise UsageError(f"{scheme}:// has no endpoint and no region", hint="leave '?' and what follows out")
    name, prefix = _file(path) if scheme == "file" else _parts(scheme, path)
    return Bucket(scheme, name, prefix, endpoint, region), tag_behind if tag is None else tag, digest


def other_scheme(text: str) -> str | None:
    """How the scheme of ``text``, which is not known, is written here; None where it is nothing like one of ours."""
    scheme = text.partition("://")[0].lower()
    return _KNOWN_BY.get(scheme, scheme if scheme in SCHEMES else None)


def parse_endpoint(text: str, what: str) -> str:
    """The URL of an object store in the one form that is kept: small letters, no slash at the end. ``UsageError``."""
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 0 < int(match["port"] or 1) < 65536:
        raise UsageError(
            f"the endpoint of {what} is not a URL that can be used",
            hint="write it as https://HOST[:PORT], without a user, a password or a query",
        )
    port = f":{int(match['port'])}" if match["port"] else ""
    return f"{match['scheme'].lower()}://{match['host'].lower()}{port}{match['path']}"


def parse_region(text: str, what: str) -> str:
    """The name of a region. ``UsageError``."""
    if not _REGION.fullmatch(text):
        raise UsageError(f"the region of {what} is {quoted(text)}, which is no region's name")
    return text


def _without_digest(rest: str) -> tuple[str, str | None]:
    match = _DIGEST.search(rest)
    return (rest[: match.start()], match[0][1:]) if match else (rest, None)


def _without_tag(rest: str) -> tuple[str, str | None]:
    path, colon, tag = rest.rpartition(":")
    return (path, tag) if colon and "/" not in tag else (rest, None)


def _read_query(query: str, what: str) -> tuple[str | None, str | None, str | None]:
    """(endpoint, region, tag behind them)."""
    found: dict[str, str] = {}
    tag = None
    parts = query.split("&")
    for number, part in enumerate(parts):
        key, _, value = part.partition("=")
        if key not in ("endpoint", "region") or key in found:
            raise UsageError(
                f"{what} is given {'an option twice' if key in found else 'an option that there is not'} behind '?'",
                hint="only endpoint=URL and region=NAME can stand there, each once",
            )
        if number == len(parts) - 1:
            value, tag = _behind(key, value)
        found[key] = value
    endpoint, region = found.get("endpoint"), found.get("region")
    return (
        parse_endpoint(endpoint, what) if endpoint is not None else None,
        parse_region(region, what) if region is not None else None,
        tag,
    )


def _behind(key: str, value: str) -> tuple[str, str | None]:
    """A value, and the tag that follows it."""
    value = value if key == "region" else value.replace("%3A", ":").replace("%2F", "/")
    form = _ENDPOINT if key == "endpoint" else _REGION
    match = form.match(value)
    behind = _TAG_BEHIND.fullmatch(value, match.end()) if match else None
    return (value[: match.end()], behind["tag"]) if match and behind else (value, None)


def _file(path: str) -> tuple[str, str]:
    if not path.startswith("/") or "\0" in path:
        raise UsageError("file:// takes an absolute directory", hint="write it as file:///DIRECTORY[:TAG]")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError("file:// takes a directory without '..'", hint="write the directory as it is")
    return "/" + "/".join(parts), ""


def _parts(scheme: str, path: str) -> tuple[str, str]:
    name, _, prefix = path.partition("/")
    prefix = prefix.strip("/")
    if not _NAMES[scheme].fullmatch(name):
        what = "a container" if scheme == "az" else "a bucket"
        raise UsageError(f"{quoted(name)} is not the name of {what} of {scheme}://", hint=GRAMMAR)
    segments = prefix.split("/") if prefix else []
    if len(prefix) > _PREFIX_MAX or not all(_SEGMENT.fullmatch(each) and each not in (".", "..") for each in segments):
        raise UsageError(
            f"{quoted(prefix)} cannot be the prefix in {scheme}://{name}",
            hint=f"a prefix has up to {_PREFIX_MAX} letters, digits and signs such as '-', '_', '.', with '/' between",
        )
    return name, prefix
