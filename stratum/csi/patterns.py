"""``--inline-source``: which sources pod authors may name. Pure.

::

    *                              any source, of a registry or of the node
    HOST/REPOSITORY[:TAG][@DIGEST] registry references: each part is matched by itself
    s3://BUCKET[/PREFIX][:TAG][@DIGEST][?endpoint=URL&region=NAME]
                                   references to an object store (gs://, az:// likewise), which nothing else allows
    anything without '/'           refs of the node, by the shell's pattern language

In HOST ``*`` stands for a part of one label (no '.', no ':'), and alone for any host; in REPOSITORY for a part of one
component (no '/'). ``**`` stands for any text in either. BUCKET is as one component, PREFIX as REPOSITORY is. What
stands behind '?' is no pattern: a pod author may say just that, and nothing where the pattern has none, as a request
would go wherever it leads. Where no TAG is given every tag and digest matches; where one
is given a reference by digest does not, as that decides what is fetched.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from stratum.errors import UsageError
from stratum.frozen import frozen
from stratum.oci.bucketname import NETWORK
from stratum.oci.target import Target, parse_target
from stratum.refs import Ref


@frozen
class SourcePattern:
    """One pattern, as ``parse_pattern`` makes it."""

    text: str
    host: re.Pattern[str] | None
    repository: re.Pattern[str]
    tag: str | None
    digest: str | None
    scheme: str | None = None
    query: str = ""

    def allows(self, source: Target | Ref) -> bool:
        """Whether pod authors may name ``source``."""
        if isinstance(source, Target) and source.bucket is not None:
            bucket = source.bucket
            if self.scheme != bucket.scheme or self.query != bucket.query:
                return False
            host, repository = bucket.name, bucket.prefix
        elif self.scheme is not None:
            return False
        elif self.text in ("*", "**"):
            return True
        elif isinstance(source, Ref):
            return self.host is None and fnmatchcase(str(source), self.text)
        elif self.host is None or source.host is None or source.scheme is not None:
            return False
        else:
            host, repository = source.host, source.repository
        if self.host is None or not self.host.fullmatch(host) or not self.repository.fullmatch(repository):
            return False
        if self.digest is not None:
            return source.digest is not None and fnmatchcase(source.digest, self.digest)
        return self.tag is None or (source.digest is None and fnmatchcase(source.tag, self.tag))


def parse_pattern(text: str) -> SourcePattern:
    """The pattern; ``UsageError`` where nothing could match it."""
    scheme, mark, rest = text.partition("://")
    if mark and scheme in NETWORK:
        return _of_object_store(text, scheme, rest)
    if not text or mark or any(char.isspace() for char in text):
        raise _no_pattern(text)
    host, slash, path = text.partition("/")
    if not slash:
        return SourcePattern(text, None, re.compile(""), None, None)
    repository, tag, digest = _parts(path)
    if not host or not repository:
        raise _no_pattern(text)
    host = "**" if host == "*" else host.lower()
    return SourcePattern(text, _compiled(host, ".:/"), _compiled(repository, "/"), tag, digest)


def _of_object_store(text: str, scheme: str, rest: str) -> SourcePattern:
    rest, question, query = rest.partition("?")
    path, tag, digest = _parts(rest)
    bucket, _, prefix = path.partition("/")
    if not bucket or (question and not query) or any(char.isspace() for char in text):
        raise _no_pattern(text)
    if question:
        named = parse_target(f"{scheme}://bucket?{query}").bucket
        query = named.query if named is not None else ""
    return SourcePattern(text, _compiled(bucket, "/"), _compiled(prefix.strip("/"), "/"), tag, digest, scheme, query)


def _no_pattern(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is no pattern of sources", hint="write HOST/REPOSITORY, s3://BUCKET/PREFIX, or a pattern of refs"
    )


def _parts(path: str) -> tuple[str, str | None, str | None]:
    """(path, tag, digest) of a reference behind its host or scheme."""
    path, at, digest = path.partition("@")
    start = path.rfind("/") + 1
    last, colon, tag = path[start:].partition(":")
    return path[:start] + last, tag if colon else None, digest if at else None


def _compiled(pattern: str, separators: str) -> re.Pattern[str]:
    """``**`` any text, ``*`` and ``?`` any but ``separators``; everything else is itself."""
    forms = {"**": ".*", "*": f"[^{re.escape(separators)}]*", "?": f"[^{re.escape(separators)}]"}
    return re.compile("".join(forms.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", pattern)))
