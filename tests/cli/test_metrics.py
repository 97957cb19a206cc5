"""Figures for Prometheus: what they say, that its own parser reads them, and where they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.trees import BIG, make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root

Values = dict[tuple[str, tuple[str, ...]], float]


def read(text: str) -> Values:
    """(name without its prefix, labels' values) -> value."""
    return {
        (sample.name.removeprefix("stratum_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def place(cli: Command, tmp_path: Path) -> Path:
    """``db+main``, mounted and with a history, and ``other:v1``."""
    source = make_tree(tmp_path / "src", {"big": BIG})
    cli.ok("import", "--bare", source, "db:v1", env={"SOURCE_DATE_EPOCH": "1700000000"})
    cli.ok("tag", "db:v1", "other:v1")
    cli.ok("worktree", "add", "db+main", "db:v1")
    return Path(cli.ok("mount", "db+main"))


def test_what_they_say(cli: Command, place: Path) -> None:
    cli.ok("history", "on", "db+main")
    now = read(cli.ok("metrics"))
    assert [now[name, ()] for name in ("strata", "commits", "objects", "worktrees", "mounts")] == [2, 1, 1, 1, 1]
    main = ("db", "main")
    assert (now["worktree_mounted", main], now["worktree_dirty", main], now["history_on", main]) == (1, 0, 1)
    assert now["worktree_last_commit_timestamp_seconds", main] == 1_700_000_000
    assert now["last_commit_timestamp_seconds", ("other",)] == 1_700_000_000
    assert (now["history_watched", ()], now["history_gaps", main], now["metrics_errors", ()]) == (1, 0, 0)
    assert ("gc_last_success_timestamp_seconds", ()) not in now
    cli.ok("watch", "--stop")
    (place / "written").write_bytes(b"w" * 100_000)
    cli.ok("watch", "--once")
    for words in (["gc"], ["fsck"], ["fsck", "--quick"]):
        cli.ok(*words)
    now = read(cli.ok("metrics"))
    assert (now["worktree_dirty", main], now["history_watched", ()], now["history_gaps", main]) == (1, 0, 1)
    assert now["worktree_dirty_bytes", main] >= 100_000
    assert now["gc_last_success_timestamp_seconds", ()] > 1_700_000_000
    assert (now["fsck_last_damaged", ()], now["fsck_quick_last_damaged", ()]) == (0, 0)
    total = cli.json("du", "-s")["store"]["parts"]
    assert {part: now["store_bytes", (part,)] for part in total} == {part: size["disk"] for part, size in total.items()}
    found = {
        (metric["name"].removeprefix("stratum_"), tuple(sample["labels"].values())): sample["value"]
        for metric in cli.json("metrics")
        for sample in metric["samples"]
    }
    assert found.keys() == now.keys()


def test_damage_is_counted_and_what_is_not_here_is_told(cli: Command, place: Path, tmp_path: Path) -> None:
    cli.ok("unmount", "db+main")
    cli.ok("push", "db:v1", f"oci:{tmp_path}/layout:v1")
    cli.ok("remove", "db", "--yes")
    cli.ok("remove", "other", "--yes")
    cli.ok("gc", "--reflog-age", "0")
    cli.ok("pull", "--lazy", f"oci:{tmp_path}/layout:v1", "lazy")
    cli.ok("worktree", "add", "lazy+main", "lazy:v1")
    now = read(cli.ok("metrics"))
    assert (now["lazy_commits", ()], now["lazy_unreal_bytes", ()]) == (1, len(BIG))
    (cli.store / "refs/lazy/worktrees/main/meta.toml").write_bytes(b"x")
    now = read(cli.ok("metrics"))
    assert (now["metrics_errors", ()], now["worktrees", ()], now["tags", ("lazy",)]) == (1, 0, 1)


def test_where_they_are_written(cli: Command, place: Path, tmp_path: Path) -> None:
    to = tmp_path / "stratum.prom"
    to.symlink_to("/etc/passwd")
    assert cli("metrics", "--output", to) == (0, "", "")
    assert not to.is_symlink()
    assert to.stat().st_mode & 0o777 == 0o644
    assert read(to.read_text())["strata", ()] == 2
    assert os.listdir(tmp_path).count("stratum.prom") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp-")]
    result = cli("metrics", "--output", tmp_path / "no" / "such")
    assert (result.code, result.stderr.count("\n")) == (1, 2)
    assert cli("metrics", "--output", to, "--format", "json").code == 2


def test_without_the_library_one_line_says_so(cli: Command, place: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "shadow", {"prometheus_client.py": "raise ImportError"})
    without = {"PYTHONPATH": str(tmp_path / "shadow")}
    result = cli("metrics", env=without)
    assert (result.code, result.stdout) == (6, "")
    assert result.stderr.startswith("error: the text format of Prometheus needs prometheus_client")
    assert "Traceback" not in result.stderr
    assert cli("metrics", "--format", "json", env=without).code == 0
