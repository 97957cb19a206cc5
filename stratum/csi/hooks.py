"""What a pod's annotations say about commits of its volumes: commands in one of its containers, before and after. Pure.

::

    csi.stratum.dev/pre-commit     before a commit: a JSON array of strings (a program and its arguments), or text for
    csi.stratum.dev/post-commit    /bin/sh -c; after it, however it went
    csi.stratum.dev/container      the container that they run in; by default that of
                                   kubectl.kubernetes.io/default-container, or the only one that runs
    csi.stratum.dev/timeout        what each of them may take: 30s (the default), 2m; 5m at most

Other keys of that prefix are refused, so that a misspelt one does not go unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stratum.api.maintenance import parse_duration
from stratum.csi.errors import CallError, precondition
from stratum.errors import UsageError

PREFIX = "csi.stratum.dev/"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
SECONDS = 30.0
SECONDS_MAX = 300.0

_KEYS = ("pre-commit", "post-commit", "container", "timeout")
_WORDS_MAX = 1024
_COMMAND_MAX = 32 << 10


@dataclass(frozen=True, slots=True)
class Hooks:
    """Commands around a commit, at least one; ``container`` is a name, None where none is given."""

    before: tuple[str, ...] | None
    after: tuple[str, ...] | None
    container: str | None
    seconds: float

    def choose(self, running: Collection[str]) -> str | None:
        """Which of the containers that run (names) the commands run in; None where that one does not run (any more).

        FAILED_PRECONDITION where that is not said and there are several.
        """
        if self.container is not None:
            return self.container if self.container in running else None
        if len(running) > 1:
            raise precondition(
                f"it has the containers {', '.join(sorted(running))[:140]}",
                hint=f"the annotation {PREFIX}container says in which one commands run",
            )
        return next(iter(running), None)


def parse_hooks(annotations: Mapping[str, str]) -> Hooks | None:
    """What the annotations of a pod ask for; None where that is nothing. FAILED_PRECONDITION for a malformed one."""
    values = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise precondition(
            f"unknown annotation {PREFIX + unknown[0][:140]!r}",
            hint=f"known: {', '.join(PREFIX + key for key in _KEYS)}",
        )
    before, after = (_command(key, values[key]) if key in values else None for key in ("pre-commit", "post-commit"))
    if before is None and after is None:
        return None
    container = values.get("container") or annotations.get(DEFAULT_CONTAINER) or None
    return Hooks(before, after, container, _seconds(values["timeout"]) if "timeout" in values else SECONDS)


def _command(key: str, text: str) -> tuple[str, ...]:
    if not text.strip() or len(text) > _COMMAND_MAX or "\0" in text:
        raise _malformed(key, "is empty, too long or has a zero byte in it")
    if not text.lstrip().startswith("["):
        return ("/bin/sh", "-c", text)
    try:
        words = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _malformed(key, f"begins with '[' and is no JSON: {exc}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words) or not words[0]:
        raise _malformed(key, "is no array of strings")
    if len(words) > _WORDS_MAX or any("\0" in word for word in words):
        raise _malformed(key, "has too many words, or a zero byte in one")
    try:
        return tuple(word.encode().decode() for word in words)
    except UnicodeEncodeError:
        raise _malformed(key, "has half a character in it") from None


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text).total_seconds()
    except UsageError as exc:
        raise _malformed("timeout", exc.message) from None
    if not 0 < seconds <= SECONDS_MAX:
        raise _malformed("timeout", f"is not between 0 and {SECONDS_MAX:.0f}s")
    return seconds


def _malformed(key: str, why: str) -> CallError:
    return precondition(f"the annotation {PREFIX}{key} {why}")
