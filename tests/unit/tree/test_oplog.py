"""Records of a history: each comes back from its line, and no other line is one."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError, UnsupportedError
from stratum.frozen import replace
from stratum.tree import oplog
from stratum.tree.model import Directory, File, Inode, content_unknown
from stratum.tree.oplog import Record, encode, end_line, entry_of, inode_of, parse, parse_end
from tests.support.effort import examples
from tests.support.operations import hashes, inodes, paths, records
from tests.support.trees import trees

WHEN = "2026-11-29T23:59:01.123Z"
OBJECT = File(0o100644, 1, 2, 5_000_000_003, size=70, digest=b"\xab" * 32)
WRITE = Record(4711, WHEN, "write", b"/etc/app.conf", entry_of(OBJECT), by="vim", container="cd" * 32)


def as_shown(inode: Inode) -> tuple[object, ...]:
    return type(inode), inode.metadata(), inode.content_key()


def test_a_line_is_as_documented() -> None:
    assert encode(WRITE).startswith(
        b'{"n":4711,"t":"2026-11-29T23:59:01.123Z","op":"write","path":"/etc/app.conf","entry":"70 100644 1 2 0 5.3 ab/'
    )
    assert encode(WRITE)[-29:-19] == b',"check":"'
    assert end_line(4711).startswith(b'{"end":4711,"check":"')


@given(records())
@settings(max_examples=examples(300))
def test_a_record_comes_back_from_its_line(record: Record) -> None:
    line = encode(record)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= oplog.LINE_MAX
    assert parse(line[:-1]) == record
    assert parse_end(line[:-1]) is None


@given(records(), st.data())
@settings(max_examples=examples(200))
def test_one_changed_byte_is_seen(record: Record, data: st.DataObject) -> None:
    line = bytearray(encode(record)[:-1])
    where, byte = data.draw(st.integers(0, len(line) - 1)), data.draw(st.integers(0, 255))
    changed = line[where] != byte
    line[where] = byte
    assert (parse(bytes(line)) is None) == changed


@given(records())
@settings(max_examples=examples(15))
def test_a_line_that_was_cut_is_none(record: Record) -> None:
    line = encode(record)
    assert not any(parse(line[:size]) for size in range(len(line) - 1))
    assert parse(line) is None  # with its line break


@given(st.integers(1, 10**12 - 1))
def test_the_end_of_a_batch(n: int) -> None:
    line = end_line(n)
    assert parse_end(line[:-1]) == n
    assert parse(line[:-1]) is None
    assert not any(parse_end(line[:size]) for size in range(len(line) - 1))
    assert parse_end(line[:-1].replace(b"%d" % n, b"%d" % (n + 1), 1)) is None


def forged(body: bytes) -> bytes:
    """A line with a check that fits, as somebody makes it who knows how."""
    return oplog._checked(body)[:-1]


START = b'{"n":1,"t":"2026-11-29T23:59:01.123Z","op":'


@pytest.mark.parametrize(
    "body",
    [
        START + b'"create","path":"/a"',
        START + b'"create","path":"/a","entry":""',
        START + b'"create","path":"/a","entry":"x"',
        START + b'"create","path":"a","entry":"0"',
        START + b'"create","path":"","entry":"0"',
        START + b'"create","path":"/","entry":"0"',
        START + b'"create","path":"/a/","entry":"0"',
        START + b'"create","path":"//a","entry":"0"',
        START + b'"create","path":"/a/../b","entry":"0"',
        START + b'"create","path":"/./a","entry":"0"',
        START + b'"create","path":"/a b","entry":"0"',
        START + b'"create","path":"/\\\\x61","entry":"0"',
        START + b'"create","path":"/\\\\x00","entry":"0"',
        START + b'"create","path":"/\\\\q","entry":"0"',
        START + b'"create","path":"/%b","entry":"0"' % (b"n" * 256),
        START + b'"create","path":"%b","entry":"0"' % (b"/n" * 2049),
        START + b'"create","path":"/a","entry":"0","link":"/b"',
        START + b'"create","path":"/a","link":"b"',
        START + b'"create","path":"/a","entry":"0","commit":"%b"' % (b"ab" * 32),
        START + b'"create","path":"/a","entry":"\xff"',
        START + b'"create","path":"/a","entry":"0","by":""',
        START + b'"create","path":"/a","entry":"0","by":"\\u0061"',
        START + b'"create","path":"/a","entry":"0","by":"%b"' % (b"b" * 256),
        START + b'"create","path":"/a","entry":"0","why":"%b"' % (b"b" * 1001),
        START + b'"create","path":"/a","entry":"0","container":"%b"' % (b"AB" * 32),
        START + b'"create","entry":"0","path":"/a"',
        START + b'"create", "path":"/a","entry":"0"',
        START + b'"create","path":"/a","entry":"%b"' % (b"0" * 100_000),
        START + b'"erase","path":"/a"',
        START + b'"delete"',
        START + b'"delete","path":"/"',
        START + b'"delete","path":"/a","entry":"0"',
        START + b'"rename","path":"/a"',
        START + b'"rename","path":"/a","was":"/a"',
        START + b'"rename","path":"/a/b","was":"/a"',
        START + b'"rename","path":"/a","was":"/"',
        START + b'"base"',
        START + b'"base","commit":"x"',
        START + b'"base","path":"/a","commit":"%b"' % (b"ab" * 32),
        START + b'"gap"',
        START + b'"gap","path":"/a","why":"x"',
        b'{"n":0,"t":"2026-11-29T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":-1,"t":"2026-11-29T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":01,"t":"2026-11-29T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":1000000000000,"t":"2026-11-29T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":1,"t":"2026-11-29T23:59:01Z","op":"delete","path":"/a"',
        b'{"n":1,"t":"2026-13-29T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":1,"t":"2026-02-29T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":1,"t":"0000-02-28T23:59:01.123Z","op":"delete","path":"/a"',
        b'{"n":1,"t":"2026-11-29T24:59:01.123Z","op":"delete","path":"/a"',
        b'{"op":"delete","path":"/a"',
        b"[" * 30_000,
    ],
)
def test_what_is_no_record_is_none(body: bytes) -> None:
    assert parse(forged(body)) is None


def test_what_those_lines_are_like_is_a_record() -> None:
    assert parse(forged(START + b'"create","path":"/a","entry":"0"')) == Record(1, WHEN, "create", b"/a", b"0")
    assert parse(forged(START + b'"delete","path":"/...a"')) == Record(1, WHEN, "delete", b"/...a")
    assert parse(forged(b'{"n":1,"t":"2024-02-29T23:59:01.123Z","op":"delete","path":"/a"')) is not None


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=examples(200))
@example(b'"create","path":"/a","entry":"1\\\\"', True)
@example(b'"create","path":"/\\\\n\\"","entry":"1\\""', True)
def test_a_record_is_written_as_it_was_read(body: bytes, begins: bool) -> None:
    line = forged(START + body if begins else body)
    record = parse(line)
    assert record is None or encode(record) == line + b"\n"


@pytest.mark.parametrize(
    "record",
    [
        replace(WRITE, n=0),
        replace(WRITE, n=10**12),
        replace(WRITE, op="erase"),
        replace(WRITE, entry=None),
        replace(WRITE, entry=b""),
        replace(WRITE, entry=b"a\nb"),
        replace(WRITE, link=b"/b"),
        replace(WRITE, when="yesterday"),
        replace(WRITE, when="2026-02-30T00:00:00.000Z"),
        replace(WRITE, container="x"),
        Record(1, WHEN, "base", commit="x"),
        Record(1, WHEN, "gap"),
    ],
)
def test_what_is_no_record_is_not_written(record: Record) -> None:
    with pytest.raises(ValueError, match=r"no record|no entry|no time|no hash"):
        encode(record)


@pytest.mark.parametrize("path", [b"/" + b"n" * 256, b"/n" * 2049, b"a", b"/", b"/a/../b", b""])
def test_a_path_that_no_commit_can_hold_is_refused_by_name(path: bytes) -> None:
    with pytest.raises(UnsupportedError) as caught:
        encode(replace(WRITE, path=path))
    assert caught.value.hint == "no history can tell of it"
    with pytest.raises(UnsupportedError):
        encode(Record(1, WHEN, "rename", b"/z", was=path))


def test_long_words_are_cut() -> None:
    record = parse(encode(replace(WRITE, by="b" * 300, why="w" * 2000))[:-1])
    assert record is not None
    assert (record.by, record.why) == ("b" * 255, "w" * 1000)


def test_the_longest_line_is_read() -> None:
    path = b"/" + b"/".join([b"\xff" * 255] * 16)
    xattrs = ((b"user.a", b"\\" * 32_000),)
    file = File(0o100644, 0, 0, 0, xattrs, size=70, digest=b"\xab" * 32)
    record = Record(1, WHEN, "rename", path, entry_of(file), was=b"/\xfe" + path[2:])
    assert 100_000 < len(encode(record)) <= oplog.LINE_MAX
    assert parse(encode(record)[:-1]) == record


@given(inodes)
@settings(max_examples=examples(300))
def test_an_inode_comes_back_from_its_entry(inode: Inode) -> None:
    again = inode_of(entry_of(inode))
    assert as_shown(again) == as_shown(inode)
    assert content_unknown(again) == content_unknown(inode)


@given(trees)
@settings(max_examples=examples(50))
def test_the_entry_of_a_directory_says_nothing_of_what_is_in_it(root: Directory) -> None:
    assert entry_of(root) == entry_of(Directory(*root.metadata()))


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"x",
        b"0 100644",
        b"0 100644 0 0 0 0.0 - -",
        b"0 100644 0 0 0 0.0 - - - ",
        b"0 @100644 0 0 0 0.0 /a - -",
        b"00 100644 0 0 0 0.0 - - -",
        b"5 100644 0 0 0 0.0 - abc -",
        b"70 100644 0 0 0 0.0 ab/cd - abcd",
        b"70 40755 0 0 0 0.0 - - -",
        b"70 120777 0 0 0 0.0 - - -",
        b"9007199254740993 100644 0 0 0 0.0 - - -",
        b"0 100644 4294967296 0 0 0.0 - - -",
        b"0 100644 0 0 0 0.0 - - - user.b=1 user.a=1",
        b"0 100644 0 0 0 0.0 - - -\n/b 0 100644 1 0 0 0 0.0 - - -",
        b"0 170644 0 0 0 0.0 - - -",
    ],
)
def test_what_is_no_entry_is_refused(entry: bytes) -> None:
    with pytest.raises(DamagedError, match="an entry of a history"):
        inode_of(entry)


@pytest.mark.parametrize(
    "inode",
    [
        File(0o40644, 0, 0, 0),
        File(0o100644, 1 << 32, 0, 0),
        File(0o100644, 0, 0, 0, size=(1 << 53) + 1),
        File(0o100644, 0, 0, 0, size=3, digest=b"x" * 32),
        Directory(0o40755, 0, 0, 0, ((b"user.a", b"\\" * 33_000),)),
    ],
)
def test_an_inode_that_no_commit_can_hold_has_no_entry(inode: Inode) -> None:
    with pytest.raises(UnsupportedError):
        entry_of(inode)


@given(inodes)
@settings(max_examples=examples(200))
def test_what_is_kept_of_an_entry_without_its_content(inode: Inode) -> None:
    entry = entry_of(inode)
    without, named = oplog.without_content(entry), oplog.object_of(entry)
    if not isinstance(inode, File) or inode.digest is None:
        assert (without, named) == (None, None)
        return
    assert named == (inode.digest, inode.size)
    assert without is not None
    again = inode_of(without)
    assert content_unknown(again)
    assert (again.metadata(), again.content_key()) == (inode.metadata(), (inode.size, None, None))


def test_an_object_that_is_none() -> None:
    with pytest.raises(DamagedError, match="malformed digest"):
        oplog.object_of(b"70 100644 0 0 0 0.0 x - " + b"z" * 64)


@given(paths, hashes)
def test_what_to_look_for_is_in_the_line(path: bytes, commit: str) -> None:
    line = encode(Record(1, WHEN, "delete", path, why=f'"path":"{commit}"'))
    assert line.count(b'"path":"%b"' % oplog.quote_path(path)) == 1


def test_times() -> None:
    assert oplog.when_text(1_795_995_991_123_999_999) == "2026-11-29T23:46:31.123Z"
    assert oplog.when_text(0) == "1970-01-01T00:00:00.000Z"
