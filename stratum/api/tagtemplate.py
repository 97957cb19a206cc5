"""Tag templates: the tag that a commit made at a container's stop gets, with fields filled in. Pure.

Fields: ``{name}`` and ``{worktree}`` of the worktree, ``{container}`` and ``{commit}`` cut to 12 digits, and ``{time}``
as ``20260131T235959Z``. For a volume, ``{container}`` is its name or ID.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone

from stratum.errors import UsageError
from stratum.refs import check_name

FIELDS = ("name", "worktree", "container", "time", "commit")
SHORT_ID = 12

_FIELD = re.compile(r"\{([^{}]*)\}")


def render_tag(template: str, *, name: str, worktree: str, container: str, commit: str, time: datetime) -> str:
    """The tag that ``template`` means. Raises ``UsageError`` for an unknown field or where the result is no tag."""
    values = {
        "name": name,
        "worktree": worktree,
        "container": container[:SHORT_ID],
        "time": time.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ"),
        "commit": commit[:SHORT_ID],
    }
    try:
        return check_name(_FIELD.sub(lambda match: _value(values, match.group(1)), template), "tag")
    except UsageError as exc:
        raise UsageError(f"tag template {ascii(template)[:140]}: {exc.message}", hint=exc.hint) from None


def check_template(template: str, *, name: str, worktree: str) -> None:
    """Raise ``UsageError`` where ``template`` would not give a tag, whatever the container, commit and time are."""
    digits = "0" * SHORT_ID
    moment = datetime.fromtimestamp(0, timezone.utc)
    render_tag(template, name=name, worktree=worktree, container=digits, commit=digits, time=moment)


def _value(values: Mapping[str, str], field: str) -> str:
    if field not in values:
        raise UsageError(f"unknown field {{{field}}}", hint="fields: " + " ".join(f"{{{known}}}" for known in FIELDS))
    return values[field]
