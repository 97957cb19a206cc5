"""The command line's contract: streams, formats, exit codes, one clear error for bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import SCRIPT, Command


@pytest.fixture
def cli(store_dir: Path, runtime_dir: Path) -> Command:
    """The script itself, not a fork of what has loaded it."""
    return Command(store_dir, runtime_dir, fresh=True)


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> Path:
    """A store with ``app:latest``; the source directory."""
    source = make_tree(tmp_path / "src", {"a": "1", "d/b": "2"})
    cli.ok("import", "--bare", source, "app")
    return source


def test_data_is_on_stdout_and_notes_are_on_stderr(cli: Command, tmp_path: Path) -> None:
    code, out, err = cli("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    assert code == 0
    assert len(out.strip()) == 64
    assert out.count("\n") == 1
    assert err.startswith("app:latest is ")
    assert cli("import", "-q", tmp_path / "src", "app").stderr == ""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The script, with a store that has ``app:latest``, for what changes nothing."""
    directory = tmp_path_factory.mktemp("shared")
    (directory / "run").mkdir(mode=0o700)
    cli = Command(directory / "store", directory / "run", fresh=True)
    cli.ok("import", "--bare", make_tree(directory / "src", {"a": "1", "d/b": "2"}), "app")
    return cli


BAD = [
    (("list", "nothing"), 3, "not-found"),
    (("show", "app:nothing"), 3, "not-found"),
    (("show", "0123456789abcdef"), 3, "not-found"),
    (("show", "a/b"), 3, "not-found"),
    (("show", "app:latest~9"), 3, "not-found"),
    (("log", "app", "nothing"), 3, "not-found"),
    (("log",), 2, "usage"),
    (("remove", "app:latest~1"), 2, "usage"),
    (("tag", "--unpin", "app:latest~1"), 3, "not-found"),
    (("show", ".."), 2, "usage"),
    (("show", "app:.."), 2, "usage"),
    (("show", "app:latest+main"), 2, "usage"),
    (("show", "app.lock"), 2, "usage"),
    (("show", "x" * 129), 2, "usage"),
    (("show", "app\nx"), 2, "usage"),
    (("show", "app@"), 2, "usage"),
    (("show", "app:latest@1"), 2, "usage"),
    (("show", "app+nothing@1"), 3, "not-found"),
    (("worktree", "remove", "app+dev@1"), 2, "usage"),
    (("remove", "app+dev@1"), 2, "usage"),
    (("remove", "app@1"), 2, "usage"),
    (("worktree", "add", "app+dev@1"), 2, "usage"),
    (("tag", "app:latest", "app@1"), 2, "usage"),
    (("commit", "app@1"), 2, "usage"),
    (("status", "app@1"), 2, "usage"),
    (("log", "--reflog", "app@1"), 2, "usage"),
    (("reset", "app+dev@1"), 2, "usage"),
    (("worktree", "switch", "app+x", "app+dev@1"), 2, "usage"),
    (("restore", "app:latest", "a", "--to", "app+dev@1"), 2, "usage"),
    (("show",), 2, "usage"),
    (("frobnicate",), 2, "usage"),
    (("list", "--nonsense"), 2, "usage"),
    (("import", "--bare", "/nonexistent/dir", "app"), 3, "not-found"),
    (("import", "nonexistent", "app"), 3, "not-found"),
    (("import", "--bare", "/etc/passwd", "app"), 2, "usage"),
    (("worktree", "add", "app+x", "nothing:v1"), 3, "not-found"),
    (("worktree", "add", "app+x", "app:nothing"), 3, "not-found"),
    (("worktree", "remove", "app+nothing"), 3, "not-found"),
    (("worktree", "add", "app:latest", "a/b"), 2, "usage"),
    (("unmount", "/"), 3, "not-found"),
    (("unmount", "app"), 3, "not-found"),
    (("tag", "app:latest", "bad/tag"), 2, "usage"),
    (("diff", "app:latest", "nothing"), 3, "not-found"),
    (("push", "app:latest", "not a target"), 2, "usage"),
    (("pull", "UPPER/case", "app"), 2, "usage"),
    (("restore", "app:latest", "../../etc/passwd", "--to", "/tmp"), 2, "usage"),
    (("restore", "app:latest", "nothing", "--to", "/tmp"), 3, "not-found"),
    (("commit", "app:latest"), 2, "usage"),
    (("reset", "app+nothing", "app:latest"), 3, "not-found"),
    (("patchset", "show", "/nonexistent.toml"), 3, "not-found"),
]


@pytest.mark.parametrize(("arguments", "code", "error_id"), BAD, ids=[" ".join(map(repr, a)) for a, _, _ in BAD])
def test_bad_input_gets_one_clear_error(
    shared: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, error_id: str
) -> None:
    """On one store, as nothing changes it. Once by the script itself, and once by a fork that has loaded it."""
    cli = Command(shared.store, shared.runtime_dir)
    before = sorted(path for path in cli.store.rglob("*") if "tmp" not in path.parts)
    result = shared("--format", "json", *arguments, cwd=tmp_path)
    assert (result.code, result.stdout) == (code, "")
    error = json.loads(result.stderr)
    assert (error["code"], error["id"]) == (code, error_id)
    assert error["message"]
    assert error.keys() == {"code", "id", "message", "hint"}
    text = cli(*arguments, cwd=tmp_path)
    assert text.code == code
    assert text.stderr.startswith("error: ")
    assert "Traceback" not in text.stderr
    assert len(text.stderr.strip().split("\n")) <= 2
    after = sorted(path for path in cli.store.rglob("*") if "tmp" not in path.parts)
    assert [path for path in after if path not in before and not path.name.endswith(".lock")] == []


def test_no_store_is_not_found(cli: Command) -> None:
    assert cli("list").code == 3
    assert cli("show", "app").code == 3


def test_a_store_of_an_unknown_format_is_refused(cli: Command, app: Path) -> None:
    (cli.store / "stratum.toml").write_text("format = 99\n")
    for arguments in (("list",), ("import", str(app), "other"), ("mount", "app")):
        code, _, err = cli(*arguments)
        assert code == 6
        assert "format 99" in err


def test_an_ambiguous_prefix_lists_the_commits(cli: Command, app: Path, tmp_path: Path) -> None:
    commit = cli.ok("import", app, "app")
    twin = commit[:10] + ("0" if commit[10] != "0" else "1") + commit[11:]
    (cli.store / "commits" / twin).touch()
    code, _, err = cli("show", commit[:10])
    assert code == 4
    assert commit[:12] in err
    assert twin[:12] in err
    assert cli.ok("show", commit[:11]).startswith(f"commit      {commit}")
    assert cli("show", f"app:{commit[:10]}").code == 4


def test_both_arguments_as_paths_are_ambiguous(cli: Command, tmp_path: Path) -> None:
    make_tree(tmp_path / "one", {"a": "1"})
    make_tree(tmp_path / "two", {"b": "2"})
    assert cli("import", "--bare", "one", "two", cwd=tmp_path).code == 2
    assert cli.json("import", "--bare", "./one", "two", cwd=tmp_path)["ref"] == "two:latest"
    assert cli.json("import", "three", "two", cwd=tmp_path)["ref"] == "three:latest"


def test_names_cannot_act_on_the_terminal(cli: Command, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in (b"\x1b[31mred", b"line\nbreak", b"\xff\xfe", b"back\\slash", "\u202eevil".encode()):
        (source / os.fsdecode(name)).write_bytes(b"x")
    cli.ok("import", source, "odd")
    text = cli.ok("diff", "odd:latest")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert sorted(text.split("\n")) == sorted(
        ["A /\\x1b[31mred", "A /line\\nbreak", "A /\\xff\\xfe", "A /back\\\\slash", "A /\\u202eevil"]
    )
    assert len(cli.json("diff", "odd:latest")) == 5


def test_a_closed_pipe_is_no_traceback(cli: Command, app: Path) -> None:
    import subprocess

    from tests.support.command import SCRIPT

    with subprocess.Popen(
        [SCRIPT, "help"], env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_source_date_epoch(cli: Command, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "src", {"a": "1"})
    cli.ok("import", source, "app", env={"SOURCE_DATE_EPOCH": "1000000000"})
    assert cli.json("show", "app")["commit"]["timestamp"] == "2001-09-09T01:46:40Z"
    assert cli("import", source, "b", env={"SOURCE_DATE_EPOCH": "soon"}).code == 2


def test_help_of_every_verb(cli: Command) -> None:
    from stratum.cli.verbs import VERBS

    cli.fresh = False

    for verb in VERBS:
        assert cli.ok("help", verb).startswith("Usage: stratum")
        assert cli.ok(verb, "--help").startswith("Usage: stratum")


def test_completion_offers_refs(cli: Command, app: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_STRATUM_COMPLETE" in cli.ok("completion", shell)
    env = {"COMP_WORDS": "stratum mount app", "COMP_CWORD": "2", "_STRATUM_COMPLETE": "bash_complete"}
    assert cli("", env=env).stdout.split() == ["plain,app", "plain,app:latest"]


def test_no_verb_at_all(cli: Command) -> None:
    for args in ([], ["worktree"]):
        done = cli(*args)
        assert (done.code, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: stratum")


def test_closed_standard_files(cli: Command, app: Path) -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        script = f'"$0" import --bare "$1" other {closed}'
        done = subprocess.run(
            ["sh", "-c", script, SCRIPT, app], env=cli.environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    cli.ok("verify", "other")


def test_a_missing_directory_is_not_found(cli: Command, app: Path, tmp_path: Path) -> None:
    there = tmp_path / "missing" / "x"
    for args in (("export", "app", there), ("mount", "app:latest", there), ("patchset", "show", there)):
        done = cli(*args)
        assert (done.code, "missing" in done.stderr) == (3, True)
    assert not there.parent.exists()


@pytest.mark.root
def test_unmount_tells_programs_what_it_unmounted(cli: Command, app: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    cli.ok("mount", "app:latest", tmp_path / "mnt")
    code, out, err = cli("--format", "json", "unmount", tmp_path / "mnt")
    done = {"ref": "app:latest", "mountpoint": str(tmp_path / "mnt"), "persistent": False}
    assert (code, json.loads(out), err) == (0, [done], "")


@pytest.mark.root
def test_a_mountpoint_that_cannot_be_made(cli: Command, app: Path) -> None:
    code, _, err = cli("mount", "app:latest", "/proc/stratum")
    assert (code, err) == (
        1,
        "error: cannot make the mountpoint /proc/stratum: No such file or directory\n"
        "hint: name a directory elsewhere, or none: 'stratum mount REF' makes one\n",
    )


def test_tables_on_a_terminal(cli: Command, app: Path) -> None:
    """A header, and a line for each row with its columns aligned: no frame, no empty lines."""
    ours, theirs = os.openpty()
    environment = {**cli.environment, "COLUMNS": "80"}
    subprocess.run([SCRIPT, "list"], env=environment, stdout=theirs, stdin=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()] == [
        ["STRATUM", "TAGS", "WORKTREES"],
        ["app", "latest", "-"],
    ]
