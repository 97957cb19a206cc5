"""Records of histories: any that can be, from hypothesis, and long logs as editors and compilers leave them."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator

from hypothesis import strategies as st

from stratum.tree.model import Directory, File, Inode
from stratum.tree.oplog import OPS, Record, entry_of, when_text
from tests.support.trees import files, names, specials, symlinks, trees

START = 1_795_995_991_000_000_000
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
words = st.text(min_size=1, max_size=30) | st.sampled_from(['"', "\\", "a\nb", "\udcff", "\x7f", "é", "\U0001f600"])
unknown_files = st.builds(
    lambda file, size: File(*file.metadata(), size=size), files, st.integers(1, 1 << 53) | st.sampled_from([1, 64, 65])
)
directories = trees.map(lambda root: Directory(*root.metadata()))
inodes: st.SearchStrategy[Inode] = st.one_of(files, unknown_files, symlinks, specials, directories)


@st.composite
def records(draw: st.DrawFn, n: int | None = None) -> Record:
    """Any record; of number ``n``, where it is given."""
    op = draw(st.sampled_from(OPS))
    number = draw(st.integers(1, 10**12 - 1)) if n is None else n
    when = when_text(draw(st.integers(0, 1 << 62)))
    by, container = draw(st.none() | words), draw(st.none() | hashes)
    why = draw(words) if op == "gap" else draw(st.none() | words)
    common = {"why": why, "by": by, "container": container}
    if op == "base":
        return Record(number, when, op, commit=draw(hashes), over=draw(st.none() | hashes), **common)
    if op == "gap":
        return Record(number, when, op, **common)
    path = draw(paths)
    if op in ("setattr", "mtime") and draw(st.booleans()):
        path = b"/"
    if op == "delete":
        return Record(number, when, op, path, **common)
    if op == "link" or (op in ("create", "write", "symlink", "special", "setattr") and draw(st.booleans())):
        return Record(number, when, op, path, link=draw(paths), **common)
    if op == "rename":
        was = draw(paths.filter(lambda was: path != was and not path.startswith(was + b"/")))
        entry = draw(st.none() | inodes.map(entry_of))
        return Record(number, when, op, path, entry, was=was, **common)
    return Record(number, when, op, path, draw(inodes.map(entry_of)), **common)


def work(count: int, *, first: int = 1, seed: int = 1, commit: str = "ab" * 32) -> Iterator[Record]:
    """A log as a day of work leaves it: a base, then ``count - 1`` records of some 2,000 files, most of them writes of
    a few files; contents are random, names as long as those of programs."""
    rng = random.Random(seed)
    stems = ("main", "config", "session", "test_parser", "README", "layout_of_things", "utils", "index", "types")
    places = [
        b"/home/user/src/project-%d/%s/%s_%d.%s"
        % (
            rng.randrange(20),
            rng.choice((b"lib", b"tests/unit", b"docs/guide", b"src/core")),
            rng.choice(stems).encode(),
            number,
            rng.choice((b"py", b"c", b"md", b"json")),
        )
        for number in range(2000)
    ]
    favourites = rng.sample(places, 100)
    time = START
    yield Record(first, when_text(time), "base", commit=commit)
    for n in range(first + 1, first + count):
        time += rng.randrange(1_000_000, 400_000_000)
        path = rng.choice(favourites if rng.random() < 0.8 else places)
        inode = File(
            stat.S_IFREG | 0o644,
            1000,
            1000,
            time - rng.randrange(100_000_000),
            size=rng.randrange(65, 200_000),
            digest=rng.randbytes(32),
        )
        by = rng.choice(("vim", "python3", "node", "cc1"))
        yield Record(n, when_text(time), rng.choice(("write",) * 5 + ("create",)), path, entry_of(inode), by=by)
