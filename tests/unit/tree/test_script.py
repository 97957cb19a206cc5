"""Edit scripts: whatever two dumps are, the script that is made by comparing them makes the one of the other, with no
line among the new ones that need not be; two scripts are one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.tree.blocks import Span
from stratum.tree.script import Builder, Script, between, check_steps, compose, of_spliced, relative, whole
from stratum.tree.splice import SplicedDump

names = st.sampled_from([b"/", b"/a", b"/a.b", b"/a/b", b"/a/c", b"/a\\x20", b"/b", b"/b/a", b"/b/z", b"/c"])
dumps = st.dictionaries(names, st.integers(0, 2), max_size=10)


def text(lines: dict[bytes, int]) -> bytes:
    """A dump with these paths, in the order that a tree has."""
    return b"".join(b"%b %d\n" % (path, lines[path]) for path in sorted(lines, key=_order))


def _order(path: bytes) -> list[bytes]:
    return [name.replace(b"\\x20", b" ") for name in path.split(b"/")] if path != b"/" else []


def blocks(dump: bytes, lines: int) -> list[bytes]:
    """The dump in blocks of so many lines."""
    found = dump.splitlines(keepends=True)
    return [b"".join(found[at : at + lines]) for at in range(0, len(found), lines)]


def made(script: Script, ground: bytes) -> bytes:
    return b"".join(ground[p.start : p.end] if isinstance(p, Span) else p for p in script.pieces())


@given(dumps, dumps, st.integers(1, 5), st.integers(1, 5))
def test_a_script_has_just_the_lines_that_only_the_new_dump_has(
    before: dict[bytes, int], after: dict[bytes, int], new_lines: int, ground_lines: int
) -> None:
    ground, new = text(before), text(after)
    script = between(blocks(new, new_lines), blocks(ground, ground_lines), 1000)
    assert script is not None
    assert made(script, ground) == new
    assert script.lines == b"".join(
        line for line in new.splitlines(keepends=True) if line not in ground.splitlines(True)
    )
    assert check_steps(script.steps, len(script.lines), len(ground)) == len(new) == script.size
    assert between([new], [ground], len(script.lines)) == script
    assert not script.lines or between([new], [ground], len(script.lines) - 1) is None
    assert between([new], [new], 0) == whole(len(new))


@given(dumps, dumps, dumps)
def test_two_scripts_are_one(first: dict[bytes, int], second: dict[bytes, int], third: dict[bytes, int]) -> None:
    texts = [text(each) for each in (first, second, third)]
    lower, upper = between([texts[1]], [texts[0]], 1000), between([texts[2]], [texts[1]], 1000)
    assert lower is not None
    assert upper is not None
    assert made(compose(upper, lower), texts[0]) == texts[2]


@given(dumps, dumps, dumps)
def test_what_is_on_one_ground_is_on_one_another(
    ground: dict[bytes, int], one: dict[bytes, int], two: dict[bytes, int]
) -> None:
    """As exactly as if the dumps were compared, and asking for nothing that is in the script."""
    texts = [text(each) for each in (ground, one, two)]
    old, new, exact = (between([texts[a]], [texts[b]], 1000) for a, b in ((1, 0), (2, 0), (2, 1)))
    assert old is not None
    assert new is not None
    asked = [0]

    def part(start: int, end: int) -> bytes:
        assert asked[-1] <= start < end <= len(texts[2])
        asked.append(end)
        return texts[2][start:end]

    assert relative(new, old, part) == exact
    assert relative(new, new, part) == whole(len(texts[2]))


@given(dumps, dumps)
def test_what_is_known_to_be_shared_is_not_looked_at(before: dict[bytes, int], after: dict[bytes, int]) -> None:
    """The pieces between are compared with what the ground has between."""
    ground, new = text(before), text(after)
    exact = between([new], [ground], 1000)
    assert exact is not None
    known = [step for step in exact.pieces() if isinstance(step, Span)][::2]  # every second stretch that is shared
    rest = compose(exact, whole(len(ground)))
    built = Builder()
    for piece in rest.pieces():
        built.add_lines(ground[piece.start : piece.end] if isinstance(piece, Span) and piece not in known else b"")
        built.add_span(*piece) if isinstance(piece, Span) and piece in known else None
        built.add_lines(piece if not isinstance(piece, Span) else b"")
    pieces = [piece if isinstance(piece, Span) else bytes(piece) for piece in built.script().pieces()]
    dump = SplicedDump(pieces, ground)
    assert dump.join() == new
    assert of_spliced(dump, 1000) == exact
    assert not exact.lines or of_spliced(dump, len(exact.lines) - 1) is None


def test_steps_that_do_not_fit_are_refused() -> None:
    for steps, lines, ground in [
        ([Span(0, 5)], 0, 4),
        ([Span(3, 3)], 0, 9),
        ([Span(3, 5), Span(4, 6)], 0, 9),
        ([5], 4, 9),
        ([0], 0, 9),
        ([], 1, 9),
    ]:
        with pytest.raises(DamagedError):
            check_steps(steps, lines, ground)
    with pytest.raises(DamagedError):
        compose(Script((Span(0, 5),), b""), Script((Span(0, 4),), b""))


def test_long_stretches_are_compared_at_once_and_large_ones_left_out() -> None:
    """Of many blocks: one line changed at the end, a directory that is gone, one that came."""
    ground = b"".join(b"/%06d/%d x\n" % (number // 100, number % 100 + 100) for number in range(60_000))
    lines = ground.splitlines(keepends=True)
    new = b"".join(
        lines[:5] + lines[30_000:45_000] + [b"/000450/%d y\n" % n for n in range(100, 200)] + lines[45_100:-1]
    )
    script = between(blocks(new, 7000), blocks(ground, 9000), 10_000)
    assert script is not None
    assert made(script, ground) == new
    assert len(script.steps) == 4
    assert script.lines.count(b"\n") == 100
