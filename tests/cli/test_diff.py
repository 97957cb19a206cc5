"""``diff``: sizes, modes, lines and numbers, of commits and of paths in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stratum.api.patches import PATCH_MAX
from tests.cli.trees import make_tree
from tests.support.command import Command

OLD: dict[str, str | bytes] = {
    "a": "one\ntwo\nthree",
    "bin": b"\0" * 10,
    "cr": b"a\rb\nc\n",
    "gone": "x\n",
    "huge": b"x" * PATCH_MAX,
    "sh": "run\n",
}
NEW: dict[str, str | bytes] = {
    "a": "one\n2\nthree",
    "bin": b"\0" * 2000,
    "cr": b"a\rb\nd\n",
    "huge": b"x" * (PATCH_MAX + 1),
    "new": "n",
    "sh": "run\n",
}


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> Path:
    """``app:v1`` with the files ``OLD`` and ``app:latest`` with ``NEW``, and a script and a link that changed."""
    source = tmp_path / "src"
    for files, ref, mode, target in ((OLD, "app:v1", 0o644, "a"), (NEW, "app:latest", 0o755, "b")):
        shutil.rmtree(source, ignore_errors=True)
        make_tree(source, files)
        (source / "sh").chmod(mode)
        (source / "link").symlink_to(target)
        for path in source.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
        cli.ok("import", "--bare", source, ref)
    return source


def test_with_sizes(cli: Command, app: Path) -> None:
    assert [line for line in cli.ok("diff", "-l", "app:v1", "app").splitlines() if line[2:] != "/"] == [
        "M /a  (13 B -> 11 B)",
        "M /bin  (10 B -> 2.0 KiB)",
        "M /cr  (6 B -> 6 B)",
        "D /gone  (2 B)",
        "M /huge  (1.0 MiB -> 1.0 MiB)",
        "M /link  (link to a -> link to b)",
        "A /new  (1 B)",
        "m /sh  (mode 0644 -> 0755)",
    ]


def test_numbers_for_programs(cli: Command, app: Path) -> None:
    found = cli.json("diff", "--stat", "app:v1", "app", "a", "bin", "gone", "new", "sh")
    assert found == {"added": 1, "deleted": 1, "modified": 2, "type": 0, "metadata": 1, "bytes": 1987}


def test_lines(cli: Command, app: Path, tmp_path: Path) -> None:
    shown = cli("diff", "--text", "app:v1", "app").stdout
    for piece in (
        "M /bin\nbinary, 10 B -> 2.0 KiB\n",
        "D /gone\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
        "M /huge\ntoo large to compare lines, 1.0 MiB -> 1.0 MiB\n",
        "M /link\nlink to a -> link to b\n",
        "A /new\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+n\n\\ No newline at end of file\n",
        "m /sh  (mode)\nold mode 100644\nnew mode 100755\n",
        " a\\rb\n-c\n+d\n",
    ):
        assert piece in shown
    old = make_tree(tmp_path / "old", {"a": OLD["a"], "gone": OLD["gone"]})
    patch = cli("diff", "-p", "app:v1", "app", "a", "gone", "new").stdout
    subprocess.run(["patch", "-p1", "-s", "-d", old], input=patch, text=True, check=True)
    assert {path.name: path.read_text() for path in old.iterdir()} == {"a": NEW["a"], "new": NEW["new"]}


def test_one_path(cli: Command, app: Path, tmp_path: Path) -> None:
    for words in (["app:v1:/a", "app"], ["app:v1", "app:latest:a"], ["app:v1:a", "app:latest:/a"]):
        assert cli.ok("diff", *words) == "M /a"
    assert cli("diff", "app:v1:/a", "app:latest:/b").code == 2
    assert cli("diff", "app:v1:/nothing", "app").code == 3
    assert cli("diff", cwd=tmp_path).code == 2


def test_a_worktree_is_read_only_as_far_as_that_tells(cli: Command, app: Path, tmp_path: Path) -> None:
    """What the lines say is what the digests say, which the document has: of each file, whatever was done to it."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    cli.ok("worktree", "add", "app+w", "app:v1")
    cli.ok("mount", "app+w", str(mountpoint))
    try:
        os.utime(mountpoint / "huge", (1, 1))  # copied up, and as it was
        (mountpoint / "bin").write_bytes(b"\1" * 10)
        (mountpoint / "cr").write_bytes(b"longer" * 100)
        (mountpoint / "new").write_bytes(b"new" * 100)
        os.link(mountpoint / "sh", mountpoint / "also")
        os.link(mountpoint / "huge", mountpoint / "another")
        (mountpoint / "gone").unlink()
        lines = cli.ok("diff", "app:v1", "app+w").splitlines()
        assert lines == cli.ok("diff", "app+w").splitlines()
        told = cli.json("diff", "app:v1", "app+w")
    finally:
        cli.ok("unmount", str(mountpoint))
    assert [f"{change['kind']} {change['path']}" for change in told if change["path"] != "/"] == [
        "added /also",
        "added /another",
        "modified /bin",
        "modified /cr",
        "deleted /gone",
        "metadata /huge",
        "added /new",
        "metadata /sh",
    ]
    assert all("digest" in change["new"] for change in told if change["path"] in ("/another", "/cr", "/huge", "/new"))
    letters = {"added": "A", "deleted": "D", "modified": "M", "metadata": "m"}
    said = [
        f"{letters[change['kind']]} {change['path']}"
        + (f"  ({', '.join(change['fields'])})" * (change["kind"] == "metadata"))
        for change in told
    ]
    assert lines == said
