"""Where a commit is pushed to or pulled from, as the user writes it.

::

    [http://|https://]HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]     a registry
    REPOSITORY[:TAG][@sha256:DIGEST]                                   in the default registry of the settings
    oci:DIRECTORY[:TAG][@sha256:DIGEST]                                an OCI image layout
    oci-archive:FILE[:TAG][@sha256:DIGEST]                             an OCI image layout in a tar, to read from
    s3://BUCKET[/PREFIX][:TAG][@sha256:DIGEST]                         an object store (``bucketname`` has them all)
    peer://PEER/REPOSITORY[:TAG][@sha256:DIGEST]                       a peer: its stratum of this name (``peerplace``)

REPOSITORY and TAG follow the OCI distribution specification 1.1. The first part of a reference is a host where it
contains '.' or ':' or is ``localhost``, as in every container tool. At a peer, REPOSITORY may also be any name of a
stratum.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from stratum.errors import UsageError, quoted
from stratum.oci.bucketname import BUCKET_PREFIXES, Bucket, other_scheme, split_bucket
from stratum.oci.descriptor import is_digest
from stratum.peers.cards import is_peer_name
from stratum.refs import DEFAULT_TAG, is_name

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?P<name>{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_REPOSITORY_MAX = 255
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
PEER_PREFIX = "peer://"
_OWN = "store://"
_OWN_BLOBS = "blobs"
_GRAMMAR = "write it as HOST[:PORT]/REPOSITORY[:TAG], s3://BUCKET[/PREFIX][:TAG] or oci:DIRECTORY[:TAG]"


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target: exactly one of ``host`` (with port, lower case), ``directory``, ``archive``, ``bucket``,
    ``peer`` (the name that one is known by) and ``own`` (the blobs that a store keeps, which nobody can write as a
    target: ``ownblobs``) is set.

    ``scheme`` is what the user wrote, or None. ``digest``, where given, decides; ``tag`` is then only a name.
    """

    host: str | None = None
    repository: str = ""
    tag: str = DEFAULT_TAG
    digest: str | None = None
    scheme: str | None = None
    directory: Path | None = None
    archive: Path | None = None
    bucket: Bucket | None = None
    peer: str | None = None
    own: bool = False

    def __str__(self) -> str:
        """The reference without http:// or https://, as it is recorded and shown."""
        if self.bucket is not None and self.digest is None:
            return f"{self.bucket}:{self.tag}{self.bucket.query}"
        return f"{self.place}@{self.digest}" if self.digest else f"{self.place}:{self.tag}"

    @property
    def place(self) -> str:
        """The reference without tag and digest: where all of them are."""
        if self.own:
            return _OWN + (self.repository or _OWN_BLOBS)
        if self.archive is not None:
            return f"oci-archive:{self.archive}"
        if self.bucket is not None:
            return f"{self.bucket}{self.bucket.query}"
        if self.peer is not None:
            return f"{PEER_PREFIX}{self.peer}/{self.repository}"
        return f"oci:{self.directory}" if self.directory is not None else f"{self.host}/{self.repository}"

    @property
    def api_host(self) -> str | None:
        """The host that is spoken to, and that passwords are looked up for."""
        return None if self.host is None else _API_HOSTS.get(self.host, self.host)

    @property
    def reference(self) -> str:
        """What the manifest is asked for by: the digest where there is one, else the tag."""
        return self.digest or self.tag


def parse_target(text: str, default_registry: str | None = None, *, default_tag: str = DEFAULT_TAG) -> Target:
    """Parse ``text``; ``default_registry`` (HOST[:PORT][/PREFIX] or s3://BUCKET[/PREFIX]) stands before a bare
    REPOSITORY.

    ``default_tag`` stands for a tag that is not given.

    Raises ``UsageError`` that says what is wrong.
    """
    if text.startswith(("oci:", "oci-archive:")):
        return _parse_layout(text, default_tag)
    if text.startswith(PEER_PREFIX):
        return _parse_peer(text, default_tag)
    if text.startswith(BUCKET_PREFIXES):
        bucket, tag, digest = split_bucket(text)
        return Target(tag=_tag(tag, str(bucket)) if tag is not None else default_tag, digest=digest, bucket=bucket)
    scheme, rest = None, text
    for known in ("http", "https"):
        if text.lower().startswith(known + "://"):
            scheme, rest = known, text[len(known) + 3 :]
    if "://" in rest:
        raise _other_scheme(rest)
    first, slash, _ = rest.partition("/")
    if not (slash and ("." in first or ":" in first or first == "localhost")):
        if scheme is not None or default_registry is None:
            raise UsageError(f"{text!r} names no registry", hint=f"{_GRAMMAR}, or set 'registry' in the configuration")
        return parse_target(below(default_registry, rest), default_tag=default_tag)
    path, digest = _split_digest(rest[len(first) + 1 :], text)
    repository, colon, tag = path.partition(":")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _REPOSITORY_MAX:
        raise UsageError(
            f"{text!r}: {repository!r} is not a valid repository name",
            hint="a repository is lower-case letters and digits, with '.', '_', '-' and '/' between them",
        )
    return Target(_host(first, text), repository, _tag(tag, text) if colon else default_tag, digest, scheme)


def below(registry: str, rest: str) -> str:
    """REPOSITORY[:TAG][@sha256:DIGEST] in a registry or object store as the settings name it, with the ``?`` of that at
    the end."""
    place, mark, query = registry.partition("?")
    return f"{place.rstrip('/')}/{rest}{mark}{query}"


def _other_scheme(text: str) -> UsageError:
    """What is said of a URL that leads to no place. Its scheme alone is repeated: a password may be in the rest."""
    scheme, ours = text.partition("://")[0], other_scheme(text)
    known = ", ".join((*BUCKET_PREFIXES, PEER_PREFIX, "http://", "https://"))
    return UsageError(
        f"{scheme[:40]!r} is not the scheme of a place; those that are: {known}",
        hint=f"write it as {ours}://..." if ours else _GRAMMAR,
    )


def _parse_peer(text: str, default_tag: str) -> Target:
    peer, _, rest = text.removeprefix(PEER_PREFIX).partition("/")
    path, digest = _split_digest(rest, text)
    repository, colon, tag = path.partition(":")
    if not is_peer_name(peer) or not is_shared_name(repository):
        raise UsageError(
            f"{quoted(text)} names no stratum of a peer",
            hint="write it as peer://PEER/NAME[:TAG]; 'stratum peer list' shows the peers that are known",
        )
    return Target(repository=repository, tag=_tag(tag, text) if colon else default_tag, digest=digest, peer=peer)


def is_shared_name(text: str) -> bool:
    """Whether a stratum or repository of a peer can have this name."""
    return is_name(text) or is_repository(text)


def _parse_layout(text: str, default_tag: str) -> Target:
    kind, _, rest = text.partition(":")
    path, digest = _split_digest(rest, text)
    place, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        place, tag = path, default_tag
    if not place or "\0" in place:
        raise UsageError(f"{text!r} names no {'directory' if kind == 'oci' else 'file'}", hint=_GRAMMAR)
    tag, absolute = _tag(tag, text), Path(place).absolute()
    if kind == "oci":
        return Target(tag=tag, digest=digest, directory=absolute)
    return Target(tag=tag, digest=digest, archive=absolute)


def _split_digest(path: str, text: str) -> tuple[str, str | None]:
    path, at, digest = path.partition("@")
    if at and not is_digest(digest):
        raise UsageError(f"{text!r}: {digest!r} is not a digest", hint="a digest is sha256: and 64 hex digits")
    return path, digest if at else None


def is_tag(text: str) -> bool:
    """Whether ``text`` can be a tag in a registry."""
    return _TAG.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Whether ``text`` can be the name of a repository."""
    return len(text) <= _REPOSITORY_MAX and _REPOSITORY.fullmatch(text) is not None


def _tag(tag: str, text: str) -> str:
    if not is_tag(tag):
        raise UsageError(
            f"{text!r}: {tag!r} is not a valid tag",
            hint="a tag has up to 128 letters, digits, '_', '.' and '-', and does not begin with '.' or '-'",
        )
    return tag


def _host(host: str, text: str) -> str:
    match = _HOST.fullmatch(host)
    if match is None or len(host) > 255 or not 0 < int(match["port"] or 1) < 65536:
        raise UsageError(f"{text!r}: {host!r} is not a valid host", hint=_GRAMMAR)
    if match["name"].startswith("["):
        try:
            ipaddress.IPv6Address(match["name"][1:-1])
        except ValueError:
            raise UsageError(f"{text!r}: {host!r} is not a valid host", hint=_GRAMMAR) from None
    return host.lower()


def registry_alone(text: str, default_registry: str | None = None) -> str | None:
    """The registry ([http(s)://]HOST[:PORT]) or peer (peer://PEER) where ``text`` names one and no repository; None for
    anything else.

    A slash at the end or a scheme say so; without a default registry, in which HOST could be a repository, also what
    HOST looks like.
    """
    scheme, mark, rest = text.rpartition("://")
    host = rest.removesuffix("/")
    if text.startswith(PEER_PREFIX):
        return f"{PEER_PREFIX}{host}" if is_peer_name(host) else None
    looks = "." in host or ":" in host or host == "localhost"
    if (
        scheme not in ("", "http", "https")
        or _HOST.fullmatch(host) is None
        or text.startswith(("oci:", "oci-archive:"))
    ):
        return None
    return f"{scheme}{mark}{host}" if mark or host != rest or (looks and default_registry is None) else None


def is_loopback(host: str) -> bool:
    """Whether ``host`` (HOST[:PORT]) is this machine: ``localhost`` or a loopback address."""
    match = _HOST.fullmatch(host)
    name = match["name"].strip("[]") if match else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
