"""Dumps that other people wrote: what they may contain, what it means, and what is refused with which words."""

from __future__ import annotations

import pytest

from stratum.errors import DamagedError
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.foreign import read_foreign_dump
from stratum.tree.model import Directory, File, ForeignFile, Inode, Special, Symlink, lookup
from tests.support.trees import TreeBuilder

ROOT = b"/ 4096 40755 2 0 0 0 0.0 - - -\n"
DIGEST = b"ab" * 32


def one(line: bytes) -> Inode:
    """The inode that ``line``, whose path is ``/a``, makes."""
    inode = lookup(read_foreign_dump(ROOT + line).root, b"/a")
    assert inode is not None
    return inode


@pytest.mark.parametrize("seed", range(5))
def test_canonical_dumps_are_read_as_the_same_tree(seed: int) -> None:
    dump = write_dump(TreeBuilder(seed).tree(300))
    foreign = read_foreign_dump(dump)
    assert write_dump(foreign.root) == dump == write_dump(read_dump(dump))
    assert not foreign.quirks.times
    assert not foreign.quirks.sizes


def test_labels_sizes_of_directories_and_counts_of_their_own() -> None:
    label = b" security.selinux=system_u:object_r:usr_t:s0\\x00\n"
    owner = b" 7 7 0 1234567890.012 "
    tree = read_foreign_dump(
        b"/ 4096 40755 9" + owner + b"- - -" + label
        + b"/my\\x20music 160 40700 2" + owner + b"- - -" + label
        + b"/my\\x20music/song 300 100644 1" + owner + b"ab/" + b"ab" * 31 + b" - " + DIGEST + label
        + b"/again 300 @100644 1" + owner + b"/my\\x20music/song - -" + label
        + b"/note 6 100644 1" + owner + b"- a\\tb=c\\n -" + label
    ).root  # fmt: skip
    assert sorted(tree.children) == [b"again", b"my music", b"note"]
    linked = lookup(tree, b"/my music/song")
    assert type(linked) is File
    assert linked is tree.children[b"again"]
    assert linked.digest == bytes.fromhex(DIGEST.decode())
    assert linked.nlink == 1  # as the dump says, though it has two names
    inline = tree.children[b"note"]
    assert isinstance(inline, File)
    assert inline.content == b"a\tb=c\n"
    assert inline.mtime == 1234567890000000012
    assert inline.xattrs == ((b"security.selinux", b"system_u:object_r:usr_t:s0\0"),)


def test_order_slashes_and_the_last_newline_do_not_matter() -> None:
    tree = read_foreign_dump(
        ROOT + b"/z 0 @100644 1 0 0 0 0.0 //d//a/ - -\n/d 0 40755 2 0 0 0 0.0 - - -\nd///a 0 100644 1 0 0 0 0.0 - - -"
    ).root
    directory = tree.children[b"d"]
    assert isinstance(directory, Directory)
    assert tree.children[b"z"] is directory.children[b"a"]


def test_backing_paths_need_not_be_digests() -> None:
    file = one(b"/a 70 100644 3 0 0 0 0.0 some/path - -\n")
    assert isinstance(file, ForeignFile)
    assert (file.size, file.digest, file.payload, file.nlink) == (70, None, b"some/path", 3)
    assert type(one(b"/a 70 100644 1 0 0 0 0.0 ab/" + b"ab" * 31 + b" - " + DIGEST.upper() + b"cd\n")) is File


def test_content_of_up_to_5000_bytes() -> None:
    file = one(b"/a 5000 100644 1 0 0 0 0.0 - " + b"c" * 5000 + b" -\n")
    assert isinstance(file, File)
    assert file.content == b"c" * 5000
    with pytest.raises(DamagedError, match=r"line 2 .* limit"):
        one(b"/a 5001 100644 1 0 0 0 0.0 - " + b"c" * 5001 + b" -\n")


def test_numbers_are_read_as_strtoull_does_and_cut() -> None:
    inode = one(b"/a +0 -37777577134 \t01 4294967297 -1 0 -5.-1 - - -\n".replace(b"-37777577134", b"37777700644"))
    assert (inode.mode, inode.uid, inode.gid) == (0o100644, 1, 0xFFFFFFFF)
    assert inode.mtime == -5 * 10**9 + 0xFFFFFFFF


def test_a_bad_group_or_device_number_counts_as_0_unless_the_owner_is_0() -> None:
    assert one(b"/a 0 100644 1 5 z z 0.0 - - -\n").gid == 0
    with pytest.raises(DamagedError, match="instead of a number"):
        one(b"/a 0 100644 1 0 z 0 0.0 - - -\n")


def test_strings_end_at_nul_and_values_do_not() -> None:
    link = one(b"/a\\x00b 2 120777 1 0 0 0 0.0 t\\x00u - - user.a\\x00b=c\\x00d\n")
    assert isinstance(link, Symlink)
    assert link.target == b"t"
    assert link.xattrs == ((b"user.a", b"c\0d"),)


def test_device_numbers_are_those_of_devices() -> None:
    fifo, device = one(b"/a 0 10644 1 0 0 7 0.0 - - -\n"), one(b"/a 0 60644 1 0 0 4294967303 0.0 - - -\n")
    assert isinstance(fifo, Special)
    assert isinstance(device, Special)
    assert (fifo.rdev, device.rdev) == (0, 7)


def test_the_last_of_equal_attributes_counts() -> None:
    assert one(b"/a 0 100644 1 0 0 0 0.0 - - - user.b=1 user.a=2 user.b=3 \n").xattrs == (
        (b"user.a", b"2"),
        (b"user.b", b"3"),
    )


def test_missing_fields_are_empty_where_that_means_something() -> None:
    assert isinstance(one(b"/a 0 100644 1 0 0 0 0.0\n"), File)
    with pytest.raises(DamagedError, match="instead of a number"):
        one(b"/a 0 100644 1 0 0 0\n")


def test_deep_paths_and_long_chains_of_links() -> None:
    lines = [ROOT]
    path = b""
    for _ in range(2000):
        path += b"/d"
        lines.append(path + b" 0 40755 2 0 0 0 0.0 - - -\n")
    lines.extend(b"/l%d 0 @100644 1 0 0 0 0.0 /l%d - -\n" % (number, number + 1) for number in range(5000))
    lines.append(b"/l5000 0 100644 1 0 0 0 0.0 - - -\n")
    tree = read_foreign_dump(b"".join(lines)).root
    assert len({id(inode) for name, inode in tree.children.items() if name != b"d"}) == 1


@pytest.mark.parametrize(
    ("dump", "says"),
    [
        (b"", "line 1 .* empty"),
        (b"\n", "line 1 .* no path"),
        (ROOT + b"\n", "line 2 .* no path"),
        (ROOT + ROOT, "line 2 .* second root"),
        (b"/ 0 100644 1 0 0 0 0.0 - - -\n", "line 1 .* no directory"),
        (b"/a 0 100644 1 0 0 0 0.0 - - -\n", "line 1 .* before the root"),
        (ROOT + b"/a\0 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* NUL"),
        (ROOT + b"\\x00/a 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* no path"),
        (ROOT + b"/a 0 0 1 0 0 0 0.0 - - -\n", "line 2 .* file type"),
        (ROOT + b"/a 0 @ 1 0 0 0 0.0 - - -\n", "line 2 .* number"),
        (ROOT + b"/a/b 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* no parent"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - -\n/a/b 0 100644 1 0 0 0 0.0 - - -\n", "line 3 .* no parent"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - -\n//a 0 100644 1 0 0 0 0.0 - - -\n", "line 3 .* twice"),
        (ROOT + b"/. 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* not valid"),
        (ROOT + b"/.. 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* not valid"),
        (ROOT + b"// 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* not valid"),
        (ROOT + b"/" + b"n" * 256 + b" 0 100644 1 0 0 0 0.0 - - -\n", "line 2 .* 256 bytes"),
        (ROOT + b"/a 3 100644 1 0 0 0 0.0 - ab -\n", "line 2 .* size of 3"),
        (ROOT + b"/a 9 100644 1 0 0 0 0 - - -\n", "line 2 .* number"),
        (ROOT + b"/a 9 100644 1 0 0 0 0.0 " + b"p" * 4096 + b" - -\n", "line 2 .* payload"),
        (ROOT + b"/a 9 120777 1 0 0 0 0.0 - - -\n", "line 2 .* target"),
        (ROOT + b"/a 9 100644 1 0 0 0 0.0 - - abcd\n", "line 2 .* digest"),
        (ROOT + b"/a 9 100644 1 0 0 0 0.0 \\q - -\n", "line 2 .* escape"),
        (ROOT + b"/a 0 @40755 1 0 0 0 0.0 /b - -\n", "line 2 .* directory"),
        (ROOT + b"/a 0 @100644 1 0 0 0 0.0 /b - -\n", "line 2 .* nothing"),
        (ROOT + b"/a 0 @100644 1 0 0 0 0.0 - - -\n", "line 2 .* without a target"),
        (ROOT + b"/a 0 @100644 1 0 0 0 0.0 /a - -\n", "line 2 .* itself"),
        (ROOT + b"/a 0 @100644 1 0 0 0 0.0 /b - -\n/b 0 @100644 1 0 0 0 0.0 /a - -\n", "line 2 .* itself"),
        (ROOT + b"/a 0 @100644 1 0 0 0 0.0 / - -\n", "line 2 .* directory"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - - user.a\n", "line 2 .* '='"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - -  user.a=1\n", "line 2 .* '='"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - - =1\n", "line 2 .* 0 bytes"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - - a=" + b"v" * 32748 + b"\n", "line 2 .* 32767"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - - a=" + b"\\x61" * 16384 + b"\n", "line 2 .* 65535"),
    ],
)
def test_refusals_name_the_line(dump: bytes, says: str) -> None:
    with pytest.raises(DamagedError, match=says):
        read_foreign_dump(dump)
