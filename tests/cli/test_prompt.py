"""``status --short``: what a prompt shows, by a look that is short whatever is there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from stratum.api.prompt import LOOKED_AT
from tests.cli.trees import make_tree
from tests.support.command import SCRIPT, Command

pytestmark = pytest.mark.root


@pytest.fixture
def place(cli: Command, tmp_path: Path) -> Path:
    """``db+main`` over ``db:v1``, mounted."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"in/a": "1"}), "db:v1")
    cli.ok("worktree", "add", "db+main", "db:v1")
    return Path(cli.ok("mount", "db+main"))


def line(cli: Command, path: Path) -> str:
    result = cli("status", "--short", cwd=path)
    assert (result.code, result.stderr) == (0, "")
    return result.stdout


def test_what_is_committed_and_what_is_not(cli: Command, place: Path) -> None:
    assert line(cli, place) == "db+main v1\n"
    (place / "in" / "b").write_text("b")
    assert line(cli, place / "in") == "db+main* v1\n"
    commit = cli.ok("commit", "db+main")
    assert line(cli, place) == f"db+main {commit[:7]}\n"
    cli.ok("tag", "db+main", "latest")
    cli.ok("tag", "db+main", "v2")
    assert line(cli, place) == "db+main v2\n"
    (place / "in" / "b").unlink()
    assert line(cli, place) == "db+main* v2\n"
    found = cli.json("status", "--short", place)
    assert found == {
        "ref": "db+main",
        "commit": commit,
        "tag": "v2",
        "dirty": True,
        "history": None,
        "partial": False,
        "read_only": False,
    }


def test_more_than_a_short_look_tells(cli: Command, place: Path) -> None:
    for number in range(LOOKED_AT + 10):
        (place / "in" / f"{number}").touch()
    cli.ok("commit", "db+main", "v2")
    assert line(cli, place) == "db+main? v2\n"


def test_history_and_read_only_mounts(cli: Command, place: Path, tmp_path: Path) -> None:
    settings = cli.store / "refs/db/history/main/settings.toml"
    cli.ok("history", "on", "db+main")
    assert settings.exists()
    assert line(cli, place) == "db+main v1 rec\n"
    cli.ok("watch", "--stop")
    assert line(cli, place) == "db+main v1 gap\n"
    tagged = Path(cli.ok("mount", "db:v1", tmp_path / "tag"))
    assert line(cli, tagged) == "db:v1\n"
    cli.ok("unmount", tagged)


def test_the_lines_of_the_guide(cli: Command, place: Path, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/prompt.md").read_text()
    (lines,) = re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)
    environment = {**cli.environment, "PATH": f"{SCRIPT.parent}:{cli.environment['PATH']}"}
    for path, shown in ((place, "db+main v1"), (tmp_path, "")):
        program = f'{lines}\ncd "$0" || exit 1\nprintf "%s" "${{PS1@P}}"'
        prompt = subprocess.check_output(["bash", "-c", program, path], env=environment, text=True)
        assert prompt.rpartition(" ")[0].partition(" ")[2].strip("#$ ") == shown


def test_nothing_elsewhere_and_no_errors(cli: Command, place: Path, tmp_path: Path) -> None:
    assert line(cli, tmp_path) == ""
    assert cli.json("status", "--short", tmp_path) is None
    assert cli("status", "--short", tmp_path / "none") == (0, "", "")
    state = cli.runtime_dir / "state"
    content = state.read_bytes()
    state.write_bytes(b"x")
    assert line(cli, place) == "db+main\n"
    state.write_bytes(content)
    meta = cli.store / "refs/db/worktrees/main/meta.toml"
    kept = meta.read_bytes()
    meta.write_bytes(b"x")
    assert line(cli, place) == "db+main\n"
    meta.write_bytes(kept)
    other = Command(cli.store.parent / "no store", cli.runtime_dir)
    assert line(other, place) == "db+main v1\n"
    assert os.listdir(place) == ["in"]
