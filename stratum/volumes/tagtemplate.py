"""Tag templates: the tag that a commit made at a container's stop gets, with fields filled in. Pure.

Fields: ``{name}`` and ``{worktree}`` of the worktree, ``{commit}`` cut to 12 digits, ``{time}`` as
``20260131T235959Z``, and the one that the kind of holder has (``store.holders``), cut to 12 characters:
``{container}``, a container's ID, or ``{volume}``, a named volume's name or a Kubernetes volume's ID.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stratum.errors import UsageError
from stratum.refs import check_name

if TYPE_CHECKING:
    from datetime import datetime

SHORT_ID = 12

_FIELD = re.compile(r"\{([^{}]*)\}")


def render_tag(
    template: str, holder: Mapping[str, str], *, name: str, worktree: str, commit: str, time: datetime
) -> str:
    """The tag that ``template`` means; ``holder`` are the fields that the holder fills.

    Raises ``UsageError`` for an unknown field or where the result is no tag.
    """
    from datetime import timezone

    values = {
        "name": name,
        "worktree": worktree,
        **{field: value[:SHORT_ID] for field, value in holder.items()},
        "time": time.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ"),
        "commit": commit[:SHORT_ID],
    }
    try:
        return check_name(_FIELD.sub(lambda match: _value(values, match.group(1)), template), "tag")
    except UsageError as exc:
        raise UsageError(f"tag template {ascii(template)[:140]}: {exc.message}", hint=exc.hint) from None


def check_template(template: str, field: str, *, name: str, worktree: str) -> None:
    """Raise ``UsageError`` where ``template`` would not give a tag, whatever the holder, which fills ``field``, the
    commit and the time are."""
    digits = "0" * SHORT_ID
    from datetime import datetime, timezone

    moment = datetime.fromtimestamp(0, timezone.utc)
    render_tag(template, {field: digits}, name=name, worktree=worktree, commit=digits, time=moment)


def _value(values: Mapping[str, str], field: str) -> str:
    if field not in values:
        raise UsageError(f"unknown field {{{field}}}", hint="fields: " + " ".join(f"{{{known}}}" for known in values))
    return values[field]
