"""gc, pins and log as users run them: what goes by rule, what stays, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root

DAY = 86400


@pytest.fixture
def db(cli: Command, tmp_path: Path) -> list[str]:
    """``db`` with the tags stop-0 to stop-5, of one day each and made on top of one another, and ``other:v1``."""
    made = []
    for number in range(6):
        source = make_tree(tmp_path / "src", {"state": f"{number}" + BIG})
        env = {"SOURCE_DATE_EPOCH": str(1_700_000_000 + number * DAY)}
        made.append(cli.ok("import", "--bare", source, "db", env=env))
        cli.ok("tag", "db:latest", f"stop-{number}")
    cli.ok("tag", "db:latest", "other:v1")
    return made


def tags(cli: Command, name: str = "db") -> list[str]:
    return [tag["tag"] for tag in cli.json("list", name)["tags"]]


def test_tags_of_stops_are_thinned_out(cli: Command, db: list[str]) -> None:
    rules = ("--stratum", "db", "--tags", "stop-*", "--keep-daily", "2", "--keep-last", "1")
    would = cli.json("gc", "-n", *rules)
    assert [(tag["stratum"], tag["tag"]) for tag in would["removed_tags"]] == [("db", f"stop-{n}") for n in range(4)]
    assert len(tags(cli)) == 7
    out = cli.ok("gc", "-n", *rules)
    assert "would remove tag db:stop-0" in out
    done = cli.json("gc", *rules)
    assert done["removed_tags"] == would["removed_tags"]
    assert tags(cli) == ["latest", "stop-4", "stop-5"]
    # ``other`` was made from them too, and nobody asked to thin that out.
    assert done["removed_commits"] == []
    cli.ok("remove", "other", "--yes")
    done = cli.json("gc", *rules)
    assert [(c["commit"], c["strata"]) for c in done["removed_commits"]] == [(c, ["db"]) for c in sorted(db[:4])]
    assert cli("gc", "--tags", "stop-*").code == 2
    assert cli("gc", "--stratum", "nothing", "--keep-last", "1").code == 3


def test_log_says_where_commits_were_collected(cli: Command, db: list[str]) -> None:
    assert [entry["missing"] for entry in cli.json("log", "db:stop-5")] == [[]] * 6
    cli.ok("gc", "--reflog-age", "0")
    assert len(cli.json("log", "db:stop-5")) == 6
    for number in (0, 1, 3, 4):
        cli.ok("remove", f"db:stop-{number}")
    cli.ok("gc", "--reflog-age", "0", "--history-age", "0")
    entries = cli.json("log", "db:stop-5")
    assert [entry["commit"]["metadata_hash"] for entry in entries] == [db[5], db[2]]
    assert [entry["missing"] for entry in entries] == [[db[4], db[3]], [db[1], db[0]]]
    lines = cli.ok("log", "db:stop-5").splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("...")
    assert "2 commits are not in this store" in lines[1]
    assert f"older commits, from {db[1][:12]} on, are not in this store" in lines[3]


def test_what_is_pinned_stays_until_it_is_unpinned(cli: Command, db: list[str]) -> None:
    assert cli.json("tag", "--pin", "db:stop-1") == {"ref": "db:stop-1", "pinned": True, "changed": True}
    assert cli.json("tag", "--pin", "db:stop-1")["changed"] is False
    cli.ok("tag", "--pin", f"db:{db[2][:12]}")
    assert [tag["tag"] for tag in cli.json("list", "db")["tags"] if tag["pinned"]] == ["stop-1"]
    assert [pinned["commit"] for pinned in cli.json("list", "db")["pinned_commits"]] == [db[2]]
    assert any("stop-1" in line and line.endswith("pinned") for line in cli.ok("list", "db").splitlines())
    for args in (("remove", "db:stop-1"), ("remove", "db", "--yes")):
        code, _, err = cli(*args)
        assert code == 4
        assert "stratum tag --unpin db:stop-1" in err
    cli.ok("remove", "other", "--yes")
    cli.ok("gc", "--tags", "*", "--keep-last", "1", "--stratum", "db")
    assert tags(cli) == ["stop-1", "stop-5"]
    assert cli.json("show", db[2])["commit"]["metadata_hash"] == db[2]
    assert cli("fsck").code == 0
    cli.ok("tag", "db:stop-1", "kept", "--move")
    assert cli("remove", "db:kept").code == 4
    cli.ok("tag", "--unpin", f"db:{db[2][:12]}")
    cli.ok("remove", "db:kept", "--force")
    assert cli.json("list", "db")["pinned_commits"] == []
    cli.ok("gc", "--tags", "*", "--keep-last", "1", "--stratum", "db")
    assert cli("show", db[2]).code == 3
    cli.ok("tag", "--pin", "db:stop-5", "final")
    assert [tag["tag"] for tag in cli.json("list", "db")["tags"] if tag["pinned"]] == ["final"]
    for args in (("tag", "db:final"), ("tag", "--pin", "--unpin", "db:final"), ("tag", "--unpin", "db:final", "x")):
        assert cli(*args).code == 2
    assert cli("tag", "--pin", "db:nothing").code == 3
    assert cli("remove", "db", "--yes", "--force").code == 0


def test_damaged_pins_are_told_and_put_aside(cli: Command, db: list[str]) -> None:
    cli.ok("tag", "--pin", "db:stop-1")
    pins = cli.store / "refs/db/pins.toml"
    pins.write_bytes(pins.read_bytes().replace(b"stop", b"stip"))
    code, out, _ = cli("fsck", "--quick")
    assert (code, "damaged pins refs/db/pins.toml" in out) == (5, True)
    assert cli("gc").code == 5
    cli("fsck", "--repair", "--quick")
    assert cli("fsck", "--quick").code == 0
    assert cli("gc").code == 0
