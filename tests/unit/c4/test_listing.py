"""The C4M text of a tree: the text and the IDs that the c4 program of that project gives for the same tree."""

from __future__ import annotations

import hashlib
import stat

import pytest

from stratum.c4.ids import EMPTY, C4Id, id_of_bytes
from stratum.c4.listing import DEVICES, FAR_TIMES, FRACTIONS, LINKS, OWNERS, ROOT, XATTRS, Lister
from stratum.tree.model import Directory, File, Inode, Special, Symlink
from tests.support.c4texts import manifest_of, text_of

NEW_YEAR = 1735689600 * 10**9


class Memory:
    """A spool in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(self.data) - len(data)

    def read(self, start: int, size: int) -> bytes:
        return bytes(self.data[start : start + size])


def file(data: bytes = b"", mode: int = 0o644, mtime: int = NEW_YEAR) -> File:
    return File(stat.S_IFREG | mode, 0, 0, mtime, size=len(data), content=data or None)


def link(target: str) -> Symlink:
    return Symlink(stat.S_IFLNK | 0o777, 0, 0, NEW_YEAR, target=target.encode())


def directory(mtime: int = NEW_YEAR, mode: int = 0o755, **children: Inode) -> Directory:
    inside = {name.encode(): inode for name, inode in children.items()}
    return Directory(stat.S_IFDIR | mode, 0, 0, mtime, children=inside)


def content_id(node: File) -> C4Id:
    return id_of_bytes(node.content or b"")


def lister(root: Directory, **options: bool | bytes) -> Lister:
    return Lister(root, content_id, Memory(), **options)  # type: ignore[arg-type]


def text_and_id(root: Directory, **options: bool | bytes) -> tuple[str, C4Id | None]:
    made = lister(root, **options)
    found = made.run()
    return b"".join(made.text()).decode(), found.c4id


def ids_of(root: Directory, **options: bool | bytes) -> dict[str, str]:
    """Name of each link -> the ID of its target, or ``-``."""
    lines = text_and_id(root, **options)[0].splitlines()
    return {line.split()[3]: line.split()[-1] for line in lines if line.lstrip().startswith("l")}


def test_a_tree_of_all_kinds() -> None:
    root = directory(
        b=file(b"alfa"),
        a10=file(mode=0o4755),
        a2=file(b"x", mode=0o1644, mtime=-1),
        empty=directory(),
        sub=directory(0, 0o1777, link=link("../b"), up=link("../empty"), gone=link("nothing"), fifo=fifo()),
    )
    text, c4id = text_and_id(root)
    assert hashlib.sha256(text.encode()).hexdigest() == TREE_SHA256
    assert c4id == TREE_ID
    assert text_of(manifest_of(text)) == text


def fifo() -> Special:
    return Special(stat.S_IFIFO | 0o600, 0, 0, NEW_YEAR)


def test_the_empty_tree() -> None:
    assert text_and_id(directory()) == ("", EMPTY)


def test_the_epoch_is_null_and_infects() -> None:
    text, _ = text_and_id(directory(a=directory(0, b=file(mtime=0), c=file()), d=directory(0, e=file())))
    assert [line.split()[1] for line in text.splitlines()] == [
        "-", "-", "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z",
    ]  # fmt: skip


def test_where_links_lead() -> None:
    sub = directory(x=file(b"x"))
    root = directory(
        f=file(b"f"), d=sub, to_d=link("d"), through=link("to_d/x"), dot=link("./d//x"), back=link("d/../f"),
        slash=link("f/"), self=link("."), out=link("../f"), absolute=link("/f"), chain=link("to_f"), to_f=link("f"),
        loop=link("loop/x"), below=link("f/x"), missing=link("nope"),
    )  # fmt: skip
    found = ids_of(root)
    x, f, d = id_of_bytes(b"x"), id_of_bytes(b"f"), text_and_id(sub)[1]
    assert found == {
        "to_d": d, "through": x, "dot": x, "back": f, "slash": f, "self": "-", "out": "-", "absolute": "-",
        "chain": "-", "to_f": f, "loop": "-", "below": "-", "missing": "-",
    }  # fmt: skip


def test_where_links_lead_by_the_place_of_the_tree() -> None:
    root = directory(f=file(b"f"), absolute=link("/srv/tree/f"), around=link("../tree/f"), out=link("/srv/f"))
    f = id_of_bytes(b"f")
    assert ids_of(root, top=b"/srv/tree") == {"absolute": f, "around": f, "out": "-"}
    asked: list[bytes] = []
    made = Lister(root, content_id, Memory(), top=b"/srv/tree", outside=asked.append)
    made.run()
    assert asked == [b"/srv/f"]


def test_links_that_go_round_have_an_end() -> None:
    one, other = directory(to=link("../b")), directory(to=link("../a"), inside=directory(up=link("..")))
    first = text_and_id(directory(a=one, b=other))
    assert first == text_and_id(directory(a=one, b=other))
    nest = directory(x=directory(y=link("..")), w=link("x"))
    assert ids_of(directory(go=link("z/x"), z=nest))["y"] == "-"


def test_hard_links_are_groups() -> None:
    one, other = file(b"one"), file(b"other")
    root = directory(a=one, b=other, c=file(b"one"), d=directory(e=one, f=other))
    assert "->" not in text_and_id(root)[0]
    marks = {line.split()[3]: line.split()[4] for line in text_and_id(root, groups=True)[0].splitlines()}
    assert {name: mark for name, mark in marks.items() if mark.startswith("->")} == {
        "a": "->1", "b": "->2", "e": "->1", "f": "->2",
    }  # fmt: skip


def test_what_the_text_does_not_say() -> None:
    odd = File(stat.S_IFREG | 0o644, 5, 5, NEW_YEAR + 1, ((b"user.a", b"1"),), size=1, content=b"x")
    device = Special(stat.S_IFCHR | 0o600, 0, 0, 10**9 * 253402300800, rdev=261)
    twice = link("a")
    made = lister(directory(a=odd, b=device, c=twice, d=twice))
    made.run()
    assert made.lost == {OWNERS: 4, XATTRS: 1, FRACTIONS: 1, DEVICES: 1, FAR_TIMES: 1, LINKS: 1, ROOT: 1}


@pytest.mark.parametrize("count", [4095, 4096, 9000])
def test_a_large_directory_is_made_in_parts(count: int) -> None:
    inside = {f"n{number}": file() for number in range(count)}
    text, c4id = text_and_id(directory(sub=directory(**inside, z=directory(**inside))))
    lines = text.splitlines()
    assert len(lines) == 2 * count + 2
    assert [line.split()[3] for line in lines[1:4]] == ["n0", "n1", "n2"]
    assert lines[count + 1].split()[3] == "z/"
    assert lines[count + 2].startswith("    -rw")
    assert c4id == id_of_bytes((lines[0] + "\n").encode())


def test_a_deep_tree_needs_no_stack() -> None:
    root = tree = directory()
    for _ in range(3000):
        tree.children[b"d"] = tree = directory()
    assert text_and_id(root)[0].count("\n") == 3000


TREE_SHA256 = "67a5d99441abdb94f7805043779a06e895d1a2c0284f5399646d46dabf2539b6"
TREE_ID = "c467NomypkfBMienSyxR3JV1MzPrXzweLNQ8hTbaRA878qnwax33E9kwNrj3jV6NeQjzyksuu9zNo3uAzx2CkuPypT"
