"""Archives and OCI layouts that older versions wrote (``tests/data``) give the same commits; a store of theirs is
refused in words that say how its strata get into a new one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from stratum.store import Store
from tests.support.command import Command
from tests.support.stores import check

pytestmark = pytest.mark.root

DATA = Path(__file__).parents[1] / "data/format-1"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def told(cli: Command, ref: str) -> dict[str, object]:
    shown = cli.json("show", ref)
    return {table: shown[table] for table in ("commit", "files", "merkle")}


def test_an_export_of_format_1_is_imported_as_the_same_commits(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--tag", "v3", DATA / "archive.stratum.tar", "app:v3")
    ids = [EXPECTED[tag]["commit"]["metadata_hash"] for tag in ("v3", "v2", "v1")]
    assert [entry["commit"]["metadata_hash"] for entry in cli.json("log", "app:v3")] == ids
    for tag in ("v1", "v2"):
        cli.ok("import", "--tag", tag, DATA / "archive.stratum.tar", f"app:{tag}")
    for tag, expected in EXPECTED.items():
        assert told(cli, f"app:{tag}") == expected
    check(Store.open(cli.store))
    cli.ok("fsck")
    back = tmp_path / "back"
    back.mkdir()
    cli.ok("restore", "--devices", "--setuid", "app:v1", "/", "--to", back)
    larger = (back / "dir/larger").stat()
    assert (larger.st_nlink, larger.st_mode & 0o7777, larger.st_mtime_ns) == (3, 0o4755, 1_600_000_000_123_456_789)
    assert os.getxattr(back / "dir/larger", "user.bytes") == b"\0=\xff\n"
    assert (back / ".wh.name").read_bytes() == b"a name as whiteouts have it"
    assert (back / os.fsdecode(b"not \xff\xfe utf-8\n\\ \x1b[31m")).stat().st_size == 200
    cli.ok("import", "--bare", "--devices", "--force", back, "app:back")
    assert cli.json("diff", "app:v1", "app:back") == []


def test_an_oci_layout_that_format_1_pushed_to_is_pulled_and_pushed_to(cli: Command, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-C", layout, "-xf", DATA / "layout.tar"], check=True)
    for tag, expected in EXPECTED.items():
        cli.ok("pull", *(["--lazy"] if tag == "v3" else []), f"oci:{layout}:{tag}", f"app:{tag}")
        assert told(cli, f"app:{tag}") == expected
    cli.ok("realize", "app:v3")
    cli.ok("fsck")
    blobs = {path.name: path.stat().st_ino for path in (layout / "blobs/sha256").iterdir()}
    cli.ok("worktree", "add", "app+dev", "app:v3")
    (cli.store / "refs/app/worktrees/dev/upperdir/new").write_bytes(b"new" * 900)
    cli.ok("commit", "app+dev", "v4")
    cli.ok("push", "app:v4", f"oci:{layout}:v4")
    kept = {path.name for path in (layout / "blobs/sha256").iterdir() if blobs.get(path.name) == path.stat().st_ino}
    assert kept == set(blobs)
    assert len(list((layout / "blobs/sha256").iterdir())) - len(kept) <= 6  # no pack of what was there
    check(Store.open(cli.store))


def test_a_store_of_format_1_is_refused_with_the_way_to_carry_it_over(cli: Command) -> None:
    cli.ok("import", "--tag", "v1", DATA / "archive.stratum.tar", "app:v1")
    path = cli.store / "stratum.toml"
    path.write_text(path.read_text().replace("format = 2", "format = 1"))
    for verb in (("list",), ("import", "--bare", DATA, "app:v2"), ("fsck", "--repair")):
        code, _, err = cli(*verb)
        assert (code, err.count("error: "), "format 1" in err) == (6, 1, True), verb
        assert "export" in err
        assert "import" in err
