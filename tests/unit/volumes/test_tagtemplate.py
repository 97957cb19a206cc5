"""Tag templates, from fields to a tag."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from stratum.errors import UsageError
from stratum.volumes.tagtemplate import check_template, render_tag

HASH = "0123456789abcdef" * 4
MOMENT = datetime(2026, 2, 1, 0, 59, 59, tzinfo=timezone(timedelta(hours=1)))


def render(template: str) -> str:
    return render_tag(template, {"container": "f" * 64}, name="app", worktree="dev", commit=HASH, time=MOMENT)


def test_every_field() -> None:
    rendered = render("{name}.{worktree}.{container}.{time}.{commit}")
    assert rendered == "app.dev.ffffffffffff.20260131T235959Z.0123456789ab"


def test_no_field() -> None:
    assert render("latest") == "latest"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{nome}", "unknown field {nome}"),
        ("{volume}", "unknown field {volume}"),
        ("{}", "unknown field {}"),
        ("{name", "not a valid tag"),
        ("{name.__class__}", "unknown field"),
        ("{{name}}", "not a valid tag"),
        ("a/b", "not a valid tag"),
        ("-{name}", "not a valid tag"),
        ("{name}.lock", "'.lock'"),
        ("", "not a valid tag"),
        ("x" * 129, "not a valid tag"),
    ],
)
def test_refuses(template: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_template(template, "container", name="app", worktree="dev")
    assert says in caught.value.message
    assert caught.value.message.startswith("tag template ")
