"""``history``, and what can be done with an earlier state: ``NAME+WORKTREE@CHANGE``, CHANGE, ``--at``."""

from __future__ import annotations

import base64
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from stratum.frozen import replace
from stratum.store import Store
from stratum.store.histories import HistorySettings
from tests.cli.test_completion import completed
from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command
from tests.support.logbook import START, Logbook


@pytest.fixture
def book(cli: Command, tmp_path: Path) -> Logbook:
    """``app+dev`` over a commit with ``app.conf`` and ``d/big``, and its history:

    2 write app.conf, 3 create new, 4 version of app.conf, 5 write app.conf, 6 rename d -> e, 7 a log that is open,
    8 a gap, 9 delete app.conf
    """
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"app.conf": "first", "d/big": BIG}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    book = Logbook(Store.open(cli.store))
    book.write("/app.conf", b"second", by="vim")
    book.create("/new", BIG.encode() + b"new", by="cp", container="ab" * 32)
    book.write("/app.conf", b"between", "version", by="sed")
    book.write("/app.conf", b"third", by="sed")
    book.rename("/d", "/e", by="mv")
    book.unknown("/e/log", "open", "create")
    book.add("gap", None, why="nobody watched from 14:00:07 to 14:00:09")
    book.delete("/app.conf", by="rm")
    return book


def rows(cli: Command, *args: str | Path, **env: str) -> list[list[str]]:
    """The lines of a list, without the commits, whose times are those of this test."""
    result = cli("history", *args, env={"TZ": "UTC", **env})
    assert result.code == 0, result.stderr
    found = [line.split("\t") for line in result.stdout.splitlines()]
    return [row for row in found if row[2] != "commit"]


def listed(cli: Command, *args: str | Path) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = json.loads(cli.ok("history", "--format", "json", *args))
    return [line for line in document if line["op"] != "commit"]


def changes(cli: Command, *args: str | Path) -> list[int]:
    return [line["change"] for line in listed(cli, *args)]


def test_what_was_done_is_listed_newest_first(cli: Command, book: Logbook) -> None:
    when = "2026-11-21 14:00:"
    commit = book.store.tags.get("app", "latest")
    assert rows(cli, "app+dev") == [
        ["9", when + "09", "delete", "-", "rm", "/app.conf"],
        ["8", when + "08", "gap", "-", "-", "nobody watched from 14:00:07 to 14:00:09"],
        ["7", when + "07", "create", "1000 B", "-", "/e/log (content not kept: not closed yet)"],
        ["6", when + "06", "rename", "-", "mv", "/d -> /e"],
        ["5", when + "05", "write", "5 B", "sed", "/app.conf"],
        ["4", when + "04", "version", "7 B", "sed", "/app.conf"],
        ["3", when + "03", "create", "203 B", "cp (abababababab)", "/new"],
        ["2", when + "02", "write", "6 B", "vim", "/app.conf"],
        ["1", when + "01", "base", "-", "-", f"{commit[:12]} history on"],
    ]


@pytest.mark.usefixtures("book")
def test_times_are_local(cli: Command) -> None:
    assert rows(cli, "app+dev", "-n", "2", TZ="Etc/GMT-10")[-1][1] == "2026-11-22 00:00:09"


@pytest.mark.usefixtures("book")
def test_of_one_path(cli: Command) -> None:
    result = cli("history", "app+dev", "app.conf", env={"TZ": "UTC"})
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines if line[2] != "commit"] == ["9", "8", "5", "4", "2", "1"]
    assert lines[-1][2:] == ["base", "5 B", "-", lines[-1][-1]]
    assert lines[-1][-1].startswith("as in ")
    assert "deleted by CHANGE 9" in result.stderr
    assert "stratum restore app+dev /app.conf 5" in result.stderr


@pytest.mark.usefixtures("book")
def test_of_a_directory_all_that_is_below(cli: Command) -> None:
    assert changes(cli, "app+dev", "e") == [8, 7, 6]
    assert changes(cli, "app+dev", "/") == [9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_renames_are_followed_where_that_is_asked_for(cli: Command, book: Logbook) -> None:
    again = book.write("/e/big", b"again")
    assert changes(cli, "app+dev", "e/big") == [again, 8, 6]
    found = listed(cli, "app+dev", "e/big", "--follow-renames")
    assert [line["change"] for line in found] == [again, 8, 6, 1]
    assert (found[-1]["path"], found[-1]["size"]) == ("/d/big", len(BIG))


@pytest.mark.usefixtures("book")
def test_fewer_lines(cli: Command) -> None:
    assert len(cli.ok("history", "app+dev", "-n", "3").splitlines()) == 3
    assert changes(cli, "app+dev", "--op", "rename", "--op", "delete") == [9, 6]
    assert changes(cli, "app+dev", "--since", "2026-11-21T14:00:07Z") == [9, 8, 7]
    assert changes(cli, "app+dev", "--until", "2026-11-21T14:00:02.500Z") == [2, 1]
    assert changes(cli, "app+dev@4") == [4, 3, 2, 1]
    assert changes(cli, "app+dev@4", "app.conf") == [4, 2, 1]


def test_directories_of_which_only_the_time_moved(cli: Command, book: Logbook) -> None:
    from stratum.tree.model import Directory

    moved = book.add("mtime", "/", Directory(0o40755, os.geteuid(), os.getegid(), 5))
    assert changes(cli, "app+dev", "-n", "1") != [moved]
    assert moved in changes(cli, "app+dev", "--all")
    assert moved not in changes(cli, "app+dev")


def test_commits_are_between_what_was_done(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    now = datetime.now(timezone.utc)
    book = Logbook(Store.open(cli.store))
    book.at = now - timedelta(minutes=1)
    book.write("/a", b"2")
    made = cli.ok("commit", "app+dev", "v1", "-m", "before the\x1b upgrade").strip()
    book.at = now + timedelta(minutes=1)
    book.write("/a", b"3")
    lines = [line.split("\t") for line in cli.ok("history", "app+dev", "a").splitlines()]
    moves = [line for line in lines if line[2] == "commit"]
    assert [line[0] for line in lines if line not in moves] == ["3", "2", "1"]
    if made != book.store.tags.get("app", "latest"):
        assert moves[0][-1].startswith(made[:12])
    assert all("\x1b" not in line[-1] for line in lines)


def test_commits_of_the_same_second_are_where_they_were_made(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    book = Logbook(Store.open(cli.store))
    log = book.store.root / "refs" / "app" / "log.jsonl"
    base = book.store.tags.get("app", "latest")

    def move(when: str, old: str | None) -> None:
        table = {"when": when, "kind": "worktree", "which": "dev", "old": old, "new": base, "why": f"at {when}"}
        with log.open("a") as file:
            file.write(json.dumps(table) + "\n")

    log.write_text("")
    second = "2026-11-21T14:00:05"
    move(f"{second}.100Z", None)
    move(f"{second}.250Z", base)
    move(f"{second}Z", base)  # as the first versions wrote it
    for at in (100, 200, 250, 300):
        book.at = datetime.fromisoformat(f"{second}.{at}+00:00") - timedelta(seconds=1)
        book.write("/a", b"%d" % at)
    found = json.loads(cli.ok("history", "--format", "json", "app+dev"))
    moves = [(line["op"] == "commit", line["when"]) for line in found if line["change"] != 1]
    assert moves == [
        (True, f"{second}Z"),
        (False, f"{second}.300Z"),
        (True, f"{second}.250Z"),
        (False, f"{second}.250Z"),
        (False, f"{second}.200Z"),
        (False, f"{second}.100Z"),
        (True, f"{second}.100Z"),
    ]


def test_json_says_all(cli: Command, book: Logbook) -> None:
    book.create("/we\x1bird\udcff", b"x", by="\x1b[31m")
    first, *others = listed(cli, "app+dev", "-n", "9")
    assert first == {
        "change": 10,
        "when": "2026-11-21T14:00:10.000Z",
        "op": "create",
        "path": "/we\\x1bird\\xff",
        "was": None,
        "link": None,
        "size": 1,
        "unknown": None,
        "by": "\x1b[31m",
        "container": None,
        "commit": None,
        "why": None,
    }
    assert next(line for line in others if line["change"] == 3)["container"] == "ab" * 32
    out = cli.ok("history", "app+dev")
    assert "\x1b" not in out
    assert "/we\\x1bird\\xff" in out


BAD = [
    (("history", "app+dev", "never"), 3, "was never in app+dev", "lists what was"),
    (("history", "app+dev", "app.con"), 3, "was never in", "did you mean /app.conf?"),
    (("history", "app+dev", "e/bigg"), 3, "was never in", "did you mean /e/big?"),
    (("history", "app+dev", "../x"), 2, "'..'", ""),
    (("history", "app+dev", "--op", "frob"), 2, "no kind of operation", "create"),
    (("history", "app+dev", "--since", "frob"), 2, "no time", "10 minutes ago"),
    (("history", "app+dev", "-n", "0"), 2, "", ""),
    (("history", "app:latest"), 2, "tag or commit", "NAME+WORKTREE"),
    (("history", "app+other"), 3, "no worktree app+other", ""),
    (("history", "app"), 3, "app+main", ""),
    (("history", "app+dev@99"), 3, "no CHANGE 99", "1 to 9"),
    (("history",), 2, "", ""),
    (("show", "app+dev@99"), 3, "no CHANGE 99", "1 to 9"),
    (("show", "app+dev@5", "nope"), 3, "app+dev@5 has no /nope", ""),
    (("cat", "app+dev@9", "app.conf"), 3, "has no /app.conf", "CHANGE 5"),
    (("cat", "app+dev@2", "new"), 3, "has no /new", "CHANGE 3"),
    (("cat", "app+dev@2", "d"), 2, "is a directory", "stratum ls"),
    (("cat", "app+dev@8", "e/log"), 1, "open for writing", ""),
    (("restore", "app+dev", "e/log", "7", "--to", "."), 1, "open for writing", ""),
    (("restore", "app+dev", "app.conf", "77"), 3, "no CHANGE 77", "1 to 9"),
    (("restore", "app+dev@5", "app.conf", "3"), 3, "has no /3", ""),
    (("restore", "app+dev@5", "app.conf", "--at", "2h"), 2, "one state already", ""),
    (("restore", "app+dev", "app.conf", "--at", "frob"), 2, "no time", ""),
    (("restore", "app+dev", "app.conf", "--at", "2020-01-01"), 3, "does not reach back", "stratum log"),
    (("restore", "app:latest", "app.conf", "--at", "2h"), 2, "tag or commit", ""),
    (("restore", "app+dev@5", "app.conf", "new", "--to", "-"), 2, "prints one file", ""),
    (("diff", "app+dev@1", "app+dev@5", "nope"), 3, "neither", ""),
]


@pytest.mark.parametrize(("arguments", "code", "says", "hints"), BAD, ids=[" ".join(a) for a, *_ in BAD])
@pytest.mark.usefixtures("book")
def test_bad_input_is_one_line(
    cli: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str, hints: str
) -> None:
    result = cli(*arguments, cwd=tmp_path)
    assert (result.code, result.stdout) == (code, "")
    if says:
        error, *hint = result.stderr.splitlines()
        assert error.startswith("error: ")
        assert says in error
        assert hints in "".join(hint)
    assert "Traceback" not in result.stderr


def test_a_worktree_without_history(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    for arguments in (("history", "app+dev"), ("cat", "app+dev@1", "a"), ("tag", "app+dev@1", "x")):
        result = cli(*arguments)
        assert result.code == 3
        assert "app+dev has no history" in result.stderr
        assert "stratum history on app+dev" in result.stderr
    assert cli("restore", "app+dev", "a", "4", "--to", ".", cwd=tmp_path).code == 3


def test_what_a_file_was(cli: Command, book: Logbook) -> None:
    assert [cli.ok("cat", f"app+dev@{n}", "app.conf") for n in (1, 2, 4, 5)] == ["first", "second", "between", "third"]
    assert cli.ok("show", "app+dev@2", "/app.conf") == "second"
    assert cli.ok("cat", "app:latest", "d/big") == BIG
    assert cli.ok("cat", "app+dev", "d/big") == BIG
    assert cli.ok("restore", "app+dev", "app.conf", "4", "--to", "-") == "between"
    document = json.loads(cli.ok("--format", "json", "cat", "app+dev@4", "app.conf"))
    assert base64.b64decode(document["content"]) == b"between"
    assert document["type"] == "file"
    book.symlink("/ln", "app.conf\x1b")
    assert cli.ok("show", "app+dev@10", "ln") == "app.conf\\x1b"
    result = cli("show", "app+dev@8", "e")
    assert result.stdout.splitlines()[0].split("\t")[-1] == "big"
    assert "left out" in result.stderr
    assert [entry["name"] for entry in json.loads(cli.ok("--format", "json", "show", "app+dev@6", "/"))["entries"]] == [
        "app.conf",
        "e",
        "new",
    ]


def test_damage_of_what_is_printed_is_told(cli: Command, book: Logbook) -> None:
    tree = book.store.changes.state(_ref(3)).tree
    digest = tree.children[b"new"].digest  # type: ignore[attr-defined]
    path = book.store.objects.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"x" * 203)
    result = cli("cat", "app+dev@3", "new")
    assert result.code == 5
    assert "does not match" in result.stderr or "digest" in result.stderr


def _ref(n: int) -> Any:
    from stratum.refs import parse_ref

    return parse_ref(f"app+dev@{n}")


@pytest.mark.usefixtures("book")
def test_differences(cli: Command) -> None:
    assert cli.ok("diff", "app+dev@1", "app+dev@5").splitlines() == ["M /app.conf", "A /new"]
    assert cli.ok("diff", "app+dev@1", "app+dev@5", "new").splitlines() == ["A /new"]
    assert cli.ok("diff", "app+dev@4", "app+dev@5").splitlines() == ["M /app.conf"]
    assert cli.ok("diff", "app+dev@3").splitlines() == ["A /new"]
    assert cli.ok("diff", "app:latest", "app+dev@9", "app.conf", "new").splitlines() == ["D /app.conf", "A /new"]
    assert cli.ok("diff", "app+dev@9", "app+dev", "app.conf").splitlines() == ["A /app.conf"]


def test_differences_line_by_line(cli: Command, book: Logbook) -> None:
    n = book.write("/app.conf", b"one\ntwo\n\x1bthree", "create")
    m = book.write("/app.conf", b"one\n2\t\n\x1bthree")
    assert cli.ok("diff", "-p", f"app+dev@{n}", f"app+dev@{m}").splitlines() == [
        "M /app.conf",
        "--- a/app.conf",
        "+++ b/app.conf",
        "@@ -1,3 +1,3 @@",
        " one",
        "-two",
        "+2\t",
        " \\x1bthree",
        "\\ No newline at end of file",
    ]
    assert cli.ok("diff", "-p", "app+dev@1", f"app+dev@{m}", "new").splitlines()[:3] == [
        "A /new",
        "--- /dev/null",
        "+++ b/new",
    ]
    binary = book.write("/app.conf", b"\0" * 100)
    assert cli.ok("diff", "-p", f"app+dev@{binary}").splitlines() == ["M /app.conf", "binary, 13 B -> 100 B"]
    assert cli.ok("diff", "-p", "app+dev@7").splitlines()[:1] == ["A /e/log"]
    assert "nobody knows the content" in cli.ok("diff", "-p", "app+dev@7")
    (change,) = json.loads(cli.ok("--format", "json", "diff", "-p", f"app+dev@{m}"))
    assert change["patch"].startswith("--- a/app.conf\n")
    assert "+first" in cli.ok("diff", "-p", f"app+dev@{m}", "app+dev", "app.conf").splitlines()


@pytest.mark.usefixtures("book")
def test_into_a_directory(cli: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cli.ok("restore", "app+dev", "app.conf", "4", "--to", out)
    assert shown(out) == {"app.conf": "between"}
    result = cli("restore", "app+dev@8", "/", "--to", out, "--force")
    assert shown(out) == {"app.conf": "third", "e": None, "e/big": BIG, "new": BIG + "new"}
    assert "1 file is left out of what was restored, as nobody knows the content: /e/log" in result.stderr


@pytest.mark.usefixtures("book")
def test_as_it_was_at_a_moment(cli: Command) -> None:
    def at(when: str) -> str:
        return cli.ok("restore", "app+dev", "app.conf", "--at", when, "--to", "-")

    assert at("2026-11-21T14:00:01Z") == "first"
    assert at("2026-11-21T14:00:03Z") == "second"
    assert at("2026-11-21T14:00:04Z") == "between"
    assert at("2026-11-21T14:00:05.500Z") == "third"
    moment = (START + timedelta(seconds=7)).isoformat()
    result = cli("restore", "app+dev", "app.conf", "--at", moment, "--to", "-")
    assert "nobody watched app+dev then" in result.stderr


@pytest.mark.usefixtures("book")
def test_a_number_is_a_path_where_there_is_no_worktree_with_a_history(cli: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cli.ok("import", "--bare", make_tree(tmp_path / "n", {"a": "1", "4711": "n"}), "numbers")
    cli.ok("restore", "numbers:latest", "a", "4711", "--to", out)
    assert shown(out) == {"a": "1", "4711": "n"}


def test_what_is_excluded_is_said(cli: Command, book: Logbook) -> None:
    settings = book.store.histories.settings("app", "dev")
    assert settings is not None
    book.store.histories.set_settings("app", "dev", replace(settings, exclude=("*/big",)))
    assert "/e/big is excluded" in cli("history", "app+dev", "e/big").stderr
    assert "excluded" not in cli("history", "app+dev", "app.conf").stderr


@pytest.mark.root
@pytest.mark.usefixtures("book")
def test_a_path_where_it_is_mounted(cli: Command, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    cli.ok("mount", "app+dev", mnt)
    assert changes(cli, mnt / "app.conf") == changes(cli, "app+dev", "app.conf")
    assert changes(cli, mnt / "never-here" / ".." / "e" / "big") == changes(cli, "app+dev", "e/big")
    assert changes(cli, mnt) == changes(cli, "app+dev")
    (tmp_path / "from-outside").symlink_to(mnt / "app.conf")
    assert changes(cli, tmp_path / "from-outside") == changes(cli, "app+dev", "app.conf")
    (mnt / "from-inside").symlink_to("/etc/passwd")
    assert cli("history", mnt / "from-inside").code == 2  # it leads out of the worktree
    assert cli("history", tmp_path / "src" / "app.conf").code == 2
    assert cli("history", tmp_path / "nothing").code == 3
    cli.ok("restore", "app+dev", "app.conf", "2")
    assert (mnt / "app.conf").read_text() == "second"
    cli.ok("restore", mnt / "app.conf", "4")
    assert (mnt / "app.conf").read_text() == "between"
    cli.ok("restore", "./app.conf", "--at", "2026-11-21T14:00:05Z", cwd=mnt)
    assert (mnt / "app.conf").read_text() == "third"
    cli.ok("restore", "app+dev@8", "e")
    assert (mnt / "e" / "big").read_text() == BIG
    assert cli("restore", mnt, "4").code == 3
    assert cli("restore", "app+dev").code == 2
    cli.ok("unmount", mnt)
    cli.ok("restore", "app+dev@2", "app.conf")
    assert cli.ok("cat", "app+dev", "app.conf") == "second"


def test_a_base_is_compared_with_what_was_before(cli: Command, book: Logbook) -> None:
    n = book.begin(book.store.tags.get("app", "latest"), "reset")
    assert cli.ok("diff", f"app+dev@{n}").splitlines() == [
        "A /app.conf",
        "A /d",
        "A /d/big",
        "D /e",
        "D /e/big",
        "D /e/log",
        "D /new",
    ]
    assert cli.ok("diff", "app+dev@1") == ""


@pytest.mark.usefixtures("book")
def test_status(cli: Command) -> None:
    line = next(line for line in cli.ok("status", "app+dev").splitlines() if line.startswith("    history"))
    assert "since 2026-11-21" in line
    assert "nobody watches now" in line
    assert "last CHANGE 9" in line
    assert "203 B of contents" in line
    (tree,) = cli.json("status", "app+dev")[0]["worktrees"]
    assert tree["history"]["change"] == 9
    assert (tree["history"]["watched"], tree["history"]["content_bytes"]) == (False, 203)
    (tree,) = cli.json("status", "app")[0]["worktrees"]
    assert tree["history"]["log_bytes"] is None
    (cli.store / "refs/app/history/dev/settings.toml").write_text("nonsense")
    (tree,) = cli.json("status", "app")[0]["worktrees"]
    assert "settings.toml" in tree["history"]["trouble"]
    cli.ok("worktree", "add", "app+other", "app:latest")
    assert "history" not in cli.ok("status", "app+other")


@pytest.mark.usefixtures("book")
def test_completion(cli: Command) -> None:
    assert completed(cli, "stratum show app+dev@", ["stratum", "show", "app+dev", "@"])[:2] == ["9", "8"]
    assert completed(cli, "stratum cat app+dev@2 d/", ["stratum", "cat", "app+dev", "@", "2", "d/"]) == ["d/big"]
    words = ["stratum", "restore", "app+dev", "app.conf", ""]
    assert completed(cli, "stratum restore app+dev app.conf ", words)[:4] == ["9", "5", "4", "2"]
    assert "app+dev" in completed(cli, "stratum history ap", ["stratum", "history", "ap"])
    assert completed(cli, "stratum cat app+dev@99 a", ["stratum", "cat", "app+dev", "@", "99", "a"]) == []


def test_an_epoch_is_told_by_the_commit_that_it_begins_with(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    book = Logbook(Store.open(cli.store))
    book.write("/a", b"2")
    cli.ok("import", "--bare", make_tree(tmp_path / "other", {"a": "9"}), "app:other")
    cli.ok("reset", "app+dev", "app:other")
    other = book.store.tags.get("app", "other")
    book.at = datetime.now(timezone.utc)
    begun = book.begin(other, "the worktree is on another commit")
    last = book.write("/a", b"10")
    document = json.loads(cli.ok("history", "--format", "json", "app+dev"))
    assert [line["change"] for line in document if line["op"] != "commit"] == [last, 2, 1]
    assert next(line for line in document if line["commit"] == other)["why"].startswith("reset to")
    assert begun in changes(cli, "app+dev", "--all")
    assert begun in changes(cli, "app+dev", "--op", "base")
    assert [line["change"] for line in listed(cli, "app+dev", "a")] == [last, 2, 1]
    book.at = book.at + timedelta(hours=1)
    later = book.begin(other, "the worktree is on another commit")
    assert later in changes(cli, "app+dev")
    assert cli("history", "app+dev", "--op", "frob").code == 2


def test_a_history_that_nothing_was_recorded_in(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    store = Store.open(cli.store)
    store.histories.set_settings("app", "dev", HistorySettings("2026-11-21T14:00:00Z"))
    for path in ((), ("a",)):
        result = cli("history", "app+dev", *path)
        assert (result.code, result.stdout) == (0, "")
        assert "nothing is recorded of app+dev" in result.stderr
    assert "since" in cli.ok("status", "app+dev")


def test_a_log_that_was_edited_or_cut(cli: Command, book: Logbook) -> None:
    (log,) = (cli.store / "refs/app/history/dev").glob("*.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"by":"cp"', b'"by":"cq"'))
    assert changes(cli, "app+dev") == [9, 8, 7, 6, 5, 4, 2, 1]
    assert cli.ok("cat", "app+dev@2", "app.conf") == "second"
    for arguments in (("cat", "app+dev@5", "app.conf"), ("tag", "app+dev@5", "x"), ("restore", "app+dev", "new", "4")):
        result = cli(*arguments)
        assert (result.code, result.stdout) == (5, "")
        assert "damaged after CHANGE 2" in result.stderr
        assert "fsck" in result.stderr
    log.write_bytes(whole[:-1000])
    assert changes(cli, "app+dev")[-1] == 1
    last = changes(cli, "app+dev")[0]
    assert cli("cat", f"app+dev@{last + 1}", "d/big").code == 3
    log.write_bytes(b"")
    assert changes(cli, "app+dev") == []
    assert cli("show", "app+dev@1").code == 3


def test_the_verb_is_a_group_too(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "on")
    cli.ok("worktree", "add", "on+main", "on:latest")
    Logbook(Store.open(cli.store), "on", "main")
    assert changes(cli, "on+main") == [1]
    assert cli.ok("history", "on", "--help").startswith("Usage: stratum history on [OPTIONS] ")
    assert "Commands:" in cli.ok("history", "--help")
    assert "see 'stratum history on --help'" in cli("history", "on").stderr
    assert "see 'stratum history --help'" in cli("history", "a", "b", "c").stderr
    assert cli("history").code == 2
    assert cli("history", "-n", "1", "on+main").code == 0
