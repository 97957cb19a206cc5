"""Names that would act on a terminal are shown as escapes, in text and in JSON, wherever they come from."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import pytest

from stratum.cli.main import run
from tests.support.command import Command

NASTY = [
    b"\x1b[31mred",
    b"new\nline",
    b"\xff\xfe no utf-8",
    b"bell\x07",
    b"\xe2\x80\xae override",
    b"back\\slash",
    b"\r",
]


def safe(text: str) -> bool:
    """Whether ``text`` is valid UTF-8 that a terminal takes for text only."""
    return all(char.isprintable() or char in "\n\t" for char in text)


@pytest.fixture
def nasty(cli: Command, tmp_path: Path) -> Command:
    source = os.fsencode(tmp_path) + b"/source"
    os.mkdir(source)
    for name in NASTY:
        with open(source + b"/" + name, "wb") as file:
            file.write(name * 200)
    cli.ok("import", "--bare", source, "app:v1", "-m", "\x1b]0;title\x07 message")
    for name in NASTY:
        os.chmod(source + b"/" + name, 0o600)
    os.unlink(source + b"/" + NASTY[0])
    cli.ok("import", "--bare", source, "app:v2")
    cli.ok("worktree", "add", "app+dev", "app:v1", "--description", "\x1b[2J\u202e")
    return cli


def test_notes_are_utf8(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    done = cli("import", "--bare", tmp_path / "source", "app", "-m", "caf\udce9")
    assert done.code == 2
    assert "caf\\xe9 is not UTF-8" in done.stderr
    cli.ok("import", "--bare", tmp_path / "source", "app", "-m", "café")
    done = cli("worktree", "add", "app+dev", "app", "--description", "caf\udce9")
    assert done.code == 2
    assert "caf\\xe9 is not UTF-8" in done.stderr


def test_where_a_push_went_is_shown_safely(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    cli.ok("import", "--bare", tmp_path / "source", "app")
    assert safe(cli.ok("push", "app", f"oci:{tmp_path}/\x1b[31mred"))


READING = (
    ("diff", "app:v1", "app:v2"),
    ("diff", "--name-only", "app:v1", "app:v2"),
    ("log", "app:v1"),
    ("log", "--reflog", "app"),
    ("show", "app:v1"),
    ("status",),
    ("worktree", "list"),
    ("verify", "app:v1", "/"),
    ("verify", "app:v1", os.fsdecode(NASTY[1]), "--proof"),
    ("restore", "app:v1", os.fsdecode(NASTY[0]), "--force", "--to", "."),
)


def test_what_is_read(nasty: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "to").mkdir()
    monkeypatch.chdir(tmp_path / "to")
    for args in READING:
        for options in ((), ("--format", "json")):
            code, out, err = quick(nasty, *options, *args)
            assert code == 0, err
            assert safe(out + err), repr(out + err)
            if options and out:
                json.loads(out)


def quick(cli: Command, *args: str | bytes) -> tuple[int, str, str]:
    """As ``cli(...)``, in this process."""
    out, err = io.StringIO(), io.StringIO()
    words = [os.fsdecode(word) for word in args]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--store", str(cli.store), "--runtime-dir", str(cli.runtime_dir), *words])
    return code, out.getvalue(), err.getvalue()


def test_what_is_damaged(nasty: Command, store_dir: Path) -> None:
    from stratum.composefs.verity import verity_digest

    for name in NASTY:
        digest = verity_digest(name * 200).hex()
        (store_dir / "objects" / digest[:2] / digest[2:]).unlink()
        for args in (("fsck",), ("verify", "app:v1")):
            for options in ((), ("--format=json",)):
                code, out, err = quick(nasty, *options, *args)
                assert code == 5
                assert safe(out + err), repr(out + err)


def test_what_is_refused(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", tmp_path, "app")
    for name in NASTY:
        for args in (("show", name), ("mount", b"app+" + name), ("tag", "app", name), ("import", "--bare", name, "x"),
                     ("gc", "--reflog-age", name), (name,), ("pull", name), ("show", b"--" + name)):  # fmt: skip
            for options in ((), ("--format=json",)):
                code, out, err = quick(cli, *options, *args)
                assert code in (1, 2, 3), (args, err)
                assert safe(out + err), repr(err)
