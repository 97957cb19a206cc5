"""``--inline-source``: which sources pod authors may name. Pure.

::

    *                              any source, of a registry or of the node
    HOST/REPOSITORY[:TAG][@DIGEST] registry references: each part is matched by itself
    anything without '/'           refs of the node, by the shell's pattern language

In HOST ``*`` stands for a part of one label (no '.', no ':'), and alone for any host; in REPOSITORY for a part of one
component (no '/'). ``**`` stands for any text in either. Where no TAG is given every tag and digest matches; where one
is given a reference by digest does not, as that decides what is fetched.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from stratum.errors import UsageError
from stratum.frozen import frozen
from stratum.oci.target import Target
from stratum.refs import Ref


@frozen
class SourcePattern:
    """One pattern, as ``parse_pattern`` makes it."""

    text: str
    host: re.Pattern[str] | None
    repository: re.Pattern[str]
    tag: str | None
    digest: str | None

    def allows(self, source: Target | Ref) -> bool:
        """Whether pod authors may name ``source``."""
        if self.text in ("*", "**"):
            return True
        if isinstance(source, Ref):
            return self.host is None and fnmatchcase(str(source), self.text)
        if self.host is None or source.host is None or source.scheme is not None:
            return False
        if not self.host.fullmatch(source.host) or not self.repository.fullmatch(source.repository):
            return False
        if self.digest is not None:
            return source.digest is not None and fnmatchcase(source.digest, self.digest)
        return self.tag is None or (source.digest is None and fnmatchcase(source.tag, self.tag))


def parse_pattern(text: str) -> SourcePattern:
    """The pattern; ``UsageError`` where nothing could match it."""
    if not text or "://" in text or any(char.isspace() for char in text):
        raise UsageError(f"{text!r} is no pattern of sources", hint="write HOST/REPOSITORY, or a pattern of refs")
    host, slash, path = text.partition("/")
    if not slash:
        return SourcePattern(text, None, re.compile(""), None, None)
    path, at, digest = path.partition("@")
    start = path.rfind("/") + 1
    last, colon, tag = path[start:].partition(":")
    repository = path[:start] + last
    if not host or not repository:
        raise UsageError(f"{text!r} is no pattern of sources", hint="write HOST/REPOSITORY, or a pattern of refs")
    return SourcePattern(
        text,
        _compiled("**" if host == "*" else host.lower(), ".:/"),
        _compiled(repository, "/"),
        tag if colon else None,
        digest if at else None,
    )


def _compiled(pattern: str, separators: str) -> re.Pattern[str]:
    """``**`` any text, ``*`` and ``?`` any but ``separators``; everything else is itself."""
    forms = {"**": ".*", "*": f"[^{re.escape(separators)}]*", "?": f"[^{re.escape(separators)}]"}
    return re.compile("".join(forms.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", pattern)))
