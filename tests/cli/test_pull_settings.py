"""What a pull brings that is not told: what the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Command

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("setting", "options", "unreal"),
    [("", (), 0), ("lazy", (), 2), ("lazy", ("--whole",), 0), ("whole", ("--lazy",), 2)],
)
def test_what_a_pull_brings(cli: Command, tmp_path: Path, setting: str, options: tuple[str, ...], unreal: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("one", "two"):
        (source / name).write_text(name * 1000)
    other = Command(tmp_path / "other", tmp_path / "other-run")
    other.ok("import", "--bare", source, "app:v1")
    other.ok("push", "app:v1", f"oci:{tmp_path}/layout:v1")
    cli.environment["STRATUM_PULL"] = setting
    done = cli.json("pull", *options, f"oci:{tmp_path}/layout:v1", "app")
    assert done["unreal"]["objects"] == unreal
    refused = cli("pull", f"oci:{tmp_path}/layout:v1", "app", env={"STRATUM_PULL": "some"})
    assert refused.code == 2
    assert "pull must be one of whole, lazy" in refused.stderr
