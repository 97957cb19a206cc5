"""C4M texts: what is read and how it is written, what is rejected, and sequences."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from stratum.c4.model import UNGROUPED, Manifest, paths
from stratum.c4.reader import DEPTH_MAX, LINE_MAX, split_lines
from stratum.c4.sequence import id_of_list, members
from stratum.c4.writer import id_of, pretty
from stratum.errors import UsageError
from tests.support.c4texts import ALFA, BRAVO, FILE, canonical, id_lines, manifest_of, manifests, text_of
from tests.support.effort import examples

SAME = [
    f"{FILE} a.txt {ALFA}",
    f"{FILE} a.txt -",
    "- - - assets/ -",
    "- - - a.txt -",
    f"---------- - - zero.txt {ALFA}",
    "d--------- - - closed/ -",
    f"-rwSr-Sr-T 2025-01-01T00:00:00Z 0 a {ALFA}",
    f"-rwsr-sr-t 2025-01-01T00:00:00Z 0 a {ALFA}",
    "prw-r--r-- - 0 fifo -",
    "srw-r--r-- - 0 socket -",
    "brw-r--r-- - 0 disk -",
    "crw-r--r-- - 0 tty -",
    f"lrwxrwxrwx 2025-01-01T00:00:00Z 0 link.txt -> target.txt {ALFA}",
    r"lrwxrwxrwx - 0 a\ b -> ../x\ y/\"z\"[1] -",
    "lrwxrwxrwx - 0 a -> c4 -",
    "lrwxrwxrwx - 0 a -> nas:b -",
    f"{FILE} file.txt -> {ALFA}",
    f"{FILE} link.txt ->2 {ALFA}",
    f"drwxr-xr-x 2025-01-01T00:00:00Z 4096 outbox/ -> studio:inbox/ {ALFA}",
    f"drwxr-xr-x 2025-01-01T00:00:00Z 4096 inbox/ <- nas:renders/ {ALFA}",
    f"drwxr-xr-x 2025-01-01T00:00:00Z 4096 shared/ <> peer:shared/ {ALFA}",
    "-rw-r--r-- - 5 final.exr -> review: -",
    "-rw-r--r-- - 5 final.exr -> c4studio:inbox/ -",
    f"{FILE} {ALFA} {BRAVO}",
    f"{FILE} a\\\\ {ALFA}",
    f"{FILE} -\\ - {ALFA}",
    f"{FILE} frame.[0001-0100].exr {ALFA}",
    f"{FILE} frame.[0001-0050,0075-0100:5].exr {ALFA}",
    f"{FILE} \\[a\\].[1].exr {ALFA}",
    f"{FILE} frame.\\[1-3\\].exr {ALFA}",
]


@pytest.mark.parametrize("line", SAME)
def test_a_canonical_line_stays_as_it_is(line: str) -> None:
    assert canonical(line + "\n") == line + "\n"


OTHER = {
    f"{FILE} medium.txt": f"{FILE} medium.txt -",
    f"-rw-r--r-- -   1,234 a.txt          {ALFA}  ": f"-rw-r--r-- - 1234 a.txt {ALFA}",
    f"-rw-r--r-- 2025-01-01T10:00:00-08:00 1024 a {ALFA}": f"-rw-r--r-- 2025-01-01T18:00:00Z 1024 a {ALFA}",
    "-rw-r--r-- Jan  1 10:00:00 2025 PST  1024 a": "-rw-r--r-- 2025-01-01T18:00:00Z 1024 a -",
    "-rw-r--r-- Wed Jan  1 18:00:00 UTC 2025 1024 a": "-rw-r--r-- 2025-01-01T18:00:00Z 1024 a -",
    "-rw-r--r-- 0 100 a": "-rw-r--r-- - 100 a -",
    "---------- 0 - old/": "- - - old/ -",
    f"{FILE} my file.txt {ALFA}": f"{FILE} my\\ file.txt {ALFA}",
    f"{FILE} {ALFA}": f"{FILE} {ALFA} -",
    "lrwxrwxrwx - 0 a -> c4": "lrwxrwxrwx - 0 a -> c4 -",
    "lrwxrwxrwx - 0 a -> -": "lrwxrwxrwx - 0 a -> - -",
    "- - - a -> b c -": "- - - a -> b\\ c -",
    "-rw-r--r-- - 5 final.exr -> c4studio:inbox/": "-rw-r--r-- - 5 final.exr -> c4studio:inbox/ -",
}


@pytest.mark.parametrize("line", OTHER)
def test_a_line_for_people_is_read(line: str) -> None:
    assert canonical(f"\n{line}\n   \n") == OTHER[line] + "\n"


REJECTED = {
    "@c4m 1.0": "line 1: a directive",
    "  @base x": "line 1: a directive",
    f"{FILE} a\r": "line 1: a carriage return",
    b"\xff": "line 1: it is not UTF-8",
    f"\ufeff{FILE} a": "line 1: a byte order mark",
    f"{FILE} a\tb": "line 1: a control character",
    f"{FILE} a\x1b[0m": "line 1: a control character",
    "x": "not a mode",
    "-rw-r--r-": "not a mode",
    "-rw-r--r-q - - a": "not a mode",
    "xrw-r--r-- - - a": "not a mode",
    "-rw-r--r-- - -": "a mode, a time, a size and a name",
    "-rw-r--r-- yesterday 5 a": "no time, size and name",
    "-rw-r--r-- 2025-02-30T00:00:00Z 5 a": "not a time",
    "-rw-r--r-- - five a": "no time, size and name",
    "-rw-r--r-- - 007 a": "not a size",
    "-rw-r--r-- - 1,23 a": "not a size",
    "-rw-r--r-- - 9223372036854775808 a": "over what a file can have",
    f"{FILE} . -": "a path",
    f"{FILE} .. -": "a path",
    "drwxr-xr-x - - ../ -": "a path",
    "drwxr-xr-x - - / -": "a path",
    f"{FILE} ../a -": "a path",
    f"{FILE} a/b -": "a path",
    f"{FILE} a\\b -": "a backslash",
    f"{FILE} a\\0 -": "a path",
    f"{FILE} a¤\u282f¤b -": "a path",
    f"{FILE} ¤\u282e\u282e¤ -": "a path",
    f"{FILE} a¤\u2800¤ -": "a path",
    "drwxr-xr-x - - a -": "ends with no slash",
    f"{FILE} a/ -": "not that of a directory",
    f"{FILE} a -\n{FILE} b -\n{FILE} a -": "line 3: b'a' is there twice; first in line 1",
    f"{FILE} a -\ndrwxr-xr-x - - a/ -": "line 2: b'a' is there twice",
    f"drwxr-xr-x - - a/ -\n  {FILE} b\n  {FILE} b": "line 3: b'b' is there twice",
    f"  {FILE} a": "under no entry",
    f"{FILE} a\n  {FILE} b": "under what is no directory",
    f"- - - a/\n    {FILE} b\n  {FILE} c": "line 3: it is indented by 2 spaces",
    f"- - - a/\n  - - - b/\n      {FILE} c": "line 3: it is indented under no entry",
    f"{FILE} a c4abc": "is not a C4 ID",
    f"{FILE} a {ALFA[:-1]}0": "is not a C4 ID",
    ALFA[:-1]: "neither a C4 ID nor a list",
    "c4" + "z" * 88: "neither a C4 ID nor a list",
    ALFA + BRAVO[:-1] + "0": "neither a C4 ID nor a list",
    "lrwxrwxrwx - 0 a <- nas:b -": "has no target",
    "lrwxrwxrwx - 0 a -> ": "has no target",
    "drwxr-xr-x - 0 a/ ->1 -": "is a hard link",
    "drwxr-xr-x - 0 a/ -> nowhere -": "no place",
    "drwxr-xr-x - 0 a/ <- -": "no place",
    "drwxr-xr-x - 0 a/ <> 9nas:b -": "no place",
    "drwxr-xr-x - 0 a/ -> nas:/etc -": "no place",
    "drwxr-xr-x - 0 a/ -> nas:a/../../b -": "no place",
    f"{FILE} a.[5-1].exr -": "goes from a number to a smaller one",
    f"{FILE} a.[1-5:0].exr -": "a step of 0",
    f"{FILE} a.[-].exr -": "no numbers",
    f"{FILE} a.[1-999999999999].exr -": "over 1000000 members",
}


@pytest.mark.parametrize("text", REJECTED)
def test_what_is_rejected(text: str | bytes) -> None:
    with pytest.raises(UsageError, match=re.escape(REJECTED[text])):
        manifest_of(text)


def test_limits() -> None:
    deep = "".join(f"{' ' * depth}- - - d/\n" for depth in range(DEPTH_MAX + 2))
    with pytest.raises(UsageError, match=f"over {DEPTH_MAX} levels"):
        manifest_of(deep)
    with pytest.raises(UsageError, match="line 2: over 1048576 bytes"):
        manifest_of(f"{FILE} a\n{FILE} {'n' * LINE_MAX}")
    with pytest.raises(UsageError, match="line 2: over 9000000 bytes"):
        list(split_lines([b"a\n", *[b"x" * 1_000_000] * 10], "a.c4m"))


def test_what_links_are() -> None:
    found = manifest_of(
        f"{FILE} a -> {ALFA}\n{FILE} b ->12 {ALFA}\nlrwxrwxrwx - 0 c -> d\n- - - e/ <- nas:x -\n"
    ).children
    assert (found[b"a"].group, found[b"b"].group, found[b"c"].target) == (UNGROUPED, 12, b"d")
    assert (found[b"e/"].flow, found[b"e/"].place, found[b"e/"].kind) == ("<-", "nas:x", "d")


def test_the_order_and_the_indentation_are_made_anew() -> None:
    text = "- - - b/\n   - - - 10/\n   - - - 9\n- - - a10\n- - - a9\n"
    expected = "- - - a9 -\n- - - a10 -\n- - - b/ -\n  - - - 9 -\n  - - - 10/ -\n"
    assert canonical(text) == expected
    assert [path for path, _ in paths(manifest_of(text).children)] == [b"a9", b"a10", b"b/", b"b/9", b"b/10/"]


@settings(max_examples=examples(100))
@given(manifests())
def test_what_is_written_is_read_again(manifest: Manifest) -> None:
    text = text_of(manifest)
    again = manifest_of(text)
    assert [(path, node.said()) for path, node in paths(again.children)] == [
        (path, node.said()) for path, node in paths(manifest.children)
    ]
    assert text_of(again) == text
    assert text_of(manifest_of("".join(pretty(manifest)))) == text
    assert id_of(again) == id_of(manifest)


def test_sequences() -> None:
    list_id = id_of_list([ALFA, BRAVO, ALFA])
    text = f"{FILE} f.[08-10].exr {list_id}\n"
    manifest = manifest_of(text + id_lines(ALFA, BRAVO, ALFA))
    assert manifest.lists == {list_id: (ALFA, BRAVO, ALFA)}
    sequence = manifest.children[b"f.[08-10].exr"].sequence
    assert sequence is not None
    assert members(sequence) == [b"f.08.exr", b"f.09.exr", b"f.10.exr"]
    assert id_of(manifest) == id_of(manifest_of(text))
    assert text_of(manifest) == text + id_lines(ALFA, BRAVO, ALFA)


@pytest.mark.parametrize(
    ("between", "found"),
    [("1-3", "1 2 3"), ("0001-0005:2", "0001 0003 0005"), ("1,5,3-4", "1 3 4 5"), ("098-101", "098 099 100 101"),
     ("1-3,2-4", "1 2 3 4"), ("7", "7")],
)  # fmt: skip
def test_members(between: str, found: str) -> None:
    assert members((b"", between, b"")) == found.encode().split()


def test_pretty() -> None:
    text = f"{FILE} a.txt {ALFA}\n-rw-r--r-- - 1234567 b.txt -\n- - - d/ {BRAVO}\n  - - - {'n' * 45} -\n"
    lines = "".join(pretty(manifest_of(text))).splitlines()
    assert lines[0] == f"{'-rw-r--r-- Jan  1 00:00:00 2025 UTC       100 a.txt':<100}{ALFA}"
    assert lines[1] == f"{'-rw-r--r-- -                        1,234,567 b.txt':<100}-"
    assert lines[2].index(BRAVO) == 100
