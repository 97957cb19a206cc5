"""realize, unrealize and cache as users run them: what comes, what goes, what stays and what is said of it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.trees import make_tree
from tests.support.command import Command

SIZE = 5000


def content(letter: str, size: int = SIZE) -> str:
    return letter * size


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def lazy(cli: Command, tmp_path: Path, layout: Path) -> str:
    """``cached:v1``, pulled without its contents: three files below data/, one below tmp/."""
    files = {"data/a": content("a"), "data/b": content("b"), "data/in/c": content("c"), "tmp/d": content("d")}
    origin = Command(tmp_path / "origin", tmp_path / "origin-run")
    origin.ok("import", "--bare", make_tree(tmp_path / "src", {**files, "small": "s"}), "cached:v1")
    origin.ok("push", "cached:v1", f"oci:{layout}:v1")
    cli.ok("pull", "--lazy", f"oci:{layout}:v1", "cached")
    return "cached:v1"


def real(cli: Command) -> int:
    """How many objects are here."""
    return len(list((cli.store / "objects").glob("??/*")))


def stays(table: dict[str, Any]) -> dict[str, int]:
    return {item["why"]: item["objects"] for item in table["stays"]}


def test_a_path_is_realized_and_kept(cli: Command, lazy: str) -> None:
    result = cli("realize", f"{lazy}:/data")
    assert (result.code, result.stdout) == (0, "")
    assert "cached:/data is here, and stays: 3 objects, 14.6 KiB; fetched 14.6 KiB" in result.stderr
    assert real(cli) == 3
    done = cli.json("realize", f"{lazy}:/data/in/c", "--no-keep")
    assert (done["objects"], done["bytes"], done["bytes_fetched"], done["kept"]) == (1, SIZE, 0, False)
    status = cli.json("cache", "status")
    assert status["rules"] == [{"stratum": "cached", "path": "/data", "rule": "real"}]
    assert (status["real"]["objects"], status["unreal"]) == (3, {"objects": 1, "bytes": SIZE})
    assert stays(status) == {"rule": 3}
    assert cli.json("cache", "evict", "--to", "0", "--older-than", "0")["evicted_objects"] == 0
    assert cli.json("cache") | {"disk": None} == status | {"disk": None}


def test_a_whole_stratum_is_realized_and_is_partial_no_more(cli: Command, lazy: str) -> None:
    cli.ok("realize", lazy)
    assert real(cli) == 4
    assert not list((cli.store / "commits").glob("*.partial"))
    done = cli.json("realize", lazy)
    assert (done["objects"], done["bytes_fetched"]) == (4, 0)


def test_what_has_a_rule_of_its_own_below_stays_unreal(cli: Command, lazy: str) -> None:
    cli.ok("unrealize", f"{lazy}:/data/in")
    result = cli("realize", lazy)
    assert result.code == 0
    assert "/data/in has a rule of its own, and need not be here" in result.stderr
    assert real(cli) == 3
    cli.ok("realize", "--no-keep", lazy)
    assert real(cli) == 4
    done = cli.json("unrealize", lazy)
    assert (done["dropped_objects"], done["kept_below"]) == (4, [])


def test_a_lazy_pull_brings_what_rules_keep(cli: Command, tmp_path: Path, lazy: str, layout: Path) -> None:
    cli.ok("realize", f"{lazy}:/data/in")
    origin = Command(tmp_path / "origin", tmp_path / "origin-run")
    src = make_tree(tmp_path / "src", {"data/in/new": content("n"), "data/a": content("x")})
    origin.ok("import", "--bare", src, "cached:v2")
    origin.ok("push", "cached:v2", f"oci:{layout}:v2")
    assert real(cli) == 1
    result = cli("pull", "--lazy", f"oci:{layout}:v2", "cached")
    assert result.code == 0
    assert real(cli) == 2
    assert "rules keep" in result.stderr
    assert cli.json("realize", "cached:v2:/data/in")["bytes_fetched"] == 0


def test_in_the_background(cli: Command, lazy: str) -> None:
    done = cli.json("realize", "--background", lazy)
    assert done["process"] > 0
    assert cli.json("cache", "status")["rules"] == [{"stratum": "cached", "path": "/", "rule": "real"}]
    deadline = time.monotonic() + 60
    while real(cli) < 4:
        assert time.monotonic() < deadline, Path(done["log"]).read_text()
        time.sleep(0.05)
    assert Path(done["log"]).stat().st_mode & 0o077 == 0
    while Path(f"/proc/{done['process']}").exists() and "\nState:\tZ" not in _state(done["process"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cli("realize", "--background", "--plain-http", lazy).code == 2


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ"


def test_content_is_dropped_and_comes_back(cli: Command, tmp_path: Path, lazy: str) -> None:
    cli.ok("realize", lazy)
    result = cli("unrealize", f"{lazy}:/data")
    assert result.code == 0
    assert "dropped 3 objects of cached:/data" in result.stderr
    assert real(cli) == 1
    assert cli.json("cache", "status")["rules"] == [
        {"stratum": "cached", "path": "/", "rule": "real"},
        {"stratum": "cached", "path": "/data", "rule": "unreal"},
    ]
    (tmp_path / "out").mkdir()
    cli.ok("restore", lazy, "data/a", "--to", tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == content("a")


def test_a_rule_is_taken_away(cli: Command, lazy: str) -> None:
    cli.ok("unrealize", f"{lazy}:/tmp")
    assert cli.json("unrealize", "--auto", f"{lazy}:/tmp") == {
        "stratum": "cached",
        "path": "/tmp",
        "rule": "auto",
        "changed": True,
    }
    assert "as before" in cli("unrealize", "--auto", f"{lazy}:/tmp").stderr
    assert cli.json("cache", "status")["rules"] == []


def test_what_only_this_store_has_stays(cli: Command, tmp_path: Path, lazy: str) -> None:
    cli.ok("realize", "--no-keep", lazy)
    local = make_tree(tmp_path / "local", {"own": content("o"), "too": content("a")})
    cli.ok("import", "--bare", local, "cached:local")
    done = cli.json("unrealize", "cached:local")
    assert (done["dropped_objects"], stays(done)) == (0, {"local": 2})
    assert "2 objects stay, 16.0 KiB: only this store has it" in cli("unrealize", "cached:local").stderr
    done = cli.json("cache", "evict", "--to", "0", "--older-than", "0")
    assert (done["evicted_objects"], stays(done)) == (3, {"local": 1})
    assert real(cli) == 2
    (tmp_path / "out").mkdir()
    cli.ok("restore", "cached:local", "own", "--to", tmp_path / "out")
    assert (tmp_path / "out" / "own").read_text() == content("o")


def test_after_a_push_it_may_go(cli: Command, tmp_path: Path, layout: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "local", {"own": content("o")}), "cached:local")
    assert cli.json("cache", "evict", "--to", "0", "--older-than", "0")["evicted_objects"] == 0
    cli.ok("push", "cached:local", f"oci:{layout}")
    assert cli.json("cache", "evict", "--to", "0")["evicted_objects"] == 0, "it came just now"
    assert cli.json("cache", "evict", "--older-than", "0")["evicted_objects"] == 0, "there is room"
    would = cli.json("cache", "evict", "--to", "0", "--older-than", "0", "-n")
    assert (would["dry_run"], would["evicted_objects"], would["partial_commits"]) == (True, 1, [])
    assert real(cli) == 1
    done = cli.json("cache", "evict", "--to", "0", "--older-than", "0")
    assert (done["evicted_objects"], len(done["partial_commits"])) == (1, 1)
    (tmp_path / "out").mkdir()
    cli.ok("restore", "cached:local", "own", "--to", tmp_path / "out")
    assert (tmp_path / "out" / "own").read_text() == content("o")


def test_a_place_is_asked_where_it_was_not_seen_lately(cli: Command, lazy: str, layout: Path) -> None:
    cli.ok("realize", "--no-keep", lazy)
    time.sleep(1.1)  # times are noted in seconds
    late = {"STRATUM_CACHE_VERIFIED_HOURS": "0"}
    away = layout.with_name("away")
    layout.rename(away)
    evict = ("cache", "evict", "--to", "0", "--older-than", "0")
    done = cli.json(*evict, env=late)
    assert (done["evicted_objects"], stays(done)) == (0, {"gone": 4})
    assert "is not there now" in done["problems"][0]
    away.rename(layout)
    assert cli.json(*evict, "-n", env=late)["evicted_objects"] == 4
    pack = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    kept = pack.rename(pack.with_name("kept"))
    time.sleep(1.1)
    done = cli.json(*evict, env=late)
    assert (done["evicted_objects"], done["problems"]) == (0, [])
    assert cli.json(*evict)["evicted_objects"] == 0, "that it is gone is noted"
    kept.rename(pack)
    assert real(cli) == 4


def test_limits(cli: Command, lazy: str) -> None:
    del cli.environment["STRATUM_CACHE_MIN_FREE"]
    assert cli.ok("cache", "limit").startswith("max none, min-free 15 %, images ")
    limits = cli.json("cache", "limit", "--max", "10G", "--min-free", "5%", "--images", "1G")
    assert limits == {"max": 10 << 30, "min_free": 5, "images": 1 << 30}
    assert cli.ok("cache", "limit") == "max 10.0 GiB, min-free 5 %, images 1.0 GiB"
    assert cli.json("cache", "limit", env={"STRATUM_CACHE_IMAGES": "none"})["images"] is None
    assert cli.json("cache", "limit", env={"STRATUM_CACHE_MAX": "none"})["max"] is None
    cli.ok("cache", "limit", "--max", "9k", "--min-free", "0")
    cli.ok("realize", "--no-keep", lazy)
    assert real(cli) == 4, "what is asked for comes"
    done = cli.json("cache", "evict", "--older-than", "0")
    assert real(cli) == 1
    assert (done["evicted_objects"], done["short"]) == (3, 0)
    assert "min-free" in cli.ok("cache")


@pytest.mark.parametrize("limited", [False, True])
def test_a_pull_makes_room(cli: Command, tmp_path: Path, layout: Path, limited: bool) -> None:
    """What is pulled whole: only in a store that is a cache does other content go for it."""
    origin = Command(tmp_path / "origin", tmp_path / "origin-run")
    for tag, letters in (("v1", "abc"), ("v2", "xyz")):
        origin.ok("import", "--bare", make_tree(tmp_path / tag, {c: content(c) for c in letters}), f"cached:{tag}")
        origin.ok("push", f"cached:{tag}", f"oci:{layout}:{tag}")
    cli.ok("pull", f"oci:{layout}:v1", "cached")
    for path in (cli.store / "objects").glob("??/*"):
        os.utime(path, (0, 0))
    if limited:
        cli.ok("cache", "limit", "--max", "25k", "--min-free", "0")
    cli.ok("pull", f"oci:{layout}:v2", "cached")
    assert real(cli) == (4 if limited else 6)
    assert [tag["partial"] for tag in cli.json("list", "cached")["tags"]] == [limited, False]
    cli.ok("fsck")


def test_without_the_layout_nothing_comes(cli: Command, lazy: str, layout: Path) -> None:
    shutil.rmtree(layout)
    result = cli("realize", lazy)
    assert result.code == 3
    assert str(layout) in result.stderr
    assert cli.json("cache", "status")["rules"] == [{"stratum": "cached", "path": "/", "rule": "real"}]


def test_what_is_here_is_shown(cli: Command, lazy: str, layout: Path) -> None:
    assert cli.json("show", lazy)["residence"] == {
        "real": {"objects": 0, "bytes": 0},
        "unreal": {"objects": 4, "bytes": 4 * SIZE},
        "lost": {"objects": 0, "bytes": 0},
        "places": [f"oci:{layout}"],
        "away": [],
    }
    cli.ok("realize", f"{lazy}:/tmp")
    said = f"4.9 KiB real, 14.6 KiB unreal at oci:{layout}"
    assert f"content     {said}\n" in cli.ok("show", lazy)
    assert [tag["partial"] for tag in cli.json("list", "cached")["tags"]] == [True]
    cli.ok("worktree", "add", "cached+dev", lazy)
    assert f"    content      {said}\n" in cli.ok("status")
    ((stratum,),) = ([found["worktrees"] for found in cli.json("status")],)
    assert stratum[0]["residence"]["unreal"] == {"objects": 3, "bytes": 3 * SIZE}
    cli.ok("realize", lazy)
    assert cli.json("show", lazy)["residence"] is None
    assert "content" not in cli.ok("status") + cli.ok("show", lazy)
    assert [tag["partial"] for tag in cli.json("list", "cached")["tags"]] == [False]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("realize", "nothing"), 3),
        (("realize", "cached:v9"), 3),
        (("realize", "cached:v1:/nope"), 3),
        (("realize", "cached:v1:/data/../tmp"), 2),
        (("realize", "cached:v1:/data//in"), 2),
        (("realize", "cached:v1:nope"), 3),
        (("realize", b"cached:v1:/\xff"), 3),
        (("unrealize", "nothing"), 3),
        (("unrealize", "--auto", "cached:v1:/nope"), 3),
        (("unrealize", "0" * 64), 3),
        (("cache", "frobnicate"), 2),
        (("cache", "evict", "--to", "much"), 2),
        (("cache", "evict", "--older-than", "soon"), 2),
        (("cache", "limit", "--max", "-1"), 2),
        (("cache", "limit", "--min-free", "100"), 2),
    ],
)
def test_what_cannot_be(cli: Command, lazy: str, args: tuple[str | bytes, ...], code: int) -> None:
    result = cli(*args)
    assert result.code == code, result
    assert result.stderr.startswith(("error:", "Usage"))


def test_a_hash_is_a_stratums_where_just_one_has_it(cli: Command, lazy: str) -> None:
    commit = cli.json("show", lazy)["commit"]["metadata_hash"]
    assert cli.json("realize", f"{commit}:/tmp")["stratum"] == "cached"
    cli.ok("tag", lazy, "other:v1")
    result = cli("realize", f"{commit}:/tmp")
    assert (result.code, "--no-keep" in result.stderr) == (2, True)
    assert cli.json("realize", "--no-keep", f"{commit}:/data")["objects"] == 3


def test_what_an_archive_has_too_stays(cli: Command, tmp_path: Path) -> None:
    """It was imported to be here, and the archive is removed tomorrow."""
    origin = Command(tmp_path / "origin", tmp_path / "origin-run")
    origin.ok("import", "--bare", make_tree(tmp_path / "src", {"a": content("a"), "b": content("b")}), "app:v1")
    origin.ok("export", "app:v1", tmp_path / "app.stratum.tar")
    cli.ok("import", tmp_path / "app.stratum.tar", "app:v1")
    for verb in (("unrealize", "app:v1"), ("cache", "evict", "--to", "0", "--older-than", "0")):
        assert stays(cli.json(*verb))["archive"] == 2
    assert real(cli) == 2
    cli.ok("push", "app:v1", f"oci:{tmp_path}/layout:v1")
    assert cli.json("unrealize", "app:v1")["dropped_objects"] == 2
