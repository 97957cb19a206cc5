"""Times as the store writes them: RFC 3339 in UTC, to the second or the millisecond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stratum.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime, timezone
else:
    try:
        from _datetime import (  # the same classes; before 3.12 the module has them once more, in Python
            datetime,
            timezone,
        )
    except ImportError:
        from datetime import datetime, timezone


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(timezone.utc)


def rfc3339(time: datetime, *, milliseconds: bool = False) -> str:
    """``time`` (timezone-aware) as ``YYYY-MM-DDTHH:MM:SSZ``, or with three digits of the second after a point."""
    unit = "milliseconds" if milliseconds else "seconds"
    return time.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec=unit) + "Z"


def commit_time(environment: Mapping[str, str]) -> datetime:
    """The time to record in a commit: ``SOURCE_DATE_EPOCH`` (reproducible-builds.org) where set, else now."""
    value = environment.get("SOURCE_DATE_EPOCH")
    if not value:
        return utc_now()
    try:
        return datetime.fromtimestamp(int(value), timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds: {value!r}") from None
